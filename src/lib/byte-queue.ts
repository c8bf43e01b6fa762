/** Bytes that arrived in pieces, taken out by count; copies only what spans pieces. */
import { Iov } from './iov.js';

export class ByteQueue {
  #pieces: Uint8Array[] = [];
  /** Index of the first piece not used up; the ones before are dropped now and then. */
  #first = 0;
  /** Bytes of the first piece that were taken. */
  #skip = 0;
  #length = 0;

  /** Bytes that can be taken. */
  get length(): number {
    return this.#length;
  }

  /** Adds a piece; the queue keeps it, the caller lets go of it. */
  push(piece: Uint8Array): void {
    if (piece.byteLength === 0) return;
    this.#pieces.push(piece);
    this.#length += piece.byteLength;
  }

  /** The next `n` bytes without taking them, or undefined if fewer are there. */
  tryPeek(n: number): Uint8Array | undefined {
    if (n > this.#length) return undefined;
    const head = this.#pieces[this.#first];
    if (head !== undefined && head.byteLength - this.#skip >= n) {
      return head.subarray(this.#skip, this.#skip + n);
    }
    return this.#collect(n).flatten();
  }

  /** Takes `n` bytes as one array (shared with the piece where possible), or undefined. */
  tryTake(n: number): Uint8Array | undefined {
    const out = this.tryPeek(n);
    if (out !== undefined) this.drop(n);
    return out;
  }

  /** Takes `n` bytes without copying, or undefined if fewer are there. */
  tryTakeIov(n: number): Iov | undefined {
    if (n > this.#length) return undefined;
    const out = this.#collect(n);
    this.drop(n);
    return out;
  }

  /** Forgets the next `n` bytes (at most what is there). */
  drop(n: number): void {
    let left = Math.min(n, this.#length);
    this.#length -= left;
    while (left > 0) {
      const head = this.#pieces[this.#first];
      if (head === undefined) break;
      const have = head.byteLength - this.#skip;
      if (left < have) {
        this.#skip += left;
        break;
      }
      left -= have;
      this.#skip = 0;
      this.#first++;
    }
    if (this.#first > 64 || this.#first === this.#pieces.length) {
      this.#pieces = this.#pieces.slice(this.#first);
      this.#first = 0;
    }
  }

  #collect(n: number): Iov {
    const out: Uint8Array[] = [];
    let left = n;
    let skip = this.#skip;
    for (let i = this.#first; left > 0; i++) {
      const piece = this.#pieces[i];
      if (piece === undefined) break;
      const take = Math.min(left, piece.byteLength - skip);
      out.push(piece.subarray(skip, skip + take));
      left -= take;
      skip = 0;
    }
    return new Iov(out, n);
  }
}
