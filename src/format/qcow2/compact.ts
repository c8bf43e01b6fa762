/**
 * Compacting in place: clusters that hold only zeroes are released, leaked ones freed, and what
 * lies at the end of the file moves into the holes before it; then the file is cut.
 *
 * Order of writes; docs/internals/qcow2-compact.md tells why it is enough.
 *  CM1  Zeroed clusters are given up by the mapping's own rules (W1 to W5 in driver.ts). The bits
 *       of persistent bitmaps do not change, for the guest sees no change.
 *  CM2  Nothing moves before `check` has found no damage: the references it counted are all.
 *  CM3  A batch moves clusters from places H to free places N, each N below each H. The content
 *       at N and its refcounts, those of H, are durable before anything refers to N.
 *  CM4  References change from H to N one by one, each within a sector, in any order: H stays as
 *       it is and counted, so both name the same. Of a table that moves only the copy changes.
 *  CM5  They are durable before the refcounts of H become 0, and these before the file is cut.
 *  CM6  Refcount structures are not moved but made anew (RB1 to RB4 in check-rebuild.ts).
 *  CM7  Files make holes of what is not stored when all entries that say so are durable.
 *  CM8  A data file that is to be read as raw changes nowhere but from zeroes to holes, and
 *       the entries that name it stay: it may be written without them.
 */
import type { CheckResult, CompactContext, CompactResult } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { punchRawData, releaseUnstored } from './compact-unstored.js';
import { dropEmptyTables, releaseZeroes } from './compact-zeroes.js';
import { Relocation } from './compact-move.js';
import type { Qcow2Image } from './image.js';
import { Incompat } from './layout.js';
import { reload, runCheck } from './repair.js';
import { readSnapshotTable } from './snapshot-table.js';
import { roundUp } from './units.js';

/** Carries a compaction out. Throws BlockError: EIO on damage, EBUSY for bitmaps in use. */
export async function compactImage(
  image: Qcow2Image,
  context: CompactContext,
): Promise<CompactResult> {
  if (image.crypto === undefined && image.header.fields.crypt_method !== 0) {
    throw new BlockError('EINVAL', 'Cannot compact an encrypted image without its key');
  }
  if (image.node.dirtyBitmaps.size > 0) {
    throw new BlockError('EBUSY', 'Cannot compact an image whose bitmaps are in use');
  }
  // All of the disk is looked at, and at most all of the file moves.
  context.planned(roundUp(image.size, image.g.clusterSize) + image.file.size);
  const { leaksFixed } = await soundness(image);
  const isRaw = image.hasDataFile && image.isRawData;
  const zeroed = await image.exclusive(async () => {
    const bytes = await (isRaw ? punchRawData : releaseZeroes)(image, context);
    await dropEmptyTables(image);
    await image.writeback.everything();
    await image.file.flush();
    await image.setDirty(false);
    return bytes;
  });
  const moved = await image.exclusive(async () => {
    const bytes = await relocate(image, context);
    if (!isRaw) await releaseUnstored(image, context);
    return bytes;
  });
  return { zeroed, leaked: leaksFixed * image.g.clusterSize, moved };
}

/** CM2; leaks are repaired. */
async function soundness(image: Qcow2Image): Promise<CheckResult> {
  const report = (): void => undefined;
  const result = await runCheck(image, { fixLeaks: false, fixErrors: false, report });
  if (result.corruptions > 0 || result.checkErrors > 0 || image.has(Incompat.corrupt)) {
    const errors = result.corruptions + result.checkErrors;
    const found = `Cannot compact the image: it has ${String(errors)} errors`;
    throw new BlockError('EIO', found, { hint: "'check -r all' repairs what can be repaired" });
  }
  if (result.leaks === 0) return result;
  return runCheck(image, { fixLeaks: true, fixErrors: false, report });
}

/** Moves and cuts; what is in memory of the image follows. Runs alone. */
async function relocate(image: Qcow2Image, context: CompactContext): Promise<number> {
  const relocation = new Relocation(image, context);
  try {
    await relocation.run();
  } finally {
    if (!image.unusable) await follow(image);
  }
  return relocation.moved;
}

/** The tables on disk have other places now. */
async function follow(image: Qcow2Image): Promise<void> {
  await reload(image);
  image.holes = undefined;
  const { nb_snapshots: count, snapshots_offset: offset } = image.header.fields;
  if (count === 0) return;
  const table = await readSnapshotTable(image.file, { offset, count, diskSize: image.size });
  image.snapshots = table.snapshots;
}
