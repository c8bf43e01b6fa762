/** The active L1 table in memory: big endian, as on disk. Changes are written by writeback.ts. */
import { Entry } from './layout.js';

const TWO32 = 0x1_0000_0000;
/** Changed entries are written in units of this many bytes, which a disk stores at once. */
const SECTOR = 512;

/** A part of the table that has to be written, as it was when the writeback began. */
export interface L1Piece {
  /** Bytes from the start of the table. */
  readonly at: number;
  readonly bytes: Uint8Array;
}

export class L1Table {
  /** Where the table lies in the image file. */
  offset: number;
  #bytes: Uint8Array;
  #view: DataView;
  readonly #dirty = new Set<number>();

  constructor(offset: number, bytes: Uint8Array) {
    this.offset = offset;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Number of entries. */
  get size(): number {
    return this.#bytes.byteLength / 8;
  }

  /** The table as bytes; not to be changed. */
  get bytes(): Uint8Array {
    return this.#bytes;
  }

  get isDirty(): boolean {
    return this.#dirty.size > 0;
  }

  hi(index: number): number {
    return this.#view.getUint32(index * 8);
  }

  lo(index: number): number {
    return this.#view.getUint32(index * 8 + 4);
  }

  /** Offset of the L2 table in bytes, 0 when there is none; rounded above 2^53. */
  l2Offset(index: number): number {
    const at = index * 8;
    const hi = this.#view.getUint32(at) & Entry.offsetHi;
    const lo = (this.#view.getUint32(at + 4) & Entry.offsetLo) >>> 0;
    return hi * TWO32 + lo;
  }

  /** Whether the L2 table belongs to this L1 table alone. */
  isCopied(index: number): boolean {
    return (this.#view.getUint32(index * 8) & Entry.copiedHi) !== 0;
  }

  /** Points entry `index` to an L2 table that is used once; 0 removes it. */
  set(index: number, l2Offset: number): void {
    const copied = l2Offset === 0 ? 0 : Entry.copiedHi;
    this.#view.setUint32(index * 8, (Math.floor(l2Offset / TWO32) | copied) >>> 0);
    this.#view.setUint32(index * 8 + 4, l2Offset % TWO32);
    this.#dirty.add(Math.floor((index * 8) / SECTOR));
  }

  /** Sets or clears the copied flag of entry `index`. */
  setCopied(index: number, copied: boolean): void {
    const hi = this.#view.getUint32(index * 8);
    this.#view.setUint32(index * 8, (copied ? hi | Entry.copiedHi : hi & ~Entry.copiedHi) >>> 0);
    this.#dirty.add(Math.floor((index * 8) / SECTOR));
  }

  /** Copies of the changed parts; they count as clean afterwards. */
  takeDirty(): L1Piece[] {
    const out: L1Piece[] = [];
    for (const sector of [...this.#dirty].sort((a, b) => a - b)) {
      const at = sector * SECTOR;
      out.push({ at, bytes: this.#bytes.slice(at, at + SECTOR) });
    }
    this.#dirty.clear();
    return out;
  }

  /** The pieces did not reach the file. */
  notWritten(pieces: readonly L1Piece[]): void {
    for (const { at } of pieces) if (at < this.#bytes.byteLength) this.#dirty.add(at / SECTOR);
  }

  /** Takes over another table (growth, snapshots), which is on disk already. */
  replace(offset: number, bytes: Uint8Array): void {
    this.offset = offset;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#dirty.clear();
  }
}
