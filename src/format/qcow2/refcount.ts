/**
 * Reference counts of host clusters: table in memory, blocks in a cache.
 *
 * Counts change in memory only; writeback.ts stores them. New blocks describe themselves where
 * they can. Section "Host cluster management". All methods that change something are called
 * with `image.lock` held.
 */
import { Iov } from '../../lib/iov.js';
import { BlockError } from '../../block/errors.js';
import type { MetaCache, MetaTable } from './cache.js';
import type { Qcow2Image } from './image.js';
import { writeU64 } from './layout.js';
import { hex } from './mapping.js';
import type { RefcountCodec } from './refcount-codec.js';
import { countFree, refcountCodec } from './refcount-codec.js';
import { wordsOf } from './units.js';

/** Offset bits of a refcount table entry, lower half. */
const OFFSET_LO = 0xffff_fe00;
const TWO32 = 0x1_0000_0000;

/** A changed entry of the refcount table, for the writeback. */
export interface ReftableEntry {
  readonly index: number;
  readonly offset: number;
}

export class Refcounts {
  readonly #image: Qcow2Image;
  cache: MetaCache;
  /** Where the table lies, in bytes. */
  tableOffset: number;
  /** Offsets of blocks by index; 0: no block. */
  #table: Float64Array;
  #codec: RefcountCodec;
  #dirtyEntries = new Set<number>();
  /** Blocks that no table entry on disk names yet, by offset. */
  #newBlocks = new Set<number>();

  constructor(image: Qcow2Image, cache: MetaCache, tableOffset: number, table: Float64Array) {
    this.#image = image;
    this.cache = cache;
    this.tableOffset = tableOffset;
    this.#table = table;
    this.#codec = refcountCodec(image.g.refcountOrder);
  }

  /** Takes another, empty cache; the old one holds nothing dirty. */
  resizeCache(cache: MetaCache): void {
    this.cache = cache;
  }

  /** Entries of the table. */
  get size(): number {
    return this.#table.length;
  }

  get codec(): RefcountCodec {
    return this.#codec;
  }

  /** Offset of block `index`, 0 when there is none. */
  blockOffset(index: number): number {
    return this.#table[index] ?? 0;
  }

  /** Offsets of all blocks, unsorted. */
  blockOffsets(): Float64Array {
    return this.#table.filter((offset) => offset !== 0);
  }

  hasBlockInside(from: number, to: number): boolean {
    return this.#table.some((offset) => offset !== 0 && offset >= from && offset < to);
  }

  /** Index of the block that counts `cluster`. */
  blockIndex(cluster: number): number {
    return Math.floor(cluster / this.#image.g.refcountBlockEntries);
  }

  /** Block `index` when it is in memory; null: there is no such block, its counts are 0. */
  tryBlock(index: number): MetaTable | null | undefined {
    const offset = this.#table[index] ?? 0;
    return offset === 0 ? null : this.cache.peek(offset);
  }

  /** As tryBlock, reading it when needed. Throws EIO on damage (marks the image corrupt). */
  async block(index: number): Promise<MetaTable | null> {
    const offset = this.#table[index] ?? 0;
    if (offset === 0) return null;
    const { g } = this.#image;
    if (offset % g.clusterSize !== 0) {
      const message = `Refblock offset ${hex(offset)} unaligned (reftable index: ${hex(index)})`;
      throw await this.#image.corrupt(true, message);
    }
    const here = this.cache.peek(offset);
    if (here !== undefined) return here;
    return this.cache.get(offset);
  }

  /** The refcount of a host cluster. */
  async get(cluster: number): Promise<number> {
    const index = this.blockIndex(cluster);
    const block = this.tryBlock(index) ?? (await this.block(index));
    if (block === null) return 0;
    return this.#codec.get(block.view, cluster % this.#image.g.refcountBlockEntries);
  }

  /**
   * Adds `delta` to the counts of `count` clusters from `first` on; their blocks exist.
   * Returns the clusters that fell to 0, as runs. Throws EINVAL where a count would leave its
   * range; the clusters before it have changed then (`done` of the error says how many).
   */
  async add(first: number, count: number, delta: number): Promise<ClusterRun[]> {
    const { g, file } = this.#image;
    const freed: ClusterRun[] = [];
    let at = first;
    while (at < first + count) {
      if (file.isDebugged) {
        await file.debugEvent('refblock_alloc');
        await file.debugEvent('refblock_load');
      }
      const index = this.blockIndex(at);
      const from = at - index * g.refcountBlockEntries;
      const to = Math.min(g.refcountBlockEntries, from + first + count - at);
      const block = this.tryBlock(index) ?? (await this.block(index));
      if (block === null) throw new RefcountError(at - first, freed);
      at += this.#addInBlock(block, from, to, delta, at, freed);
      if (at < index * g.refcountBlockEntries + to) throw new RefcountError(at - first, freed);
    }
    return freed;
  }

  /** Sets the free entries [from, to) of a block to 1. */
  markUsed(block: MetaTable, from: number, to: number): void {
    const bits = this.#image.g.refcountBits;
    const live = this.cache.touch(block, Math.floor((from * bits) / 8), Math.ceil((to * bits) / 8));
    for (let i = from; i < to; i++) this.#codec.set(live.view, i, 1);
  }

  /** Changes entries [from, to) of one block; returns how many it could change. */
  #addInBlock(
    block: MetaTable,
    from: number,
    to: number,
    delta: number,
    cluster: number,
    freed: ClusterRun[],
  ): number {
    const { g } = this.#image;
    const bits = g.refcountBits;
    const live = this.cache.touch(block, Math.floor((from * bits) / 8), Math.ceil((to * bits) / 8));
    for (let i = from; i < to; i++) {
      const before = this.#codec.get(live.view, i);
      const value = before + delta;
      if (value < 0 || value > g.refcountMax) return i - from;
      if (before >= Number.MAX_SAFE_INTEGER) {
        // 64 bits that a number does not hold exactly.
        const exact = live.view.getBigUint64(i * 8) + BigInt(delta);
        if (exact !== BigInt.asUintN(64, exact)) return i - from;
        live.view.setBigUint64(i * 8, exact);
        continue;
      }
      this.#codec.set(live.view, i, value);
      if (value === 0) addCluster(freed, cluster + i - from);
    }
    return to - from;
  }

  /**
   * Makes sure that blocks for the clusters [first, first + count) exist, placing new ones outside
   * this range, or with `shared` also in that part of it which they count. Returns what it made
   * (then free space has changed), a longer table first.
   */
  async ensureBlocks(
    first: number,
    count: number,
    shared: boolean,
  ): Promise<'none' | 'blocks' | 'table'> {
    const { size } = this;
    let made: 'none' | 'blocks' = 'none';
    const last = this.blockIndex(first + count - 1);
    for (let index = this.blockIndex(first); index <= last; index++) {
      if (this.blockOffset(index) !== 0) continue;
      const counted = Math.max(first, index * this.#image.g.refcountBlockEntries);
      await this.#makeBlock(index, first, shared ? counted : first + count);
      made = 'blocks';
    }
    return this.size > size ? 'table' : made;
  }

  async #makeBlock(index: number, avoidFrom: number, avoidTo: number): Promise<void> {
    const { g, alloc, overlap, growth, file } = this.#image;
    const event = file.debugEvent('refblock_alloc');
    if (event !== undefined) await event;
    const cluster = await alloc.findFree(avoidFrom, avoidTo);
    if (index >= this.size) {
      const { growRefcountTable } = await import('./refcount-grow.js');
      // Past the clusters that are to be counted, and the block that will count them.
      const first = Math.max(avoidFrom, index * g.refcountBlockEntries);
      await growRefcountTable(this.#image, Math.max(first, cluster) + 1);
    }
    const own = this.blockIndex(cluster);
    if (own !== index && this.blockOffset(own) === 0) {
      await this.#makeBlock(own, avoidFrom, avoidTo);
      return this.#makeBlock(index, avoidFrom, avoidTo);
    }
    const offset = cluster * g.clusterSize;
    if (offset === 0) {
      const message = 'Preventing invalid allocation of refcount block at offset 0';
      throw await this.#image.corrupt(true, message);
    }
    await overlap.check(0, offset, g.clusterSize);
    growth.take(offset, g.clusterSize);
    if (own !== index) {
      await this.add(cluster, 1, 1);
      this.installBlock(index, offset, new Uint8Array(g.clusterSize));
      return;
    }
    const bytes = new Uint8Array(g.clusterSize);
    this.#codec.set(new DataView(bytes.buffer), cluster % g.refcountBlockEntries, 1);
    this.installBlock(index, offset, bytes);
  }

  /** A new block with known content; it and its table entry will be written. */
  installBlock(index: number, offset: number, bytes: Uint8Array): void {
    this.cache.touch(this.cache.add(offset, bytes), 0, bytes.byteLength);
    this.#table[index] = offset;
    this.#dirtyEntries.add(index);
    this.#newBlocks.add(offset);
    this.#image.overlap.addRefcountBlock(offset);
  }

  /** Whether block `index`, which exists, counts no cluster but `except`, once. */
  async isEmpty(index: number, except: number | undefined): Promise<boolean> {
    const block = this.tryBlock(index) ?? (await this.block(index));
    if (block === null) return false;
    const { refcountBlockEntries } = this.#image.g;
    const { view } = block;
    const at = except === undefined ? refcountBlockEntries : except % refcountBlockEntries;
    if (at < refcountBlockEntries && this.#codec.get(view, at) !== 1) return false;
    return (
      countFree(this.#codec, view, 0, at) === at &&
      countFree(this.#codec, view, at + 1, refcountBlockEntries) ===
        Math.max(0, refcountBlockEntries - at - 1)
    );
  }

  /**
   * Takes entry `index` out of the table: its block is empty. When the table is durable, the
   * caller frees the block's cluster if another block counts it.
   */
  removeBlock(index: number): void {
    const { g } = this.#image;
    const offset = this.blockOffset(index);
    this.cache.drop(offset, g.clusterSize);
    this.#table[index] = 0;
    this.#dirtyEntries.add(index);
    this.#newBlocks.delete(offset);
  }

  /** Takes `removeBlock` back; nothing was counted in it meanwhile. */
  restoreBlock(index: number, offset: number): void {
    this.#table[index] = offset;
    this.#dirtyEntries.add(index);
  }

  get hasDirtyEntries(): boolean {
    return this.#dirtyEntries.size > 0;
  }

  /** Changed table entries, and the blocks that must be durable before them. */
  takeDirtyEntries(): { entries: ReftableEntry[]; newBlocks: Set<number> } {
    const entries = [...this.#dirtyEntries]
      .sort((a, b) => a - b)
      .map((index) => ({ index, offset: this.blockOffset(index) }));
    const newBlocks = this.#newBlocks;
    this.#dirtyEntries = new Set();
    this.#newBlocks = new Set();
    return { entries, newBlocks };
  }

  /** They did not reach the file. */
  entriesNotWritten(taken: { entries: ReftableEntry[]; newBlocks: Set<number> }): void {
    for (const { index } of taken.entries) this.#dirtyEntries.add(index);
    for (const offset of taken.newBlocks) this.#newBlocks.add(offset);
  }

  /** The table with `size` entries as it would be on disk. */
  encodeTable(size: number): Uint8Array {
    const bytes = new Uint8Array(size * 8);
    const view = new DataView(bytes.buffer);
    this.#table.forEach((offset, i) => {
      if (i < size && offset !== 0) writeU64(view, i * 8, offset);
    });
    return bytes;
  }

  /** A copy of the table in memory, `size` entries long. */
  copyTable(size: number): Float64Array {
    const out = new Float64Array(size);
    out.set(this.#table.subarray(0, Math.min(size, this.#table.length)));
    return out;
  }

  /** Takes over another table, which is on disk with all its blocks. */
  replaceTable(offset: number, table: Float64Array): void {
    this.tableOffset = offset;
    this.#table = table;
    this.#dirtyEntries.clear();
    this.#newBlocks.clear();
    this.#codec = refcountCodec(this.#image.g.refcountOrder);
    this.#image.overlap.reset();
  }
}

/** Consecutive host clusters. */
export interface ClusterRun {
  first: number;
  count: number;
}

/** Appends a cluster to a list of runs that ascends. */
export function addCluster(runs: ClusterRun[], cluster: number): void {
  const last = runs[runs.length - 1];
  if (last !== undefined && last.first + last.count === cluster) last.count++;
  else runs.push({ first: cluster, count: 1 });
}

/** A refcount would fall below 0 or pass its maximum. */
export class RefcountError extends BlockError {
  /** Clusters that were changed before. */
  readonly done: number;
  readonly freed: readonly ClusterRun[];
  constructor(done: number, freed: readonly ClusterRun[]) {
    super('EINVAL');
    this.done = done;
    this.freed = freed;
  }
}

/** Reads the refcount table: `clusters` clusters at `offset`; entries past the file are 0. */
export async function readRefcountTable(
  image: Qcow2Image,
  offset: number,
  clusters: number,
): Promise<Float64Array> {
  const bytes = new Uint8Array(clusters * image.g.clusterSize);
  const event = image.file.debugEvent('reftable_load');
  if (event !== undefined) await event;
  if (bytes.byteLength > 0) await image.readMeta(offset, Iov.of(bytes));
  const view = new DataView(bytes.buffer);
  const table = new Float64Array(bytes.byteLength / 8);
  const words = wordsOf(bytes);
  for (let i = 0; i < table.length; i++) {
    // Nearly all entries are empty: each open goes through here.
    if ((words[2 * i]! | words[2 * i + 1]!) === 0) continue;
    const hi = view.getUint32(i * 8);
    const lo = (view.getUint32(i * 8 + 4) & OFFSET_LO) >>> 0;
    table[i] = hi === 0 ? lo : hi * TWO32 + lo;
  }
  return table;
}
