/** Walking over the allocation map of an image and its backing chain. */
import { BlockError, errorCode, errorText } from '../block/errors.js';
import type { BlockNode } from '../block/node.js';
import { below, nodeStatus, skipFilters } from '../block/status.js';
import type { BlockStatus } from '../block/types.js';
import type { OperationOptions } from './operation.js';

/** A run of bytes of one kind; offsets and lengths in bytes. */
export interface MapExtent {
  readonly start: number;
  length: number;
  /** Images above the one that has the run. */
  readonly depth: number;
  /** An image of the chain has it: a deeper backing file would not show through. */
  readonly present: boolean;
  readonly zero: boolean;
  readonly data: boolean;
  readonly compressed: boolean;
  /** Where it starts in `file`, if it is stored there plainly. */
  readonly offset: number | undefined;
  readonly file: BlockNode | undefined;
}

export interface MapOptions {
  /** First byte; 0 when not given. */
  readonly start?: number;
  /** Bytes from there; up to the end when not given. */
  readonly length?: number;
  readonly signal?: OperationOptions['signal'];
}

/** How many extents {@link allocationMap} hands over at once. */
const BATCH = 1024;

/**
 * Each run of `node` and the images below it, in order, as a stream of lists; runs that follow
 * each other in every respect are joined. Throws BlockError when a status cannot be read.
 */
export async function* allocationMap(
  node: BlockNode,
  options: MapOptions = {},
): AsyncGenerator<readonly MapExtent[]> {
  const start = options.start ?? 0;
  const end = Math.min(node.size, start + (options.length ?? Infinity));
  const walk: Walk = { top: skipFilters(node), at: start, end, current: undefined };
  while (walk.at < end) {
    if (options.signal?.aborted === true) throw new BlockError('ECANCELED');
    const batch = await nextBatch(walk);
    if (batch.length > 0) yield batch;
  }
  if (walk.current !== undefined) yield [walk.current];
}

interface Walk {
  readonly top: BlockNode;
  readonly end: number;
  at: number;
  /** The last run found, which the next may belong to. */
  current: MapExtent | undefined;
}

/** Up to {@link BATCH} runs from where the walk is; the last one stays with the walk. */
async function nextBatch(walk: Walk): Promise<MapExtent[]> {
  const { top, end } = walk;
  const batch: MapExtent[] = [];
  try {
    while (walk.at < end && batch.length < BATCH) {
      const status = await nodeStatus(top, walk.at, end - walk.at, true);
      const decided = status.bytes > 0 && (status.zero || status.data);
      const next = decided
        ? extent(walk.at, status.bytes, 0, status)
        : await extentBelow(top, walk.at, end - walk.at, status);
      walk.at += next.length;
      const { current } = walk;
      if (current !== undefined && follows(current, next)) {
        current.length += next.length;
      } else {
        if (current !== undefined) batch.push(current);
        walk.current = next;
      }
    }
  } catch (e) {
    const text = `Could not read file metadata: ${errorText(e)}`;
    throw new BlockError(errorCode(e), text, { cause: e });
  }
  return batch;
}

/** The run at `offset`, which `top` itself does not decide: its status there is `first`. */
async function extentBelow(
  top: BlockNode,
  offset: number,
  most: number,
  first: BlockStatus,
): Promise<MapExtent> {
  let status = first;
  let bytes = most;
  let depth = 0;
  for (let node = top; ;) {
    // Past the end of a shorter backing file.
    if (status.bytes === 0) return zeroes(offset, bytes, depth);
    bytes = status.bytes;
    if (status.zero || status.data) return extent(offset, bytes, depth, status);
    const next = nextBelow(node);
    if (next === undefined) return { ...zeroes(offset, bytes, depth), zero: false, present: false };
    node = next;
    depth++;
    status = await nodeStatus(node, offset, bytes, true);
  }
}

function nextBelow(node: BlockNode): BlockNode | undefined {
  const next = below(node);
  return next === undefined ? undefined : skipFilters(next);
}

function extent(start: number, length: number, depth: number, status: BlockStatus): MapExtent {
  const { offset } = status;
  return {
    start,
    length,
    depth,
    present: status.allocated,
    zero: status.zero,
    data: status.data,
    compressed: status.compressed,
    offset,
    file: offset === undefined ? undefined : status.file,
  };
}

function zeroes(start: number, length: number, depth: number): MapExtent {
  const rest = { zero: true, data: false, compressed: false, offset: undefined, file: undefined };
  return { start, length, depth, present: true, ...rest };
}

function follows(a: MapExtent, b: MapExtent): boolean {
  if (
    a.zero !== b.zero ||
    a.data !== b.data ||
    a.present !== b.present ||
    a.depth !== b.depth ||
    a.compressed !== b.compressed ||
    a.file !== b.file
  ) {
    return false;
  }
  if (a.offset === undefined || b.offset === undefined) return a.offset === b.offset;
  return a.offset + a.length === b.offset;
}
