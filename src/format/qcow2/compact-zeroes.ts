/** The first part of compacting: what is stored and holds only zeroes is given up (CM1). */
import type { CompactContext } from '../../block/driver.js';
import { chainStatus } from '../../block/status.js';
import { Iov } from '../../lib/iov.js';
import type { FreeReason } from './allocate.js';
import type { L2Entry } from './entry.js';
import { emptyEntry, hasHostCluster, isCompressed, isCopied, readEntry } from './entry.js';
import type { Qcow2Image } from './image.js';
import { Entry } from './layout.js';
import { readGuest } from './read.js';
import { roundDown, roundUp } from './units.js';
import { changeEntries, discardLocked } from './zero.js';

/** Guest bytes that are read at a time; at least a cluster. */
const PIECE = 1024 * 1024;

/** Guest clusters in a row that are stored, and that this image alone uses. */
interface Stored {
  readonly from: number;
  to: number;
  /** They read as zeroes: they are preallocated only. */
  readonly isZero: boolean;
}

/**
 * Gives up all clusters that hold only zeroes, but those that a snapshot shares: they would stay
 * where they are. Runs inside `image.exclusive`. Resolves to the guest bytes given up.
 */
export async function releaseZeroes(image: Qcow2Image, context: CompactContext): Promise<number> {
  const { g, size } = image;
  const end = roundUp(size, g.clusterSize);
  let released = 0;
  for (let at = 0; at < end;) {
    context.check();
    const { found, next } = await storedFrom(image, at, end);
    let looked = 0;
    for (const run of found) {
      released += await releaseRun(image, run, context);
      looked += run.to - run.from;
    }
    context.done(next - at - looked);
    at = next;
  }
  return released;
}

/** What is stored in the part of an L2 table that `at` lies in. */
async function storedFrom(
  image: Qcow2Image,
  at: number,
  end: number,
): Promise<{ found: Stored[]; next: number }> {
  const { g, l1, mapping } = image;
  const index = Math.floor(at / g.l2Coverage);
  const place = mapping.place(at);
  if (place === undefined || !l1.isCopied(index)) {
    return { found: [], next: Math.min(end, (index + 1) * g.l2Coverage) };
  }
  const found: Stored[] = [];
  const count = Math.min((end - at) / g.clusterSize, mapping.sliceEntries - place.index);
  await mapping.useSlice(place.offset, ({ view }) => {
    for (let i = 0; i < count; i++) {
      const entry = readEntry(g, view, place.index + i);
      if (!isOwn(entry, image.hasDataFile)) continue;
      const from = at + i * g.clusterSize;
      const isZero = !g.extendedL2 && !isCompressed(entry) && (entry.lo & Entry.zeroLo) !== 0;
      const last = found[found.length - 1];
      if (last?.to === from && last.isZero === isZero) last.to += g.clusterSize;
      else found.push({ from, to: from + g.clusterSize, isZero });
    }
  });
  return { found, next: at + count * g.clusterSize };
}

function isOwn(entry: L2Entry, dataFile: boolean): boolean {
  return isCompressed(entry) || (hasHostCluster(entry, dataFile) && isCopied(entry));
}

/** Looks at one run and gives up what is zero in it; the guest bytes given up. */
async function releaseRun(
  image: Qcow2Image,
  { from, to, isZero }: Stored,
  context: CompactContext,
): Promise<number> {
  const { clusterSize } = image.g;
  const step = Math.max(clusterSize, roundDown(PIECE, clusterSize));
  let released = 0;
  for (let at = from; at < to; at += step) {
    context.check();
    const stop = Math.min(to, at + step);
    const bytes = isZero ? undefined : await contentOf(image, at, stop);
    for (let cluster = at; cluster < stop;) {
      const zero = (of: number): boolean =>
        bytes === undefined ||
        image.host.hot.isZero(bytes.subarray(of - at, of - at + clusterSize));
      const is = zero(cluster);
      let next = cluster + clusterSize;
      while (next < stop && zero(next) === is) next += clusterSize;
      if (is) released += await release(image, cluster, next);
      else if (bytes !== undefined && image.g.extendedL2) {
        for (let of = cluster; of < next; of += clusterSize) {
          released += await trim(image, of, bytes.subarray(of - at, of - at + clusterSize));
        }
      }
      cluster = next;
    }
    context.done(stop - at);
  }
  return released;
}

/**
 * Of a cluster with subclusters: those that are stored and hold only zeroes are not stored any
 * more, and when none is left, the cluster is given up. `bytes` is what the guest sees.
 */
async function trim(image: Qcow2Image, guest: number, bytes: Uint8Array): Promise<number> {
  const { g, hasDataFile, backing, host } = image;
  let zero = 0;
  for (let i = 0; i < 32; i++) {
    const at = i * g.subclusterSize;
    if (host.hot.isZero(bytes.subarray(at, at + g.subclusterSize))) zero |= 1 << i;
  }
  let released = 0;
  const change = (entry: L2Entry): L2Entry | undefined => {
    if (isCompressed(entry) || !hasHostCluster(entry, hasDataFile)) return undefined;
    const given = entry.allocated & zero;
    if (given === 0 && entry.allocated !== 0) return undefined;
    released = countBits(given) * g.subclusterSize;
    const allocated = (entry.allocated & ~zero) >>> 0;
    const zeroes = (entry.zeroes | given) >>> 0;
    if (allocated !== 0) return { ...entry, allocated, zeroes };
    return backing === undefined ? emptyEntry : { ...emptyEntry, zeroes };
  };
  await changeEntries(image, guest, guest + g.clusterSize, change, freeing(image));
  return released;
}

function countBits(mask: number): number {
  let count = 0;
  for (let left = mask; left !== 0; left &= left - 1) count++;
  return count;
}

/** A data file is told last, when all that says so is durable (CM7). */
function freeing({ hasDataFile }: Qcow2Image): FreeReason {
  return hasDataFile ? 'never' : 'always';
}

/** What the guest sees; behind the end of the disk, zeroes. */
async function contentOf(image: Qcow2Image, from: number, to: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(to - from);
  const inside = Math.min(to, image.size) - from;
  await readGuest(image, from, Iov.of(bytes.subarray(0, inside)));
  return bytes;
}

/** [from, to) reads as zeroes: without a cluster where the backing file allows it. */
async function release(image: Qcow2Image, from: number, to: number): Promise<number> {
  const { backing, version } = image;
  const reason = freeing(image);
  if (backing === undefined || from >= backing.size) {
    await discardLocked(image, from, to, reason, true);
  } else if (version >= 3) {
    await discardLocked(image, from, to, reason, false);
  } else if (await isZeroBelow(image, from, Math.min(to, backing.size))) {
    // Version 2 has no zero clusters.
    await discardLocked(image, from, to, reason, true);
  } else {
    return 0;
  }
  return to - from;
}

/** Whether the backing chain knows that [from, to) is zero there. */
async function isZeroBelow(image: Qcow2Image, from: number, to: number): Promise<boolean> {
  const { backing } = image;
  for (let at = from; backing !== undefined && at < to;) {
    const status = await chainStatus(backing.node, undefined, at, to - at);
    if (!status.zero || status.bytes === 0) return false;
    at += status.bytes;
  }
  return true;
}

/** L2 tables without any entry are given up. Runs inside `image.exclusive`. */
export async function dropEmptyTables(image: Qcow2Image): Promise<void> {
  const { l1, l2, g, mapping, alloc, host } = image;
  for (let i = 0; i < l1.size; i++) {
    const offset = l1.l2Offset(i);
    if (offset === 0 || !l1.isCopied(i)) continue;
    let isEmpty = true;
    for (let at = 0; at < g.clusterSize && isEmpty; at += l2.tableBytes) {
      isEmpty = await mapping.useSlice(offset + at, ({ bytes }) => host.hot.isZero(bytes));
    }
    if (!isEmpty) continue;
    l1.set(i, 0);
    l2.drop(offset, g.clusterSize);
    alloc.free(offset, g.clusterSize, 'always');
  }
  mapping.forget();
}
