/** Closing: everything on disk, the dirty bit cleared, what was grown ahead cut off. */
import { BlockError, errorText } from '../../block/errors.js';
import type { Qcow2Image } from './image.js';
import { Incompat } from './layout.js';

/**
 * Brings the image into its final state. Failures are told as warnings, for whoever closes can
 * do nothing about them any more; guests learn about them by flushing first.
 */
export async function closeImage(image: Qcow2Image): Promise<void> {
  if (!image.isWritable || image.unusable) return;
  try {
    await settle(image);
  } catch (e) {
    if (!(e instanceof BlockError && e.code === 'ENOMEDIUM')) {
      const mapped = image.l2.dirtyCount === 0 && !image.l1.isDirty;
      const what = mapped ? 'refcount block' : 'L2 table';
      image.graph.warn(`Failed to flush the ${what} cache: ${errorText(e)}`);
    }
    return;
  }
  await image.growth.trim();
  if (image.dataGrowth !== image.growth) await image.dataGrowth.trim();
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
