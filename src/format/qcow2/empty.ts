/** Emptying an image (after commit), and changing its backing file reference. */
import { BlockError, withErrno } from '../../block/errors.js';
import { canEmptyWhole, emptyWhole } from './empty-whole.js';
import { rewriteHeader } from './header-switch.js';
import type { Qcow2Image } from './image.js';
import { roundUp } from './units.js';
import { discardLocked } from './zero.js';

/** Guest bytes that are given up in one step. */
const STEP = 1024 * 1024 * 1024;

/** Gives up all guest data, so that the backing file shows again everywhere. */
export async function makeEmpty(image: Qcow2Image): Promise<void> {
  const { g } = image;
  const end = roundUp(image.size, g.clusterSize);
  const step = Math.max(g.clusterSize, STEP);
  await image.exclusive(async () => {
    if (canEmptyWhole(image)) {
      await emptyWhole(image);
      return;
    }
    for (let at = 0; at < end; at += step) {
      await discardLocked(image, at, Math.min(end, at + step), 'snapshot', true);
      await image.writeback.everything();
    }
  });
}

/** Stores another backing file name and format; null takes them away. */
export async function changeBackingFile(
  image: Qcow2Image,
  name: string | null,
  format: string | null,
): Promise<void> {
  const { header, node } = image;
  if (image.hasDataFile && image.isRawData && name !== null) {
    throw new BlockError('EINVAL');
  }
  if (name !== null && new TextEncoder().encode(name).length > 1023) {
    throw new BlockError('EINVAL');
  }
  try {
    await rewriteHeader(image, () => {
      header.backingFile = name ?? '';
      header.extensions.backingFormat = format === null || format === '' ? undefined : format;
    });
  } catch (e) {
    throw withErrno('Could not update qcow2 header', e);
  }
  node.setBackingHint(header.backingFile, header.extensions.backingFormat ?? '');
}
