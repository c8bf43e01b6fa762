/**
 * Allocation and release of host clusters.
 *
 * Free clusters are searched from one place on, for single clusters and runs alike, as QEMU does: a
 * hole that is too short for a run is left until something before it becomes free, or the image is
 * opened again. A cluster that loses a reference
 * is not free at once: it waits until the table that no longer names it is durable (W4, W5 in
 * driver.ts), which writeback.ts reports by `unlinkedDurably`.
 *
 * All methods but `free` are called with `image.lock` held.
 */
import { BlockError } from '../../block/errors.js';
import { compressedLimit } from './entry.js';
import type { Qcow2Image } from './image.js';
import { Limit } from './layout.js';
import { countFree, findFree } from './refcount-codec.js';
import type { ClusterRun } from './refcount.js';
import { RefcountError } from './refcount.js';
import { clusterIndex } from './units.js';

/** Why clusters are freed: decides whether the file is told (`pass-discard-*`). */
export type FreeReason = 'request' | 'snapshot' | 'other' | 'never' | 'always';

/** One reference less on each cluster that [host, host + bytes) touches. */
export interface Release {
  readonly host: number;
  readonly bytes: number;
  readonly reason: FreeReason;
}

/** Free space that may wait for a writeback before one is made just to get at it. */
const MAX_WAITING_BYTES = 16 * 1024 * 1024;

export class Allocator {
  readonly #image: Qcow2Image;
  /** Where the search for free clusters begins; holes that were too short may lie below it. */
  #firstFree = 0;
  /** Unlinked in memory only. */
  #waiting: Release[] = [];
  #waitingBytes = 0;
  /** Unlinked durably: to be applied. */
  #ready: Release[] = [];
  /** Where the next compressed cluster goes, 0: into a new host cluster. */
  #packAt = 0;

  constructor(image: Qcow2Image) {
    this.#image = image;
  }

  /** Whether the search for free clusters begins at `host`. */
  isNext(host: number): boolean {
    return host === this.#firstFree * this.#image.g.clusterSize;
  }

  /** The first free cluster outside [avoidFrom, avoidTo); it is not marked. */
  async findFree(avoidFrom = 0, avoidTo = 0): Promise<number> {
    const { g, refcounts } = this.#image;
    let at = this.#firstFree;
    while (true) {
      if (at >= avoidFrom && at < avoidTo) at = avoidTo;
      const index = refcounts.blockIndex(at);
      const block = refcounts.tryBlock(index) ?? (await refcounts.block(index));
      if (block === null) return at;
      const base = index * g.refcountBlockEntries;
      const stop = at < avoidFrom ? Math.min(g.refcountBlockEntries, avoidFrom - base) : Infinity;
      const to = Math.min(g.refcountBlockEntries, stop);
      const found = findFree(refcounts.codec, block.view, at - base, to);
      if (found < to) return base + found;
      at = base + to;
    }
  }

  /** The first run of `count` free clusters; none is marked. */
  async #findRun(count: number): Promise<number> {
    let start = this.#firstFree;
    for (let holes = 0; ; holes++) {
      start = await this.#skipUsed(start);
      // What was passed is in use, and is not to be passed each time.
      if (holes === 0) this.#firstFree = start;
      const free = await this.#freeFrom(start, count);
      if (free === count) return start;
      start += free;
    }
  }

  async #skipUsed(from: number): Promise<number> {
    const { g, refcounts } = this.#image;
    let at = from;
    while (true) {
      const index = refcounts.blockIndex(at);
      const block = refcounts.tryBlock(index) ?? (await refcounts.block(index));
      if (block === null) return at;
      const base = index * g.refcountBlockEntries;
      const found = findFree(refcounts.codec, block.view, at - base, g.refcountBlockEntries);
      at = base + found;
      if (found < g.refcountBlockEntries) return at;
    }
  }

  /** How many clusters from `first` on are free, at most `max`. */
  async #freeFrom(first: number, max: number): Promise<number> {
    const { g, refcounts } = this.#image;
    let free = 0;
    while (free < max) {
      const at = first + free;
      const index = refcounts.blockIndex(at);
      const from = at - index * g.refcountBlockEntries;
      const to = Math.min(g.refcountBlockEntries, from + max - free);
      const block = refcounts.tryBlock(index) ?? (await refcounts.block(index));
      const n = block === null ? to - from : countFree(refcounts.codec, block.view, from, to);
      free += n;
      if (n < to - from) break;
    }
    return free;
  }

  /** Allocates `count` clusters in a row, refcount 1. Throws EFBIG past the format's limits. */
  async allocate(count: number): Promise<number> {
    const { g } = this.#image;
    const event = this.#image.file.debugEvent('cluster_alloc');
    if (event !== undefined) await event;
    // Who listens to the events is told of each refcount block.
    const quick = this.#image.file.isDebugged ? undefined : this.tryAllocate(count);
    if (quick !== undefined) return quick;
    while (true) {
      const first = await this.#findRun(count);
      if (!(await this.#takeRun(first, count, false))) continue;
      this.#firstFree = first + count;
      return first * g.clusterSize;
    }
  }

  /**
   * As `allocate`, where the first free clusters are counted by one block that is in memory, which
   * is nearly always so; undefined otherwise, and then nothing has changed.
   */
  tryAllocate(count: number): number | undefined {
    const { g, refcounts } = this.#image;
    const from = this.#firstFree;
    const index = refcounts.blockIndex(from);
    const block = refcounts.tryBlock(index);
    if (block === undefined || block === null) return undefined;
    const base = index * g.refcountBlockEntries;
    const { codec } = refcounts;
    const first = findFree(codec, block.view, from - base, g.refcountBlockEntries);
    // Whatever comes of it: what was passed is in use, and is not to be passed each time.
    this.#firstFree = base + first;
    const end = first + count;
    if (end > g.refcountBlockEntries) return undefined;
    if (countFree(codec, block.view, first, end) < count) return undefined;
    const limit = Math.min(Limit.offsetEnd, Number.MAX_SAFE_INTEGER);
    if ((base + end) * g.clusterSize > limit) return undefined;
    refcounts.markUsed(block, first, end);
    this.#firstFree = base + end;
    return (base + first) * g.clusterSize;
  }

  /** Allocates up to `count` clusters that begin at `host`; returns how many were free. */
  async allocateAt(host: number, count: number): Promise<number> {
    const first = clusterIndex(this.#image.g, host);
    while (true) {
      const free = await this.#freeFrom(first, count);
      if (free === 0) return 0;
      if (!(await this.#takeRun(first, free, true))) continue;
      return free;
    }
  }

  /**
   * Marks a free run; false when making refcount blocks took some of it, which they may do only
   * with `shared`: then the part before them is what there is.
   */
  async #takeRun(first: number, count: number, shared: boolean): Promise<boolean> {
    const { g, refcounts } = this.#image;
    const end = (first + count) * g.clusterSize;
    if (end > Math.min(Limit.offsetEnd, Number.MAX_SAFE_INTEGER)) throw new BlockError('EFBIG');
    const made = await refcounts.ensureBlocks(first, count, shared);
    // A longer table frees the old one, which lies before this run.
    if (made === 'table') return false;
    if (made === 'blocks' && (await this.#freeFrom(first, count)) < count) return false;
    await refcounts.add(first, count, 1);
    return true;
  }

  /**
   * Space for `bytes` bytes of compressed data, packed behind the one before where it fits.
   * Each host cluster that it touches gets a reference.
   */
  async allocateBytes(bytes: number): Promise<number> {
    const { g, refcounts } = this.#image;
    const event = this.#image.file.debugEvent('cluster_alloc_bytes');
    if (event !== undefined) await event;
    let host = this.#packAt;
    if (host !== 0) {
      const cluster = clusterIndex(g, host);
      const room = (cluster + 1) * g.clusterSize - host;
      const full = (await refcounts.get(cluster)) >= g.refcountMax;
      const next = (cluster + 1) * g.clusterSize;
      if (full || (bytes > room && (await this.allocateAt(next, 1)) === 0)) host = 0;
      else await refcounts.add(cluster, 1, 1);
    }
    if (host === 0) {
      host = await this.allocate(1);
      if (host === 0) {
        throw await this.#image.corrupt(
          true,
          'Preventing invalid allocation of compressed cluster at offset 0',
        );
      }
    }
    const end = host + bytes;
    if (end > compressedLimit(g)) {
      await this.releaseNow(host, bytes);
      throw new BlockError('EFBIG');
    }
    this.#packAt = end % g.clusterSize === 0 ? 0 : end;
    return host;
  }

  /** A reference was removed from a table in memory; see the head of this file. */
  free(host: number, bytes: number, reason: FreeReason): void {
    const last = this.#waiting[this.#waiting.length - 1];
    const { clusterSize } = this.#image.g;
    this.#waitingBytes += bytes;
    const whole = host % clusterSize === 0 && last !== undefined && last.bytes % clusterSize === 0;
    if (whole && last.reason === reason && last.host + last.bytes === host) {
      this.#waiting[this.#waiting.length - 1] = {
        host: last.host,
        bytes: last.bytes + bytes,
        reason,
      };
    } else {
      this.#waiting.push({ host, bytes, reason });
    }
  }

  get hasReady(): boolean {
    return this.#ready.length > 0;
  }

  get hasWaiting(): boolean {
    return this.#waiting.length > 0;
  }

  /** Takes what waits, for the writeback that makes it durable. */
  takeWaiting(): Release[] {
    const out = this.#waiting;
    this.#waiting = [];
    this.#waitingBytes = 0;
    return out;
  }

  /** The writeback failed. */
  putBack(releases: readonly Release[]): void {
    this.#waiting.unshift(...releases);
    for (const { bytes } of releases) this.#waitingBytes += bytes;
  }

  /** No table on disk names these any more, and no request in flight reaches them. */
  unlinkedDurably(releases: readonly Release[]): void {
    this.#ready.push(...releases);
  }

  /** Subtracts the references that are ready, and tells the file about what became free. */
  async applyReady(): Promise<void> {
    while (this.#ready.length > 0) {
      const releases = this.#ready;
      this.#ready = [];
      for (const release of releases) {
        await this.#apply(release.host, release.bytes, release.reason);
      }
    }
  }

  /** Takes back an allocation that no table ever named. */
  async releaseNow(host: number, bytes: number): Promise<void> {
    await this.#apply(host, bytes, 'never');
  }

  /** Takes back clusters that nothing on disk names any more, and nobody uses. */
  async releaseUnlinked(host: number, bytes: number, reason: FreeReason): Promise<void> {
    await this.#apply(host, bytes, reason);
  }

  async #apply(host: number, bytes: number, reason: FreeReason): Promise<void> {
    const { g, refcounts, file } = this.#image;
    const event = file.debugEvent('cluster_free');
    if (event !== undefined) await event;
    const first = clusterIndex(g, host);
    const count = clusterIndex(g, host + bytes - 1) - first + 1;
    let freed: readonly ClusterRun[];
    try {
      freed = await refcounts.add(first, count, -1);
    } catch (e) {
      if (!(e instanceof RefcountError)) throw e;
      const isCounted = refcounts.blockOffset(refcounts.blockIndex(first + e.done)) !== 0;
      const why = isCounted ? 'Invalid argument' : 'Resource temporarily unavailable';
      this.#image.graph.warn(`qcow2_free_clusters failed: ${why}`);
      freed = e.freed;
    }
    for (const run of freed) await this.#becameFree(run, reason);
  }

  async #becameFree(run: ClusterRun, reason: FreeReason): Promise<void> {
    const { g, file } = this.#image;
    const start = run.first * g.clusterSize;
    const bytes = run.count * g.clusterSize;
    this.#image.keeper.forget();
    if (this.#packAt >= start && this.#packAt < start + bytes) this.#packAt = 0;
    if (this.passesDiscard(reason)) {
      try {
        await file.discard(start, bytes);
      } catch {
        // Best effort: the space is free in the image, whatever the file makes of it.
      }
    }
    this.#firstFree = Math.min(this.#firstFree, run.first);
  }

  passesDiscard(reason: FreeReason): boolean {
    const { settings } = this.#image;
    switch (reason) {
      case 'request':
        return settings.passDiscardRequest;
      case 'snapshot':
        return settings.passDiscardSnapshot;
      case 'other':
        return settings.passDiscardOther;
      case 'always':
        return true;
      case 'never':
        return false;
    }
  }

  /**
   * To be called by an operation that will allocate about `bytes` bytes, before it registers
   * anything that a writeback waits for: gets hold of space that only waits for one.
   */
  async reclaim(bytes: number): Promise<void> {
    if (this.#ready.length > 0) await this.applyReady();
    if (this.wantsReclaim(bytes)) await this.#image.writeback.everything();
  }

  /** Whether `reclaim` would do anything. */
  wantsReclaim(bytes: number): boolean {
    if (this.#ready.length > 0) return true;
    if (this.#waitingBytes === 0) return false;
    const { g, growth } = this.#image;
    const worth = Math.min(MAX_WAITING_BYTES, growth.usedEnd / 16);
    return this.#waitingBytes >= Math.max(worth, bytes, g.clusterSize);
  }

  /** Forgets the hints and the place for packing: the refcounts were rebuilt. */
  reset(): void {
    this.#firstFree = 0;
    this.#packAt = 0;
  }
}
