/**
 * Short ways past Node's streams for connections without TLS: bytes are read into memory of our
 * own (Node makes a buffer of 64 KiB for each read), and sent by one call that makes no object.
 */
import type { OnReadOpts, Socket } from 'node:net';
import { Socket as NetSocket } from 'node:net';
import type { FileRun } from '../file.js';
import { tryNativeEngine } from './files.js';
import type { NativeEngine } from './native-engine.js';
import { NativeFile } from './native-files.js';

/** Memory that reads go into, piece behind piece; given up to its readers when it is full. */
const SLAB_BYTES = 256 * 1024;
/** A slab with less room than this is full. */
const LEAST_ROOM = 64 * 1024;
/** Pieces of one call. SEND_PIECES of socket.c. */
const MOST_PIECES = 64;
/** Bytes that the kernel may hold for a peer that reads later, as far as the system lets us. */
const SEND_BUFFER = 2 * 1024 * 1024;

/** Where a socket reads into; `onPiece` gets each piece, which then belongs to it. */
export function slabReads(onPiece: (piece: Uint8Array) => void): OnReadOpts {
  let slab: ArrayBufferLike = Buffer.allocUnsafeSlow(SLAB_BYTES).buffer;
  let used = 0;
  return {
    buffer: () => {
      if (SLAB_BYTES - used < LEAST_ROOM) {
        slab = Buffer.allocUnsafeSlow(SLAB_BYTES).buffer;
        used = 0;
      }
      return new Uint8Array(slab, used);
    },
    callback: (bytes) => {
      const piece = new Uint8Array(slab, used, bytes);
      used += bytes;
      onPiece(piece);
      return true;
    },
  };
}

/** The descriptor of a socket; Node keeps it in a place of its own. */
function tryDescriptor(socket: Socket): number | undefined {
  const { _handle: handle } = socket as Socket & { readonly _handle?: { readonly fd?: number } };
  return handle?.fd !== undefined && handle.fd >= 0 ? handle.fd : undefined;
}

/** Sends on a socket's descriptor what the kernel takes at once. */
export class Outlet {
  readonly #engine: NativeEngine;
  readonly #socket: Socket;
  readonly #pairs = new Float64Array(2 * MOST_PIECES);
  readonly #address: number;

  private constructor(engine: NativeEngine, socket: Socket) {
    this.#engine = engine;
    this.#socket = socket;
    this.#address = engine.binding.addressOf(this.#pairs);
    const fd = tryDescriptor(socket);
    if (fd === undefined) return;
    engine.watchSocket(fd, true);
    socket.once('close', () => {
      engine.watchSocket(fd, false);
    });
  }

  /** Undefined where there is no native addon. */
  static tryOf(socket: Socket): Outlet | undefined {
    const engine = tryNativeEngine();
    // An addon that was built from older sources is of no use here.
    if (engine === undefined || !('watchSocket' in engine.binding)) return undefined;
    return new Outlet(engine, socket);
  }

  /** Counts a write that waits for the peer (1), or one that ended (-1). */
  countBlocked(change: 1 | -1): void {
    this.#engine.countBlocked(change);
  }

  /** Bytes of `head` and a file's cached pages that the kernel took; 0 where that cannot be. */
  sendFile(head: Uint8Array, { file, offset, bytes }: FileRun): number {
    const fd = tryDescriptor(this.#socket);
    if (fd === undefined || !(file instanceof NativeFile) || !file.cached) return 0;
    const { binding } = this.#engine;
    const address = head.byteLength === 0 ? 0 : this.#engine.addressOf(head);
    return binding.sendFile(fd, file.fd, offset, bytes, address, head.byteLength);
  }

  /** Bytes that were sent; 0 also when the connection is broken, as the next write will tell. */
  // hot: bench/nbd
  send(pieces: readonly Uint8Array[]): number {
    const fd = tryDescriptor(this.#socket);
    if (fd === undefined) return 0;
    let sent = 0;
    for (let first = 0; first < pieces.length; first += MOST_PIECES) {
      const count = Math.min(MOST_PIECES, pieces.length - first);
      let bytes = 0;
      for (let i = 0; i < count; i++) {
        const piece = pieces[first + i]!;
        this.#pairs[2 * i] = this.#engine.addressOf(piece);
        this.#pairs[2 * i + 1] = piece.byteLength;
        bytes += piece.byteLength;
      }
      const n = this.#engine.binding.sendPieces(fd, this.#address, count);
      if (n > 0) sent += n;
      if (n < bytes) break;
    }
    return sent;
  }
}

/**
 * The connection of `accepted`, which is given up, as a socket that reads in the short way; or
 * undefined where that cannot be, and `accepted` is as it was.
 */
export function tryTakeOver(accepted: Socket, onread: OnReadOpts): Socket | undefined {
  const fd = tryDescriptor(accepted);
  const binding = tryNativeEngine()?.binding;
  if (fd === undefined || binding === undefined) return undefined;
  const copy = binding.duplicate(fd, SEND_BUFFER);
  if (copy < 0) return undefined;
  accepted.destroy();
  // Node takes `onread` here too; its types know it for clients only.
  const options = { fd: copy, allowHalfOpen: true, onread };
  return new NetSocket(options);
}
