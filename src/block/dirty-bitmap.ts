/** Dirty bitmaps: which parts of a node were written since a moment. */
import { BlockError } from './errors.js';

/**
 * Bits over a node's bytes, `granularity` bytes each (a power of two). Counted
 * while `enabled`. Persistent bitmaps are stored by the image's driver at close.
 */
export class DirtyBitmap {
  readonly name: string;
  readonly granularity: number;
  enabled: boolean;
  persistent: boolean;
  /** Read back from an image that was not closed cleanly: only to be removed. */
  inconsistent = false;
  /** A job or export holds it. */
  busy = false;
  /** Notes writes in this one's stead while a job reads its bits; see {@link split}. */
  #successor: DirtyBitmap | undefined;
  #bits: Uint8Array;
  #length: number;
  #count = 0;

  constructor(init: {
    name: string;
    granularity: number;
    bytes: number;
    enabled: boolean;
    persistent: boolean;
  }) {
    this.name = init.name;
    this.granularity = init.granularity;
    this.enabled = init.enabled;
    this.persistent = init.persistent;
    this.#length = init.bytes;
    this.#bits = new Uint8Array(bytesFor(init.bytes, init.granularity));
  }

  /** Length covered, in bytes of the node. */
  get length(): number {
    return this.#length;
  }

  /** Dirty bits, in bytes of the node (a multiple of the granularity). */
  get dirtyBytes(): number {
    return this.#count * this.granularity;
  }

  /** A write of the node; sets the bits if the bitmap is enabled. */
  noteWritten(offset: number, bytes: number): void {
    if (this.enabled) this.set(offset, bytes);
    this.#successor?.noteWritten(offset, bytes);
  }

  /** Writes are noted, here or apart. */
  get isRecording(): boolean {
    return this.enabled || this.#successor?.enabled === true;
  }

  /** What notes writes in this one's stead; undefined: this one does. */
  get successor(): DirtyBitmap | undefined {
    return this.#successor;
  }

  /** A job takes the bits: until {@link adopt} or {@link rejoin} writes are noted apart. */
  split(): void {
    const { name, granularity, enabled } = this;
    const bytes = this.#length;
    this.#successor = new DirtyBitmap({ name, granularity, bytes, enabled, persistent: false });
    this.enabled = false;
    this.busy = true;
  }

  /** What was noted apart takes the place of the bits. */
  adopt(): void {
    this.clear();
    this.rejoin();
  }

  /** What was noted apart comes to the bits. */
  rejoin(): void {
    const successor = this.#successor;
    if (successor === undefined) return;
    this.#successor = undefined;
    this.merge(successor);
    this.enabled = successor.enabled;
    this.busy = false;
  }

  set(offset: number, bytes: number): void {
    this.#change(offset, bytes, true);
  }

  clear(offset = 0, bytes = this.#length): void {
    this.#change(offset, bytes, false);
  }

  has(offset: number): boolean {
    const bit = Math.floor(offset / this.granularity);
    return ((this.#bits[Math.floor(bit / 8)] ?? 0) & (1 << (bit % 8))) !== 0;
  }

  /** First dirty (or clean) byte offset at or after `offset`; undefined if none below length. */
  next(offset: number, dirty: boolean): number | undefined {
    // The last granule may reach past the end.
    if (offset >= this.#length) return undefined;
    const end = Math.ceil(this.#length / this.granularity);
    let bit = Math.floor(offset / this.granularity);
    while (bit < end) {
      const byte = this.#bits[Math.floor(bit / 8)] ?? 0;
      if (bit % 8 === 0 && byte === (dirty ? 0 : 255)) {
        bit += 8;
        continue;
      }
      if (((byte >>> (bit % 8)) & 1) === (dirty ? 1 : 0)) {
        return Math.max(offset, bit * this.granularity);
      }
      bit++;
    }
    return undefined;
  }

  /** Adds every dirty bit of `source`; granularities may differ. */
  merge(source: DirtyBitmap): void {
    if (source.length !== this.length) {
      throw new BlockError(
        'EINVAL',
        'Bitmaps are of different sizes (destination size is ' +
          `${String(this.length)}, source size is ${String(source.length)}) and can't be merged`,
      );
    }
    let at = source.next(0, true);
    while (at !== undefined) {
      const end = source.next(at, false) ?? this.#length;
      this.set(at, end - at);
      at = source.next(end, true);
    }
  }

  /** The node's length changed: new bytes are clean, cut ones forgotten. */
  resize(bytes: number): void {
    if (this.inconsistent) return;
    this.#successor?.resize(bytes);
    if (bytes < this.#length) this.#change(bytes, this.#length - bytes, false, true);
    const bits = new Uint8Array(bytesFor(bytes, this.granularity));
    bits.set(this.#bits.subarray(0, bits.byteLength));
    this.#bits = bits;
    this.#length = bytes;
  }

  /** The bits, least significant first; shares memory. */
  raw(): Uint8Array {
    return this.#bits;
  }

  /**
   * Takes bits over that were stored (least significant first); what is past the end is dropped.
   * `bits` may be shorter than the bitmap: the rest is clean.
   */
  load(bits: Uint8Array): void {
    const all = this.#bits;
    all.fill(0);
    all.set(bits.subarray(0, all.length));
    const used = Math.ceil(this.#length / this.granularity) & 7;
    const last = all.length - 1;
    if (used !== 0 && last >= 0) all[last] = (all[last] ?? 0) & ((1 << used) - 1);
    this.#count = 0;
    for (let i = 0; i < all.length; i++) this.#count += ones[all[i] ?? 0] ?? 0;
  }

  #change(offset: number, bytes: number, on: boolean, wholeOnly = false): void {
    if (bytes <= 0) return;
    const g = this.granularity;
    let bit = wholeOnly ? Math.ceil(offset / g) : Math.floor(offset / g);
    const end = Math.min(Math.ceil((offset + bytes) / g), Math.ceil(this.#length / g));
    while (bit < end) {
      // Whole bytes at once where the range has them.
      const at = Math.floor(bit / 8);
      const shift = bit % 8;
      const n = Math.min(8 - shift, end - bit);
      const mask = ((1 << n) - 1) << shift;
      const old = this.#bits[at] ?? 0;
      const now = on ? old | mask : old & ~mask;
      if (now !== old) {
        this.#count += (ones[now] ?? 0) - (ones[old] ?? 0);
        this.#bits[at] = now;
      }
      bit += n;
    }
  }
}

/** Bits that are set in each byte. */
const ones = Uint8Array.from({ length: 256 }, (_, byte) => {
  let n = 0;
  for (let rest = byte; rest > 0; rest >>>= 1) n += rest & 1;
  return n;
});

function bytesFor(length: number, granularity: number): number {
  return Math.ceil(Math.ceil(length / granularity) / 8);
}
