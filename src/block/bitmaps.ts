/** Finding, adding and removing the dirty bitmaps of a node; the texts of errors are QEMU's. */
import { DirtyBitmap } from './dirty-bitmap.js';
import { BlockError, prepend } from './errors.js';
import type { BlockNode } from './node.js';

const MIN_GRANULARITY = 512;
const MAX_GRANULARITY = 2 ** 31;
/** Bounds of the default: not finer than a page, not coarser than the usual cluster. */
const FINE = 4096;
const COARSE = 65536;
/** Longest name in bytes. */
const MAX_NAME = 1023;

function invalid(message: string, hint?: string): BlockError {
  return new BlockError('EINVAL', message, hint === undefined ? {} : { hint });
}

/** The bitmap of this name. Throws ENOENT. */
export function findBitmap(node: BlockNode, name: string): DirtyBitmap {
  const bitmap = node.dirtyBitmaps.get(name);
  if (bitmap === undefined) throw new BlockError('ENOENT', `Dirty bitmap '${name}' not found`);
  return bitmap;
}

/** Throws EINVAL when a job, an export or a transaction holds the bitmap. */
export function checkNotBusy(bitmap: DirtyBitmap): void {
  if (!bitmap.busy) return;
  const what = 'is currently in use by another operation and cannot be used';
  throw invalid(`Bitmap '${bitmap.name}' ${what}`);
}

/** Throws EINVAL when the bitmap belongs to an image that cannot be written. */
export function checkNotReadOnly(node: BlockNode, bitmap: DirtyBitmap): void {
  if (!bitmap.persistent || !node.readOnly) return;
  throw invalid(`Bitmap '${bitmap.name}' is readonly and cannot be modified`);
}

/** A bitmap that may be read. Throws ENOENT, or EINVAL when it is busy or was not kept. */
export function readableBitmap(node: BlockNode, name: string): DirtyBitmap {
  const bitmap = findBitmap(node, name);
  checkNotBusy(bitmap);
  if (bitmap.inconsistent) {
    throw invalid(
      `Bitmap '${name}' is inconsistent and cannot be used`,
      'Try block-dirty-bitmap-remove to delete this bitmap from disk',
    );
  }
  return bitmap;
}

/** A bitmap that may be changed. Throws as {@link readableBitmap}, and for read-only images. */
export function changeableBitmap(node: BlockNode, name: string): DirtyBitmap {
  const bitmap = readableBitmap(node, name);
  checkNotReadOnly(node, bitmap);
  return bitmap;
}

/** What a new bitmap is to be. */
export interface BitmapInit {
  /** Bytes that a bit stands for; undefined: the size of a cluster, within bounds. */
  readonly granularity?: number | undefined;
  /** Stored in the image when it is closed. */
  readonly persistent: boolean;
  readonly enabled: boolean;
}

/** Adds a bitmap to a node. Throws BlockError; then there is none. */
export async function addBitmap(
  node: BlockNode,
  name: string,
  init: BitmapInit,
): Promise<DirtyBitmap> {
  if (name === '') throw invalid('Bitmap name cannot be empty');
  const cluster = (await node.instance.info?.())?.clusterSize ?? COARSE;
  const size = init.granularity ?? Math.max(FINE, Math.min(COARSE, cluster));
  const isPower = Number.isInteger(Math.log2(size));
  // QEMU keeps 32 bits of the number, and nothing of one that is longer.
  if (!isPower || size < MIN_GRANULARITY || size > MAX_GRANULARITY) {
    throw invalid('Granularity must be power of 2 and at least 512');
  }
  if (init.persistent) await checkStorable(node, name, size);
  if (node.dirtyBitmaps.has(name)) throw new BlockError('EEXIST', `Bitmap already exists: ${name}`);
  if (new TextEncoder().encode(name).byteLength > MAX_NAME) {
    throw invalid(`Bitmap name too long: ${name}`);
  }
  const { enabled, persistent } = init;
  const bytes = node.size;
  const bitmap = new DirtyBitmap({ name, granularity: size, bytes, enabled, persistent });
  node.dirtyBitmaps.set(name, bitmap);
  return bitmap;
}

async function checkStorable(node: BlockNode, name: string, granularity: number): Promise<void> {
  if (node.instance.bitmaps === undefined) {
    const text = `Can't store persistent bitmaps to ${node.name}: Operation not supported`;
    throw new BlockError('ENOTSUP', text);
  }
  const text = `Can't make bitmap '${name}' persistent in '${node.name}': `;
  if (new TextEncoder().encode(name).byteLength > MAX_NAME) {
    throw invalid(`${text}Name length exceeds maximum (${String(MAX_NAME)} characters)`);
  }
  try {
    await node.instance.bitmaps.canStore(name, granularity);
  } catch (e) {
    throw prepend(text, e);
  }
}
