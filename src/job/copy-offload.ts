/** Copying inside the host (reflink, copy_file_range) between two images' files. */
import type { Backend } from '../block/backend.js';
import { BlockError } from '../block/errors.js';
import type { BlockNode } from '../block/node.js';
import { nodeStatus, skipFilters } from '../block/status.js';

/** A node that stores bytes itself, and where in it they are. */
interface Place {
  readonly node: BlockNode;
  readonly offset: number;
  readonly bytes: number;
}

/**
 * Copies up to `bytes` from `source` at `from` to `target` at `to` without bringing them here;
 * resolves to the bytes copied, at least 1. ENOTSUP where the images do not store their data
 * plainly in files, or the host cannot.
 */
export async function offload(
  source: Backend,
  from: number,
  target: Backend,
  to: number,
  bytes: number,
): Promise<number> {
  const read = await storedAt(source.node, from, bytes);
  const write = plainFile(target.node);
  const copy = write?.instance.copyRange;
  if (read === undefined || write === undefined || copy === undefined) {
    throw new BlockError('ENOTSUP');
  }
  if (write.driver !== read.node.driver) throw new BlockError('ENOTSUP');
  const n = Math.min(bytes, read.bytes);
  const done = await copy.call(write.instance, read.node.instance, read.offset, to, n, 0);
  write.noteWritten(to, done);
  if (done <= 0) throw new BlockError('ENOTSUP');
  return done;
}

/** Where a run of an image lies plainly in a protocol node. */
async function storedAt(
  top: BlockNode,
  offset: number,
  bytes: number,
): Promise<Place | undefined> {
  let node = skipFilters(top);
  let at = offset;
  let run = bytes;
  while (node.driver.kind !== 'protocol') {
    const status = await nodeStatus(node, at, run, false);
    const { file } = status;
    if (!status.data || file === undefined || status.offset === undefined) return undefined;
    if (file === node) return undefined;
    node = file;
    at = status.offset;
    run = status.bytes;
  }
  return { node, offset: at, bytes: run };
}

/** The file of a raw image that begins where the file begins. */
function plainFile(top: BlockNode): BlockNode | undefined {
  const node = skipFilters(top);
  if (node.driver.kind === 'protocol') return node;
  if (node.driver.name !== 'raw') return undefined;
  if (Object.keys(node.instance.strongOptions?.() ?? {}).length > 0) return undefined;
  return node.file?.node;
}
