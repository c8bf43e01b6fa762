// Goal: blocks of zeroes are found wherever they lie, with any skew of the buffer. Method: a slow
// model over random buffers.
import { describe, expect, it } from 'vitest';
import { isZeroBytes } from '../lib/iov.js';
import { seededRandom } from '../../test/support/index.js';
import { dropShortZeroRuns, makeZeroMap, runEnd, scanZeroes } from './zero-runs.js';

const hot = { isZero: isZeroBytes };

describe('scanZeroes', () => {
  it('agrees with looking at each byte', () => {
    const random = seededRandom();
    const map = makeZeroMap(4096);
    for (let round = 0; round < 200; round++) {
      const block = random.pick([16, 512, 4096]);
      const skew = random.int(0, block - 1);
      const bytes = new Uint8Array(random.int(1, 40 * block));
      for (let i = random.int(0, 6); i > 0; i--) bytes[random.int(0, bytes.length - 1)] = 1;
      scanZeroes(map, bytes, block, skew, hot);
      const wanted: number[] = [];
      for (let at = 0, end = block - skew; at < bytes.length; at = end, end += block) {
        wanted.push(bytes.subarray(at, end).every((byte) => byte === 0) ? 1 : 0);
      }
      expect([...map.zero.subarray(0, map.blocks)]).toEqual(wanted);
      expect(map.zeroBlocks).toBe(wanted.filter((is) => is === 1).length);
    }
  });
});

describe('dropShortZeroRuns', () => {
  it('leaves runs of the least length and makes data of shorter ones', () => {
    const map = makeZeroMap(16);
    const bytes = new Uint8Array(12).fill(1);
    for (const at of [1, 4, 5, 8, 9, 10]) bytes[at] = 0;
    scanZeroes(map, bytes, 1, 0, hot);
    dropShortZeroRuns(map, 2);
    expect([...map.zero.subarray(0, 12)]).toEqual([0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0]);
    expect(map.zeroBlocks).toBe(5);
    expect([runEnd(map, 0), runEnd(map, 4), runEnd(map, 8), runEnd(map, 11)]).toEqual([
      4, 6, 11, 12,
    ]);
  });
});
