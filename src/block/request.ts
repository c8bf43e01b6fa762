/** The slow paths of a node's requests: alignment, zero writes, copy-on-read. */
import { Iov, isZeroBytes } from '../lib/iov.js';
import { BlockError, isNotSupported } from './errors.js';
import type { BlockNode } from './node.js';
import type { TrackedWrite } from './write-tracker.js';
import { filtered } from './status.js';
import { Req } from './types.js';

/** Longest piece of a read or write when the driver names no limit of its own. */
const DEFAULT_MAX_TRANSFER = 2 ** 31 - 65536;
/** Zero buffers are written in pieces of this many bytes at most. */
const ZERO_PIECE = 16 * 1024 * 1024;
/** One shared buffer of zeroes; longer pieces repeat it. Never written to. */
const zeroes = new Uint8Array(1024 * 1024);

const alignDown = (value: number, align: number): number => value - (value % align);
const alignUp = (value: number, align: number): number => alignDown(value + align - 1, align);

/** A read-only list of `bytes` zero bytes; shares one buffer. */
export function zeroIov(bytes: number): Iov {
  const bufs: Uint8Array[] = [];
  for (let left = bytes; left > 0; left -= zeroes.byteLength) {
    bufs.push(left >= zeroes.byteLength ? zeroes : zeroes.subarray(0, left));
  }
  return new Iov(bufs, bytes);
}

function maxTransfer(node: BlockNode): number {
  const { maxTransfer: max, requestAlignment } = node.limits;
  return max === 0 ? DEFAULT_MAX_TRANSFER : Math.max(alignDown(max, requestAlignment), 1);
}

/** Reads with any alignment; zeroes past the end. */
export async function alignedRead(
  node: BlockNode,
  offset: number,
  iov: Iov,
  flags: number,
): Promise<void> {
  let inside = iov;
  if (offset + iov.bytes > node.size) {
    const keep = Math.max(0, node.size - offset);
    iov.fill(0, keep);
    inside = iov.slice(0, keep);
  }
  if (inside.bytes === 0) return;
  const align = node.limits.requestAlignment;
  const head = offset % align;
  const end = offset + inside.bytes;
  // The last block of a file may be short: an instance reads zeroes there (N2 holds for starts).
  const tail = alignUp(end, align) - end;
  if (head === 0 && tail === 0) {
    await splitRead(node, offset, inside, flags);
    return;
  }
  const pads = padded(inside, head, tail);
  await splitRead(node, offset - head, pads, flags);
}

function padded(iov: Iov, head: number, tail: number): Iov {
  const bufs: Uint8Array[] = [];
  if (head > 0) bufs.push(new Uint8Array(head));
  bufs.push(...iov.bufs);
  if (tail > 0) bufs.push(new Uint8Array(tail));
  return new Iov(bufs, head + iov.bytes + tail);
}

async function splitRead(node: BlockNode, offset: number, iov: Iov, flags: number): Promise<void> {
  const max = maxTransfer(node);
  for (let at = 0; at < iov.bytes; at += max) {
    const n = Math.min(max, iov.bytes - at);
    await node.instance.read(offset + at, iov.slice(at, n), flags);
  }
}

/** Writes with any alignment and any flags. */
export async function alignedWrite(
  node: BlockNode,
  offset: number,
  iov: Iov,
  flags: number,
): Promise<void> {
  if ((flags & Req.compressed) !== 0) {
    const compressed = { offset, bytes: iov.bytes, serialising: false };
    await runWrite(node, compressed, () => writeCompressed(node, offset, iov));
    return;
  }
  const align = node.limits.requestAlignment;
  const start = alignDown(offset, align);
  const end = alignUp(offset + iov.bytes, align);
  const whole = start === offset && end === offset + iov.bytes;
  const serialising = !whole || (flags & Req.serialising) !== 0;
  await runWrite(node, { offset: start, bytes: end - start, serialising }, async () => {
    const full = whole ? iov : await readModify(node, offset, iov, start, end);
    await node.debugEvent('pwritev');
    await splitWrite(node, start, full, flags);
    // Before the next read-modify-write begins: it must know the new length.
    node.noteWritten(offset, iov.bytes);
  });
  await node.debugEvent('pwritev_done');
}

/** Runs a write, tracked if it or any other write has to be (N3 in node.ts). */
async function runWrite(
  node: BlockNode,
  write: TrackedWrite,
  fn: () => Promise<void>,
): Promise<void> {
  try {
    if (write.serialising) await node.startTracking();
    else if (!node.tracksWrites) return await node.runUntracked(fn);
    return await node.tracker().run(write, fn);
  } catch (e) {
    node.noteFailed(write.offset, write.bytes);
    throw e;
  }
}

/** Surrounds `iov` with what is stored around it in its first and last aligned block. */
async function readModify(
  node: BlockNode,
  offset: number,
  iov: Iov,
  start: number,
  end: number,
): Promise<Iov> {
  const align = node.limits.requestAlignment;
  const head = offset - start;
  const tail = end - (offset + iov.bytes);
  const bufs: Uint8Array[] = [];
  let last: Uint8Array | undefined;
  if (head > 0) {
    await node.debugEvent('pwritev_rmw_head');
    const block = await readBlock(node, start);
    await node.debugEvent('pwritev_rmw_after_head');
    bufs.push(block.subarray(0, head));
    if (end - start === align) last = block;
  }
  bufs.push(...iov.bufs);
  if (tail > 0) {
    if (last === undefined) {
      await node.debugEvent('pwritev_rmw_tail');
      last = await readBlock(node, end - align);
      await node.debugEvent('pwritev_rmw_after_tail');
    }
    bufs.push(last.subarray(align - tail));
  }
  return new Iov(bufs, end - start);
}

async function readBlock(node: BlockNode, offset: number): Promise<Uint8Array> {
  const block = new Uint8Array(node.limits.requestAlignment);
  if (offset < node.size) await node.instance.read(offset, Iov.of(block), 0);
  return block;
}

async function splitWrite(node: BlockNode, offset: number, iov: Iov, flags: number): Promise<void> {
  const { instance } = node;
  if (instance.write === undefined) {
    throw new BlockError('ENOTSUP', undefined, { op: 'write', node: node.name, offset });
  }
  const known = instance.writeFlags ?? 0;
  const max = maxTransfer(node);
  for (let at = 0; at < iov.bytes; at += max) {
    const n = Math.min(max, iov.bytes - at);
    await instance.write(offset + at, iov.slice(at, n), flags & known);
  }
  if ((flags & Req.fua) !== 0 && (known & Req.fua) === 0) {
    node.noteWritten(offset, iov.bytes);
    await node.flush();
  }
}

async function writeCompressed(node: BlockNode, offset: number, iov: Iov): Promise<void> {
  if (node.instance.writeCompressed === undefined) {
    throw new BlockError('ENOTSUP', undefined, { op: 'writeCompressed', node: node.name, offset });
  }
  await node.instance.writeCompressed(offset, iov);
  if (iov.bytes > 0) node.noteWritten(offset, iov.bytes);
}

/** detect-zeroes: a write of zeroes becomes a zero write; undefined if it holds data. */
export function detectZeroWrite(
  node: BlockNode,
  offset: number,
  iov: Iov,
  flags: number,
): Promise<void> | undefined {
  for (const b of iov.bufs) if (!isZeroBytes(b)) return undefined;
  const unmap = node.detectZeroes === 'unmap' ? Req.mayUnmap : 0;
  return node.writeZeroes(offset, iov.bytes, flags | unmap);
}

/** Zero write with any alignment: the driver's own way where it has one, else zero buffers. */
export async function zeroWrite(
  node: BlockNode,
  offset: number,
  bytes: number,
  flags: number,
): Promise<void> {
  const request = node.limits.requestAlignment;
  const end = offset + bytes;
  const start = Math.min(alignUp(offset, request), end);
  const stop = Math.max(alignDown(end, request), start);
  const zeroFlags = node.instance.zeroFlags ?? 0;
  // A driver that does not know the flag could take as long as writing does.
  if ((flags & ~zeroFlags & Req.noFallback) !== 0) throw new BlockError('ENOTSUP');
  if (start > offset) {
    if ((flags & Req.noFallback) !== 0) throw new BlockError('ENOTSUP');
    await alignedWrite(node, offset, zeroIov(start - offset), flags & passed);
  }
  if (stop > start) await zeroAligned(node, start, stop, flags);
  if (end > stop) {
    if ((flags & Req.noFallback) !== 0) throw new BlockError('ENOTSUP');
    await alignedWrite(node, stop, zeroIov(end - stop), flags & passed);
  }
}

/** Flags of a zero write that a data write standing in for it keeps. */
const passed = Req.fua | Req.writeUnchanged | Req.serialising;

async function zeroAligned(
  node: BlockNode,
  start: number,
  stop: number,
  flags: number,
): Promise<void> {
  const serialising = (flags & Req.serialising) !== 0;
  await runWrite(node, { offset: start, bytes: stop - start, serialising }, () =>
    zeroPieces(node, start, stop, flags),
  );
}

async function zeroPieces(
  node: BlockNode,
  start: number,
  stop: number,
  flags: number,
): Promise<void> {
  const align = Math.max(node.limits.writeZeroesAlignment, node.limits.requestAlignment, 1);
  const limit = node.limits.maxWriteZeroes;
  const max = limit === 0 ? Number.MAX_SAFE_INTEGER : Math.max(alignDown(limit, align), align);
  await node.debugEvent('pwritev_zero');
  let at = start;
  while (at < stop) {
    let n = Math.min(stop - at, max);
    const head = at % align;
    if (head !== 0) n = Math.min(n, align - head);
    else if (n > align) n = alignDown(n, align);
    if (!(await tryDriverZero(node, at, n, flags))) {
      if ((flags & Req.noFallback) !== 0) throw new BlockError('ENOTSUP');
      await zeroBuffers(node, at, n, flags & passed & ~Req.fua);
    }
    at += n;
  }
  node.noteWritten(start, stop - start);
  await node.debugEvent('pwritev_done');
  const fuaHere = (flags & Req.fua) !== 0;
  if (fuaHere && ((node.instance.zeroFlags ?? 0) & Req.fua) === 0) await node.flush();
}

async function tryDriverZero(
  node: BlockNode,
  at: number,
  bytes: number,
  flags: number,
): Promise<boolean> {
  if (node.instance.writeZeroes === undefined) return false;
  try {
    await node.instance.writeZeroes(at, bytes, flags & (node.instance.zeroFlags ?? 0));
    return true;
  } catch (e) {
    if (isNotSupported(e)) return false;
    throw e;
  }
}

async function zeroBuffers(
  node: BlockNode,
  offset: number,
  bytes: number,
  flags: number,
): Promise<void> {
  for (let at = 0; at < bytes; at += ZERO_PIECE) {
    const n = Math.min(ZERO_PIECE, bytes - at);
    await splitWrite(node, offset + at, zeroIov(n), flags);
  }
}

/** Longest piece that copy-on-read holds in memory. */
const COPY_PIECE = 16 * 1024 * 1024;

/** Reads and stores in this image what came from below it. */
export async function copyOnRead(
  node: BlockNode,
  offset: number,
  iov: Iov,
  flags: number,
): Promise<void> {
  const plain = flags & ~(Req.copyOnRead | Req.prefetch);
  if (node.readOnly || node.instance.write === undefined) {
    await alignedRead(node, offset, iov, plain);
    return;
  }
  const info = await informative(node)?.instance.info?.();
  const cluster = info?.subclusterSize ?? info?.clusterSize ?? node.limits.requestAlignment;
  const start = alignDown(offset, cluster);
  const end = Math.min(alignUp(offset + iov.bytes, cluster), node.size);
  const wanted = (flags & Req.prefetch) === 0 ? { offset, iov } : undefined;
  if (wanted !== undefined && offset + iov.bytes > node.size) {
    iov.fill(0, Math.max(0, node.size - offset));
  }
  if (end <= start) return;
  const write = { offset: start, bytes: end - start, serialising: true };
  await runWrite(node, write, () => fillFromBelow(node, start, end, wanted));
}

/** The node that tells about clusters: the first at or below `node`, through filters. */
function informative(node: BlockNode): BlockNode | undefined {
  let at: BlockNode | undefined = node;
  while (at !== undefined && at.instance.info === undefined) at = filtered(at);
  return at;
}

/** Where the data of a copying read goes. */
interface Wanted {
  readonly offset: number;
  readonly iov: Iov;
}

/** From the front to the back: what is allocated is read, the rest is copied up and handed on. */
async function fillFromBelow(
  node: BlockNode,
  start: number,
  end: number,
  wanted: Wanted | undefined,
): Promise<void> {
  let at = start;
  while (at < end) {
    const status = await node.blockStatus(at, Math.min(end - at, COPY_PIECE), false);
    const stop = at + status.bytes;
    const copied = status.allocated ? undefined : await copyUp(node, at, status.bytes);
    if (wanted !== undefined) await handOn(node, at, stop, wanted, copied);
    at = stop;
  }
}

/** Puts what is wanted of [from, to) where it belongs: out of `copied`, else read. */
async function handOn(
  node: BlockNode,
  from: number,
  to: number,
  wanted: Wanted,
  copied: Iov | undefined,
): Promise<void> {
  const a = Math.max(from, wanted.offset);
  const b = Math.min(to, wanted.offset + wanted.iov.bytes);
  if (a >= b) return;
  const into = wanted.iov.slice(a - wanted.offset, b - a);
  if (copied === undefined) await alignedRead(node, a, into, 0);
  else into.copyFromIov(copied.slice(a - from, b - a));
}

async function copyUp(node: BlockNode, offset: number, bytes: number): Promise<Iov> {
  const data = Iov.alloc(bytes);
  await alignedRead(node, offset, data, 0);
  await node.debugEvent('cor_write');
  if (data.isZero() && (await tryDriverZero(node, offset, bytes, Req.writeUnchanged))) {
    node.noteWritten(offset, bytes);
    return data;
  }
  await splitWrite(node, offset, data, Req.writeUnchanged);
  node.writeGeneration++;
  return data;
}
