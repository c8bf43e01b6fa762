/**
 * Sockets without a machine: `listen` and `connect` in one process, by the text of the address.
 * From a seed the bytes arrive cut at any place and in pieces of any length.
 *
 * As with real sockets, bytes that were written arrive even when the writer then closes, unless
 * the reader destroys its end; a peer that does not read makes `write` return false; and an end
 * that is destroyed with bytes unread resets the connection, whether the other end reads or not.
 */
import type { ByteStream, HostSockets, Listener, SocketAddress } from '../../src/host/socket.js';
import { HostError } from '../../src/index.js';
import type { Random } from './random.js';

/** Bytes that wait above which a writer is asked to wait. */
const HIGH_WATER = 64 * 1024;

interface Piece {
  bytes: Uint8Array;
  readonly sent: ((taken: boolean) => void) | undefined;
}

class FakeStream implements ByteStream {
  onData: (piece: Uint8Array) => void = () => undefined;
  onClose: (error: Error | undefined) => void = () => undefined;
  onDrain: () => void = () => undefined;
  readonly peerName = 'fake';
  readonly tlsIdentity = undefined;
  peer!: FakeStream;
  readonly #random: Random | undefined;
  /** What the peer wrote and this end has not taken. */
  #inbox: Piece[] = [];
  #waiting = 0;
  #paused = false;
  #writerAsked = false;
  /** The peer will write no more; or this end is broken. */
  #ending: { error: Error | undefined } | undefined;
  #closed = false;
  #destroyed = false;
  #ended = false;
  #pumping = false;

  constructor(random: Random | undefined) {
    this.#random = random;
  }

  write(pieces: readonly Uint8Array[], sent?: (taken: boolean) => void): boolean {
    if (this.#destroyed || this.#ended) return true;
    for (const [i, bytes] of pieces.entries()) {
      this.peer.#receive({ bytes, sent: i === pieces.length - 1 ? sent : undefined });
    }
    const room = this.peer.#waiting < HIGH_WATER;
    if (!room) this.peer.#writerAsked = true;
    return room;
  }

  #receive(piece: Piece): void {
    if (this.#destroyed) return;
    this.#inbox.push(piece);
    this.#waiting += piece.bytes.byteLength;
    this.#pump();
  }

  #pump(): void {
    if (this.#pumping || this.#closed) return;
    this.#pumping = true;
    setImmediate(() => {
      this.#pumping = false;
      this.#deliver();
      if (!this.#closed && !this.#paused && this.#inbox.length > 0) this.#pump();
    });
  }

  #deliver(): void {
    if (this.#destroyed) {
      this.#close(undefined);
      return;
    }
    // One piece, or from a seed any part of what has come, joined.
    while (!this.#paused && this.#inbox.length > 0) {
      const want = this.#random?.chance(0.5) === true ? this.#random.int(1, 40) : 1 << 30;
      const parts: Uint8Array[] = [];
      let n = 0;
      while (n < want && parts.length < 8) {
        const first = this.#inbox[0];
        if (first === undefined) break;
        const take = Math.min(first.bytes.byteLength, want - n);
        parts.push(first.bytes.slice(0, take));
        n += take;
        first.bytes = first.bytes.subarray(take);
        if (first.bytes.byteLength > 0) continue;
        this.#inbox.shift();
        first.sent?.(true);
      }
      this.#waiting -= n;
      this.onData(new Uint8Array(Buffer.concat(parts)));
      if (this.#writerAsked && this.#waiting < HIGH_WATER / 4) {
        this.#writerAsked = false;
        this.peer.onDrain();
      }
      if (this.#random?.chance(0.3) === true) break;
    }
    if (this.#ending !== undefined && this.#inbox.length === 0) this.#close(this.#ending.error);
  }

  #close(error: Error | undefined): void {
    if (this.#closed) return;
    this.#closed = true;
    this.onClose(error);
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#pump();
  }

  end(): Promise<void> {
    this.#ended = true;
    this.peer.#end(undefined);
    return new Promise((resolve) => {
      const look = (): void => {
        if (this.peer.#closed || this.#destroyed) {
          this.destroy();
          resolve();
        } else {
          setImmediate(look);
        }
      };
      look();
    });
  }

  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    if (this.#inbox.length > 0) this.peer.#reset();
    else this.peer.#end(new HostError('ECONNRESET'));
    this.#inbox = [];
    this.#pump();
  }

  #reset(): void {
    this.#inbox = [];
    this.#ending = { error: new HostError('ECONNRESET') };
    this.#pump();
  }

  #end(error: Error | undefined): void {
    this.#ending ??= { error };
    this.#pump();
  }

  startTls(): Promise<ByteStream> {
    return Promise.reject(new HostError('ENOTSUP', 'There is no TLS here'));
  }
}

/** Two ends of one connection. */
export function streamPair(random?: Random): [ByteStream, ByteStream] {
  const a = new FakeStream(random);
  const b = new FakeStream(random);
  a.peer = b;
  b.peer = a;
  return [a, b];
}

function keyOf(address: SocketAddress): string {
  if (address.type === 'unix') return address.path;
  return address.type === 'fd' ? String(address.fd) : `${address.host}:${address.port}`;
}

export class FakeSockets implements HostSockets {
  readonly #random: Random | undefined;
  readonly #listeners = new Map<string, (stream: ByteStream) => void>();
  /** Connections made so far. */
  made = 0;

  constructor(random?: Random) {
    this.#random = random;
  }

  connect(address: SocketAddress): Promise<ByteStream> {
    const onConnection = this.#listeners.get(keyOf(address));
    if (onConnection === undefined) {
      return Promise.reject(new HostError('ECONNREFUSED', 'Failed to connect: nobody listens'));
    }
    this.made++;
    const [ours, theirs] = streamPair(this.#random);
    onConnection(theirs);
    return Promise.resolve(ours);
  }

  /** As if the listening process had been killed. */
  forget(address: SocketAddress): void {
    this.#listeners.delete(keyOf(address));
  }

  listen(address: SocketAddress, onConnection: (stream: ByteStream) => void): Promise<Listener> {
    const key = keyOf(address);
    if (this.#listeners.has(key)) return Promise.reject(new HostError('EADDRINUSE'));
    this.#listeners.set(key, onConnection);
    return Promise.resolve({
      address,
      close: () => {
        this.#listeners.delete(key);
        return Promise.resolve();
      },
    });
  }
}
