/**
 * References of whole L1 tables: added when a snapshot comes to share them, given back when one
 * goes, and the copied flags that follow. Everything here runs inside `image.exclusive`.
 *
 * L2 tables are changed through the cache, so that reads beside it see one state or the other, and
 * caches never outgrow their size by more than one writeback.
 */
import { BlockError } from '../../block/errors.js';
import {
  compressedSpan,
  entryOffset,
  hasHostCluster,
  isCompressed,
  readEntry,
  type L2Entry,
} from './entry.js';
import { releaseEntry } from './fill.js';
import type { Qcow2Image } from './image.js';
import { Entry, Limit } from './layout.js';
import { hex } from './mapping.js';
import type { ClusterRun } from './refcount.js';
import { RefcountError } from './refcount.js';
import type { HostOffset } from './units.js';
import { clusterIndex } from './units.js';

/** L2 tables whose clusters may wait to be freed before a writeback frees them. */
const TABLES_PER_RELEASE = 64;

/** Offset of the L2 table that entry `index` of an L1 table names; 0: none. */
function tableAt(l1: DataView, index: number): HostOffset {
  return entryOffset(l1.getUint32(index * 8), l1.getUint32(index * 8 + 4));
}

/** Takes the copied flags out of an L1 table in memory. */
export function clearL1Flags(l1: DataView): void {
  for (let at = 0; at < l1.byteLength; at += 8) {
    l1.setUint32(at, (l1.getUint32(at) & ~Entry.copiedHi) >>> 0);
  }
}

/**
 * Adds one reference to everything that `l1` reaches and clears the copied flags in its L2 tables.
 * If it throws, the references are as before, or some are too many (they leak) when giving them
 * back failed too; flags are right or missing.
 */
export async function addReferences(image: Qcow2Image, l1: DataView): Promise<void> {
  let done = 0;
  try {
    for await (const run of reachableRuns(image, l1)) {
      await addRun(image, run);
      done++;
    }
    await clearL2Flags(image, l1);
  } catch (e) {
    if (!image.unusable) await takeBack(image, l1, done).catch(() => undefined);
    throw e;
  }
}

/** One reference more for a run; errors as QEMU has them for what cannot be counted. */
async function addRun(image: Qcow2Image, run: ClusterRun): Promise<void> {
  const { refcounts } = image;
  try {
    await refcounts.add(run.first, run.count, 1);
  } catch (e) {
    if (!(e instanceof RefcountError)) throw e;
    const at = run.first + e.done;
    if (e.done > 0) await refcounts.add(run.first, e.done, -1);
    const index = refcounts.blockIndex(at);
    if (index >= Limit.maxReftableBytes / 8) throw new BlockError('EFBIG');
    // A cluster that no block counts is in use nevertheless: the image is damaged.
    throw new BlockError(refcounts.blockOffset(index) === 0 ? 'EAGAIN' : 'EINVAL');
  }
  if (refcounts.cache.isPressed) await image.writeback.run();
}

/**
 * Everything that `l1` reaches is counted. Throws EINVAL, or EFBIG behind what can be counted,
 * where that is not so: a reference could not be given back there.
 */
export async function requireReferences(image: Qcow2Image, l1: DataView): Promise<void> {
  const { refcounts, g } = image;
  for await (const { first, count } of reachableRuns(image, l1)) {
    for (let at = first; at < first + count; at++) {
      const index = refcounts.blockIndex(at);
      if (index >= Limit.maxReftableBytes / 8) throw new BlockError('EFBIG');
      let block = refcounts.tryBlock(index);
      if (block === undefined) {
        await refcounts.block(index);
        block = refcounts.tryBlock(index);
      }
      const inBlock = at % g.refcountBlockEntries;
      if (block === undefined || block === null) throw new BlockError('EINVAL');
      if (refcounts.codec.get(block.view, inBlock) === 0) throw new BlockError('EINVAL');
    }
  }
}

/** Undoes the first `count` steps of addReferences, and sets flags right again. */
async function takeBack(image: Qcow2Image, l1: DataView, count: number): Promise<void> {
  let left = count;
  for await (const run of reachableRuns(image, l1)) {
    if (left-- === 0) break;
    await image.refcounts.add(run.first, run.count, -1);
    if (image.refcounts.cache.isPressed) await image.writeback.run();
  }
  await refreshFlags(image);
}

/**
 * Runs of clusters that an L1 table reaches, in an order that is always the same: for each entry
 * its L2 table, then what that names. Throws EIO, marking the image corrupt, for unaligned offsets.
 */
async function* reachableRuns(image: Qcow2Image, l1: DataView): AsyncGenerator<ClusterRun> {
  const { g, mapping, l2 } = image;
  for (let i = 0; i < l1.byteLength / 8; i++) {
    const offset = tableAt(l1, i);
    if (offset === 0) continue;
    if (offset % g.clusterSize !== 0) {
      const message = `L2 table offset ${hex(offset)} unaligned (L1 index: ${hex(i)})`;
      throw await image.corrupt(true, message);
    }
    yield { first: clusterIndex(g, offset), count: 1 };
    for (let at = 0; at < g.clusterSize; at += l2.tableBytes) {
      const slice = offset + at;
      const found = await mapping.useSlice(slice, (table) => runsOfSlice(image, table.view));
      if (found.unaligned !== undefined) {
        const message =
          `Cluster allocation offset ${hex(found.unaligned)} unaligned ` +
          `(L2 offset: ${hex(slice)}, L2 index: ${hex(found.index)})`;
        throw await image.corrupt(true, message);
      }
      yield* found.runs;
    }
  }
}

interface SliceRuns {
  readonly runs: ClusterRun[];
  /** An entry that is off the cluster boundary, and its index. */
  unaligned: number | undefined;
  index: number;
}

function runsOfSlice(image: Qcow2Image, view: DataView): SliceRuns {
  const { g, hasDataFile, mapping } = image;
  const out: SliceRuns = { runs: [], unaligned: undefined, index: 0 };
  for (let i = 0; i < mapping.sliceEntries; i++) {
    const entry = readEntry(g, view, i);
    if ((entry.hi | entry.lo) === 0) continue;
    if (isCompressed(entry)) {
      const { host, bytes } = compressedSpan(g, entry.hi, entry.lo);
      const first = clusterIndex(g, host);
      append(out.runs, first, clusterIndex(g, host + bytes - 1) - first + 1);
      continue;
    }
    if (!hasHostCluster(entry, hasDataFile)) continue;
    const host = entryOffset(entry.hi, entry.lo);
    if (host % g.clusterSize !== 0) {
      out.unaligned = host;
      out.index = i;
      return out;
    }
    append(out.runs, host / g.clusterSize, 1);
  }
  return out;
}

/** Joins a run with the last one where it follows it. */
function append(runs: ClusterRun[], first: number, count: number): void {
  const last = runs[runs.length - 1];
  if (last !== undefined && last.first + last.count === first) last.count += count;
  else runs.push({ first, count });
}

/** No entry that `l1` reaches has the copied flag afterwards. */
async function clearL2Flags(image: Qcow2Image, l1: DataView): Promise<void> {
  const { g, mapping, l2 } = image;
  for (let i = 0; i < l1.byteLength / 8; i++) {
    const offset = tableAt(l1, i);
    if (offset === 0) continue;
    for (let at = 0; at < g.clusterSize; at += l2.tableBytes) {
      if (l2.isPressed) await image.writeback.run();
      await mapping.useSlice(offset + at, (table) => {
        const size = g.l2EntrySize;
        for (let k = 0; k < mapping.sliceEntries; k++) {
          const hi = table.view.getUint32(k * size);
          if ((hi & Entry.copiedHi) === 0) continue;
          const live = l2.touch(table, k * size, (k + 1) * size);
          live.view.setUint32(k * size, (hi & ~Entry.copiedHi) >>> 0);
        }
      });
    }
  }
}

/**
 * Gives back one reference to everything that `l1` reaches, which no table on disk names any more.
 * The clusters are free when the last writeback of it has run.
 */
export async function dropReferences(image: Qcow2Image, l1: DataView): Promise<void> {
  const { g, mapping, l2, alloc } = image;
  let tables = 0;
  for (let i = 0; i < l1.byteLength / 8; i++) {
    const offset = tableAt(l1, i);
    if (offset === 0) continue;
    if (offset % g.clusterSize !== 0) {
      await image.corrupt(false, `Cannot free unaligned cluster ${hex(offset)}`);
      continue;
    }
    for (let at = 0; at < g.clusterSize; at += l2.tableBytes) {
      await mapping.useSlice(offset + at, (table) => {
        releaseSlice(image, table.view);
      });
    }
    // Clean, for nothing was changed: it comes back from the file if somebody shares it.
    l2.drop(offset, g.clusterSize);
    alloc.free(offset, g.clusterSize, 'snapshot');
    if (++tables % TABLES_PER_RELEASE === 0) await image.writeback.everything();
  }
  mapping.forget();
  await image.writeback.everything();
}

function releaseSlice(image: Qcow2Image, view: DataView): void {
  for (let k = 0; k < image.mapping.sliceEntries; k++) {
    const entry: L2Entry = readEntry(image.g, view, k);
    if ((entry.hi | entry.lo) !== 0) releaseEntry(image, entry, 'snapshot');
  }
}

/** Sets the copied flags of the active tables as the refcounts say. */
export async function refreshFlags(image: Qcow2Image): Promise<void> {
  const { l1, g, l2, refcounts } = image;
  for (let i = 0; i < l1.size; i++) {
    const offset = l1.l2Offset(i);
    if (offset === 0 || offset % g.clusterSize !== 0) continue;
    const refcount = await refcounts.get(clusterIndex(g, offset));
    if ((refcount === 1) !== l1.isCopied(i)) l1.setCopied(i, refcount === 1);
    for (let at = 0; at < g.clusterSize; at += l2.tableBytes) {
      if (l2.isPressed) await image.writeback.run();
      await refreshSlice(image, offset + at);
    }
  }
}

async function refreshSlice(image: Qcow2Image, offset: HostOffset): Promise<void> {
  const { mapping, refcounts } = image;
  let at = 0;
  while (at < mapping.sliceEntries) {
    // Stops where a refcount block is not in memory.
    const missing = await mapping.useSlice(offset, (table) => {
      for (; at < mapping.sliceEntries; at++) {
        const index = refreshEntry(image, table, at);
        if (index !== undefined) return index;
      }
      return undefined;
    });
    if (missing !== undefined) await refcounts.block(missing);
  }
}

/** Sets one flag right; the index of the refcount block that is needed first, if it is not here. */
function refreshEntry(
  image: Qcow2Image,
  table: Parameters<Qcow2Image['l2']['touch']>[0],
  index: number,
): number | undefined {
  const { g, hasDataFile, refcounts, l2 } = image;
  const entry = readEntry(g, table.view, index);
  if ((entry.hi | entry.lo) === 0 || isCompressed(entry)) return undefined;
  if (!hasHostCluster(entry, hasDataFile)) return undefined;
  const cluster = clusterIndex(g, entryOffset(entry.hi, entry.lo));
  const blockIndex = refcounts.blockIndex(cluster);
  const block = refcounts.tryBlock(blockIndex);
  if (block === undefined) return blockIndex;
  const at = cluster % g.refcountBlockEntries;
  const copied = hasDataFile || (block !== null && refcounts.codec.get(block.view, at) === 1);
  const hi = (copied ? entry.hi | Entry.copiedHi : entry.hi & ~Entry.copiedHi) >>> 0;
  if (hi === entry.hi >>> 0) return undefined;
  const from = index * g.l2EntrySize;
  l2.touch(table, from, from + g.l2EntrySize).view.setUint32(from, hi);
  return undefined;
}
