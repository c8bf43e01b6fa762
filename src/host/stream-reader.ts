/**
 * Reads counted bytes from a {@link ByteStream}, in one of two ways: `take` waits for a count (a
 * handshake) and lets the peer send a little ahead at most; after `setPush` every piece goes to
 * a function, which is then responsible for pausing the stream.
 */
import { ByteQueue } from '../lib/byte-queue.js';
import { HostError } from './file.js';
import type { ByteStream } from './socket.js';

interface Waiter {
  readonly bytes: number;
  readonly resolve: (b: Uint8Array) => void;
  readonly reject: (e: Error) => void;
}

/** A peer that sends more than this ahead of what is taken has to wait. */
const AHEAD_BYTES = 256 * 1024;
const SKIP_STEP = 64 * 1024;

export class StreamReader {
  readonly stream: ByteStream;
  readonly queue = new ByteQueue();
  /** Called once when no more bytes will come. */
  onEnd: ((error: Error | undefined) => void) | undefined;
  #onBytes: (() => void) | undefined;
  #waiter: Waiter | undefined;
  #ended: { error: Error | undefined } | undefined;
  #paused = false;
  #drained: (() => void) | undefined;

  constructor(stream: ByteStream) {
    this.stream = stream;
    stream.onData = (piece): void => {
      this.queue.push(piece);
      if (this.#onBytes !== undefined) this.#onBytes();
      else this.#serve();
    };
    stream.onClose = (error): void => {
      this.#ended = { error };
      this.#waiter?.reject(error ?? closed());
      this.#waiter = undefined;
      this.#drained?.();
      this.onEnd?.(error);
    };
    stream.onDrain = (): void => {
      this.#drained?.();
    };
  }

  get ended(): boolean {
    return this.#ended !== undefined;
  }

  /** From now on `onBytes` is called after each piece; `take` is not used any more. */
  setPush(onBytes: () => void): void {
    this.#onBytes = onBytes;
    this.#resume();
  }

  /** Resolves to the next `bytes` bytes; rejects when the stream ends before. */
  take(bytes: number): Promise<Uint8Array> {
    const now = this.queue.tryTake(bytes);
    if (now !== undefined) {
      if (this.queue.length < AHEAD_BYTES) this.#resume();
      return Promise.resolve(now);
    }
    this.#resume();
    if (this.#ended !== undefined) return Promise.reject(this.#ended.error ?? closed());
    return new Promise((resolve, reject) => {
      this.#waiter = { bytes, resolve, reject };
    });
  }

  /** Reads past `bytes` bytes, keeping at most a little of them. */
  async skip(bytes: number): Promise<void> {
    for (let left = bytes; left > 0; left -= SKIP_STEP) await this.take(Math.min(left, SKIP_STEP));
  }

  /** Sends; resolves when little enough waits to be sent. Rejects when the stream ends before. */
  async send(pieces: readonly Uint8Array[]): Promise<void> {
    if (this.stream.write(pieces) || this.ended) return;
    await new Promise<void>((resolve) => {
      this.#drained = resolve;
    });
    this.#drained = undefined;
    if (this.#ended !== undefined) throw this.#ended.error ?? closed();
  }

  #serve(): void {
    const waiter = this.#waiter;
    const b = waiter === undefined ? undefined : this.queue.tryTake(waiter.bytes);
    if (b === undefined) {
      if (waiter === undefined && this.queue.length > AHEAD_BYTES) this.#pause();
      return;
    }
    this.#waiter = undefined;
    waiter?.resolve(b);
  }

  #pause(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.stream.pause();
  }

  #resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.stream.resume();
  }
}

function closed(): HostError {
  return new HostError('ECONNRESET', 'The peer closed the connection');
}
