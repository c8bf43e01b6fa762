/**
 * Scatter-gather lists: the memory of one request, in pieces, without copying.
 *
 * An `Iov` is immutable in shape; the bytes behind it belong to the operation
 * from submit to completion (see docs/architecture.md).
 */
export class Iov {
  /** The pieces in order; none is empty unless the whole list is. */
  readonly bufs: readonly Uint8Array[];
  /** Sum of the pieces' lengths in bytes. */
  readonly bytes: number;

  constructor(bufs: readonly Uint8Array[], bytes: number) {
    this.bufs = bufs;
    this.bytes = bytes;
  }

  /** One contiguous piece. */
  static of(buf: Uint8Array): Iov {
    return new Iov([buf], buf.byteLength);
  }

  /** Several pieces; empty ones are dropped. */
  static from(bufs: readonly Uint8Array[]): Iov {
    let bytes = 0;
    let empty = false;
    for (const b of bufs) {
      bytes += b.byteLength;
      if (b.byteLength === 0) empty = true;
    }
    return new Iov(empty ? bufs.filter((b) => b.byteLength > 0) : bufs, bytes);
  }

  /** A fresh zeroed buffer of `bytes` bytes. */
  static alloc(bytes: number): Iov {
    return new Iov([new Uint8Array(bytes)], bytes);
  }

  /** The window [start, start + bytes); shares memory with this list. */
  slice(start: number, bytes: number): Iov {
    if (start === 0 && bytes === this.bytes) return this;
    if (start < 0 || bytes < 0 || start + bytes > this.bytes) {
      throw new RangeError(`iov slice ${start}+${bytes} of ${this.bytes}`);
    }
    const only = this.bufs[0];
    if (this.bufs.length === 1 && only !== undefined) {
      return new Iov([only.subarray(start, start + bytes)], bytes);
    }
    const out: Uint8Array[] = [];
    let skip = start;
    let left = bytes;
    for (const b of this.bufs) {
      if (left === 0) break;
      if (skip >= b.byteLength) {
        skip -= b.byteLength;
        continue;
      }
      const n = Math.min(b.byteLength - skip, left);
      out.push(b.subarray(skip, skip + n));
      skip = 0;
      left -= n;
    }
    return new Iov(out, bytes);
  }

  /** Joins lists; shares memory with both. */
  concat(other: Iov): Iov {
    if (this.bytes === 0) return other;
    if (other.bytes === 0) return this;
    return new Iov([...this.bufs, ...other.bufs], this.bytes + other.bytes);
  }

  /** The single piece when the list is contiguous, else undefined. */
  tryContiguous(): Uint8Array | undefined {
    return this.bufs.length === 1 ? this.bufs[0] : undefined;
  }

  /** Sets bytes [start, start + bytes) to `value` (default 0). */
  fill(value = 0, start = 0, bytes = this.bytes - start): void {
    let skip = start;
    let left = bytes;
    for (const b of this.bufs) {
      if (left <= 0) break;
      if (skip >= b.byteLength) {
        skip -= b.byteLength;
        continue;
      }
      const n = Math.min(b.byteLength - skip, left);
      b.fill(value, skip, skip + n);
      skip = 0;
      left -= n;
    }
  }

  /** Copies `src` into this list at byte `start`. */
  copyFrom(src: Uint8Array, start = 0): void {
    if (start + src.byteLength > this.bytes) throw new RangeError('iov copyFrom past the end');
    let skip = start;
    let done = 0;
    for (const b of this.bufs) {
      if (done === src.byteLength) break;
      if (skip >= b.byteLength) {
        skip -= b.byteLength;
        continue;
      }
      const n = Math.min(b.byteLength - skip, src.byteLength - done);
      b.set(done === 0 && n === src.byteLength ? src : src.subarray(done, done + n), skip);
      skip = 0;
      done += n;
    }
  }

  /** Copies this list into `dst` at byte `start` of `dst`. */
  copyTo(dst: Uint8Array, start = 0): void {
    let at = start;
    for (const b of this.bufs) {
      dst.set(b, at);
      at += b.byteLength;
    }
  }

  /** Copies the bytes of `src` here; both have the same length. */
  copyFromIov(src: Iov): void {
    let at = 0;
    for (const b of src.bufs) {
      this.copyFrom(b, at);
      at += b.byteLength;
    }
  }

  /** The bytes as one array: the piece itself when contiguous, else a copy. */
  flatten(): Uint8Array {
    const only = this.tryContiguous();
    if (only !== undefined) return only;
    const out = new Uint8Array(this.bytes);
    this.copyTo(out);
    return out;
  }

  /** Whether each byte is zero. */
  isZero(): boolean {
    for (const b of this.bufs) if (!isZeroBytes(b)) return false;
    return true;
  }
}

/** Whether each byte of `b` is zero; looks at eight bytes at a time where alignment allows. */
export function isZeroBytes(b: Uint8Array): boolean {
  const n = b.byteLength;
  if (n === 0) return true;
  // Most data differs from zero at one of these places: cheap exits first.
  if (b[0] !== 0 || b[n - 1] !== 0 || b[n >> 1] !== 0) return false;
  let i = 0;
  while (i < n && ((b.byteOffset + i) & 7) !== 0) if (b[i++] !== 0) return false;
  const words = (n - i) >> 3;
  if (words > 0) {
    const f = new Float64Array(b.buffer, b.byteOffset + i, words);
    const u = new Int32Array(b.buffer, b.byteOffset + i, words * 2);
    // A double compares unequal to 0 for each non-zero pattern but -0.0 (sign bit alone).
    for (let k = 0; k < words; k++) if (f[k] !== 0 || u[2 * k + 1] !== 0) return false;
    i += words << 3;
  }
  while (i < n) if (b[i++] !== 0) return false;
  return true;
}
