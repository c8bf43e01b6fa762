/** Reads counted bytes from a {@link ByteStream}: waiting in a handshake, at once in a data phase. */
import { ByteQueue } from '../lib/byte-queue.js';
import { HostError } from './file.js';
import type { ByteStream } from './socket.js';

interface Waiter {
  readonly bytes: number;
  readonly resolve: (b: Uint8Array) => void;
  readonly reject: (e: Error) => void;
}

export class StreamReader {
  readonly stream: ByteStream;
  readonly queue = new ByteQueue();
  /** When set, called after each piece; `take` is not used any more. */
  onBytes: (() => void) | undefined;
  /** Called once when no more bytes will come. */
  onEnd: ((error: Error | undefined) => void) | undefined;
  #waiter: Waiter | undefined;
  #ended: { error: Error | undefined } | undefined;

  constructor(stream: ByteStream) {
    this.stream = stream;
    stream.onData = (piece): void => {
      this.queue.push(piece);
      if (this.onBytes !== undefined) this.onBytes();
      else this.#serve();
    };
    stream.onClose = (error): void => {
      this.#ended = { error };
      this.#waiter?.reject(error ?? new HostError('ECONNRESET', 'The peer closed the connection'));
      this.#waiter = undefined;
      this.onEnd?.(error);
    };
  }

  get ended(): boolean {
    return this.#ended !== undefined;
  }

  /** Resolves to the next `bytes` bytes; rejects when the stream ends before. */
  take(bytes: number): Promise<Uint8Array> {
    const now = this.queue.tryTake(bytes);
    if (now !== undefined) return Promise.resolve(now);
    if (this.#ended !== undefined) {
      const { error } = this.#ended;
      return Promise.reject(error ?? new HostError('ECONNRESET', 'The peer closed the connection'));
    }
    return new Promise((resolve, reject) => {
      this.#waiter = { bytes, resolve, reject };
    });
  }

  /** Reads past `bytes` bytes, keeping at most a little of them. */
  async skip(bytes: number): Promise<void> {
    const step = 64 * 1024;
    for (let left = bytes; left > 0; left -= step) await this.take(Math.min(left, step));
  }

  #serve(): void {
    const waiter = this.#waiter;
    if (waiter === undefined) return;
    const b = this.queue.tryTake(waiter.bytes);
    if (b === undefined) return;
    this.#waiter = undefined;
    waiter.resolve(b);
  }
}
