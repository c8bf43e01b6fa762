/**
 * `amend -o compat=0.10`: what version 2 cannot say is said in another way first.
 *
 *  AD1  Zero clusters, in the tables of all snapshots too, become unallocated without a backing
 *       file and stored zeroes over one. The image is one of version 3 all the while, and reads
 *       the same after each step.
 *  AD2  The version changes by one sector of the header, when all that is durable.
 */
import type { AmendContext } from '../../block/driver.js';
import { BlockError, toldWithErrno, withErrno } from '../../block/errors.js';
import type { L2Entry } from './entry.js';
import {
  dataEntry,
  emptyEntry,
  entryOffset,
  hasHostCluster,
  isCompressed,
  readEntry,
  writeEntry,
} from './entry.js';
import { rewriteHeader } from './header-switch.js';
import type { Qcow2Image } from './image.js';
import { Entry, Incompat } from './layout.js';
import { hex } from './mapping.js';
import { readSnapshotL1 } from './snapshot-l1.js';
import { clusterIndex } from './units.js';

/** Makes the image one of version 2. Throws ENOTSUP where it holds what that has not. */
export async function downgrade(image: Qcow2Image, context: AmendContext): Promise<void> {
  checkFeatures(image);
  await image.exclusive(async () => {
    const { writeback, header } = image;
    const tables = await l2Tables(image);
    if (image.has(Incompat.compression) && (await hasCompressed(image, tables.tables))) {
      refuse(
        'Cannot downgrade an image with zstd compression type and existing compressed clusters',
      );
    }
    writeback.hasInactiveTables = true;
    try {
      await expandZeroes(image, tables, context);
      await writeback.everything();
    } catch (e) {
      throw toldWithErrno('Failed to turn zero into data clusters', e);
    } finally {
      writeback.hasInactiveTables = false;
    }
    try {
      await image.file.flush();
      await rewriteHeader(image, () => {
        const { fields } = header;
        fields.version = 2;
        fields.incompatible_features = 0n;
        fields.compatible_features = 0n;
        fields.autoclear_features = 0n;
        fields.compression_type = 0;
      });
    } catch (e) {
      throw withErrno('Failed to update the image header', e);
    }
  });
}

function checkFeatures(image: Qcow2Image): void {
  const { fields } = image.header;
  if (image.has(Incompat.dataFile)) refuse('Cannot downgrade an image with a data file');
  if (image.g.refcountOrder !== 4) refuse('compat=0.10 requires refcount_bits=16');
  const { snapshots, size } = image;
  if (snapshots.some((s) => s.vmStateSize > 0xffff_ffff || s.diskSize !== size)) {
    refuse('Internal snapshots prevent downgrade of image');
  }
  const features = fields.incompatible_features & ~(Incompat.dirty | Incompat.compression);
  if (features !== 0n) {
    refuse(`Cannot downgrade an image with incompatible features 0x${features.toString(16)} set`);
  }
}

function refuse(message: string): never {
  throw new BlockError('ENOTSUP', message);
}

/** An L2 table, and whether the active L1 table names it. */
interface FoundTable {
  readonly offset: number;
  readonly isActive: boolean;
  /** Entries of L1 tables before the first that names it. */
  readonly entry: number;
}

interface FoundTables {
  readonly tables: readonly FoundTable[];
  /** Entries of all L1 tables. */
  readonly entries: number;
}

/** The L2 tables of the active state and of all snapshots, each once. Throws EIO, EINVAL, EFBIG. */
async function l2Tables(image: Qcow2Image): Promise<FoundTables> {
  let entries = 0;
  const out = new Map<number, FoundTable>();
  const add = (view: DataView, isActive: boolean): void => {
    for (let at = 0; at < view.byteLength; at += 8, entries++) {
      const offset = entryOffset(view.getUint32(at), view.getUint32(at + 4));
      if (offset !== 0 && !out.has(offset)) out.set(offset, { offset, isActive, entry: entries });
    }
  };
  add(viewOf(image.l1.bytes), true);
  try {
    for (const snapshot of image.snapshots) {
      add(viewOf(await readSnapshotL1(image, snapshot)), false);
    }
  } catch (e) {
    throw toldWithErrno('Failed to turn zero into data clusters', e);
  }
  return { tables: [...out.values()], entries };
}

/** Whether some entry names compressed data, which version 2 would take for deflated. */
async function hasCompressed(image: Qcow2Image, tables: readonly FoundTable[]): Promise<boolean> {
  const { g, l2, mapping } = image;
  for (const { offset } of tables) {
    if (offset % g.clusterSize !== 0) continue;
    for (let at = offset; at < offset + g.clusterSize; at += l2.tableBytes) {
      const found = await mapping.useSlice(at, ({ view }) => {
        for (let i = 0; i < mapping.sliceEntries; i++) {
          if (isCompressed(readEntry(g, view, i))) return true;
        }
        return false;
      });
      if (found) return true;
    }
  }
  return false;
}

/** AD1, for the active L1 table and those of all snapshots. */
async function expandZeroes(
  image: Qcow2Image,
  { tables, entries }: FoundTables,
  context: AmendContext,
): Promise<void> {
  // Progress counts entries of L1 tables, as QEMU's does.
  let done = 0;
  const advance = (to: number): void => {
    for (; done <= to; done++) context.onProgress?.(done, entries);
  };
  for (const { offset, isActive, entry } of tables) {
    advance(entry);
    await expandTable(image, offset, isActive);
  }
  advance(entries);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

async function expandTable(image: Qcow2Image, offset: number, isActive: boolean): Promise<void> {
  const { g, l2, mapping, refcounts, writeback } = image;
  if (offset % g.clusterSize !== 0) {
    throw await image.corrupt(true, `L2 table offset ${hex(offset)} unaligned`);
  }
  const users = await refcounts.get(clusterIndex(g, offset));
  for (let at = offset; at < offset + g.clusterSize; at += l2.tableBytes) {
    if (l2.isPressed) await writeback.run();
    const zeroes = await mapping.useSlice(at, (table) => zeroEntries(image, table.view));
    for (const index of zeroes) await expandEntry(image, at, index, users, isActive);
  }
}

function zeroEntries(image: Qcow2Image, view: DataView): number[] {
  const out: number[] = [];
  for (let i = 0; i < image.mapping.sliceEntries; i++) {
    const entry = readEntry(image.g, view, i);
    if (!isCompressed(entry) && (entry.lo & Entry.zeroLo) !== 0) out.push(i);
  }
  return out;
}

/** One zero cluster, in a table that `users` L1 entries name. */
async function expandEntry(
  image: Qcow2Image,
  slice: number,
  index: number,
  users: number,
  isActive: boolean,
): Promise<void> {
  const { g, mapping, l2, alloc, refcounts, file } = image;
  const old = await mapping.useSlice(slice, (table) => readEntry(g, table.view, index));
  const host = hasHostCluster(old, false) ? entryOffset(old.hi, old.lo) : 0;
  if (host % g.clusterSize !== 0) {
    throw await image.corrupt(true, `Cluster allocation offset ${hex(host)} unaligned`);
  }
  // A place that others use too may hold their data.
  const isOwn = host !== 0 && (await refcounts.get(clusterIndex(g, host))) === 1;
  let entry: L2Entry = emptyEntry;
  if (isOwn) {
    await image.overlap.check(0, host, g.clusterSize);
    await file.writeZeroes(host, g.clusterSize);
    entry = { ...old, lo: (old.lo & ~Entry.zeroLo) >>> 0 };
  } else if (image.backing !== undefined) {
    entry = await storedZeroes(image, users);
    if (!isActive || users !== 1) entry = { ...entry, hi: (entry.hi & ~Entry.copiedHi) >>> 0 };
  }
  if (isOwn || image.backing !== undefined) image.writeback.noteAllocation(false);
  await mapping.useSlice(slice, (table) => {
    const from = index * g.l2EntrySize;
    writeEntry(g, l2.touch(table, from, from + g.l2EntrySize).view, index, entry);
  });
  if (host === 0 || isOwn) return;
  for (let i = 0; i < users; i++) alloc.free(host, g.clusterSize, 'other');
}

/** A new cluster of zeroes that `users` tables name. */
async function storedZeroes(image: Qcow2Image, users: number): Promise<L2Entry> {
  const { g, alloc, growth, overlap, refcounts, file } = image;
  const host = await alloc.allocate(1);
  await overlap.check(0, host, g.clusterSize);
  if (!growth.take(host, g.clusterSize)) await file.writeZeroes(host, g.clusterSize);
  if (users > 1) await refcounts.add(clusterIndex(g, host), 1, users - 1);
  return dataEntry(host);
}
