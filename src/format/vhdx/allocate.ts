/** New blocks, and the order in which they become part of the disk (L1 to L4 in driver.ts). */
import type { Child } from '../../block/child.js';
import { BlockError, isNotSupported } from '../../block/errors.js';
import { Mutex } from '../../lib/mutex.js';
import { Limit, MiB } from './layout.js';
import type { Session } from './session.js';
import type { Bat } from './table.js';

/** The file grows at most so much ahead, in bytes. */
const MAX_AHEAD = 64 * MiB;

export interface AllocatorInit {
  readonly file: Child;
  readonly bat: Bat;
  readonly session: Session;
  /** Where the used part of the file ends. */
  readonly end: number;
}

export class BlockAllocator {
  readonly #file: Child;
  readonly #bat: Bat;
  readonly #session: Session;
  /** Allocations, one after the other. */
  readonly #growing = new Mutex();
  /** Writers of the table, one after the other. */
  readonly #writing = new Mutex();
  #end: number;
  #isReady = false;
  /** New space of the file is not zero by itself. */
  #zeroes = false;
  /** Bytes that the file grows by beyond what is needed, and whether it did. */
  #ahead = 0;
  #isAhead = false;
  /** Pages of the table that differ from the file's. */
  #dirty = new Set<number>();

  constructor({ file, bat, session, end }: AllocatorInit) {
    this.#file = file;
    this.#bat = bat;
    this.#session = session;
    this.#end = Math.ceil(end / MiB) * MiB;
  }

  /** To be called before anything of the file changes; returns at once when it was. */
  async begin(): Promise<void> {
    if (this.#session.isOpen) return;
    await this.#growing.run(async () => {
      if (!this.#isReady) await this.#cutTail();
      await this.#session.begin(() => this.#bat.page(0));
    });
  }

  /**
   * Cuts off what lies behind the last block, so that new blocks are zero. It comes before the
   * first log entry, which tells how long the file has to be.
   */
  async #cutTail(): Promise<void> {
    const zeroInit = (await this.#file.node.instance.hasZeroInit?.()) ?? false;
    this.#zeroes = !zeroInit;
    if (zeroInit && this.#file.size > this.#end) {
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
   * Stores the blocks from `first` to `last`, both included, that are not; they read as zeroes
   * then. Throws what the file says; nothing is new then.
   */
  allocate(first: number, last: number): Promise<void> {
    return this.#growing.run(async () => {
      const wanted: number[] = [];
      for (let i = first; i <= last; i++) if (!this.#bat.isStored(i)) wanted.push(i);
      if (wanted.length === 0) return;
      const start = this.#end;
      const end = start + wanted.length * this.#bat.blockSize;
      if (end > Limit.fileBytes) throw new BlockError('EFBIG');
      if (this.#zeroes) await this.#file.writeZeroes(start, end - start);
      else if (this.#file.size < end) await this.#grow(end);
      this.#end = end;
      wanted.forEach((block, i) => {
        this.#bat.store(block, start + i * this.#bat.blockSize);
        this.#dirty.add(this.#bat.pageOf(block));
      });
    });
  }

  /**
   * The file gets at least `to` bytes, and more the more it has grown already: a change of length
   * waits for the writes in flight. What is too much is cut off at the end of the session.
   */
  async #grow(to: number): Promise<void> {
    const ahead = this.#ahead;
    this.#ahead = Math.min(MAX_AHEAD, 2 * ahead + this.#bat.blockSize);
    try {
      await this.#file.truncate(to + ahead, { exact: false });
      this.#isAhead = ahead > 0;
    } catch (e) {
      if (ahead === 0) throw e;
      await this.#file.truncate(to, { exact: false });
    }
  }

  /** Writes the table where it changed. Throws what the file says; it is tried again next time. */
  writeback(): Promise<void> {
    if (this.#dirty.size === 0 && !this.#writing.isLocked) return Promise.resolve();
    return this.#writing.run(async () => {
      const dirty = this.#dirty;
      if (dirty.size === 0) return;
      this.#dirty = new Set();
      // Before any wait: what is allocated meanwhile belongs to the next writeback.
      const pages = Array.from(dirty, (index) => this.#bat.page(index));
      try {
        await this.#session.change(pages);
      } catch (e) {
        for (const index of dirty) this.#dirty.add(index);
        throw e;
      }
    });
  }

  /** Everything is in place and durable, and the headers name no log. */
  async end(): Promise<void> {
    await this.writeback();
    await this.#session.end();
    // Only now: entries of the log tell how long the file has to be.
    if (!this.#isAhead || this.#file.size <= this.#end) return;
    this.#isAhead = false;
    // The tail is sparse, and the next writer cuts it off otherwise.
    await this.#file.truncate(this.#end, { exact: false }).catch(() => undefined);
  }
}
