/**
 * Writing the snapshot table, and finding snapshots in it. Runs inside `image.exclusive`.
 */
import { errorText } from '../../block/errors.js';
import { Iov } from '../../lib/iov.js';
import { switchHeader } from './header-switch.js';
import type { Qcow2Image } from './image.js';
import type { Qcow2Snapshot } from './snapshot-table.js';
import { asWritten, encodeSnapshotTable } from './snapshot-table.js';
import { clustersFor } from './units.js';

/**
 * Writes `snapshots` to a new place, and then the header that names it: one sector, before which
 * everything else is durable. If it throws, the image has its old table.
 */
export async function storeSnapshots(
  image: Qcow2Image,
  snapshots: readonly Qcow2Snapshot[],
): Promise<void> {
  const { g, alloc, header } = image;
  const bytes = encodeSnapshotTable(snapshots);
  const clusters = clustersFor(g, bytes.length);
  const old = { offset: header.fields.snapshots_offset, bytes: image.overlap.snapshotTableBytes };
  const host = clusters === 0 ? 0 : await allocateBeside(image, clusters, old);
  try {
    if (clusters > 0) await writeNew(image, host, bytes);
    await image.writeback.everything();
    await image.file.flush();
    await switchHeader(image, { nb_snapshots: snapshots.length, snapshots_offset: host });
  } catch (e) {
    if (clusters > 0 && !image.unusable) await alloc.releaseNow(host, bytes.length);
    throw e;
  }
  image.snapshots = snapshots.map(asWritten);
  image.overlap.snapshotTableBytes = bytes.length;
  if (old.bytes === 0) return;
  alloc.free(old.offset, old.bytes, 'snapshot');
  try {
    await image.writeback.everything();
  } catch (e) {
    // The table is stored; the old one leaks, or is freed with the next writeback.
    image.graph.warn(`qcow2_free_clusters failed: ${errorText(e)}`);
  }
}

/** A place outside of the old table, whose clusters count as free where its length is damaged. */
async function allocateBeside(
  image: Qcow2Image,
  clusters: number,
  old: { readonly offset: number; readonly bytes: number },
): Promise<number> {
  const { g, alloc } = image;
  const bytes = clusters * g.clusterSize;
  const unfit: number[] = [];
  try {
    for (;;) {
      const host = await alloc.allocate(clusters);
      if (host >= old.offset + old.bytes || host + bytes <= old.offset) return host;
      unfit.push(host);
    }
  } finally {
    for (const host of unfit) await alloc.releaseNow(host, bytes);
  }
}

/** Writes bytes to clusters that were just allocated. */
export async function writeNew(image: Qcow2Image, host: number, bytes: Uint8Array): Promise<void> {
  const { g, overlap, growth } = image;
  await overlap.check(0, host, bytes.length);
  growth.take(host, clustersFor(g, bytes.length) * g.clusterSize);
  await image.writeMeta(host, Iov.of(bytes));
}

/** The snapshot with this id, else with this name, as commands name them. */
export function findByKey(
  snapshots: readonly Qcow2Snapshot[],
  key: string,
): Qcow2Snapshot | undefined {
  return snapshots.find((s) => s.id === key) ?? snapshots.find((s) => s.name === key);
}

/** The first snapshot that has this id and this name, as far as they are given. */
export function findByIdAndName(
  snapshots: readonly Qcow2Snapshot[],
  id: string | undefined,
  name: string | undefined,
): Qcow2Snapshot | undefined {
  if (id === undefined && name === undefined) return undefined;
  return snapshots.find(
    (s) => (id === undefined || s.id === id) && (name === undefined || s.name === name),
  );
}

/** An id that no snapshot has: one more than the greatest number among them. */
export function newSnapshotId(snapshots: readonly Qcow2Snapshot[]): string {
  let greatest = 0;
  for (const { id } of snapshots) {
    const number = Number.parseInt(id, 10);
    if (Number.isSafeInteger(number) && number > greatest) greatest = number;
  }
  return String(greatest + 1);
}
