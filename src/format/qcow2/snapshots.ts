/**
 * Internal snapshots: create, apply, delete, look at. Section "Snapshots" of the specification.
 *
 * Order of writes; each step is durable before the next, so that a crash between any two leaves
 * an image whose refcounts are right or too high.
 *  SN1  References are added before a table that needs them is named by the header.
 *  SN2  Copied flags are cleared, on disk, before a snapshot that shares the clusters exists.
 *  SN3  A snapshot comes and goes, and the active L1 table is exchanged, by one sector of the
 *       header: the table of snapshots and an L1 table are always written to a new place.
 *  SN4  References are given back after the header that no longer names their owner.
 *  SN5  Copied flags are set again last, when refcounts have fallen to one.
 */
import type { SnapshotCapability, SnapshotInfo } from '../../block/driver.js';
import { BlockError, prepend, toldWithErrno, withErrno } from '../../block/errors.js';
import { switchHeader } from './header-switch.js';
import type { Qcow2Image } from './image.js';
import { Limit } from './layout.js';
import { readSnapshotL1 } from './snapshot-l1.js';
import {
  addReferences,
  clearL1Flags,
  dropReferences,
  refreshFlags,
  requireReferences,
} from './snapshot-refs.js';
import {
  findByIdAndName,
  findByKey,
  newSnapshotId,
  storeSnapshots,
  writeNew,
} from './snapshot-store.js';
import type { Qcow2Snapshot } from './snapshot-table.js';
import { snapshotInfo } from './snapshot-table.js';
import { clustersFor, isOffset, l1EntriesFor, roundUp } from './units.js';
import { discardLocked } from './zero.js';

/** What a new snapshot is made of. */
export type NewSnapshot = Parameters<SnapshotCapability['create']>[0];

/** The snapshots in the order of the table. */
export function listSnapshots(image: Qcow2Image): readonly SnapshotInfo[] {
  return image.snapshots.map(snapshotInfo);
}

/**
 * Makes a snapshot of the active state. Throws BlockError: ENOTSUP with a data file, EFBIG past
 * the limits of the table, EINVAL when a refcount cannot grow; the image is then as before, with
 * leaked clusters at most.
 */
export async function createSnapshot(image: Qcow2Image, wanted: NewSnapshot): Promise<void> {
  if (image.hasDataFile) throw new BlockError('ENOTSUP');
  await image.exclusive(async () => {
    const { l1, snapshots, g, alloc } = image;
    if (snapshots.length >= Limit.maxSnapshots) throw new BlockError('EFBIG');
    const copy = l1.bytes.slice();
    const view = new DataView(copy.buffer);
    clearL1Flags(view);
    const clusters = clustersFor(g, copy.length);
    const host = clusters === 0 ? 0 : await alloc.allocate(clusters);
    const snapshot = newEntry(image, wanted, host);
    let shared = false;
    try {
      if (clusters > 0) await writeNew(image, host, copy);
      await addReferences(image, view);
      shared = true;
      for (let i = 0; i < l1.size; i++) if (l1.isCopied(i)) l1.setCopied(i, false);
      await storeSnapshots(image, [...snapshots, snapshot]);
    } catch (e) {
      // Where counts have no room the new table stays behind, as QEMU's does.
      const left = e instanceof BlockError && e.code === 'EINVAL' && !shared;
      if (!left) await takeBack(image, shared ? view : undefined, host, copy.length);
      throw e;
    }
    if (wanted.vmStateSize > 0) await forgetVmState(image, wanted.vmStateSize);
    await image.writeback.everything();
    await image.file.flush();
  });
}

/** New references and a new L1 table are given back as far as that goes; the rest leaks. */
async function takeBack(
  image: Qcow2Image,
  shared: DataView | undefined,
  host: number,
  bytes: number,
): Promise<void> {
  if (image.unusable) return;
  try {
    if (shared !== undefined) await dropReferences(image, shared);
    if (bytes > 0) await image.alloc.releaseNow(host, bytes);
    if (shared !== undefined) await refreshFlags(image);
    await image.writeback.everything();
  } catch {
    // The first error is the one to tell.
  }
}

function newEntry(image: Qcow2Image, wanted: NewSnapshot, host: number): Qcow2Snapshot {
  const id = newSnapshotId(image.snapshots);
  const encoder = new TextEncoder();
  const nameBytes = encoder.encode(wanted.name);
  if (nameBytes.length > 0xffff) throw new BlockError('EINVAL');
  return {
    l1Offset: host,
    l1OffsetRead: BigInt(host),
    l1Size: image.l1.size,
    id,
    name: wanted.name,
    idBytes: encoder.encode(id),
    nameBytes,
    dateSec: wanted.dateSec,
    dateNsec: wanted.dateNsec,
    vmClockNsec: wanted.vmClockNsec,
    vmStateSize: wanted.vmStateSize,
    diskSize: image.size,
    icount: wanted.icount,
    extraDataSize: 24,
    unknownExtra: new Uint8Array(0),
  };
}

/** The VM state belongs to the snapshot now; in the active table it would only cost copies. */
async function forgetVmState(image: Qcow2Image, bytes: number): Promise<void> {
  const { g, vmStateOffset } = image;
  const end = vmStateOffset + roundUp(bytes, g.clusterSize);
  await discardLocked(image, vmStateOffset, end, 'never', false);
}

/** Gives VM state back that belongs to no snapshot. Throws BlockError. */
export async function dropVmState(image: Qcow2Image, bytes: number): Promise<void> {
  if (bytes === 0) return;
  await image.exclusive(async () => {
    await forgetVmState(image, bytes);
    await image.writeback.everything();
  });
}

/**
 * Makes the active state that of a snapshot, its virtual size included. Throws BlockError; the
 * active state is then the old one, unless what failed was giving its clusters back.
 */
export async function applySnapshot(image: Qcow2Image, key: string): Promise<void> {
  try {
    await image.exclusive(() => applyLocked(image, key));
  } catch (e) {
    throw toldWithErrno('Failed to load snapshot', e);
  }
  await image.node.refreshLength();
}

async function applyLocked(image: Qcow2Image, key: string): Promise<void> {
  if (image.hasDataFile) throw new BlockError('ENOTSUP');
  const snapshot = findByKey(image.snapshots, key);
  if (snapshot === undefined) throw new BlockError('ENOENT');
  const { g, alloc, l1 } = image;
  const saved = await readSnapshotL1(image, snapshot);
  const { diskSize } = snapshot;
  if (!isOffset(diskSize) || diskSize % 512 !== 0) throw new BlockError('EINVAL');
  if (diskSize !== image.size && image.version < 3) throw new BlockError('ENOTSUP');
  const entries = Math.max(snapshot.l1Size, l1EntriesFor(g, diskSize));
  if (entries * 8 > Limit.maxL1Bytes) throw new BlockError('EFBIG');
  const bytes = new Uint8Array(entries * 8);
  bytes.set(saved);
  const view = new DataView(bytes.buffer);
  clearL1Flags(view);
  const old = { view: new DataView(l1.bytes.slice().buffer), offset: l1.offset };
  await requireReferences(image, old.view);
  await requireReferences(image, view);
  const clusters = clustersFor(g, bytes.length);
  const host = clusters === 0 ? 0 : await alloc.allocate(clusters);
  let shared = false;
  try {
    await addReferences(image, view);
    shared = true;
    if (clusters > 0) await writeNew(image, host, bytes);
    await image.writeback.everything();
    await image.file.flush();
    await switchHeader(image, { l1_table_offset: host, l1_size: entries, size: diskSize });
  } catch (e) {
    await takeBack(image, shared ? view : undefined, host, bytes.length);
    throw e;
  }
  l1.replace(host, bytes);
  image.size = diskSize;
  image.mapping.forget();
  image.overlap.reset();
  image.keeper.forget();
  if (old.view.byteLength > 0) alloc.free(old.offset, old.view.byteLength, 'snapshot');
  await dropReferences(image, old.view);
  await image.file.flush();
}

/**
 * Deletes the snapshot with this id and this name. Throws BlockError; the snapshot is still there
 * unless the message says that freeing its clusters failed.
 */
export async function deleteSnapshot(
  image: Qcow2Image,
  id: string | undefined,
  name: string | undefined,
): Promise<void> {
  if (image.hasDataFile) throw new BlockError('ENOTSUP');
  await image.exclusive(async () => {
    const { snapshots, alloc } = image;
    const snapshot = findByIdAndName(snapshots, id, name);
    if (snapshot === undefined) throw new BlockError('ENOENT', "Can't find the snapshot");
    const bytes = await readSnapshotL1(image, snapshot);
    const view = new DataView(bytes.buffer);
    // Its L1 table, which may be longer than is true, does not stand in the way of the new list.
    image.snapshots = snapshots.filter((s) => s !== snapshot);
    try {
      await storeSnapshots(image, image.snapshots);
    } catch (e) {
      image.snapshots = snapshots;
      throw withErrno('Failed to remove snapshot from snapshot list', e);
    }
    try {
      // All of it or nothing: of a damaged table nothing is given back, which leaks.
      await requireReferences(image, view);
      if (bytes.length > 0) alloc.free(snapshot.l1Offset, bytes.length, 'snapshot');
      await dropReferences(image, view);
    } catch (e) {
      throw withErrno('Failed to free the cluster and L1 table', e);
    }
    try {
      await refreshFlags(image);
      await image.writeback.everything();
      await image.file.flush();
    } catch (e) {
      throw withErrno('Failed to update snapshot status in disk', e);
    }
  });
}

/** Shows a snapshot instead of the active state, in memory only. The image is read-only. */
export async function loadTemporary(
  image: Qcow2Image,
  id: string | undefined,
  name: string | undefined,
): Promise<void> {
  if (image.isWritable) throw new BlockError('EINVAL', 'Device is not readonly');
  const snapshot = findByIdAndName(image.snapshots, id, name);
  if (snapshot === undefined) throw new BlockError('ENOENT', "Can't find snapshot");
  let saved: Uint8Array;
  try {
    saved = await readSnapshotL1(image, snapshot);
  } catch (e) {
    if (e instanceof BlockError && e.message.startsWith('Snapshot L1 table')) throw e;
    throw prepend('Failed to read l1 table for snapshot', e);
  }
  const bytes = new Uint8Array(Math.max(saved.length, l1EntriesFor(image.g, image.size) * 8));
  bytes.set(saved);
  image.l1.replace(snapshot.l1Offset, bytes);
  image.mapping.forget();
  image.keeper.forget();
}
