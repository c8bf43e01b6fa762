/** The socket port over node:net and node:tls. Messages of errors are QEMU's, complete. */
import { chmodSync, existsSync, lstatSync, readFileSync, unlinkSync } from 'node:fs';
import { lookup } from 'node:dns/promises';
import type { AddressInfo, ListenOptions, NetConnectOpts, Server, Socket } from 'node:net';
import { createServer, connect as netConnect, isIP, Socket as NetSocket } from 'node:net';
import { dirname } from 'node:path';
import type { FileRun } from '../file.js';
import { HostError } from '../file.js';
import { errnoText } from '../errno.js';
import type { ByteStream, HostSockets, Listener, SocketAddress, TlsOptions } from '../socket.js';
import { toHostError } from './errors.js';
import { exec } from './exec.js';
import { stdio } from './stdio.js';
import { Outlet, slabReads, tryTakeOver } from './plain-socket.js';

const nothing = (): void => undefined;

/** Bytes queued in a socket above which `write` asks the owner to wait. */
const HIGH_WATER = 1024 * 1024;
/** sizeof(sun_path) of Linux. */
const UNIX_PATH_MAX = 108;

type InetAddress = Extract<SocketAddress, { type: 'inet' }>;
type UnixAddress = Extract<SocketAddress, { type: 'unix' }>;

class NodeStream implements ByteStream {
  onData: (piece: Uint8Array) => void = nothing;
  onClose: (error: Error | undefined) => void = nothing;
  onDrain: () => void = nothing;
  readonly peerName: string;
  tlsIdentity: string | undefined;
  readonly trySendFile?: (head: Uint8Array, run: FileRun) => number;
  readonly #socket: Socket;
  #error: Error | undefined;
  #closed = false;
  #upgraded = false;
  readonly #outlet: Outlet | undefined;

  /** `plain`: the socket was made with {@link slabReads} for `received`. */
  constructor(socket: Socket, peerName: string, plain = false) {
    this.#socket = socket;
    this.peerName = peerName;
    const outlet = plain ? Outlet.tryOf(socket) : undefined;
    this.#outlet = outlet;
    if (outlet !== undefined) {
      this.trySendFile = (head, run): number =>
        socket.writableLength > 0 || !socket.writable ? 0 : outlet.sendFile(head, run);
    }
    if (!plain) socket.on('data', this.#data);
    socket.on('error', this.#failed);
    socket.on('end', this.#ended);
    socket.on('close', this.#ended);
    socket.on('drain', this.#drained);
  }

  readonly #data = (piece: Buffer): void => {
    // Above the ports there are no Buffers: their slice() shares memory.
    this.onData(new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength));
  };

  /** Bytes that came in the short way. */
  received(piece: Uint8Array): void {
    this.onData(piece);
  }

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

  // hot: bench/nbd
  write(all: readonly Uint8Array[], sent?: (taken: boolean) => void): boolean {
    const socket = this.#socket;
    const outlet = this.#outlet;
    let pieces = all;
    if (outlet !== undefined && socket.writableLength === 0 && socket.writable) {
      pieces = behind(all, outlet.send(all));
      if (pieces.length === 0) {
        sent?.(true);
        return true;
      }
    }
    const last = pieces[pieces.length - 1];
    if (socket.destroyed || !socket.writable || last === undefined) {
      sent?.(last === undefined);
      return true;
    }
    outlet?.countBlocked(1);
    const done = (error?: Error | null): void => {
      outlet?.countBlocked(-1);
      sent?.(error === undefined || error === null);
    };
    if (pieces.length === 1) {
      socket.write(last, done);
    } else {
      socket.cork();
      for (const piece of pieces) socket.write(piece, piece === last ? done : undefined);
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
    if (socket.closed) return Promise.resolve();
    return new Promise((resolve) => {
      socket.once('close', () => {
        resolve();
      });
      if (socket.destroyed) return;
      socket.end(() => {
        socket.destroy();
      });
    });
  }

  destroy(): void {
    this.#socket.destroy();
  }

  async startTls(options: TlsOptions): Promise<ByteStream> {
    const socket = this.#socket;
    // At once: what arrives from now on is for TLS.
    this.#upgraded = true;
    socket.off('data', this.#data);
    socket.pause();
    const { wrapTls } = await import('./tls.js');
    const { secure, identity } = await wrapTls(socket, options);
    const stream = new NodeStream(secure, this.peerName);
    stream.tlsIdentity = identity;
    return stream;
  }
}

/** What is left of pieces of which `bytes` are done. */
function behind(pieces: readonly Uint8Array[], bytes: number): readonly Uint8Array[] {
  let left = bytes;
  for (const [i, piece] of pieces.entries()) {
    if (left < piece.byteLength) {
      if (left === 0) return i === 0 ? pieces : pieces.slice(i);
      return [piece.subarray(left), ...pieces.slice(i + 1)];
    }
    left -= piece.byteLength;
  }
  return [];
}

/** Where an address lives, as people write it. */
function addressText(address: SocketAddress): string {
  if (address.type === 'unix') return address.path;
  return address.type === 'fd' ? `fd ${address.fd}` : `${address.host}:${address.port}`;
}

function unixPath(address: UnixAddress): string {
  const path = address.abstract === true ? `\0${address.path}` : address.path;
  if (Buffer.byteLength(path) >= UNIX_PATH_MAX) {
    throw new HostError(
      'ENAMETOOLONG',
      `UNIX socket path '${address.path}' is too long\n` +
        `Path must be less than ${UNIX_PATH_MAX} bytes`,
    );
  }
  return path;
}

function unresolved(address: InetAddress, why: string): HostError {
  const place = `${address.host}:${address.port}`;
  return new HostError('ENOENT', `address resolution failed for ${place}: ${why}`);
}

/** The port's number; service names are those of /etc/services. */
function portOf(address: InetAddress): number {
  const { port } = address;
  if (/^\d+$/.test(port) && Number(port) <= 65535) return Number(port);
  if (/^[A-Za-z][\w-]*$/.test(port)) {
    let services = '';
    try {
      services = readFileSync('/etc/services', 'latin1');
    } catch {
      // A system without the file knows no names.
    }
    for (const line of services.split('\n')) {
      const [name, number, ...aliases] = line.replace(/#.*/, '').trim().split(/\s+/);
      const m = /^(\d+)\/tcp$/.exec(number ?? '');
      if (m !== null && (name === port || aliases.includes(port))) return Number(m[1]);
    }
  }
  throw unresolved(address, 'Servname not supported for ai_socktype');
}

/** All addresses of the host, in the system's order. */
async function resolve(address: InetAddress): Promise<{ address: string; family: number }[]> {
  if (address.numeric === true && isIP(address.host) === 0) {
    throw unresolved(address, 'Name or service not known');
  }
  try {
    return await lookup(address.host, { family: familyOf(address), all: true });
  } catch {
    throw unresolved(address, 'Name or service not known');
  }
}

function familyOf(address: Extract<SocketAddress, { type: 'inet' }>): 0 | 4 | 6 {
  if (address.ipv4 === true && address.ipv6 !== true) return 4;
  if (address.ipv6 === true && address.ipv4 !== true) return 6;
  if (address.ipv4 === false) return 6;
  return address.ipv6 === false ? 4 : 0;
}

async function connect(
  address: SocketAddress,
  signal?: AbortSignal,
  options: { readonly plain?: boolean } = {},
): Promise<ByteStream> {
  const plain = options.plain === true;
  let stream: NodeStream | undefined;
  const onread = plain ? { onread: slabReads((piece) => stream?.received(piece)) } : {};
  if (address.type === 'fd') {
    const how = { fd: address.fd, allowHalfOpen: true, ...onread };
    const socket = new NetSocket(how);
    return (stream = new NodeStream(socket, addressText(address), plain));
  }
  const ways: NetConnectOpts[] = [];
  if (address.type === 'unix') {
    ways.push({ path: unixPath(address) });
  } else {
    const port = portOf(address);
    for (const { address: host, family } of await resolve(address)) {
      ways.push({ host, port, family });
    }
  }
  let failure: unknown;
  for (const way of ways) {
    try {
      const socket = await connectOne({ ...way, ...onread }, signal);
      socket.setNoDelay(true);
      if (address.type === 'inet' && address.keepAlive === true) socket.setKeepAlive(true);
      return (stream = new NodeStream(socket, addressText(address), plain));
    } catch (e) {
      failure ??= e;
      if (signal?.aborted === true) break;
    }
  }
  const cause = toHostError(failure);
  const text = `Failed to connect to '${addressText(address)}': ${errnoText(cause.code)}`;
  throw new HostError(cause.code, text, { cause });
}

function connectOne(options: NetConnectOpts, signal: AbortSignal | undefined): Promise<Socket> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(new HostError('ECANCELED'));
      return;
    }
    const socket = netConnect({ ...options, allowHalfOpen: true });
    const abort = (): void => {
      socket.destroy();
      reject(new HostError('ECANCELED'));
    };
    signal?.addEventListener('abort', abort, { once: true });
    const fail = (error: Error): void => {
      signal?.removeEventListener('abort', abort);
      reject(error);
    };
    socket.once('error', fail);
    socket.once('connect', () => {
      signal?.removeEventListener('abort', abort);
      socket.off('error', fail);
      resolve(socket);
    });
  });
}

async function listenOptions(
  address: SocketAddress,
  backlog: number,
): Promise<ListenOptions & { fd?: number }> {
  if (address.type === 'fd') return { fd: address.fd };
  if (address.type === 'unix') return { path: unixPath(address), backlog };
  const port = portOf(address);
  const ipv6Only = address.ipv6 === true && address.ipv4 === false;
  if (address.host === '') return { port, backlog, ipv6Only };
  const [first] = await resolve(address);
  return { port, backlog, host: first?.address ?? address.host, ipv6Only };
}

/** A socket file in the way is taken away, as QEMU does; any other file stays. */
function clearOld(address: SocketAddress): void {
  if (address.type !== 'unix' || address.abstract === true) return;
  const { path } = address;
  const old = lstatSync(path, { throwIfNoEntry: false });
  if (old === undefined) return;
  if (!old.isSocket()) {
    throw new HostError(
      'EADDRINUSE',
      `Failed to bind socket to ${path}: a file that is no socket is there`,
    );
  }
  unlinkSync(path);
}

function realAddress(server: Server, address: SocketAddress): SocketAddress {
  const at: AddressInfo | string | null = server.address();
  if (address.type !== 'inet' || at === null || typeof at === 'string') return address;
  return { ...address, port: String(at.port) };
}

function plainStream(accepted: Socket, name: string): NodeStream {
  const onread = slabReads((piece) => {
    stream.received(piece);
  });
  const socket = tryTakeOver(accepted, onread);
  const stream =
    socket === undefined ? new NodeStream(accepted, name) : new NodeStream(socket, name, true);
  return stream;
}

async function listen(
  address: SocketAddress,
  onConnection: (stream: ByteStream) => void,
  options: { readonly mode?: number; readonly backlog?: number; readonly plain?: boolean } = {},
): Promise<Listener> {
  const how = await listenOptions(address, options.backlog ?? 128);
  clearOld(address);
  const keepAlive = address.type === 'inet' && address.keepAlive === true;
  const server = createServer({ noDelay: true, keepAlive, allowHalfOpen: true }, (socket) => {
    const peer = socket.remoteAddress;
    const name = peer === undefined ? addressText(address) : `${peer}:${socket.remotePort ?? 0}`;
    onConnection(options.plain === true ? plainStream(socket, name) : new NodeStream(socket, name));
  });
  await bindFirst(server, how, address, options.mode);
  // An accept that fails (too many files) is tried again with the next connection.
  server.on('error', nothing);
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

/** Listens on the first port that is free, if the address lets us choose. */
async function bindFirst(
  server: Server,
  how: ListenOptions & { fd?: number },
  address: SocketAddress,
  mode: number | undefined,
): Promise<void> {
  const last = address.type === 'inet' ? (address.to ?? 0) : 0;
  for (let port = how.port ?? 0; ; port++) {
    try {
      await bindOne(server, how.port === undefined ? how : { ...how, port }, mode);
      return;
    } catch (e) {
      const cause = toHostError(e);
      if (cause.code !== 'EADDRINUSE' || port >= last) throw cannotListen(address, cause);
    }
  }
}

function bindOne(server: Server, how: ListenOptions, mode: number | undefined): Promise<void> {
  return new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    // The file of a Unix socket is made in this call: it is never open to more than `mode` says.
    const before = mode === undefined ? undefined : process.umask(0o777 & ~mode);
    try {
      server.listen(how, () => {
        server.off('error', reject);
        resolve();
      });
    } finally {
      if (before !== undefined) process.umask(before);
    }
  });
}

function cannotListen(address: SocketAddress, cause: HostError): HostError {
  let { code } = cause;
  let text = `Failed to bind socket to ${addressText(address)}`;
  if (address.type === 'inet') {
    text = code === 'EADDRINUSE' ? 'Failed to find an available port' : 'Failed to bind socket';
  } else if (code === 'EACCES' && address.type === 'unix' && !existsSync(dirname(address.path))) {
    // Node says so of a folder that is not there.
    code = 'ENOENT';
  }
  return new HostError(code, `${text}: ${errnoText(code)}`, { cause });
}

export const nodeSockets: HostSockets = { connect, listen, stdio, exec };
