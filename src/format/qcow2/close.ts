/** Closing: everything on disk, the dirty bit cleared, what was grown ahead cut off. */
import { BlockError, errorText, messageOf } from '../../block/errors.js';
import type { Qcow2Image } from './image.js';
import { Incompat } from './layout.js';
import { roundUp } from './units.js';

/**
 * Brings the image into its final state. Failures are told as warnings, for whoever closes can
 * do nothing about them any more; guests learn about them by flushing first.
 */
export async function closeImage(image: Qcow2Image): Promise<void> {
  if (!image.isWritable) return;
  if (image.unusable) {
    if (image.headerLost) await tellLost(image);
    return;
  }
  await keepBitmaps(image);
  try {
    await settle(image);
    await image.file.flush();
  } catch (e) {
    if (!(e instanceof BlockError && e.code === 'ENOMEDIUM')) await tellUnsettled(image, e);
    return;
  }
  await image.growth.trim(directoryPadding(image));
  if (image.dataGrowth !== image.growth) await image.dataGrowth.trim();
}

/**
 * Says what could not be stored. The refcounts are tried alone once more: with them on disk, what
 * is lost is at most leaked.
 */
async function tellUnsettled(image: Qcow2Image, error: unknown): Promise<void> {
  const { file, writeback, l1, l2, writes } = image;
  const unmapped = l2.dirtyCount > 0 || l1.isDirty || writes.hasUnmapped;
  const mapping = unmapped ? error : await failureOf(() => file.flush());
  const counts = await failureOf(async () => {
    await writeback.alone(() => writeback.refcountBlocks());
    await file.flush();
  });
  if (mapping !== undefined) tell(image, 'L2 table', mapping);
  if (counts !== undefined || mapping === undefined) tell(image, 'refcount block', counts ?? error);
}

/** The header's state on disk is unknown, so nothing may be written; why, the file still says. */
async function tellLost(image: Qcow2Image): Promise<void> {
  const error = await failureOf(() => image.file.flush());
  if (error === undefined) return;
  tell(image, 'L2 table', error);
  tell(image, 'refcount block', error);
}

function tell(image: Qcow2Image, what: string, error: unknown): void {
  image.graph.warn(`Failed to flush the ${what} cache: ${errorText(error)}`);
}

async function failureOf(fn: () => Promise<void>): Promise<unknown> {
  try {
    await fn();
    return undefined;
  } catch (e) {
    return e;
  }
}

/** Bytes behind the bitmap directory in its last cluster, when that is the last one in use. */
function directoryPadding({ g, header, growth }: Qcow2Image): number {
  const directory = header.extensions.bitmaps;
  if (directory === undefined) return 0;
  const end = directory.bitmap_directory_offset + directory.bitmap_directory_size;
  return roundUp(end, g.clusterSize) === growth.usedEnd ? growth.usedEnd - end : 0;
}

/**
 * Stores the persistent bitmaps, once; whether that succeeded. A failure is told and costs them:
 * on disk they stay in use, so that nobody takes them for valid.
 */
export async function keepBitmaps(image: Qcow2Image): Promise<boolean> {
  try {
    await tryKeepBitmaps(image);
    return true;
  } catch (e) {
    const { name } = image.node;
    const what = `Lost persistent bitmaps during inactivation of node '${name}'`;
    image.graph.warn(`${what}: ${messageOf(e)}`);
    return false;
  }
}

/** As `keepBitmaps`, but throws what went wrong. */
export async function tryKeepBitmaps(image: Qcow2Image): Promise<void> {
  if (image.node.dirtyBitmaps.size === 0 || image.bitmapsKept) return;
  await (await import('./bitmaps.js')).storeBitmaps(image);
  image.bitmapsKept = true;
}

/** All metadata is in the file and no refcount lags; clears the dirty bit if that was why. */
export async function settle(image: Qcow2Image): Promise<void> {
  await image.exclusive(async () => {
    await image.growth.cover();
    if (!image.has(Incompat.dirty)) return;
    await image.file.flush();
    await image.setDirty(false);
  });
}
