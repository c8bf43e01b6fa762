/** Zero writes and discards: changes of L2 entries alone, without data. */
import { BlockError } from '../../block/errors.js';
import { chainStatus } from '../../block/status.js';
import { Req } from '../../block/types.js';
import type { FreeReason } from './allocate.js';
import type { L2Entry } from './entry.js';
import {
  emptyEntry,
  entryOffset,
  hasHostCluster,
  isCompressed,
  isCopied,
  Kind,
  readEntry,
  sameEntry,
  subclusterMask,
  writeEntry,
} from './entry.js';
import { releaseEntry } from './fill.js';
import type { Qcow2Image } from './image.js';
import type { ClusterRun } from './refcount.js';
import { addCluster } from './refcount.js';
import { Entry } from './layout.js';
import { useWritableSlice } from './tables.js';
import type { GuestOffset } from './units.js';
import { roundDown, roundUp } from './units.js';

/** Decides the new entry of a cluster; undefined leaves it as it is. */
type Change = (entry: L2Entry) => L2Entry | undefined;

/**
 * The range reads as zeroes afterwards. ENOTSUP where that takes a data write: parts of a
 * (sub)cluster whose rest is not zero, and version 2 over a backing file. Without one, version 2,
 * which has no zero clusters, gives the clusters up. The node splits requests at subclusters.
 */
export async function writeZeroes(
  image: Qcow2Image,
  guest: GuestOffset,
  bytes: number,
  flags: number,
): Promise<void> {
  const { g, version } = image;
  if (version < 3 && image.backing !== undefined) throw new BlockError('ENOTSUP');
  let from = guest;
  let to = guest + bytes;
  // The last cluster may reach past the end of the disk.
  if (to === image.size) to = roundUp(to, g.subclusterSize);
  await image.lock.run(async () => {
    image.checkUsable();
    const unit = g.subclusterSize;
    const wholeFrom = roundDown(from, unit);
    const wholeTo = roundUp(to, unit);
    await image.writes.settle(wholeFrom, wholeTo - wholeFrom);
    if (from !== wholeFrom || to !== wholeTo) {
      await checkRestIsZero(image, wholeFrom, from);
      await checkRestIsZero(image, to, wholeTo);
      from = wholeFrom;
      to = wholeTo;
    }
    if (version < 3) await discardLocked(image, from, to, 'request', false);
    else await zeroLocked(image, from, to, flags);
  });
}

/** ENOTSUP unless [from, to), less than a subcluster, reads as zeroes without being stored. */
async function checkRestIsZero(image: Qcow2Image, from: number, to: number): Promise<void> {
  if (from >= to) return;
  const found = await image.mapping.lookup(from, to - from);
  if (found.kind === Kind.zero) return;
  if (found.kind !== Kind.unallocated || !(await isZeroBelow(image, from, to))) {
    throw new BlockError('ENOTSUP');
  }
}

/** Whether the backing chain knows, without reading data, that [from, to) is zero there. */
async function isZeroBelow(image: Qcow2Image, from: number, to: number): Promise<boolean> {
  const { backing } = image;
  if (backing === undefined) return true;
  for (let at = from; at < Math.min(to, backing.size);) {
    const status = await chainStatus(backing.node, undefined, at, to - at);
    if (!status.zero || status.bytes === 0) return false;
    at += status.bytes;
  }
  return true;
}

/** Zeroes whole subclusters; `image.lock` is held and no run lies in the range. */
export async function zeroLocked(
  image: Qcow2Image,
  from: GuestOffset,
  to: GuestOffset,
  flags: number,
): Promise<void> {
  const { g, dataFile } = image;
  if (image.isRawData) {
    // The data file alone must read the same.
    await dataFile.writeZeroes(from, Math.min(to, image.size) - from, flags & Req.mayUnmap);
  }
  const bodyFrom = Math.min(roundUp(from, g.clusterSize), to);
  const bodyTo = Math.max(roundDown(to, g.clusterSize), bodyFrom);
  if (from < bodyFrom) await zeroSubclusters(image, from, bodyFrom);
  const unmap = (flags & Req.mayUnmap) !== 0;
  await changeEntries(image, bodyFrom, bodyTo, (entry) => zeroedEntry(image, entry, unmap));
  if (bodyTo < to) await zeroSubclusters(image, bodyTo, to);
}

function zeroedEntry(image: Qcow2Image, entry: L2Entry, mayUnmap: boolean): L2Entry {
  const { g, settings } = image;
  const compressed = isCompressed(entry);
  const unmap = compressed || (mayUnmap && !settings.discardNoUnref);
  const base = unmap ? emptyEntry : entry;
  if (g.extendedL2) return { hi: base.hi, lo: base.lo, allocated: 0, zeroes: 0xffff_ffff };
  return { ...base, lo: (base.lo | Entry.zeroLo) >>> 0 };
}

/** Some subclusters of one cluster. */
async function zeroSubclusters(image: Qcow2Image, from: number, to: number): Promise<void> {
  const { g } = image;
  const start = roundDown(from, g.clusterSize);
  const first = (from - start) / g.subclusterSize;
  const mask = subclusterMask(first, (to - from) / g.subclusterSize);
  await useWritableSlice(image, from, (table, index) => {
    const entry = readEntry(g, table.view, index);
    if (isCompressed(entry)) throw new BlockError('ENOTSUP');
    store(image, table, index, {
      hi: entry.hi,
      lo: entry.lo,
      allocated: (entry.allocated & ~mask) >>> 0,
      zeroes: (entry.zeroes | mask) >>> 0,
    });
  });
}

/**
 * The content of whole clusters is not needed any more. ENOTSUP for parts of clusters, and in
 * version 2 where a backing file would show through.
 */
export async function discard(image: Qcow2Image, guest: GuestOffset, bytes: number): Promise<void> {
  const { g } = image;
  if (image.version < 3 && image.backing !== undefined) throw new BlockError('ENOTSUP');
  let to = guest + bytes;
  if (to === image.size) to = roundUp(to, g.clusterSize);
  if (guest % g.clusterSize !== 0 || to % g.clusterSize !== 0) throw new BlockError('ENOTSUP');
  await image.lock.run(async () => {
    image.checkUsable();
    await image.writes.settle(guest, to - guest);
    await discardLocked(image, guest, to, 'request', false);
  });
}

/**
 * Gives clusters up; `image.lock` is held and no run lies in the range. `full`: nothing remains,
 * not even the zero flag (used where the range is cut off or the backing file is to show again).
 */
export async function discardLocked(
  image: Qcow2Image,
  from: GuestOffset,
  to: GuestOffset,
  reason: FreeReason,
  full: boolean,
): Promise<void> {
  await changeEntries(image, from, to, (entry) => discardedEntry(image, entry, full), reason);
}

function discardedEntry(image: Qcow2Image, entry: L2Entry, full: boolean): L2Entry | undefined {
  const { g, settings, hasDataFile, backing, version } = image;
  if (full) return emptyEntry;
  const stored = isCompressed(entry) || hasHostCluster(entry, hasDataFile);
  if (!stored && backing === undefined) return undefined;
  const keep = settings.discardNoUnref && !isCompressed(entry);
  const base = keep ? entry : emptyEntry;
  if (g.extendedL2) return { hi: base.hi, lo: base.lo, allocated: 0, zeroes: 0xffff_ffff };
  return version >= 3 ? { ...base, lo: (base.lo | Entry.zeroLo) >>> 0 } : emptyEntry;
}

/**
 * Applies `change` to each cluster of [from, to); what an entry named before is released.
 * `image.lock` is held and no run lies in the range.
 */
export async function changeEntries(
  image: Qcow2Image,
  from: GuestOffset,
  to: GuestOffset,
  change: Change,
  reason: FreeReason = 'request',
): Promise<void> {
  const { g, mapping, l2, writeback, alloc } = image;
  let at = from;
  while (at < to) {
    if (l2.isPressed) await writeback.run();
    if (
      mapping.place(at) === undefined &&
      sameEntry(change(emptyEntry) ?? emptyEntry, emptyEntry)
    ) {
      at = Math.min(to, roundDown(at, g.l2Coverage) + g.l2Coverage);
      continue;
    }
    const discards: ClusterRun[] = [];
    at = await useWritableSlice(image, at, (table, index) => {
      const count = Math.min((to - at) / g.clusterSize, mapping.sliceEntries - index);
      for (let i = 0; i < count; i++) {
        const old = readEntry(g, table.view, index + i);
        const entry = change(old);
        if (entry === undefined || sameEntry(old, entry)) continue;
        store(image, table, index + i, entry);
        releaseReplaced(image, old, entry, reason, discards);
      }
      return at + count * g.clusterSize;
    });
    for (const run of discards) await discardRun(image, run);
  }
  if (alloc.hasReady) await alloc.applyReady();
}

function store(
  image: Qcow2Image,
  table: Parameters<Qcow2Image['l2']['touch']>[0],
  index: number,
  entry: L2Entry,
): void {
  const { g, l2 } = image;
  const live = l2.touch(table, index * g.l2EntrySize, (index + 1) * g.l2EntrySize);
  writeEntry(g, live.view, index, entry);
}

/**
 * Releases what `old` named and `entry` does not. Where the place stays this guest cluster's own
 * (data file, discard-no-unref), the file is told at once: later, it could hold data again. A place
 * that a snapshot shares is left alone.
 */
function releaseReplaced(
  image: Qcow2Image,
  old: L2Entry,
  entry: L2Entry,
  reason: FreeReason,
  discards: ClusterRun[],
): void {
  const { g, hasDataFile, settings, alloc } = image;
  const hosted = !isCompressed(old) && hasHostCluster(old, hasDataFile);
  const host = entryOffset(old.hi, old.lo);
  const kept =
    hosted && hasHostCluster(entry, hasDataFile) && host === entryOffset(entry.hi, entry.lo);
  if (!kept) releaseEntry(image, old, reason);
  const own = hosted && (hasDataFile ? !kept : kept && isCopied(old) && settings.discardNoUnref);
  if (own && host % g.clusterSize === 0 && alloc.passesDiscard(reason)) {
    addCluster(discards, host / g.clusterSize);
  }
}

async function discardRun(image: Qcow2Image, run: ClusterRun): Promise<void> {
  const { clusterSize } = image.g;
  try {
    await image.dataFile.discard(run.first * clusterSize, run.count * clusterSize);
  } catch {
    // Best effort: the range reads as zeroes, whatever the file keeps.
  }
}
