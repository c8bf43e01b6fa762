/** New blocks of a dynamic disk, and the order in which they become part of it (W1 to W3). */
import type { Child } from '../../block/child.js';
import { BlockError, isNotSupported } from '../../block/errors.js';
import { Iov } from '../../lib/iov.js';
import { Mutex } from '../../lib/mutex.js';
import { settleAll } from '../../lib/settle-all.js';
import type { DynamicInit } from './dynamic.js';
import { FOOTER_BYTES, Limit, SECTOR, UNUSED } from './layout.js';
import type { BlockTable } from './table.js';

/** Entries of the table in one sector of it. */
const PER_SECTOR = SECTOR / 4;
/** The file grows at most so much ahead, in bytes. */
const MAX_AHEAD = 64 * 1024 * 1024;

export class BlockAllocator {
  /** Bitmap of a block whose sectors are all in use. */
  readonly fullBitmap: Uint8Array;
  readonly #file: Child;
  readonly #footer: Uint8Array;
  readonly #blocks: BlockTable;
  /** Allocations, one after the other. */
  readonly #growing = new Mutex();
  /** Writers of the table, one after the other. */
  readonly #writing = new Mutex();
  #end: number;
  /** The file was looked at, and what lay behind `#end` is gone. */
  #isReady = false;
  /** New space of the file is not zero by itself. */
  #zeroes = false;
  /** Bytes that the file grows by beyond what is needed. */
  #ahead = 0;
  /** Sectors of the table that differ from the file's. */
  #dirty = new Set<number>();
  /** Blocks whose bitmap has to be set. */
  #unmarked = new Set<number>();
  /** One bit for each block: its bitmap is set, or will be. */
  readonly #marked: Uint8Array;

  constructor({ file, footer, blocks, end }: DynamicInit) {
    this.#file = file;
    this.#footer = footer;
    this.#blocks = blocks;
    this.#end = Math.ceil(end / SECTOR) * SECTOR;
    this.fullBitmap = new Uint8Array(blocks.bitmapBytes).fill(0xff);
    this.#marked = new Uint8Array(Math.ceil(blocks.entries.length / 8));
  }

  /** All sectors of a stored block count as in use from the next writeback on. */
  markUsed(index: number): void {
    const mask = 1 << (index & 7);
    const byte = this.#marked[index >> 3] ?? 0;
    if ((byte & mask) !== 0) return;
    this.#marked[index >> 3] = byte | mask;
    this.#unmarked.add(index);
  }

  /** A write has set the bitmap of a new block. */
  bitmapWritten(index: number): void {
    this.#unmarked.delete(index);
  }

  /**
   * Stores the blocks from `first` to `last`, both included, that are not; they read as zeroes
   * then. Returns those that are new. Throws ENOSPC or what the file says; nothing is new then.
   */
  allocate(first: number, last: number): Promise<ReadonlySet<number>> {
    return this.#growing.run(async () => {
      const wanted: number[] = [];
      for (let i = first; i <= last; i++) if (!this.#blocks.isStored(i)) wanted.push(i);
      if (wanted.length === 0) return new Set();
      if (!this.#isReady) await this.#prepare();
      const start = this.#end;
      const end = start + wanted.length * this.#blocks.stride;
      if (end > Limit.fileBytes) {
        throw new BlockError('ENOSPC', 'A VHD file cannot be larger than 2 TiB');
      }
      if (this.#zeroes) await this.#file.writeZeroes(start, end - start);
      else if (this.#file.size < end + FOOTER_BYTES) await this.#grow(end + FOOTER_BYTES);
      this.#end = end;
      wanted.forEach((index, i) => {
        this.#blocks.entries[index] = (start + i * this.#blocks.stride) / SECTOR;
        this.#dirty.add(Math.floor(index / PER_SECTOR));
        this.markUsed(index);
      });
      return new Set(wanted);
    });
  }

  /**
   * The file gets at least `to` bytes, and more the more it has grown already: a change of length
   * waits for the writes in flight. Writing the footer cuts off what is too much.
   */
  async #grow(to: number): Promise<void> {
    const ahead = this.#ahead;
    this.#ahead = Math.min(MAX_AHEAD, 2 * ahead + this.#blocks.stride);
    try {
      await this.#file.truncate(to + ahead, { exact: false });
    } catch (e) {
      if (ahead === 0) throw e;
      await this.#file.truncate(to, { exact: false });
    }
  }

  /** Cuts off what lies behind the last block, so that new blocks are zero. */
  async #prepare(): Promise<void> {
    const zeroInit = (await this.#file.node.instance.hasZeroInit?.()) ?? false;
    this.#zeroes = !zeroInit;
    // The footer alone is no matter: a new block has its bitmap there.
    if (zeroInit && this.#file.size > this.#end + FOOTER_BYTES) {
      try {
        await this.#file.truncate(this.#end);
      } catch (e) {
        if (!isNotSupported(e)) throw e;
        this.#zeroes = true;
      }
    }
    this.#isReady = true;
  }

  /**
   * Writes bitmaps, footer and table, in an order that keeps the image consistent. Data that was
   * written before is durable before the table names its block. Throws what the file says; all of
   * it is tried again the next time.
   */
  writeback(): Promise<void> {
    if (this.#dirty.size === 0 && this.#unmarked.size === 0 && !this.#writing.isLocked) {
      return Promise.resolve();
    }
    return this.#writing.run(async () => {
      const unmarked = this.#unmarked;
      const dirty = this.#dirty;
      this.#unmarked = new Set();
      this.#dirty = new Set();
      // Before any wait: what is allocated meanwhile belongs to the next writeback.
      const runs = this.#encode(dirty);
      const end = this.#end;
      try {
        await this.#writeBitmaps(unmarked);
        if (runs.length === 0) return;
        await this.#writeFooter(end);
        await this.#file.flush();
        await settleAll(runs.map(({ offset, bytes }) => this.#file.write(offset, Iov.of(bytes))));
      } catch (e) {
        for (const index of unmarked) this.#unmarked.add(index);
        for (const sector of dirty) this.#dirty.add(sector);
        throw e;
      }
    });
  }

  async #writeBitmaps(blocks: ReadonlySet<number>): Promise<void> {
    const { bitmapBytes } = this.#blocks;
    const full = Iov.of(this.fullBitmap);
    const writes = Array.from(blocks, (index) =>
      this.#file.write(this.#blocks.dataOffset(index) - bitmapBytes, full),
    );
    await settleAll(writes);
  }

  /** The footer comes behind the last block, and the file ends there. */
  async #writeFooter(end: number): Promise<void> {
    // A later allocation writes its own: this place may be a block already.
    if (end !== this.#end) return;
    await this.#growing.run(async () => {
      if (end !== this.#end) return;
      await this.#file.write(end, Iov.of(this.#footer));
      if (this.#zeroes || this.#file.size <= end + FOOTER_BYTES) return;
      await this.#file.truncate(end + FOOTER_BYTES, { exact: false });
    });
  }

  /** Runs of sectors of the table with the bytes that they get. */
  #encode(sectors: ReadonlySet<number>): { offset: number; bytes: Uint8Array }[] {
    const { entries, shape } = this.#blocks;
    const sorted = [...sectors].sort((a, b) => a - b);
    const runs: { offset: number; bytes: Uint8Array }[] = [];
    for (let i = 0; i < sorted.length;) {
      const first = sorted[i] ?? 0;
      let n = 1;
      while (sorted[i + n] === first + n) n++;
      const from = first * PER_SECTOR;
      const to = Math.min(entries.length, (first + n) * PER_SECTOR);
      const bytes = new Uint8Array((to - from) * 4);
      const view = new DataView(bytes.buffer);
      for (let e = from; e < to; e++) view.setUint32((e - from) * 4, entries[e] ?? UNUSED);
      runs.push({ offset: shape.tableOffset + from * 4, bytes });
      i += n;
    }
    return runs;
  }
}
