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
  const top = skipFilters(target.node);
  const read = await storedAt(source.node, from, bytes);
  // What a raw image stores at an offset is its file's, and nobody else's.
  const write = top.driver.name === 'raw' ? await storedAt(top, to, bytes) : undefined;
  if (read === undefined || write?.node.instance.copyRange === undefined) {
    throw new BlockError('ENOTSUP');
  }
  const { node } = write;
  const n = Math.min(bytes, read.bytes, write.bytes);
  const done = await write.node.instance.copyRange(
    read.node.instance,
    read.offset,
    write.offset,
    n,
    0,
  );
  if (done <= 0) throw new BlockError('ENOTSUP');
  node.noteWritten(write.offset, done);
  top.noteWritten(to, done);
  return done;
}

/** Where a run of an image lies plainly in a protocol node. */
async function storedAt(top: BlockNode, offset: number, bytes: number): Promise<Place | undefined> {
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
