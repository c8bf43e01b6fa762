/** The block allocation table (BAT) in memory: state and place of each block of the disk. */
import { BlockError } from '../../block/errors.js';
import type { Extent } from './header.js';
import { checkFree } from './header.js';
import type { LoggedPage } from './log-entry.js';
import type { Metadata } from './metadata.js';
import {
  BAT_ENTRY_BYTES,
  BITMAP_PRESENT,
  BlockState,
  CHUNK_SECTORS,
  MiB,
  PAGE_BYTES,
  PAGE_ENTRIES,
} from './layout.js';

/** Entries of the table of a disk: blocks, with a sector bitmap after each chunk of them. */
export function tableEntries(
  m: Pick<Metadata, 'size' | 'blockSize' | 'sectorBytes' | 'hasParent'>,
): {
  blocks: number;
  chunk: number;
  entries: number;
} {
  const blocks = Math.ceil(m.size / m.blockSize);
  const chunk = (CHUNK_SECTORS * m.sectorBytes) / m.blockSize;
  const entries = m.hasParent
    ? Math.ceil(blocks / chunk) * (chunk + 1)
    : blocks + Math.floor(Math.max(0, blocks - 1) / chunk);
  return { blocks, chunk, entries };
}

export class Bat {
  readonly blockSize: number;
  /** Bytes of the disk. */
  readonly size: number;
  readonly blocks: number;
  readonly hasParent: boolean;
  /** Blocks of one sector bitmap. */
  readonly chunk: number;
  /** Where the table is in the file. */
  readonly offset: number;
  /** By entry: states, and places in MiB. */
  readonly states: Uint8Array;
  readonly places: Uint32Array;

  constructor(metadata: Metadata, offset: number) {
    const { blocks, chunk, entries } = tableEntries(metadata);
    this.blockSize = metadata.blockSize;
    this.size = metadata.size;
    this.hasParent = metadata.hasParent;
    this.blocks = blocks;
    this.chunk = chunk;
    this.offset = offset;
    this.states = new Uint8Array(entries);
    this.places = new Uint32Array(entries);
  }

  /** Takes over entries as they stand in the file; `first` is the index of the first of them. */
  load(bytes: Uint8Array, first: number): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const count = Math.min(bytes.length / BAT_ENTRY_BYTES, this.states.length - first);
    for (let i = 0; i < count; i++) {
      const lo = view.getUint32(i * 8, true);
      const place = view.getUint32(i * 8 + 4, true) * 4096 + (lo >>> 20);
      this.states[first + i] = lo & 7;
      // Larger places are past the end of every file.
      this.places[first + i] = Math.min(place, 0xffff_ffff);
    }
  }

  indexOf(offset: number): number {
    return Math.floor(offset / this.blockSize);
  }

  /** Index in the table of a block's entry. */
  entryOf(block: number): number {
    return block + Math.floor(block / this.chunk);
  }

  stateOf(block: number): number {
    return this.states[this.entryOf(block)] ?? BlockState.notPresent;
  }

  isStored(block: number): boolean {
    return this.stateOf(block) === BlockState.fullyPresent;
  }

  /** Where a stored block begins in the file. */
  offsetOf(block: number): number {
    return (this.places[this.entryOf(block)] ?? 0) * MiB;
  }

  /** Where the sector bitmap of a block's chunk is; undefined: there is none. */
  bitmapOf(block: number): number | undefined {
    const entry = Math.floor(block / this.chunk) * (this.chunk + 1) + this.chunk;
    return this.states[entry] === BITMAP_PRESENT ? (this.places[entry] ?? 0) * MiB : undefined;
  }

  /** Bytes from `offset` on in blocks of one state other than stored, up to `bytes`. */
  runOf(offset: number, bytes: number): number {
    const end = offset + bytes;
    const first = this.indexOf(offset);
    const state = this.stateOf(first);
    let block = first + 1;
    while (block * this.blockSize < end && this.stateOf(block) === state) block++;
    return Math.min(end, block * this.blockSize) - offset;
  }

  /** Whether an entry says that something is in the file. */
  #isPlaced(entry: number): boolean {
    const state = this.states[entry] ?? 0;
    if (this.#isBitmap(entry)) return state === BITMAP_PRESENT;
    if (state === BlockState.partiallyPresent) return this.hasParent;
    return state === BlockState.fullyPresent;
  }

  #isBitmap(entry: number): boolean {
    return entry % (this.chunk + 1) === this.chunk;
  }

  /** End of the last block in the file. */
  get end(): number {
    let end = 0;
    for (let i = 0; i < this.states.length; i++) {
      if (!this.#isPlaced(i)) continue;
      const bytes = this.#isBitmap(i) ? MiB : this.blockSize;
      end = Math.max(end, (this.places[i] ?? 0) * MiB + bytes);
    }
    return end;
  }

  /**
   * Says for each entry that cannot be, why: in space that is taken, or past the end of the file.
   * `report` may throw.
   */
  check(taken: readonly Extent[], fileBytes: number, report: (e: BlockError) => void): void {
    for (let i = 0; i < this.states.length; i++) {
      if (!this.#isPlaced(i)) {
        const state = this.states[i] ?? 0;
        if (state > BlockState.unmapped) {
          const text = `VHDX BAT entry ${i} has the state ${state}, which is not defined there`;
          report(new BlockError('EINVAL', text));
        }
        continue;
      }
      const offset = (this.places[i] ?? 0) * MiB;
      const bytes = this.#isBitmap(i) ? MiB : this.blockSize;
      const which = offset > fileBytes ? 'start' : 'end';
      const at = which === 'start' ? offset : offset + bytes;
      if (at > fileBytes) {
        const text =
          `VHDX BAT entry ${i} ${which} offset ${at} points after end of file (${fileBytes}). ` +
          'Image has probably been truncated.';
        report(new BlockError('EINVAL', text));
        continue;
      }
      try {
        checkFree(taken, { offset, bytes });
      } catch (e) {
        if (!(e instanceof BlockError)) throw e;
        report(e);
      }
    }
  }

  store(block: number, offset: number): void {
    const entry = this.entryOf(block);
    this.states[entry] = BlockState.fullyPresent;
    this.places[entry] = offset / MiB;
  }

  /** A page of the table as it has to stand in the file. */
  page(index: number): LoggedPage {
    const bytes = new Uint8Array(PAGE_BYTES);
    const view = new DataView(bytes.buffer);
    const first = index * PAGE_ENTRIES;
    const count = Math.min(PAGE_ENTRIES, this.states.length - first);
    for (let i = 0; i < count; i++) {
      const place = this.places[first + i] ?? 0;
      const lo = ((place % 4096) * MiB + (this.states[first + i] ?? 0)) >>> 0;
      view.setUint32(i * 8, lo, true);
      view.setUint32(i * 8 + 4, Math.floor(place / 4096), true);
    }
    return { offset: this.offset + index * PAGE_BYTES, bytes };
  }

  /** The page that a block's entry is in. */
  pageOf(block: number): number {
    return Math.floor(this.entryOf(block) / PAGE_ENTRIES);
  }
}
