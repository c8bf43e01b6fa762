/** Changing the length of a node. */
import type { TruncateOptions } from './driver.js';
import { BlockError } from './errors.js';
import type { BlockNode } from './node.js';
import type { Preallocation } from './types.js';
import { MAX_LENGTH } from './types.js';

/**
 * Sets the length to `bytes`. Growing an image over a longer backing file zeroes the
 * new area, so that what is below never shows. Filters pass it on to their child.
 */
export async function truncateNode(
  node: BlockNode,
  bytes: number,
  options: TruncateOptions,
): Promise<void> {
  if (bytes < 0 || bytes > MAX_LENGTH) {
    throw new BlockError(
      'EFBIG',
      'Required too big image size, it must be not greater than ' + String(MAX_LENGTH),
    );
  }
  if (node.readOnly) throw new BlockError('EACCES', 'Image is read-only');
  const old = node.size;
  if (node.instance.truncate === undefined) {
    const file = node.file;
    if (node.driver.kind !== 'filter' || file === undefined) {
      throw new BlockError('ENOTSUP', 'Image format driver does not support resize');
    }
    await file.truncate(bytes, options);
  } else {
    const zeroFill = options.zeroFill || (await hidesBacking(node, bytes));
    await node.instance.truncate(bytes, { ...options, zeroFill });
  }
  node.writeGeneration++;
  await node.refreshLength();
  const grown = node.size - old;
  if (grown <= 0) return;
  // Where new storage is not zero by itself (encryption, devices), it is made so.
  if (options.zeroFill && (await node.instance.hasZeroInit?.()) !== true) {
    await node.writeZeroes(old, grown);
  }
}

/** Whether the backing file holds something where the node is about to grow. */
async function hidesBacking(node: BlockNode, bytes: number): Promise<boolean> {
  const backing = node.backing;
  if (backing === undefined || bytes <= node.size) return false;
  await backing.node.refreshLength();
  return backing.size > node.size;
}

/**
 * The mode of a format whose option `preallocation` is the protocol's, which knows no `metadata`.
 * Throws BlockError for any other.
 */
export function filePreallocation(value: string | number | boolean | undefined): Preallocation {
  const mode = value ?? 'off';
  if (mode === 'off' || mode === 'falloc' || mode === 'full') return mode;
  if (mode === 'metadata') {
    throw new BlockError('ENOTSUP', 'Unsupported preallocation mode: metadata');
  }
  const text = `invalid parameter value: ${String(mode)}`;
  throw new BlockError('EINVAL', text);
}
