/** Ending a run: filling what nobody wrote (copy-on-write), and mapping its clusters. */
import { Iov } from '../../lib/iov.js';
import { settleAll } from '../../lib/settle-all.js';
import { zeroIov } from '../../block/request.js';
import type { FreeReason } from './allocate.js';
import { writeData } from './data-io.js';
import type { L2Entry } from './entry.js';
import {
  compressedSpan,
  countEmpty,
  dataEntry,
  entryOffset,
  hasHostCluster,
  isCompressed,
  readEntry,
  sameEntry,
  subclusterMask,
  writeDataEntries,
  writeEntry,
} from './entry.js';
import type { MetaTable } from './cache.js';
import type { Qcow2Image } from './image.js';
import { hex } from './mapping.js';
import { readMapped } from './read.js';
import type { Run } from './run.js';
import { Source } from './run.js';
import type { HostOffset } from './units.js';

/** What belongs into [from, to) of a run where the guest wrote nothing. */
export async function sourceBytes(
  image: Qcow2Image,
  run: Run,
  from: number,
  to: number,
): Promise<Iov> {
  if (run.source !== Source.copy) return zeroIov(to - from);
  const event = image.file.debugEvent('cow_read');
  if (event !== undefined) await event;
  const data = Iov.alloc(to - from);
  await readMapped(image, from, data);
  return data;
}

/** Fills the gaps of a closed, idle run. Throws the first error after filling the rest. */
export async function fillGaps(image: Qcow2Image, run: Run): Promise<void> {
  await settleAll(
    run.gaps().map(async ([from, to]) => {
      const data = await sourceBytes(image, run, from, to);
      const event = image.file.debugEvent('cow_write');
      if (event !== undefined) await event;
      await writeData(image, from, run.hostOf(from), data);
      run.covered.add(from, to);
    }),
  );
}

/**
 * Puts the clusters of a run into their L2 table. Nothing of the run is in flight and it has no
 * gaps. What the old entries named is released; host clusters of which nothing is mapped are
 * given back. Throws what reading the table throws; then nothing has changed.
 */
export async function mapRun(image: Qcow2Image, run: Run): Promise<void> {
  const { mapping } = image;
  const place = mapping.place(run.guest);
  if (place === undefined) throw await image.corrupt(true, 'L2 table of an allocation is gone');
  // Nothing is awaited in between: a writeback sees all of it or nothing.
  await mapping.useSlice(place.offset, (table) => mapInto(image, run, table, place.index));
}

/** As mapRun, when the run has no gaps and its table is in memory; tells whether it did. */
export function tryMapRun(image: Qcow2Image, run: Run): boolean {
  const { mapping, l2 } = image;
  if (run.gaps().length > 0) return false;
  const place = mapping.place(run.guest);
  const table = place === undefined ? undefined : l2.peek(place.offset);
  if (place === undefined || table === undefined) return false;
  mapInto(image, run, table, place.index);
  return true;
}

function mapInto(image: Qcow2Image, run: Run, table: MetaTable, index: number): void {
  const { g, l2 } = image;
  const units = run.touched();
  const only = units.length === 1 ? units[0] : undefined;
  const whole = only !== undefined && only[0] <= run.guest && only[1] >= run.guestEnd;
  if (whole && !g.extendedL2 && countEmpty(g, table.view, index, run.count) === run.count) {
    const size = g.l2EntrySize;
    const { view } = l2.touch(table, index * size, (index + run.count) * size);
    writeDataEntries(view, index, run.host, g.clusterSize, run.count);
    image.writeback.noteAllocation(run.source === Source.none);
    return;
  }
  let next = 0;
  let changed = false;
  let lost: HostOffset | undefined;
  for (let i = 0; i < run.count; i++) {
    const start = run.guest + i * g.clusterSize;
    const end = start + g.clusterSize;
    while (next < units.length && units[next]![1] <= start) next++;
    const host = run.host + i * g.clusterSize;
    if (next >= units.length || units[next]![0] >= end) {
      if (run.isNew) image.alloc.unlinkedDurably([{ host, bytes: g.clusterSize, reason: 'never' }]);
      lost = host;
      continue;
    }
    const mask = g.extendedL2 ? unitMask(image, units, next, start) : 0;
    if (mapCluster(image, table, index + i, host, mask)) changed = true;
  }
  if (changed) image.writeback.noteAllocation(run.source === Source.none && lost === undefined);
}

/** Subclusters of the cluster at `start` that the units from index `next` on touch. */
function unitMask(
  image: Qcow2Image,
  units: readonly [number, number][],
  next: number,
  start: number,
): number {
  const { g } = image;
  const end = start + g.clusterSize;
  let mask = 0;
  for (let k = next; k < units.length && units[k]![0] < end; k++) {
    const from = Math.max(units[k]![0], start);
    const to = Math.min(units[k]![1], end);
    mask |= subclusterMask((from - start) / g.subclusterSize, (to - from) / g.subclusterSize);
  }
  return mask >>> 0;
}

/** Returns whether the entry changed. */
function mapCluster(
  image: Qcow2Image,
  table: MetaTable,
  index: number,
  host: HostOffset,
  mask: number,
): boolean {
  const { g, hasDataFile, l2 } = image;
  const old = readEntry(g, table.view, index);
  const sameHost =
    !isCompressed(old) && hasHostCluster(old, hasDataFile) && entryOffset(old.hi, old.lo) === host;
  const zeroes = isCompressed(old) ? 0 : old.zeroes;
  const entry = dataEntry(host, (sameHost ? old.allocated : 0) | mask, zeroes & ~mask);
  if (sameEntry(old, entry)) return false;
  const live = l2.touch(table, index * g.l2EntrySize, (index + 1) * g.l2EntrySize);
  writeEntry(g, live.view, index, entry);
  if (!sameHost) releaseEntry(image, old, 'never');
  return true;
}

/** Releases the host cluster(s) that an entry named; in a data file nothing is counted. */
export function releaseEntry(image: Qcow2Image, entry: L2Entry, reason: FreeReason): void {
  const { g, hasDataFile, alloc } = image;
  if (isCompressed(entry)) {
    const { host, bytes } = compressedSpan(g, entry.hi, entry.lo);
    alloc.free(host, bytes, reason);
    return;
  }
  if (!hasHostCluster(entry, hasDataFile)) return;
  const host = entryOffset(entry.hi, entry.lo);
  if (host % g.clusterSize !== 0) {
    // Not fatal: the entry goes away, and what it named leaks.
    void image.corrupt(false, `Cannot free unaligned cluster ${hex(host)}`);
  } else if (!hasDataFile) {
    alloc.free(host, g.clusterSize, reason);
  }
}
