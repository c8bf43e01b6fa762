/**
 * Where in a big buffer data is and where zeroes are, without an object per block.
 *
 * `scanZeroes` sorts a buffer's blocks once; `runEnd` then walks over runs. The scan looks
 * at a few bytes of a block first, so that data costs a cache line or two per block and only
 * zeroes cost a look at each byte.
 */
import type { Hot } from '../host/host.js';

/** Block map of one buffer, reused from buffer to buffer. */
export interface ZeroMap {
  /** One byte per block: 1 where the block is all zero. */
  readonly zero: Uint8Array;
  blocks: number;
  zeroBlocks: number;
}

export function makeZeroMap(most: number): ZeroMap {
  return { zero: new Uint8Array(most), blocks: 0, zeroBlocks: 0 };
}

/**
 * Marks the all-zero blocks of `bytes`: `blockBytes` each, the last may be short, and the first
 * when `skew` bytes of its block lie before the buffer.
 */
// hot: bench/convert
export function scanZeroes(
  map: ZeroMap,
  bytes: Uint8Array,
  blockBytes: number,
  skew: number,
  hot: Pick<Hot, 'isZero'>,
): void {
  const { zero } = map;
  const end = bytes.byteLength;
  let blocks = 0;
  let zeroBlocks = 0;
  if (hot.isZero(bytes)) {
    map.blocks = map.zeroBlocks = Math.ceil((end + skew) / blockBytes);
    zero.fill(1, 0, map.blocks);
    return;
  }
  for (let at = 0, next = blockBytes - skew; at < end; at = next, next += blockBytes) {
    const stop = next < end ? next : end;
    // Most data differs from zero at one of its ends.
    const is =
      bytes[at] === 0 &&
      bytes[stop - 1] === 0 &&
      bytes[(at + stop) >>> 1] === 0 &&
      hot.isZero(bytes.subarray(at, stop));
    zero[blocks++] = is ? 1 : 0;
    if (is) zeroBlocks++;
  }
  map.blocks = blocks;
  map.zeroBlocks = zeroBlocks;
}

/** Takes over a map whose first `blocks` marks another has set. */
export function countMarked(map: ZeroMap, blocks: number): void {
  map.blocks = blocks;
  map.zeroBlocks = 0;
  for (let i = 0; i < blocks; i++) map.zeroBlocks += map.zero[i]!;
}

/** Zero runs shorter than `leastBlocks` count as data, as they are not worth a hole. */
export function dropShortZeroRuns(map: ZeroMap, leastBlocks: number): void {
  if (leastBlocks <= 1 || map.zeroBlocks === 0) return;
  const { zero, blocks } = map;
  for (let at = 0; at < blocks;) {
    const end = runEnd(map, at);
    if (zero[at] === 1 && end - at < leastBlocks) {
      zero.fill(0, at, end);
      map.zeroBlocks -= end - at;
    }
    at = end;
  }
}

/** First block at or after `from` that differs from block `from`. */
export function runEnd(map: ZeroMap, from: number): number {
  const { zero, blocks } = map;
  const is = zero[from];
  let at = from + 1;
  while (at < blocks && zero[at] === is) at++;
  return at;
}
