/**
 * Brings changed metadata into the file, in the order of W1 to W5 at the head of driver.ts:
 *
 *   0. every delayed copy-on-write is filled and its clusters are mapped;
 *   A. refcount blocks (new ones, flush, then the refcount table's entries; then the others);
 *   -  one flush, if anything to be mapped is new: refcounts, data and new tables are durable;
 *   B. slices of L2 tables and entries of the L1 table, in any order;
 *   C. only if clusters were unlinked: flush, wait for requests that could still reach them,
 *      then their references are subtracted in memory, to be written by the next A.
 *
 * What is written is frozen when the step begins: changes that come later go with the next run.
 * So guest writes go on during a writeback. Runs are serialised (lock 2); requests for one that
 * has not begun share it.
 */
import { Iov } from '../../lib/iov.js';
import { Mutex } from '../../lib/mutex.js';
import { settleAll } from '../../lib/settle-all.js';
import type { Release } from './allocate.js';
import type { FrozenTable, MetaCache } from './cache.js';
import type { Qcow2Image } from './image.js';
import type { L1Piece } from './l1.js';
import { writeU64 } from './layout.js';
import { Overlap } from './options.js';
import type { ReftableEntry } from './refcount.js';

/** Mapping tables as they were when a run began. */
interface Frozen {
  readonly l2: FrozenTable[];
  readonly l1: L1Piece[];
  readonly l1Offset: number;
  readonly releases: Release[];
  /** Resolves when requests that may use the old mapping have ended. */
  readonly quiet: Promise<void>;
}

export class Writeback {
  readonly #image: Qcow2Image;
  readonly #mutex = new Mutex();
  /** The run that has not begun. */
  #waiting: Promise<void> | undefined;
  #last: Promise<unknown> = Promise.resolve();
  /** What is mapped next needs refcounts, or data, to be durable first. */
  #needsRefcounts = false;
  #needsData = false;
  /** Tables of snapshots are changed as well: they are no danger to themselves. */
  hasInactiveTables = false;
  /** Step C of past runs. */
  readonly #releasing = new Set<Promise<void>>();

  constructor(image: Qcow2Image) {
    this.#image = image;
  }

  /**
   * Something new was put into a mapping table. `fresh`: it lies where the file was never written
   * and nothing was copied to it, so that a crash can show zeroes there, but nothing else.
   */
  noteAllocation(fresh: boolean): void {
    this.#needsRefcounts = true;
    if (!fresh) this.#needsData = true;
  }

  /** Runs 0, A, B (and starts C) for all that is in memory now. Throws the first error. */
  run(): Promise<void> {
    if (this.#waiting === undefined) {
      const run = this.#last.then(() => {
        this.#waiting = undefined;
        return this.#once(!this.#image.lazyRefcounts);
      });
      this.#waiting = run;
      this.#last = run.catch(() => undefined);
    }
    return this.#waiting;
  }

  async #once(withRefcounts: boolean): Promise<void> {
    await this.#image.writes.settleAll();
    await this.#mutex.run(() => this.#steps(withRefcounts));
  }

  /** Runs `fn` while no writeback runs. `fn` must not wait for one, nor for `image.lock`. */
  alone<T>(fn: () => Promise<T>): Promise<T> {
    return this.#mutex.run(fn);
  }

  /** Step A alone; for callers inside `alone`. */
  async refcountBlocks(): Promise<void> {
    await this.#refcounts();
  }

  /**
   * Until nothing is left to write or to release, lazy refcounts included. Called with
   * `image.lock` held. The last writes are not flushed.
   */
  async everything(): Promise<void> {
    const { alloc } = this.#image;
    while (this.#isDirty()) {
      await this.#last;
      await this.#once(true);
      await Promise.all(this.#releasing);
      await alloc.applyReady();
    }
  }

  #isDirty(): boolean {
    const { alloc, l1, l2, refcounts, writes } = this.#image;
    return (
      alloc.hasWaiting ||
      alloc.hasReady ||
      l1.isDirty ||
      l2.dirtyCount > 0 ||
      refcounts.cache.dirtyCount > 0 ||
      refcounts.hasDirtyEntries ||
      writes.hasUnmapped ||
      this.#releasing.size > 0
    );
  }

  async #steps(withRefcounts: boolean): Promise<void> {
    const image = this.#image;
    image.checkUsable();
    const frozen = this.#freeze();
    const maps = frozen.l2.length > 0 || frozen.l1.length > 0;
    const lazy = !withRefcounts && !image.refcounts.cache.isPressed;
    const needsRefcounts = this.#needsRefcounts;
    const needsData = this.#needsData;
    this.#needsRefcounts = this.#needsData = false;
    try {
      if (needsRefcounts) await image.growth.cover();
      if (lazy) {
        if (maps && needsRefcounts) {
          await image.growth.makeDurable();
          await image.setDirty(true);
        }
      } else {
        await this.#refcounts();
      }
      if (maps) {
        if (needsData && image.hasDataFile) await image.dataFile.flush();
        if ((needsRefcounts && !lazy) || (needsData && !image.hasDataFile)) {
          await image.file.flush();
        }
        await this.#mappings(frozen);
      }
    } catch (e) {
      image.l2.notWritten(frozen.l2);
      if (image.l1.offset === frozen.l1Offset) image.l1.notWritten(frozen.l1);
      image.alloc.putBack(frozen.releases);
      this.#needsRefcounts ||= needsRefcounts;
      this.#needsData ||= needsData;
      throw e;
    }
    image.l2.written(frozen.l2);
    if (frozen.releases.length > 0) this.#release(frozen);
  }

  /** Takes everything at one moment: nothing may be awaited in here. */
  #freeze(): Frozen {
    const { l1, l2, alloc, inFlight } = this.#image;
    const releases = alloc.takeWaiting();
    return {
      l2: l2.takeDirty(),
      l1: l1.takeDirty(),
      l1Offset: l1.offset,
      releases,
      quiet: releases.length > 0 ? inFlight.barrier() : Promise.resolve(),
    };
  }

  /** Step A. */
  async #refcounts(): Promise<void> {
    const { refcounts, file } = this.#image;
    const blocks = refcounts.cache.takeDirty();
    const taken = refcounts.takeDirtyEntries();
    try {
      if (blocks.length > 0) {
        const event = file.debugEvent('refblock_update_part');
        if (event !== undefined) await event;
      }
      if (taken.newBlocks.size > 0) {
        const event = file.debugEvent('refblock_alloc_write');
        if (event !== undefined) await event;
      }
      await this.#tables(refcounts.cache, blocks, Overlap.refcountBlock);
      if (taken.entries.length > 0) {
        await file.flush();
        await this.#reftableEntries(taken.entries);
      }
    } catch (e) {
      refcounts.cache.notWritten(blocks);
      refcounts.entriesNotWritten(taken);
      throw e;
    }
    refcounts.cache.written(blocks);
  }

  async #reftableEntries(entries: readonly ReftableEntry[]): Promise<void> {
    const { refcounts, file, overlap } = this.#image;
    const event = file.debugEvent('refblock_alloc_hookup');
    if (event !== undefined) await event;
    for (let i = 0; i < entries.length;) {
      let n = 1;
      while (i + n < entries.length && entries[i + n]!.index === entries[i]!.index + n) n++;
      const bytes = new Uint8Array(n * 8);
      const view = new DataView(bytes.buffer);
      for (let k = 0; k < n; k++) writeU64(view, k * 8, entries[i + k]!.offset);
      const at = refcounts.tableOffset + entries[i]!.index * 8;
      await overlap.check(Overlap.refcountTable, at, bytes.byteLength);
      await this.#image.writeMeta(at, Iov.of(bytes));
      i += n;
    }
  }

  /** Step B. */
  async #mappings(frozen: Frozen): Promise<void> {
    const { l2, file } = this.#image;
    if (frozen.l2.length > 0) {
      const event = file.debugEvent('l2_update');
      if (event !== undefined) await event;
    }
    if (frozen.l1.length > 0) {
      const event = file.debugEvent('l1_update');
      if (event !== undefined) await event;
    }
    await settleAll([
      this.#tables(
        l2,
        frozen.l2,
        this.hasInactiveTables ? Overlap.activeL2 | Overlap.inactiveL2 : Overlap.activeL2,
      ),
      this.#l1Pieces(frozen.l1Offset, frozen.l1),
    ]);
  }

  async #l1Pieces(offset: number, pieces: readonly L1Piece[]): Promise<void> {
    const { overlap } = this.#image;
    for (const { at, bytes } of pieces) {
      await overlap.check(Overlap.activeL1, offset + at, bytes.byteLength);
    }
    await settleAll(
      pieces.map(({ at, bytes }) => this.#image.writeMeta(offset + at, Iov.of(bytes))),
    );
  }

  /** Writes the changed part of each table, widened to blocks that a disk writes at once. */
  async #tables(cache: MetaCache, frozen: readonly FrozenTable[], kind: number): Promise<void> {
    const image = this.#image;
    const { overlap } = image;
    for (const { table } of frozen) await overlap.check(kind, table.offset, cache.tableBytes);
    const unit = Math.min(4096, cache.tableBytes);
    const writes: Promise<void>[] = [];
    for (const { table, bytes, from, to } of frozen) {
      const start = from - (from % unit);
      const end = Math.min(cache.tableBytes, Math.ceil(to / unit) * unit);
      writes.push(image.writeMeta(table.offset + start, Iov.of(bytes.subarray(start, end))));
    }
    await settleAll(writes);
  }

  /** Step C, beside whatever else goes on. */
  #release(frozen: Frozen): void {
    const { alloc, file, lock } = this.#image;
    const step = (async (): Promise<void> => {
      try {
        await file.flush();
      } catch (e) {
        alloc.putBack(frozen.releases);
        throw e;
      }
      await frozen.quiet;
      alloc.unlinkedDurably(frozen.releases);
    })();
    this.#releasing.add(step);
    step
      .finally(() => this.#releasing.delete(step))
      .then(() => lock.run(() => alloc.applyReady()))
      .catch(() => {
        // The clusters leak, or wait for the next run; no request depends on them.
      });
  }
}
