/** The block allocation table in memory: where each block of the disk is in the file. */
import { SECTOR, UNUSED } from './layout.js';

/** Where the table is and what it maps; all in bytes. */
export interface TableShape {
  readonly size: number;
  readonly blockSize: number;
  readonly tableOffset: number;
}

export class BlockTable {
  /** Sector of each block's bitmap, or {@link UNUSED}. */
  readonly entries: Uint32Array;
  readonly shape: TableShape;
  /** Bytes of the bitmap in front of each block: whole sectors. */
  readonly bitmapBytes: number;

  constructor(entries: Uint32Array, shape: TableShape) {
    this.entries = entries;
    this.shape = shape;
    this.bitmapBytes = Math.ceil(shape.blockSize / SECTOR / 8 / SECTOR) * SECTOR;
  }

  /** Bytes of a block with its bitmap. */
  get stride(): number {
    return this.bitmapBytes + this.shape.blockSize;
  }

  /** End of the last block in the file; 0 when none is stored. */
  get end(): number {
    let last = -1;
    for (const entry of this.entries) if (entry !== UNUSED && entry > last) last = entry;
    return last < 0 ? 0 : last * SECTOR + this.stride;
  }

  /** Index of the block that holds `offset` of the disk. */
  indexOf(offset: number): number {
    return Math.floor(offset / this.shape.blockSize);
  }

  isStored(index: number): boolean {
    return (this.entries[index] ?? UNUSED) !== UNUSED;
  }

  /** Where a stored block's data begins in the file. */
  dataOffset(index: number): number {
    return (this.entries[index] ?? 0) * SECTOR + this.bitmapBytes;
  }

  /** Bytes from `offset` on that lie in blocks which are not stored, up to `bytes`. */
  unstoredRun(offset: number, bytes: number): number {
    const { blockSize } = this.shape;
    const end = offset + bytes;
    let index = this.indexOf(offset);
    while (index * blockSize < end && !this.isStored(index)) index++;
    return Math.min(end, Math.max(offset, index * blockSize)) - offset;
  }
}
