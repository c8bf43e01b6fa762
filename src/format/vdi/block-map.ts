/**
 * The block map in memory, and which of its sectors differ from the file.
 *
 * All of it is held: 4 bytes for each block of 1 MiB. What a crafted header asks for is bounded by
 * the length of the file: what would stand behind its end is not there.
 */
import type { Child } from '../../block/child.js';
import { BlockError, withErrno } from '../../block/errors.js';
import { Iov } from '../../lib/iov.js';
import type { VdiHeaderFields } from './layout.js';
import { Entry, SECTOR } from './layout.js';

/** The map is read in pieces of this many bytes. */
const PIECE = 4 * 1024 * 1024;
const PER_SECTOR = SECTOR / 4;

export class BlockMap {
  /** As many as the file holds. */
  readonly entries: Uint32Array;
  /** As many as there should be, which bounds the blocks that they name. */
  readonly count: number;
  /** Indexes of sectors that differ from the file. */
  readonly #dirty = new Set<number>();

  constructor(entries: Uint32Array, count: number) {
    this.entries = entries;
    this.count = count;
  }

  /** The file ends before the map does. */
  get isCut(): boolean {
    return this.entries.length < this.count;
  }

  get isDirty(): boolean {
    return this.#dirty.size > 0;
  }

  set(index: number, block: number): void {
    this.entries[index] = block;
    this.#dirty.add(Math.floor(index / PER_SECTOR));
  }

  /** Takes the changed sectors, in order, as runs of bytes as they are now. */
  takeDirty(): { offset: number; bytes: Uint8Array }[] {
    const sectors = [...this.#dirty].sort((a, b) => a - b);
    this.#dirty.clear();
    const runs: { offset: number; bytes: Uint8Array }[] = [];
    for (let i = 0; i < sectors.length;) {
      const first = sectors[i] ?? 0;
      let n = 1;
      while (sectors[i + n] === first + n) n++;
      runs.push({ offset: first * SECTOR, bytes: this.#encode(first * PER_SECTOR, n) });
      i += n;
    }
    return runs;
  }

  /** They could not be written: they still differ. */
  putBack(runs: readonly { offset: number; bytes: Uint8Array }[]): void {
    for (const { offset, bytes } of runs) {
      for (let at = 0; at < bytes.length; at += SECTOR) this.#dirty.add((offset + at) / SECTOR);
    }
  }

  /** Whole sectors; what follows the last entry is zero. */
  #encode(first: number, sectors: number): Uint8Array {
    const out = new DataView(new ArrayBuffer(sectors * SECTOR));
    const end = Math.min(this.entries.length, first + sectors * PER_SECTOR);
    for (let i = first; i < end; i++) out.setUint32((i - first) * 4, this.entries[i]!, true);
    return new Uint8Array(out.buffer);
  }
}

/** Reads the map, as much of it as the file holds. Throws what reading throws. */
export async function readBlockMap(file: Child, fields: VdiHeaderFields): Promise<BlockMap> {
  const { offset_bmap: start, blocks_in_image: count } = fields;
  const inFile = Math.max(0, Math.floor((file.size - start) / 4));
  const entries = new Uint32Array(Math.min(count, inFile));
  const total = entries.length * 4;
  const piece = new Uint8Array(Math.min(PIECE, total));
  const view = new DataView(piece.buffer);
  for (let at = 0; at < total; at += PIECE) {
    const bytes = Math.min(PIECE, total - at);
    try {
      await file.read(start + at, Iov.of(piece.subarray(0, bytes)));
    } catch (e) {
      throw withErrno('Could not read the block map', e);
    }
    for (let i = 0; i < bytes; i += 4) entries[(at + i) / 4] = view.getUint32(i, true);
  }
  return new BlockMap(entries, count);
}

/**
 * Which blocks of the file are in use. Made when the first block is allocated.
 *
 * Blocks below `end` that nobody uses are what a power cut or a failed write left.
 */
export class BlockUsage {
  /** One past the highest block in use. */
  end: number;
  readonly #used: Uint8Array;
  /** Blocks below `end` that nobody uses, and where the search for them goes on. */
  #free: number;
  #next = 0;

  /**
   * Throws EINVAL where two entries name one block or an entry names one that the image cannot
   * have: to write there would damage other data.
   */
  constructor({ entries, isCut }: BlockMap) {
    if (isCut) {
      const text = 'Cannot write to the image: its file ends before the block map; run check';
      throw new BlockError('EINVAL', text);
    }
    this.#used = new Uint8Array(Math.ceil(entries.length / 8));
    let end = 0;
    let count = 0;
    for (const block of entries) {
      if (block >= Entry.firstSpecial) continue;
      if (block >= entries.length) {
        throw damagedMap(`block ${String(block)}, expected less than ${String(entries.length)}`);
      }
      if (this.#isUsed(block)) throw damagedMap(`block ${String(block)} twice`);
      this.#mark(block, true);
      count++;
      if (block >= end) end = block + 1;
    }
    this.end = end;
    this.#free = end - count;
  }

  /** A block that was left over; undefined: there is none. */
  tryTakeFree(): number | undefined {
    if (this.#free === 0) return undefined;
    while (this.#isUsed(this.#next)) this.#next++;
    this.#free--;
    this.#mark(this.#next, true);
    return this.#next++;
  }

  /** The next `count` blocks at the end. */
  takeEnd(count: number): number {
    const first = this.end;
    this.end += count;
    for (let block = first; block < this.end; block++) this.#mark(block, true);
    return first;
  }

  /** Nothing was stored in these after all. */
  giveBack(first: number, count: number): void {
    for (let block = first; block < first + count; block++) this.#mark(block, false);
    this.#free += count;
    while (this.end > 0 && !this.#isUsed(this.end - 1)) {
      this.end--;
      this.#free--;
    }
    this.#next = Math.min(this.#next, first);
  }

  #isUsed(block: number): boolean {
    return ((this.#used[block >> 3] ?? 0) & (1 << (block & 7))) !== 0;
  }

  #mark(block: number, used: boolean): void {
    const bit = 1 << (block & 7);
    if (used) this.#used[block >> 3]! |= bit;
    else this.#used[block >> 3]! &= ~bit;
  }
}

function damagedMap(what: string): BlockError {
  const text = `Cannot write to the image: its block map names ${what}; run check`;
  return new BlockError('EINVAL', text);
}
