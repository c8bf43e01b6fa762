/**
 * Compacting an image in place: what holds only zeroes is given back to the file system, and a
 * format that can moves its data together and shortens its file.
 */
import type { Backend } from '../block/backend.js';
import { BlockError } from '../block/errors.js';
import { chainStatus, skipFilters } from '../block/status.js';
import { Perm, Req } from '../block/types.js';
import { Iov } from '../lib/iov.js';
import type { OperationOptions } from './operation.js';
import { ProgressMeter } from './operation.js';
import { makeZeroMap, runEnd, scanZeroes } from './zero-runs.js';

/** What was found and done, in bytes. */
export interface Compacted {
  /** Guest data that was stored and held only zeroes. */
  readonly zeroed: number;
  /** Leaked clusters that were given back. */
  readonly leaked: number;
  /** What moved to the front of the file. */
  readonly moved: number;
}

/** Bytes of a raw image that are looked at together. */
const PIECE = 1024 * 1024;
/** Zeroes become a hole in units of it: the block size of most file systems. */
const HOLE_UNIT = 4096;

/**
 * Compacts. The backend is open for writing with the flag `keepsContent`; nobody else may write
 * to the image from now on. The guest sees no change. Throws BlockError: ENOTSUP for a format that
 * cannot, ECANCELED when the caller gave up; the image is sound then, though space may have leaked.
 */
export async function compact(image: Backend, options: OperationOptions = {}): Promise<Compacted> {
  const meter = new ProgressMeter(image.graph.host.clock, options);
  // What another writer put where zeroes were found would be lost.
  await image.setPerms({
    perm: Perm.consistentRead | Perm.write | Perm.resize,
    shared: Perm.consistentRead,
  });
  const node = skipFilters(image.node);
  let result: Compacted;
  if (node.instance.compact !== undefined) {
    result = await node.instance.compact({
      planned: (bytes) => {
        meter.total += bytes;
      },
      done: (bytes) => {
        meter.advance(bytes);
      },
      check: () => {
        meter.check();
      },
    });
  } else if (node.driver.name === 'raw') {
    result = { zeroed: await punchZeroes(image, meter), leaked: 0, moved: 0 };
  } else {
    throw new BlockError('ENOTSUP', `Cannot compact an image of format '${node.driver.name}'`);
  }
  await image.flush();
  meter.finish();
  return result;
}

/** Makes holes of stored zeroes. A hole reads as what was there, so that a crash shows nothing. */
async function punchZeroes(image: Backend, meter: ProgressMeter): Promise<number> {
  const { hot } = image.graph.host;
  const buffer = new Uint8Array(PIECE);
  const map = makeZeroMap(PIECE / HOLE_UNIT);
  let punched = 0;
  meter.total = image.size;
  for (let at = 0; at < image.size;) {
    meter.check();
    const status = await chainStatus(image.node, undefined, at, image.size - at);
    const left = status.bytes === 0 ? image.size - at : status.bytes;
    if (!status.data || status.zero) {
      meter.advance(left);
      at += left;
      continue;
    }
    const bytes = buffer.subarray(0, Math.min(left, PIECE - (at % PIECE)));
    await image.read(at, Iov.of(bytes));
    const skew = at % HOLE_UNIT;
    scanZeroes(map, bytes, HOLE_UNIT, skew, hot);
    for (let from = 0; from < map.blocks;) {
      const to = runEnd(map, from);
      if (map.zero[from] === 1) {
        const start = Math.max(0, from * HOLE_UNIT - skew);
        const end = Math.min(bytes.length, to * HOLE_UNIT - skew);
        await image.writeZeroes(at + start, end - start, Req.mayUnmap | Req.noFallback);
        punched += end - start;
      }
      from = to;
    }
    meter.advance(bytes.length);
    at += bytes.length;
  }
  return punched;
}
