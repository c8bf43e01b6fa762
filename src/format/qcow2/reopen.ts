/** Changing runtime options of an open image: checked first, then all at once. */
import type { ReopenRequest, ReopenStep } from '../../block/driver.js';
import { messageOf, withErrno } from '../../block/errors.js';
import { MetaCache } from './cache.js';
import { settle, tryKeepBitmaps } from './close.js';
import type { Qcow2Image } from './image.js';
import type { Qcow2Instance } from './instance.js';
import { Compat } from './layout.js';
import { Mapping } from './mapping.js';
import { parseSettings } from './options.js';
import type { Iov } from '../../lib/iov.js';

/**
 * Checks the new options; caches are emptied into the file already here, because that can fail.
 * Throws OptionError or BlockError; nothing has changed then.
 */
export async function prepareReopen(
  instance: Qcow2Instance,
  request: ReopenRequest,
): Promise<ReopenStep> {
  const { image } = instance;
  const { fields } = image.header;
  const settings = parseSettings(request.options, image.g, {
    version: fields.version,
    size: image.size,
    lazyRefcounts: (fields.compatible_features & Compat.lazyRefcounts) !== 0n,
    unmap: request.flags.unmap,
  });
  const { writable } = request.flags;
  const endsLazy = image.settings.lazyRefcounts && !settings.lazyRefcounts;
  if (image.isWritable) {
    if (!writable) await tryKeepBitmaps(image);
    try {
      if (endsLazy || !writable) await settle(image);
      else await image.exclusive(async () => undefined);
    } catch (e) {
      throw withErrno('Failed to flush the L2 table cache', e);
    }
    if (!writable) await image.file.flush();
  }
  const wasWritable = image.isWritable;
  return {
    commit: async () => {
      image.settings = settings;
      const read = (offset: number, into: Iov): Promise<void> => image.readMeta(offset, into);
      // Nothing is dirty: the graph holds all requests between prepare and commit.
      image.l2 = new MetaCache(settings.l2SliceBytes, settings.l2Slices, read);
      image.refcounts.resizeCache(
        new MetaCache(image.g.clusterSize, settings.refcountBlocks, read),
      );
      image.mapping = new Mapping(image);
      instance.startTimer();
      if (writable && !wasWritable) await claimBitmaps(image);
    },
    // They were stored for an image that stays writable after all.
    abort: () => (wasWritable && !writable ? claimBitmaps(image) : undefined),
  };
}

/**
 * Marks the bitmaps on disk as in use before a guest writes. Where that fails nothing may be
 * written any more, or they would be taken for valid later.
 */
async function claimBitmaps(image: Qcow2Image): Promise<void> {
  image.bitmapsKept = false;
  if (image.bitmapEntries.length === 0) return;
  try {
    await (await import('./bitmaps.js')).markInUse(image);
  } catch (e) {
    image.unusable = true;
    image.graph.warn(`Failed to make dirty bitmaps writable: ${messageOf(e)}`);
  }
}
