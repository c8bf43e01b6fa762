// Goal: after shrinking, the refcount table names no block that counts nothing, the file is as
// short as it can be, and the image is still good and usable. Method: small clusters, so that
// there are many blocks, written in random order (seeds are printed); the refcount table is then
// read from the file, and the disk from a second open, which writes again.
import { describe, expect, it } from 'vitest';
import { filled, readBytes, seededRandom } from '../../support/index.js';
import type { FakeFiles } from '../../support/index.js';
import { check, imagePath, makeImage, openImage } from './support.js';
import type { Shape } from './support.js';

const MIB = 1024 * 1024;
const PIECE = 256 * 1024;

const shapes: Shape[] = [1, 16, 64].map((bits) => ({
  name: `refcounts of ${bits} bits`,
  create: `cluster_size=512,refcount_bits=${bits}`,
  size: 3 * MIB,
  clusterSize: 512,
}));

/** Offsets in the refcount table on disk, and those of blocks with nothing but zeroes. */
function blocksOnDisk(files: FakeFiles): { all: number[]; empty: number[] } {
  const bytes = files.bytesOf(imagePath);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const table = Number(view.getBigUint64(48));
  const clusters = view.getUint32(56);
  const all: number[] = [];
  for (let at = table; at < table + clusters * 512; at += 8) {
    const offset = Number(view.getBigUint64(at));
    if (offset !== 0) all.push(offset);
  }
  const empty = all.filter((at) => bytes.subarray(at, at + 512).every((byte) => byte === 0));
  return { all, empty };
}

describe.each(shapes)('shrinking, $name', (shape) => {
  it.each([PIECE, 1 * MIB, 0])('to %s bytes', async (left) => {
    const random = seededRandom();
    const image = await makeImage(shape, random);
    const { graph, backend } = await openImage(image);
    const places = Array.from({ length: shape.size / PIECE }, (_, i) => i * PIECE);
    while (places.length > 0) {
      const [at = 0] = places.splice(random.int(0, places.length - 1), 1);
      await backend.write(at, filled(PIECE, 1 + at / PIECE));
    }
    await backend.flush();
    const before = blocksOnDisk(image.files);
    await backend.truncate(left);
    const { all, empty } = blocksOnDisk(image.files);
    expect(empty).toEqual([]);
    expect(all.length).toBeLessThanOrEqual(before.all.length);
    expect(await check(backend)).toEqual({ corruptions: 0, leaks: 0, lines: [] });
    await backend.truncate(2 * MIB);
    await backend.write(MIB, filled(MIB, 99));
    await backend.detach();
    await graph.close();
    const again = await openImage(image);
    for (let at = 0; at < 2 * MIB; at += PIECE) {
      const value = at >= MIB ? 99 : at < left ? 1 + at / PIECE : 0;
      const got = await readBytes(again.backend, at, PIECE);
      expect(got.every((byte) => byte === value)).toBe(true);
    }
    expect(await check(again.backend)).toEqual({ corruptions: 0, leaks: 0, lines: [] });
  });
});
