/** Changing the virtual size, with preallocation. Texts follow QEMU. */
import type { TruncateOptions } from '../../block/driver.js';
import { BlockError, isNotSupported, prepend, withErrno } from '../../block/errors.js';
import { zeroIov } from '../../block/request.js';
import type { Preallocation } from '../../block/types.js';
import { Iov } from '../../lib/iov.js';
import type { L2Entry } from './entry.js';
import { dataEntry, writeEntry } from './entry.js';
import { switchHeader } from './header-switch.js';
import type { Qcow2Image } from './image.js';
import { Autoclear, Entry } from './layout.js';
import { readGuest } from './read.js';
import { growL1, useWritableSlice } from './tables.js';
import { clusterIndex, clustersFor, l1EntriesFor, roundUp } from './units.js';
import { discardLocked, writeZeroes, zeroLocked } from './zero.js';

/** Guest bytes that one step of preallocation maps. */
const PREALLOCATE_STEP = 64 * 1024 * 1024;

/**
 * Sets the virtual size. If it throws, the image has its old size; what was preallocated by then
 * lies past its end or leaks. The caller tells the node about the new length.
 */
export async function truncateImage(
  image: Qcow2Image,
  bytes: number,
  options: TruncateOptions,
): Promise<void> {
  if (bytes % 512 !== 0) throw new BlockError('EINVAL', 'The new size must be a multiple of 512');
  const { snapshots, version, size } = image;
  if (snapshots.length > 0 && version < 3) {
    throw new BlockError('ENOTSUP', "Can't resize a v2 image which has snapshots");
  }
  if (bytes < size && options.prealloc !== 'off') {
    throw new BlockError('EINVAL', "Preallocation can't be used for shrinking an image");
  }
  if (bytes > size) await clearTail(image, bytes, options);
  await image.exclusive(async () => {
    if (bytes < size) await shrink(image, bytes);
    else await grow(image, bytes, options);
    try {
      await image.writeback.everything();
      await image.file.flush();
      await switchHeader(image, { size: bytes });
    } catch (e) {
      throw withErrno('Failed to update the image size', e);
    }
    image.size = bytes;
    if (bytes < size) {
      await dropEmptyRefcountBlocks(image);
      await shrinkFile(image);
    }
  });
}

async function shrink(image: Qcow2Image, bytes: number): Promise<void> {
  const { g, size } = image;
  const from = roundUp(bytes, g.clusterSize);
  const to = roundUp(size, g.clusterSize);
  try {
    if (from < to) await discardLocked(image, from, to, 'always', true);
  } catch (e) {
    throw withErrno('Failed to discard cropped clusters', e);
  }
  try {
    await dropL2Tables(image, l1EntriesFor(g, bytes));
  } catch (e) {
    throw withErrno('Failed to reduce the number of L2 tables', e);
  }
  if (image.hasDataFile) {
    try {
      await image.dataFile.truncate(bytes, { exact: false });
    } catch (e) {
      throw prepend('Failed to resize underlying file: ', e);
    }
  }
}

/**
 * What lies between the end of the disk and the end of its last cluster reads as zeroes when the
 * disk grows over it: neither what was cut off earlier nor the backing file may show there. With
 * preallocation it is stored as well.
 */
async function clearTail(
  image: Qcow2Image,
  bytes: number,
  { zeroFill, prealloc }: TruncateOptions,
): Promise<void> {
  const { g, size } = image;
  const end = Math.min(roundUp(size, g.clusterSize), bytes);
  if (end <= size) return;
  const tail = Iov.alloc(end - size);
  await readGuest(image, size, tail);
  const backed = zeroFill && image.backing !== undefined && image.backing.size > size;
  // Preallocated subclusters stay unallocated.
  const stored = prealloc !== 'off' && !g.extendedL2;
  if (!backed && !stored && tail.isZero()) return;
  if (g.extendedL2 && size % g.subclusterSize === 0 && end % g.subclusterSize === 0) {
    try {
      await writeZeroes(image, size, end - size, 0);
      return;
    } catch (e) {
      // A compressed cluster has no subclusters.
      if (!isNotSupported(e)) throw e;
    }
  }
  await image.writes.write(size, zeroIov(end - size));
}

/** L2 tables that map nothing any more are released; the L1 table keeps its length. */
async function dropL2Tables(image: Qcow2Image, keep: number): Promise<void> {
  const { l1, alloc, g, mapping, l2, file, snapshots } = image;
  const event = file.debugEvent('l1_shrink_write_table');
  if (event !== undefined) await event;
  if (snapshots.some((s) => s.vmStateSize > 0)) return;
  for (let i = l1.size - 1; i >= keep; i--) {
    const offset = l1.l2Offset(i);
    if (offset === 0) continue;
    l1.set(i, 0);
    l2.drop(offset, g.clusterSize);
    alloc.free(offset, g.clusterSize, 'always');
  }
  mapping.forget();
}

/**
 * Refcount blocks that count nothing, themselves aside, leave the refcount table: a block behind
 * what is left of the disk would keep the file as long as it was. Failure only costs space.
 */
async function dropEmptyRefcountBlocks(image: Qcow2Image): Promise<void> {
  const { g, refcounts, alloc, writeback, file } = image;
  const dropped: { index: number; offset: number; countsItself: boolean }[] = [];
  try {
    for (let index = refcounts.size - 1; index >= 0; index--) {
      const offset = refcounts.blockOffset(index);
      if (offset === 0) continue;
      const itself = clusterIndex(g, offset);
      const countsItself = refcounts.blockIndex(itself) === index;
      if (!(await refcounts.isEmpty(index, countsItself ? itself : undefined))) continue;
      refcounts.removeBlock(index);
      dropped.push({ index, offset, countsItself });
    }
    if (dropped.length === 0) return;
    await writeback.everything();
    await file.flush();
  } catch (e) {
    // The table on disk may name them still: their clusters must not be used for anything else.
    for (const { index, offset } of dropped) refcounts.restoreBlock(index, offset);
    image.graph.warn(`Failed to drop empty refcount blocks: ${(e as Error).message}`);
    return;
  }
  for (const { offset, countsItself } of dropped) {
    if (!countsItself) alloc.free(offset, g.clusterSize, 'always');
  }
  await writeback.everything();
  alloc.reset();
}

/** Cuts the file behind the last cluster in use. Failure only costs space. */
async function shrinkFile(image: Qcow2Image): Promise<void> {
  const { g, refcounts, file, growth } = image;
  try {
    let last = clusterIndex(g, file.size - 1);
    while (last > 0 && (await refcounts.get(last)) === 0) last--;
    const end = (last + 1) * g.clusterSize;
    if (end >= file.size) return;
    await growth.settled();
    await file.truncate(end, { exact: false });
    growth.shrunk(end);
    image.alloc.reset();
  } catch (e) {
    image.graph.warn(`Failed to truncate the tail of the image: ${(e as Error).message}`);
  }
}

/**
 * Behind the end of a disk stands VM state that a snapshot brought which was applied, or that a
 * program left which died as it saved it. Where the disk grows over it, it is given up.
 */
async function dropVmStateUnder(image: Qcow2Image, bytes: number): Promise<void> {
  const { g, l1, vmStateOffset } = image;
  const end = Math.min(l1.size, l1EntriesFor(g, bytes));
  for (let i = vmStateOffset / g.l2Coverage; i < end; i++) {
    if (l1.l2Offset(i) === 0) continue;
    const from = i * g.l2Coverage;
    await discardLocked(image, from, from + g.l2Coverage, 'always', true);
  }
}

async function grow(image: Qcow2Image, bytes: number, options: TruncateOptions): Promise<void> {
  const { g, size, backing } = image;
  try {
    await dropVmStateUnder(image, bytes);
    await growL1(image, l1EntriesFor(g, bytes), true);
  } catch (e) {
    throw withErrno('Failed to grow the L1 table', e);
  }
  const raw = (image.header.fields.autoclear_features & Autoclear.dataFileRaw) !== 0n;
  // All of a raw data file belongs to the disk.
  const prealloc = raw && options.prealloc === 'off' ? 'metadata' : options.prealloc;
  if (image.hasDataFile) await growDataFile(image, bytes, prealloc);
  if (prealloc !== 'off') {
    const hides = options.zeroFill && backing !== undefined && backing.size > size;
    await preallocate(image, size, bytes, { mode: prealloc, hides });
  } else if (options.zeroFill && image.version >= 3 && bytes > size) {
    try {
      await zeroGrown(image, size, bytes);
    } catch (e) {
      throw withErrno('Failed to zero out new clusters', e);
    }
  } else if (options.zeroFill && bytes > size && image.backing !== undefined) {
    throw new BlockError('ENOTSUP', 'Failed to zero out new clusters: Operation not supported');
  }
}

/** Hides what the backing file has where the image grows. */
async function zeroGrown(image: Qcow2Image, size: number, bytes: number): Promise<void> {
  const { g } = image;
  const from = roundUp(size, g.subclusterSize);
  const to = roundUp(bytes, g.subclusterSize);
  if (from < to) await zeroLocked(image, from, to, 0);
}

/** With preallocation up to the end of the last cluster, as at creation. */
async function growDataFile(image: Qcow2Image, bytes: number, mode: Preallocation): Promise<void> {
  const { dataFile, g } = image;
  const prealloc = mode === 'metadata' ? 'off' : mode;
  const end = mode === 'off' ? bytes : roundUp(bytes, g.clusterSize);
  if (end <= dataFile.size && prealloc === 'off') return;
  try {
    await dataFile.truncate(Math.max(end, dataFile.size), { exact: false, prealloc });
  } catch (e) {
    throw prepend('Failed to resize underlying file: ', e);
  }
}

interface PreallocateHow {
  readonly mode: Preallocation;
  /** The backing file has something there, which must not show. */
  readonly hides: boolean;
}

/** Maps all of [from, to) to host clusters; `falloc` and `full` also store them. */
async function preallocate(
  image: Qcow2Image,
  from: number,
  to: number,
  how: PreallocateHow,
): Promise<void> {
  const { g, file } = image;
  const before = image.growth.usedEnd;
  let at = roundUp(from, g.clusterSize);
  try {
    while (at < to) {
      at += await preallocateStep(image, at, Math.min(to, at + PREALLOCATE_STEP), how);
    }
  } catch (e) {
    throw withErrno('Failed to allocate data clusters', e);
  }
  const end = image.growth.usedEnd;
  if (end <= before || end <= file.size) return;
  if (image.hasDataFile) {
    // Tables alone: stored in full, which keeps QEMU from taking the image for a sparse one.
    await file.truncate(end, { exact: false, prealloc: 'falloc' }).catch(() => undefined);
    return;
  }
  const prealloc = how.mode === 'metadata' ? 'off' : how.mode;
  try {
    await file.truncate(end, { exact: false, prealloc });
  } catch (e) {
    throw prepend('Failed to resize underlying file: ', e);
  }
}

/**
 * Entry of a preallocated cluster at `host`. Subclusters stay unallocated, and read as zeroes,
 * unless the backing file would show. Zeroes in the file do not decrypt to zeroes, so that there
 * the entry has to say that the cluster is zero.
 */
function preallocatedEntry(image: Qcow2Image, host: number, how: PreallocateHow): L2Entry {
  const { g, version, crypto } = image;
  const asZero = crypto !== undefined || (how.hides && how.mode === 'metadata');
  if (g.extendedL2) {
    if (asZero) return dataEntry(host, 0, 0xffff_ffff);
    return dataEntry(host, how.hides ? 0xffff_ffff : 0);
  }
  const entry = dataEntry(host, 0);
  return asZero && version >= 3 ? { ...entry, lo: (entry.lo | Entry.zeroLo) >>> 0 } : entry;
}

/** Maps unallocated clusters of one slice at most; returns the guest bytes it looked at. */
async function preallocateStep(
  image: Qcow2Image,
  at: number,
  to: number,
  how: PreallocateHow,
): Promise<number> {
  const { g, alloc, mapping, dataGrowth, writeback, l2 } = image;
  if (l2.isPressed) await writeback.run();
  const count = await useWritableSlice(image, at, (_table, index) =>
    Math.min(clustersFor(g, to - at), mapping.sliceEntries - index),
  );
  const host = image.hasDataFile ? at : await alloc.allocate(count);
  const fresh = dataGrowth.take(host, count * g.clusterSize);
  // What a raw data file holds there belongs to the disk.
  const stale = !fresh && !image.isRawData;
  if (stale && (image.crypto === undefined || image.version < 3)) {
    await image.dataFile.writeZeroes(host, count * g.clusterSize);
  }
  const bytes = g.l2EntrySize;
  await useWritableSlice(image, at, (table, index) => {
    const live = l2.touch(table, index * bytes, (index + count) * bytes);
    for (let i = 0; i < count; i++) {
      const entry = preallocatedEntry(image, host + i * g.clusterSize, how);
      writeEntry(g, live.view, index + i, entry);
    }
  });
  writeback.noteAllocation(fresh);
  return count * g.clusterSize;
}
