/** Taking persistent dirty bitmaps from one image to another. */
import type { Backend } from '../block/backend.js';
import { DirtyBitmap } from '../block/dirty-bitmap.js';
import { BlockError, prepend } from '../block/errors.js';
import { skipFilters } from '../block/status.js';

/**
 * The persistent bitmaps of an image, the youngest first. Throws when it cannot have any, and,
 * with `strict`, when one of them is inconsistent.
 */
export function persistentBitmaps(source: Backend, strict: boolean): DirtyBitmap[] {
  const node = skipFilters(source.node);
  if (node.instance.hasPersistentBitmaps?.() !== true) {
    throw new BlockError('ENOTSUP', 'Source lacks bitmap support');
  }
  const found = [...node.dirtyBitmaps.values()].filter((bitmap) => bitmap.persistent);
  found.reverse();
  const broken = strict ? found.find((bitmap) => bitmap.inconsistent) : undefined;
  if (broken !== undefined) {
    throw new BlockError('EINVAL', `Cannot copy inconsistent bitmap '${broken.name}'`, {
      hint: "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it",
    });
  }
  return found;
}

/**
 * Gives `target` the persistent bitmaps of `source`, content included. Throws BlockError; bitmaps
 * copied before stay.
 */
export async function copyBitmaps(
  source: Backend,
  target: Backend,
  strict: boolean,
  onWarning?: (message: string) => void,
): Promise<void> {
  const to = skipFilters(target.node);
  for (const bitmap of persistentBitmaps(source, strict)) {
    if (bitmap.inconsistent) {
      onWarning?.(`Skipping inconsistent bitmap '${bitmap.name}'`);
      continue;
    }
    const { name, granularity, enabled } = bitmap;
    try {
      if (to.dirtyBitmaps.has(name)) {
        throw new BlockError('EEXIST', `Bitmap already exists: ${name}`);
      }
      await to.instance.bitmaps?.canStore(name, granularity);
    } catch (e) {
      throw prepend(`Failed to create bitmap ${name}: `, e);
    }
    const copy = new DirtyBitmap({ name, granularity, bytes: to.size, enabled, persistent: true });
    try {
      copy.merge(bitmap);
    } catch (e) {
      throw prepend(`Failed to populate bitmap ${name}: `, e);
    }
    to.dirtyBitmaps.set(name, copy);
  }
}
