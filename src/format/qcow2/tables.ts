/**
 * L2 tables: made when first needed, copied when a snapshot shares them; and growth of the L1
 * table. Everything here is called with `image.lock` held.
 *
 * A new table's first content (zeroes, or a copy) is in the file before the L1 entry that names
 * it can be written, because the writeback flushes in between (W2 in driver.ts).
 */
import { Iov } from '../../lib/iov.js';
import { BlockError } from '../../block/errors.js';
import type { MetaTable } from './cache.js';
import { switchHeader } from './header-switch.js';
import type { Qcow2Image } from './image.js';
import { Limit } from './layout.js';
import { hex } from './mapping.js';
import { Overlap } from './options.js';
import type { GuestOffset } from './units.js';
import { clustersFor } from './units.js';

/** A new table's slices are put into the cache up to this number; more are read when needed. */
const MAX_NEW_SLICES = 16;

/**
 * Calls `fn` with the slice that maps `guest`, in a table that the active L1 alone uses, and the
 * index of the guest cluster's entry in it; allocates or copies the table when it must. `fn` must
 * not wait for anything.
 */
export async function useWritableSlice<T>(
  image: Qcow2Image,
  guest: GuestOffset,
  fn: (table: MetaTable, index: number) => T,
): Promise<T> {
  await ensureTable(image, guest);
  const place = image.mapping.place(guest);
  if (place === undefined) throw new BlockError('EIO');
  return image.mapping.useSlice(place.offset, (table) => fn(table, place.index));
}

/** What `useWritableSlice` would use, when it is there without waiting for anything. */
export function tryWritableSlice(
  image: Qcow2Image,
  guest: GuestOffset,
): { readonly table: MetaTable; readonly index: number } | undefined {
  const { l1, g, mapping, l2 } = image;
  const l1Index = Math.floor(guest / g.l2Coverage);
  if (l1Index >= l1.size || !l1.isCopied(l1Index)) return undefined;
  const place = mapping.place(guest);
  if (place === undefined || place.offset % l2.tableBytes !== 0) return undefined;
  const table = l2.peek(place.offset);
  return table === undefined ? undefined : { table, index: place.index };
}

/** The L2 table of `guest` exists and may be changed in place. */
export async function ensureTable(image: Qcow2Image, guest: GuestOffset): Promise<void> {
  const { l1, g } = image;
  const l1Index = Math.floor(guest / g.l2Coverage);
  if (l1Index >= l1.size) await growL1(image, l1Index + 1, false);
  const offset = l1.l2Offset(l1Index);
  if (offset % g.clusterSize !== 0) {
    const message = `L2 table offset ${hex(offset)} unaligned (L1 index: ${hex(l1Index)})`;
    throw await image.corrupt(true, message);
  }
  if (offset === 0 || !l1.isCopied(l1Index)) await makeTable(image, l1Index, offset);
}

async function makeTable(image: Qcow2Image, l1Index: number, old: number): Promise<void> {
  const { alloc, g, overlap, growth, l1, mapping, file } = image;
  const host = await alloc.allocate(1);
  if (host === 0) {
    throw await image.corrupt(true, 'Preventing invalid allocation of L2 table at offset 0');
  }
  let fresh: boolean;
  try {
    await overlap.check(Overlap.activeL2, host, g.clusterSize);
    const event = file.debugEvent('l2_alloc_write');
    if (event !== undefined) await event;
    fresh = growth.take(host, g.clusterSize);
    if (old === 0) await writeEmptyTable(image, host, fresh);
    else await copyTable(image, old, host);
  } catch (e) {
    if (!image.unusable) await alloc.releaseNow(host, g.clusterSize);
    throw e;
  }
  if (image.lazyRefcounts) {
    // Only counts of data lag: a table is counted before it is used, as QEMU does it.
    await image.setDirty(true);
    await image.writeback.alone(() => image.writeback.refcountBlocks());
  }
  l1.set(l1Index, host);
  mapping.forget();
  overlap.addL2(host);
  image.writeback.noteAllocation(old === 0 && fresh);
  if (old !== 0) alloc.free(old, g.clusterSize, 'other');
}

async function writeEmptyTable(image: Qcow2Image, host: number, fresh: boolean): Promise<void> {
  const { g, l2, file } = image;
  if (!fresh) {
    const growing = image.growth.before(host + g.clusterSize);
    if (growing !== undefined) await growing;
    await file.writeZeroes(host, g.clusterSize);
  }
  const slices = g.clusterSize / l2.tableBytes;
  if (slices > Math.min(MAX_NEW_SLICES, l2.capacity)) return;
  for (let i = 0; i < slices; i++) {
    l2.add(host + i * l2.tableBytes, new Uint8Array(l2.tableBytes));
  }
}

/** Copies a shared table as it is in memory. */
async function copyTable(image: Qcow2Image, old: number, host: number): Promise<void> {
  const { g, l2, mapping } = image;
  const bytes = new Uint8Array(g.clusterSize);
  for (let at = 0; at < g.clusterSize; at += l2.tableBytes) {
    await mapping.useSlice(old + at, (slice) => bytes.set(slice.bytes, at));
  }
  await image.writeMeta(host, Iov.of(bytes));
  const slices = g.clusterSize / l2.tableBytes;
  if (slices > Math.min(MAX_NEW_SLICES, l2.capacity)) return;
  for (let at = 0; at < g.clusterSize; at += l2.tableBytes) {
    l2.add(host + at, bytes.slice(at, at + l2.tableBytes));
  }
}

/**
 * Makes the L1 table at least `entries` long: written to a new place, then the header names it,
 * then the old one is freed. `exact`: no more than asked, else half as much again. If it throws,
 * the image on disk has its old table. EFBIG past 32 MiB.
 */
export async function growL1(image: Qcow2Image, entries: number, exact: boolean): Promise<void> {
  const { l1 } = image;
  if (entries <= l1.size) return;
  let size = entries;
  if (!exact) {
    size = Math.max(1, l1.size);
    while (size < entries) size = Math.ceil(size * 1.5);
  }
  if (size * 8 > Limit.maxL1Bytes) throw new BlockError('EFBIG');
  const { file, alloc } = image;
  const event = file.debugEvent('l1_grow_alloc_table');
  if (event !== undefined) await event;
  const clusters = clustersFor(image.g, size * 8);
  const host = await alloc.allocate(clusters);
  try {
    await image.writeback.alone(() => replaceL1(image, size, host));
  } catch (e) {
    if (!image.unusable) await alloc.releaseNow(host, clusters * image.g.clusterSize);
    throw e;
  }
}

async function replaceL1(image: Qcow2Image, size: number, host: number): Promise<void> {
  const { l1, g, file, overlap, growth, alloc } = image;
  const bytes = new Uint8Array(size * 8);
  bytes.set(l1.bytes);
  await overlap.check(0, host, bytes.byteLength);
  growth.take(host, clustersFor(g, bytes.byteLength) * g.clusterSize);
  // The new table names what the old one names in memory: all that must be on disk before.
  await image.writeback.refcountBlocks();
  const event = file.debugEvent('l1_grow_write_table');
  if (event !== undefined) await event;
  await image.writeMeta(host, Iov.of(bytes));
  await file.flush();
  const old = { offset: l1.offset, bytes: l1.bytes.length };
  const activate = file.debugEvent('l1_grow_activate_table');
  if (activate !== undefined) await activate;
  await switchHeader(image, { l1_table_offset: host, l1_size: size });
  l1.replace(host, bytes);
  image.mapping.forget();
  overlap.reset();
  if (old.bytes > 0) alloc.free(old.offset, old.bytes, 'other');
}
