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
  const end = Math.min(
    node.size,
    (options.start ?? 0) + (options.length ?? Number.MAX_SAFE_INTEGER),
  );
  const top = skipFilters(node);
  let batch: MapExtent[] = [];
  let current: MapExtent | undefined;
  for (let at = options.start ?? 0; at < end;) {
    if (options.signal?.aborted === true) throw new BlockError('ECANCELED');
    const next = await extentAt(top, at, end - at);
    at += next.length;
    if (current !== undefined && follows(current, next)) {
      current.length += next.length;
      continue;
    }
    if (batch.length >= BATCH) {
      yield batch;
      batch = [];
    }
    batch.push((current = next));
  }
  if (batch.length > 0) yield batch;
}

async function extentAt(top: BlockNode, offset: number, most: number): Promise<MapExtent> {
  let node: BlockNode | undefined = top;
  let bytes = most;
  let depth = 0;
  let status: BlockStatus | undefined;
  while (node !== undefined) {
    const answer: BlockStatus = await statusOf(node, offset, bytes);
    if (answer.bytes === 0) {
      // Past the end of a shorter backing file.
      return extent(offset, bytes, depth, undefined, { zero: true, present: true });
    }
    bytes = answer.bytes;
    if (answer.zero || answer.data) {
      status = answer;
      break;
    }
    node = nextBelow(node);
    if (node !== undefined) depth++;
  }
  return extent(offset, bytes, depth, status, undefined);
}

function nextBelow(node: BlockNode): BlockNode | undefined {
  const next = below(node);
  return next === undefined ? undefined : skipFilters(next);
}

async function statusOf(node: BlockNode, offset: number, bytes: number): Promise<BlockStatus> {
  try {
    return await nodeStatus(node, offset, bytes, true);
  } catch (e) {
    const text = `Could not read file metadata: ${errorText(e)}`;
    throw new BlockError(errorCode(e), text, { cause: e });
  }
}

function extent(
  start: number,
  length: number,
  depth: number,
  status: BlockStatus | undefined,
  known: { zero: boolean; present: boolean } | undefined,
): MapExtent {
  return {
    start,
    length,
    depth,
    present: known?.present ?? status?.allocated ?? false,
    zero: known?.zero ?? status?.zero ?? false,
    data: status?.data ?? false,
    compressed: status?.compressed ?? false,
    offset: status?.offset,
    file: status?.offset === undefined ? undefined : status.file,
  };
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
