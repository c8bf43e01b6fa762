/**
 * Emptying a whole image at once: nothing behind the header is kept, and the file becomes as short
 * as that of a new image. Refcounts are wrong on the way, for which the dirty bit stands.
 *
 *  EM1  The dirty bit is durable first.
 *  EM2  The L1 table is zeroed in place, durably: the guest's data is given up, and whatever
 *       happens from here on, the image shows its backing file.
 *  EM3  What will hold the refcount table, its one block and the L1 table is zeroed, durably.
 *  EM4  One sector of the header names these places.
 *  EM5  The block is durable before the table names it; then the file is cut and the dirty bit
 *       cleared.
 *
 * A power cut in between leaves an image that is repaired when it is opened for writing. After an
 * error the image refuses everything, and a later open finds what a power cut would have left.
 */
import { Iov } from '../../lib/iov.js';
import { switchHeader } from './header-switch.js';
import type { Qcow2Image } from './image.js';
import { Incompat, writeU64 } from './layout.js';
import { clustersFor } from './units.js';

/** Clusters in front of the L1 table: header, refcount table, refcount block. */
const FIXED = 3;

/** Whether the image holds nothing but what `emptyWhole` can give up or make again. */
export function canEmptyWhole(image: Qcow2Image): boolean {
  const { g, version, snapshots, header, hasDataFile, l1, luks } = image;
  const isPlain = snapshots.length === 0 && !hasDataFile && luks === undefined;
  if (version < 3 || !isPlain || header.extensions.bitmaps !== undefined) return false;
  if (image.has(Incompat.corrupt)) return false;
  return FIXED + clustersFor(g, l1.size * 8) <= g.refcountBlockEntries;
}

/** See the head of this file. Called inside `exclusive`, with nothing left to write back. */
export async function emptyWhole(image: Qcow2Image): Promise<void> {
  await image.file.flush();
  await image.setDirty(true);
  try {
    await clearL1(image);
    await image.inFlight.barrier();
    await makeStructures(image);
  } catch (e) {
    image.unusable = true;
    image.headerLost = false;
    throw e;
  }
  await cutFile(image);
  if (!image.lazyRefcounts) await image.setDirty(false);
}

/** EM2. */
async function clearL1(image: Qcow2Image): Promise<void> {
  const { g, file, l1 } = image;
  const event = file.debugEvent('l1_update');
  if (event !== undefined) await event;
  const bytes = l1.size * 8;
  if (bytes > 0) await file.writeZeroes(l1.offset, clustersFor(g, bytes) * g.clusterSize);
  await file.flush();
  l1.replace(l1.offset, new Uint8Array(bytes));
  image.l2.clear();
  forget(image);
}

/** EM3 to the first half of EM5. */
async function makeStructures(image: Qcow2Image): Promise<void> {
  const { g, file, l1, refcounts } = image;
  const used = FIXED + clustersFor(g, l1.size * 8);
  const prepare = file.debugEvent('empty_image_prepare');
  if (prepare !== undefined) await prepare;
  image.growth.take(g.clusterSize, (used - 1) * g.clusterSize);
  await image.growth.cover();
  await file.writeZeroes(g.clusterSize, (used - 1) * g.clusterSize);
  await file.flush();

  const update = file.debugEvent('reftable_update');
  if (update !== undefined) await update;
  await switchHeader(image, {
    refcount_table_offset: g.clusterSize,
    refcount_table_clusters: 1,
    l1_table_offset: FIXED * g.clusterSize,
  });

  const counting = file.debugEvent('refblock_alloc');
  if (counting !== undefined) await counting;
  const block = new Uint8Array(g.clusterSize);
  const view = new DataView(block.buffer);
  for (let i = 0; i < used; i++) refcounts.codec.set(view, i, 1);
  const table = new Float64Array(g.reftableClusterEntries);
  table[0] = 2 * g.clusterSize;
  await image.writeMeta(table[0], Iov.of(block));
  await file.flush();
  const entry = new DataView(new ArrayBuffer(8));
  writeU64(entry, 0, table[0]);
  await image.writeMeta(g.clusterSize, Iov.of(new Uint8Array(entry.buffer)));
  await file.flush();

  l1.replace(FIXED * g.clusterSize, new Uint8Array(l1.size * 8));
  refcounts.cache.clear();
  refcounts.replaceTable(g.clusterSize, table);
  image.alloc.reset();
  forget(image);
}

function forget(image: Qcow2Image): void {
  image.mapping.forget();
  image.keeper.forget();
  image.overlap.reset();
}

/** The rest of the file is given back; a device, which keeps its length, is told instead. */
async function cutFile(image: Qcow2Image): Promise<void> {
  const { g, file, growth, l1, alloc } = image;
  const end = (FIXED + clustersFor(g, l1.size * 8)) * g.clusterSize;
  try {
    await growth.settled();
    await file.truncate(end, { exact: false });
    growth.shrunk(end);
    if (file.size > end && alloc.passesDiscard('snapshot')) {
      await file.discard(end, file.size - end);
    }
  } catch {
    // Nothing names the tail: the image is right, only longer.
  }
}
