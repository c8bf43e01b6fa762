/** Block status: what a node, or a chain of images, knows of a run of bytes. */
import { BlockError } from './errors.js';
import type { BlockNode } from './node.js';
import type { BlockStatus, ChainStatus, DriverStatus } from './types.js';

/** Status of `node` alone. `wantZero`: spend effort (SEEK_HOLE, children) to find zeroes. */
export async function nodeStatus(
  node: BlockNode,
  offset: number,
  bytes: number,
  wantZero: boolean,
): Promise<BlockStatus> {
  const left = node.size - offset;
  if (left <= 0) return endOfNode();
  const want = Math.min(bytes, left);
  if (want === 0) return { ...endOfNode(), eof: false };
  if (node.instance.blockStatus === undefined) return opaque(node, offset, want, left);
  // The common way first: maps of large images are hundreds of thousands of calls.
  let own: DriverStatus;
  if (node.limits.requestAlignment === 1) {
    own = await node.instance.blockStatus(offset, want, wantZero);
    if (own.bytes <= 0) throw tooShort(node);
    if (own.bytes > want) own = { ...own, bytes: want };
  } else {
    own = await alignedStatus(node, offset, want, wantZero);
  }
  if (own.recurse === true && own.file !== undefined && !own.data && !own.zero) {
    const below = await nodeStatus(own.file, own.offset ?? 0, own.bytes, wantZero);
    const n = below.bytes === 0 ? own.bytes : below.bytes;
    return { ...below, bytes: n, eof: n === left };
  }
  return finish(node, offset, own, wantZero, left);
}

function endOfNode(): BlockStatus {
  return {
    bytes: 0,
    data: false,
    zero: false,
    allocated: false,
    offset: undefined,
    file: undefined,
    compressed: false,
    eof: true,
  };
}

/** A driver that cannot tell: all of it is data. */
function opaque(node: BlockNode, offset: number, bytes: number, left: number): BlockStatus {
  const protocol = node.driver.kind === 'protocol';
  return {
    bytes,
    data: true,
    zero: false,
    allocated: true,
    offset: protocol ? offset : undefined,
    file: protocol ? node : undefined,
    compressed: false,
    eof: bytes === left,
  };
}

/** Asks the instance with aligned bounds and cuts the answer to what was asked. */
async function alignedStatus(
  node: BlockNode,
  offset: number,
  bytes: number,
  wantZero: boolean,
): Promise<DriverStatus> {
  const align = node.limits.requestAlignment;
  const start = offset - (offset % align);
  const end = offset + bytes;
  const stop = Math.min(end + ((align - (end % align)) % align), Math.max(node.size, end));
  const s = await node.instance.blockStatus?.(start, stop - start, wantZero);
  if (s === undefined) throw new BlockError('ENOTSUP');
  const skip = offset - start;
  if (s.bytes <= skip) throw tooShort(node);
  return {
    ...s,
    bytes: Math.min(s.bytes - skip, bytes),
    ...(s.offset === undefined ? {} : { offset: s.offset + skip }),
  };
}

function tooShort(node: BlockNode): BlockError {
  return new BlockError('EIO', `Block status of '${node.name}' is too short`);
}

/** The driver's answer as callers get it; `own.bytes` is at most `left`. */
function finish(
  node: BlockNode,
  offset: number,
  own: DriverStatus,
  wantZero: boolean,
  left: number,
): BlockStatus | Promise<BlockStatus> {
  const protocol = node.driver.kind === 'protocol';
  const status: BlockStatus = {
    bytes: own.bytes,
    data: own.data,
    zero: own.zero,
    allocated: own.allocated || own.data || own.zero,
    offset: own.offset,
    file: own.file ?? (protocol && own.offset !== undefined ? node : undefined),
    compressed: own.compressed ?? false,
    eof: own.bytes === left,
  };
  if (!status.allocated && readsAsZero(node, offset, wantZero)) status.zero = true;
  if (wantZero && own.recurse === true && status.data && !status.zero) {
    return zeroInChild(node, status, left);
  }
  return status;
}

/** Whether an unallocated run reads as zeroes, because no backing file covers it. */
function readsAsZero(node: BlockNode, offset: number, wantZero: boolean): boolean {
  if (node.driver.supportsBacking !== true) return false;
  const { backing } = node;
  return backing === undefined || (wantZero && offset >= backing.size);
}

/** Where the data lies in a hole of its file, it reads as zeroes. */
async function zeroInChild(
  node: BlockNode,
  status: BlockStatus,
  left: number,
): Promise<BlockStatus> {
  const { file, offset } = status;
  if (file === undefined || offset === undefined || file === node) return status;
  const below = await nodeStatus(file, offset, status.bytes, true);
  if (below.eof && (below.bytes === 0 || below.zero)) {
    status.zero = true;
  } else if (below.bytes > 0) {
    status.bytes = Math.min(status.bytes, below.bytes);
    if (below.zero) status.zero = true;
  }
  status.eof = status.bytes === left;
  return status;
}

/** The node below `node` that it reads through: filter child first, else backing. */
export function below(node: BlockNode): BlockNode | undefined {
  return filtered(node) ?? node.backing?.node;
}

/** The child that a filter passes requests to. */
export function filtered(node: BlockNode): BlockNode | undefined {
  return node.driver.kind === 'filter' ? node.file?.node : undefined;
}

/** The first node at or below `node` that is no filter. */
export function skipFilters(node: BlockNode): BlockNode {
  let at = node;
  for (let next = filtered(at); next !== undefined; next = filtered(at)) at = next;
  return at;
}

/**
 * Status over the chain from `top` down to, not including, `base` (undefined: to
 * the end): the first image that has the run decides.
 */
export async function chainStatus(
  top: BlockNode,
  base: BlockNode | undefined,
  offset: number,
  bytes: number,
  wantZero = true,
): Promise<ChainStatus> {
  const first = await nodeStatus(top, offset, bytes, wantZero);
  // A status is its asker's own: it takes the depth as it is, without a copy.
  if (first.bytes === 0 || first.allocated) return Object.assign(first, { depth: 0 });
  const { eof, bytes: cap } = first;
  let depth = 0;
  let run = first;
  for (let p = below(top); p !== undefined && p !== base; p = below(p)) {
    if (filtered(p) === undefined) depth++;
    // A filter on the base shows what the base holds.
    else if (base !== undefined && skipFilters(p) === skipFilters(base)) break;
    const s = await nodeStatus(p, offset, run.bytes, wantZero);
    if (s.bytes === 0) {
      // Past the end of the shorter backing file the run reads as zeroes, from this layer.
      const zeroes = { zero: true, allocated: true, data: false, offset: undefined, file: p };
      return { ...run, ...zeroes, depth, eof: eof && run.bytes === cap };
    }
    run = s;
    run.eof = eof && s.bytes === cap;
    if (s.allocated) return Object.assign(run, { depth });
  }
  return Object.assign(run, { allocated: false, depth });
}

/** How many bytes from `offset` have one answer to "is it in the chain above `base`?". */
export async function isAllocatedAbove(
  top: BlockNode,
  base: BlockNode | undefined,
  offset: number,
  bytes: number,
): Promise<{ allocated: boolean; bytes: number; depth: number }> {
  const s = await chainStatus(top, base, offset, bytes, false);
  return { allocated: s.allocated, bytes: s.bytes, depth: s.depth };
}

/**
 * What a header says of the format of a backing file. `mask`: a node of a bare protocol is told as
 * raw, for a protocol's name there says nothing to those who open the file by its name.
 */
export function headerFormat(node: BlockNode, mask: boolean): string {
  const { driver } = skipFilters(node);
  return mask && driver.kind === 'protocol' ? 'raw' : driver.name;
}

/** Whether a new image of this kind is known to read as zeroes. */
export async function hasZeroInit(node: BlockNode): Promise<boolean> {
  if (node.backing !== undefined) return false;
  if (node.instance.hasZeroInit !== undefined) return node.instance.hasZeroInit();
  const image = skipFilters(node);
  return image !== node && hasZeroInit(image);
}
