/** Reading a new image back and comparing it with what it was made of. */
import type { Backend } from '../block/backend.js';
import { BlockError, errorCode, errorText } from '../block/errors.js';
import type { BlockNode } from '../block/node.js';
import { chainStatus } from '../block/status.js';
import type { Host } from '../host/host.js';
import { Iov } from '../lib/iov.js';
import type { OperationOptions } from './operation.js';
import { ProgressMeter } from './operation.js';

/** Most that is read of each image at once, in bytes. */
const PIECE = 1024 * 1024;
/** Pieces in flight. */
const PARALLEL = 4;
const SECTOR = 512;

export interface VerifyOptions extends OperationOptions {
  readonly host: Host;
}

interface Piece {
  readonly source: Backend;
  readonly from: number;
  readonly to: number;
  readonly bytes: number;
}

/**
 * Compares the sources, laid end to end on sector boundaries, with the beginning of `target`.
 * What both are known to hold zeroes in is not read. Resolves to the offset in the target of a
 * sector that differs (the first of its piece), or undefined. Throws BlockError when an image
 * cannot be read.
 */
export async function verifyCopy(
  sources: readonly Backend[],
  target: Backend,
  options: VerifyOptions,
): Promise<number | undefined> {
  const meter = new ProgressMeter(options.host.clock, options);
  for (const source of sources) meter.total += source.size;
  const pieces = plan(sources, target, meter);
  let different = Infinity;
  const lane = async (): Promise<void> => {
    const buffers = [new Uint8Array(PIECE), new Uint8Array(PIECE)] as const;
    for (;;) {
      meter.check();
      const next = await pieces.next();
      if (next.done === true || different < Infinity) return;
      const at = await compareAt(target, next.value, buffers, options.host);
      different = Math.min(at ?? Infinity, different);
      meter.advance(next.value.bytes);
    }
  };
  const lanes = await Promise.allSettled(Array.from({ length: PARALLEL }, lane));
  const failed = lanes.find((result) => result.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
  if (different < Infinity) return different;
  meter.finish();
  return undefined;
}

/** Pieces that must be read. An async generator serves the lanes one after the other. */
async function* plan(
  sources: readonly Backend[],
  target: Backend,
  meter: ProgressMeter,
): AsyncGenerator<Piece, undefined> {
  let start = 0;
  for (const source of sources) {
    for (let at = 0; at < source.size;) {
      const left = source.size - at;
      const ours = await statusAt(source.node, at, left);
      const theirs = await statusAt(target.node, start + at, Math.min(left, ours.bytes));
      const run = Math.min(ours.bytes, theirs.bytes);
      const bytes = ours.zero && theirs.zero ? run : Math.min(run, PIECE - (at % PIECE));
      if (ours.zero && theirs.zero) meter.advance(bytes);
      else yield { source, from: at, to: start + at, bytes };
      at += bytes;
    }
    start += Math.ceil(source.size / SECTOR) * SECTOR;
  }
  return undefined;
}

async function statusAt(
  node: BlockNode,
  offset: number,
  bytes: number,
): Promise<{ readonly bytes: number; readonly zero: boolean }> {
  const status = await chainStatus(node, undefined, offset, bytes);
  return { bytes: status.bytes > 0 ? status.bytes : bytes, zero: status.zero };
}

async function compareAt(
  target: Backend,
  { source, from, to, bytes }: Piece,
  [ours, theirs]: readonly [Uint8Array, Uint8Array],
  host: Host,
): Promise<number | undefined> {
  const [a, b] = [ours.subarray(0, bytes), theirs.subarray(0, bytes)];
  const reads = [readAt(source, from, a), readAt(target, to, b)];
  await Promise.allSettled(reads);
  await Promise.all(reads);
  if (host.hot.equal?.(a, b) === true) return undefined;
  const at = a.findIndex((byte, i) => byte !== b[i]);
  return at < 0 ? undefined : to + at - (at % SECTOR);
}

async function readAt(from: Backend, offset: number, into: Uint8Array): Promise<void> {
  try {
    await from.read(offset, Iov.of(into));
  } catch (e) {
    const text = `error while reading at byte ${String(offset)}: ${errorText(e)}`;
    throw new BlockError(errorCode(e), text, { op: 'read', cause: e });
  }
}
