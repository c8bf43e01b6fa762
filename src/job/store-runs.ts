/** Writing a piece of data with its zeroes left out, compressed or not. */
import type { Backend } from '../block/backend.js';
import { Req } from '../block/types.js';
import type { Host } from '../host/host.js';
import { Iov } from '../lib/iov.js';
import { settleAll } from '../lib/settle-all.js';
import type { ZeroMap } from './zero-runs.js';
import { dropShortZeroRuns, makeZeroMap, runEnd, scanZeroes } from './zero-runs.js';

/** How pieces are stored. */
export interface StoreOptions {
  readonly host: Host;
  readonly target: Backend;
  /** The target reads as zeroes where nothing is written: zeroes are skipped. */
  readonly targetIsZero: boolean;
  /** Zero runs at least this long become holes; 0: all is written, zeroes too. In bytes. */
  readonly minSparse: number;
  /** Multiple to which data is rounded before it is written, in bytes; a power of two. */
  readonly alignment: number;
  /** Write whole clusters of this size compressed. */
  readonly compressCluster?: number | undefined;
}

/** Memory for the zero map of pieces of up to `bytes` bytes. */
export function mapFor(bytes: number, block: number): ZeroMap {
  return makeZeroMap(Math.ceil(bytes / block) + 1);
}

/**
 * Starts all writes of a piece that begins at `start` before it returns; resolves when they have
 * ended. `bytes` and `map` are in use until then.
 */
export function storeRuns(
  options: StoreOptions,
  start: number,
  bytes: Uint8Array,
  map: ZeroMap,
): Promise<void> {
  const { host, minSparse, target, compressCluster, alignment } = options;
  const block = compressCluster ?? alignment;
  const skew = start % block;
  if (minSparse === 0) {
    map.blocks = Math.ceil((bytes.byteLength + skew) / block);
    map.zero.fill(0, 0, map.blocks);
  } else {
    scanZeroes(map, bytes, block, skew, host.hot);
    if (compressCluster === undefined) dropShortZeroRuns(map, Math.ceil(minSparse / block));
  }
  const flags = compressCluster === undefined ? 0 : Req.compressed;
  const piece = { start, bytes: bytes.byteLength };
  return storeMarked(options, piece, block, map, (at, end) =>
    target.write(start + at, Iov.of(bytes.subarray(at, end)), flags),
  );
}

/**
 * As {@link storeRuns} for a piece whose blocks of zeroes `map` tells, blocks of `block` bytes that
 * begin at multiples of it: `write` starts the write of bytes [at, end) of the piece.
 */
export function storeMarked(
  options: StoreOptions,
  { start, bytes }: { readonly start: number; readonly bytes: number },
  block: number,
  map: ZeroMap,
  write: (at: number, end: number) => Promise<void>,
): Promise<void> {
  const { targetIsZero, target, compressCluster } = options;
  const skew = start % block;
  const writes: Promise<void>[] = [];
  for (let from = 0; from < map.blocks;) {
    const zero = map.zero[from] === 1;
    // Compressed clusters are written one by one.
    const to = compressCluster !== undefined && !zero ? from + 1 : runEnd(map, from);
    const at = Math.max(0, from * block - skew);
    const end = Math.min(to * block - skew, bytes);
    if (!zero) {
      writes.push(write(at, end));
    } else if (!targetIsZero) {
      writes.push(target.writeZeroes(start + at, end - at, Req.mayUnmap));
    }
    from = to;
  }
  return settleAll(writes);
}
