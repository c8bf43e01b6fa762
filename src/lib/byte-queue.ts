/** Bytes that arrived in pieces, taken out by count; copies only what spans pieces. */
import { Iov } from './iov.js';

const none: DataView = new DataView(new ArrayBuffer(0));

export class ByteQueue {
  #pieces: Uint8Array[] = [];
  /** Index of the first piece not used up; the ones before are dropped now and then. */
  #first = 0;
  /** Bytes of the first piece that were taken. */
  #skip = 0;
  #length = 0;
  #view = none;
  /** The piece that `#view` is of. */
  #viewed: Uint8Array | undefined;

  /** Bytes that can be taken. */
  get length(): number {
    return this.#length;
  }

  /** The memory in which {@link tryHead} found its bytes. */
  get view(): DataView {
    return this.#view;
  }

  /** Adds a piece; the queue keeps it, the caller lets go of it. */
  push(piece: Uint8Array): void {
    if (piece.byteLength === 0) return;
    this.#pieces.push(piece);
    this.#length += piece.byteLength;
  }

  /**
   * Where in {@link view} the next `n` bytes stand in one piece; they are not taken. -1 if fewer
   * are there. Valid until the next call of any method.
   */
  tryHead(n: number): number {
    if (n > this.#length) return -1;
    let head = this.#pieces[this.#first];
    if (head === undefined || head.byteLength - this.#skip < n) head = this.#gather(n);
    if (this.#viewed !== head) {
      this.#viewed = head;
      this.#view = new DataView(head.buffer, head.byteOffset, head.byteLength);
    }
    return this.#skip;
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

  /** Moves the next `n` bytes, which are there, into `target` from `start` on. */
  moveTo(target: Iov, start: number, n: number): void {
    let at = start;
    for (const piece of this.#collect(n).bufs) {
      target.copyFrom(piece, at);
      at += piece.byteLength;
    }
    this.drop(n);
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
    if (this.#first === this.#pieces.length) {
      if (this.#first > 0) this.#pieces = [];
      this.#first = 0;
      this.#viewed = undefined;
    } else if (this.#first > 64) {
      this.#pieces = this.#pieces.slice(this.#first);
      this.#first = 0;
    }
  }

  /** Puts the next `n` bytes, which span pieces, into one piece of their own. */
  #gather(n: number): Uint8Array {
    const head = this.#collect(n).flatten();
    const length = this.#length;
    this.drop(n);
    this.#length = length;
    const rest = this.#pieces.slice(this.#first);
    const first = rest[0];
    if (first !== undefined && this.#skip > 0) rest[0] = first.subarray(this.#skip);
    this.#pieces = [head, ...rest];
    this.#first = 0;
    this.#skip = 0;
    return head;
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
