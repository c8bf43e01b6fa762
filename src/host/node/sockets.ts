/** The socket port over node:net and node:tls. */
import { chmodSync, unlinkSync } from 'node:fs';
import type { AddressInfo, ListenOptions, NetConnectOpts, Server, Socket } from 'node:net';
import { createServer, connect as netConnect, Socket as NetSocket } from 'node:net';
import { lookup } from 'node:dns/promises';
import { HostError } from '../file.js';
import type { ByteStream, HostSockets, Listener, SocketAddress, TlsOptions } from '../socket.js';
import { toHostError } from './errors.js';

const nothing = (): void => undefined;

/** Bytes queued in a socket above which `write` asks the owner to wait. */
const HIGH_WATER = 4 * 1024 * 1024;

class NodeStream implements ByteStream {
  onData: (piece: Uint8Array) => void = nothing;
  onClose: (error: Error | undefined) => void = nothing;
  onDrain: () => void = nothing;
  readonly peerName: string;
  tlsIdentity: string | undefined;
  readonly #socket: Socket;
  #error: Error | undefined;
  #closed = false;
  #upgraded = false;

  constructor(socket: Socket, peerName: string) {
    this.#socket = socket;
    this.peerName = peerName;
    socket.on('data', this.#data);
    socket.on('error', this.#failed);
    socket.on('end', this.#ended);
    socket.on('close', this.#ended);
    socket.on('drain', this.#drained);
  }

  readonly #data = (piece: Buffer): void => {
    // Above the ports there are no Buffers: their slice() shares memory.
    this.onData(new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength));
  };

  readonly #failed = (error: Error): void => {
    this.#error ??= toHostError(error);
  };

  readonly #ended = (): void => {
    if (this.#closed || this.#upgraded) return;
    this.#closed = true;
    this.onClose(this.#error);
  };

  readonly #drained = (): void => {
    this.onDrain();
  };

  write(pieces: readonly Uint8Array[]): boolean {
    const socket = this.#socket;
    if (socket.destroyed || !socket.writable) return true;
    const only = pieces[0];
    if (pieces.length === 1 && only !== undefined) {
      socket.write(only);
    } else {
      socket.cork();
      for (const piece of pieces) socket.write(piece);
      socket.uncork();
    }
    return socket.writableLength < HIGH_WATER;
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  end(): Promise<void> {
    const socket = this.#socket;
    if (socket.destroyed) return Promise.resolve();
    return new Promise((resolve) => {
      socket.once('close', () => {
        resolve();
      });
      socket.end(() => {
        socket.destroy();
      });
    });
  }

  destroy(): void {
    this.#socket.destroy();
  }

  async startTls(options: TlsOptions): Promise<ByteStream> {
    const { wrapTls } = await import('./tls.js');
    this.#upgraded = true;
    const socket = this.#socket;
    socket.off('data', this.#data);
    const { secure, identity } = await wrapTls(socket, options);
    const stream = new NodeStream(secure, this.peerName);
    stream.tlsIdentity = identity;
    return stream;
  }
}

/** Where an address lives, as people write it. */
export function addressText(address: SocketAddress): string {
  if (address.type === 'unix') return address.path;
  return address.type === 'fd' ? `fd ${address.fd}` : `${address.host}:${address.port}`;
}

function unixPath(address: Extract<SocketAddress, { type: 'unix' }>): string {
  return address.abstract === true ? `\0${address.path}` : address.path;
}

async function connectOptions(address: SocketAddress): Promise<NetConnectOpts> {
  if (address.type === 'unix') return { path: unixPath(address) };
  if (address.type === 'fd') throw new HostError('EINVAL', 'A descriptor is connected already');
  const family = familyOf(address);
  const port = Number(address.port);
  if (!Number.isInteger(port) || port < 0 || port > 65535) {
    throw new HostError('EINVAL', `Invalid port '${address.port}'`);
  }
  const found = await lookup(address.host, { family });
  return { host: found.address, port, family: found.family };
}

function familyOf(address: Extract<SocketAddress, { type: 'inet' }>): 0 | 4 | 6 {
  if (address.ipv4 === true && address.ipv6 !== true) return 4;
  if (address.ipv6 === true && address.ipv4 !== true) return 6;
  if (address.ipv4 === false) return 6;
  return address.ipv6 === false ? 4 : 0;
}

async function connect(address: SocketAddress, signal?: AbortSignal): Promise<ByteStream> {
  if (address.type === 'fd') {
    const socket = new NetSocket({ fd: address.fd });
    return new NodeStream(socket, addressText(address));
  }
  const options = await connectOptions(address).catch((e: unknown) => {
    throw toHostError(e);
  });
  return new Promise((resolve, reject) => {
    const socket = netConnect(options);
    const abort = (): void => {
      socket.destroy();
      reject(new HostError('ECANCELED'));
    };
    if (signal?.aborted === true) {
      abort();
      return;
    }
    signal?.addEventListener('abort', abort, { once: true });
    const fail = (error: Error): void => {
      signal?.removeEventListener('abort', abort);
      reject(toHostError(error));
    };
    socket.once('error', fail);
    socket.once('connect', () => {
      signal?.removeEventListener('abort', abort);
      socket.off('error', fail);
      socket.setNoDelay(true);
      if (address.type === 'inet' && address.keepAlive === true) socket.setKeepAlive(true);
      resolve(new NodeStream(socket, addressText(address)));
    });
  });
}

function listenOptions(address: SocketAddress, backlog: number): ListenOptions | { fd: number } {
  if (address.type === 'fd') return { fd: address.fd };
  if (address.type === 'unix') return { path: unixPath(address), backlog };
  const host = address.host === '' ? undefined : address.host;
  return {
    port: Number(address.port),
    backlog,
    ...(host === undefined ? {} : { host }),
    ipv6Only: address.ipv6 === true && address.ipv4 === false,
  };
}

/** A socket file that nobody listens on any more stands in the way: take it away, as QEMU does. */
async function clearStale(address: SocketAddress): Promise<void> {
  if (address.type !== 'unix' || address.abstract === true) return;
  try {
    const probe = await connect(address);
    probe.destroy();
  } catch (e) {
    if (e instanceof HostError && e.code === 'ECONNREFUSED') unlinkSync(address.path);
  }
}

function realAddress(server: Server, address: SocketAddress): SocketAddress {
  const at: AddressInfo | string | null = server.address();
  if (address.type !== 'inet' || at === null || typeof at === 'string') return address;
  return { ...address, port: String(at.port) };
}

async function listen(
  address: SocketAddress,
  onConnection: (stream: ByteStream) => void,
  options: { readonly mode?: number; readonly backlog?: number } = {},
): Promise<Listener> {
  await clearStale(address);
  const server = createServer({ pauseOnConnect: false, noDelay: true }, (socket) => {
    const peer = socket.remoteAddress;
    const name = peer === undefined ? addressText(address) : `${peer}:${socket.remotePort ?? 0}`;
    onConnection(new NodeStream(socket, name));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      reject(toHostError(error));
    });
    server.listen(listenOptions(address, options.backlog ?? 128), resolve);
  });
  if (address.type === 'unix' && address.abstract !== true && options.mode !== undefined) {
    chmodSync(address.path, options.mode);
  }
  return {
    address: realAddress(server, address),
    close: () =>
      new Promise((resolve) => {
        // Connections that exist do not hold the listener open for its owner.
        server.close();
        resolve();
      }),
  };
}

export const nodeSockets: HostSockets = { connect, listen };
