// Goal: bad Parallels headers, tables and extensions are refused or mended in QEMU's words, both
// magics are read and written, and dirty bitmaps are read. Method: images made here are changed
// byte by byte in simulated files.
import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { Iov, nodeHost } from '../../../src/index.js';
import { FakeFiles, failure, fakeHost, filled, readBytes, testGraph } from '../../support/index.js';
import type { Patch } from '../made-image.js';
import {
  changed,
  checkImage as checkOf,
  imagePath,
  makeImage,
  openImage,
  patch,
} from '../made-image.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const CLUSTER = 64 * KiB;
const OPEN = 0x746f6e59;

const open = (files: FakeFiles, flags = {}) => openImage(files, 'parallels', flags);
const change = (files: FakeFiles, ...patches: Patch[]) => changed(files, patches, true);
const bat = (files: FakeFiles, entry: number): number =>
  new DataView(files.bytesOf(imagePath).buffer).getUint32(64 + entry * 4, true);

/** An image whose clusters 0, 3 and 5 hold their numbers plus one. */
async function sound(): Promise<FakeFiles> {
  const files = new FakeFiles();
  await makeImage(files, { format: 'parallels', size: MiB, options: 'cluster_size=64k' });
  const disk = await open(files, { writable: true });
  for (const n of [0, 3, 5]) await disk.write(n * CLUSTER, filled(CLUSTER, n + 1));
  await disk.detach();
  return files;
}

const first = async (files: FakeFiles, n: number, flags = {}): Promise<number> => {
  const disk = await open(files, flags);
  const bytes = await readBytes(disk, n * CLUSTER, 512);
  await disk.detach();
  expect(bytes.every((b) => b === bytes[0])).toBe(true);
  return bytes[0]!;
};

describe('headers out of range', () => {
  it.each<[string, Patch[], string]>([
    ['magic', [[0, 1, 0x58]], 'Image not in Parallels format'],
    ['version', [[16, 4, 3]], 'Image not in Parallels format'],
    ['tracks of 0', [[28, 4, 0]], 'Invalid image: Zero sectors per track'],
    ['tracks', [[28, 4, 0x7fffffff]], 'Invalid image: Too big cluster'],
    ['nb_bat_entries', [[32, 4, 0xffffffff]], 'Catalog too large'],
    [
      'nb_sectors',
      [[36, 8, 1n << 60n]],
      'Invalid image: nb_sectors is 1152921504606846976, too large',
    ],
  ])('%s', async (_name, patches, message) => {
    expect(await failure(open(change(await sound(), ...patches)))).toBe(message);
  });

  it('a BAT that the file does not hold takes no memory and maps nothing', async () => {
    const files = change(await sound(), [32, 4, 0x1fffffff], [48, 4, 0]);
    const disk = await open(files);
    expect(await readBytes(disk, MiB - 512, 512)).toEqual(new Uint8Array(512));
    await disk.detach();
  });
});

describe('images that cannot be as they are', () => {
  it.each<[string, Patch, string]>([
    ['not closed', [44, 4, OPEN], 'image was not closed correctly'],
    ['data_off', [48, 4, 0xffffffff], 'data_off field has incorrect value'],
    ['outside', [64 + 4, 4, 77], 'cluster 1 is outside image'],
    ['twice', [64 + 16, 4, 1], 'duplicate offset in BAT entry 4'],
  ])('%s: told by check, mended by -r and by writers', async (_name, one, text) => {
    const files = change(await sound(), one);
    expect((await checkOf(files, 'parallels')).lines).toEqual([`ERROR ${text}`]);
    const writer = change(files);
    await (await open(writer, { writable: true })).detach();
    expect((await checkOf(writer, 'parallels')).lines).toEqual([]);
    const { result, lines } = await checkOf(files, 'parallels', true);
    expect(lines).toEqual([`Repairing ${text}`]);
    expect([result.corruptions, result.corruptionsFixed]).toEqual([0, 1]);
    expect((await checkOf(files, 'parallels')).lines).toEqual([]);
    for (const n of [0, 3, 5]) expect(await first(files, n)).toBe(n + 1);
  });

  it('who shared a cluster has a copy of its own after the repair', async () => {
    const files = change(await sound(), [64 + 16, 4, 1]);
    const disk = await open(files, { writable: true });
    await disk.write(0, filled(512, 99));
    await disk.detach();
    expect(await first(files, 4)).toBe(1);
    expect(await first(files, 0)).toBe(99);
  });

  it('space at the end is told, and cut off by a repair', async () => {
    const files = await sound();
    const length = files.bytesOf(imagePath).length;
    const longer = new Uint8Array(length + 99_840);
    longer.set(files.bytesOf(imagePath));
    files.put(imagePath, longer);
    const { result, lines } = await checkOf(files, 'parallels');
    expect(lines).toEqual(['ERROR space leaked at the end of the image 99840']);
    expect(result.leaks).toBe(2);
    expect((await checkOf(files, 'parallels', true)).result.leaksFixed).toBe(2);
    expect(files.bytesOf(imagePath).length).toBe(length);
  });
});

describe('clusters that are freed', () => {
  it('read as zeroes, and are filled when the image is opened next', async () => {
    const files = await sound();
    const places = [bat(files, 0), bat(files, 3), bat(files, 5)];
    expect(places).toEqual([1, 2, 3]);
    const disk = await open(files, { writable: true });
    await disk.discard(3 * CLUSTER, CLUSTER);
    await disk.write(7 * CLUSTER, filled(CLUSTER, 8));
    expect(await readBytes(disk, 3 * CLUSTER, 512)).toEqual(new Uint8Array(512));
    await disk.detach();
    expect([bat(files, 3), bat(files, 7)]).toEqual([0, 4]);
    const next = await open(files, { writable: true });
    await next.write(8 * CLUSTER, filled(512, 9));
    await next.detach();
    expect(bat(files, 8)).toBe(2);
    expect(await first(files, 8)).toBe(9);
    const again = await open(files);
    expect(await readBytes(again, 8 * CLUSTER + 512, 512)).toEqual(new Uint8Array(512));
    await again.detach();
  });

  it('are cut off at the end of the file', async () => {
    const files = await sound();
    const disk = await open(files, { writable: true });
    await disk.writeZeroes(5 * CLUSTER, CLUSTER);
    await disk.detach();
    expect(files.bytesOf(imagePath).length).toBe(3 * CLUSTER);
    expect((await checkOf(files, 'parallels')).lines).toEqual([]);
  });
});

it('images with the old magic count sectors, and are written the same way', async () => {
  const files = await sound();
  const bytes = files.bytesOf(imagePath).slice();
  bytes.set(new TextEncoder().encode('WithoutFreeSpace'));
  // 128 sectors of a cluster; the high half of nb_sectors is in_use of old writers.
  patch(
    bytes,
    [64, 68 + 8, 84].map((at, i): Patch => [at, 4, 128 * (i + 1)]),
    true,
  );
  files.put(imagePath, bytes);
  for (const n of [0, 3, 5]) expect(await first(files, n)).toBe(n + 1);
  const disk = await open(files, { writable: true });
  await disk.write(9 * CLUSTER, filled(CLUSTER, 10));
  await disk.detach();
  expect(bat(files, 9)).toBe(4 * 128);
  expect(await first(files, 9)).toBe(10);
  expect((await checkOf(files, 'parallels')).lines).toEqual([]);
});

describe('Format Extension', () => {
  const BITMAP = 0x20385fae252cb34an;

  /** An extension in cluster 4 whose bitmap has a table of one entry. */
  async function extended(l1: bigint, ...more: Patch[]): Promise<FakeFiles> {
    const files = await sound();
    const bytes = new Uint8Array(6 * CLUSTER);
    bytes.set(files.bytesOf(imagePath));
    const at = 4 * CLUSTER;
    patch(bytes, [[56, 8, BigInt(at / 512)]], true);
    patch(
      bytes,
      (
        [
          [0, 8, 0xab234cef23dcea87n],
          [24, 8, BITMAP],
          [32, 8, 0],
          [40, 4, 40],
          [48, 8, MiB / 512],
          [72, 4, 128],
          [76, 4, 1],
          [80, 8, l1],
          ...more,
        ] satisfies Patch[]
      ).map(([offset, width, value]): Patch => [at + offset, width, value]),
      true,
    );
    for (let i = 0; i < 16; i++) bytes[at + 56 + i] = 0x10 + i;
    // Bits of the bitmap, in cluster 5: units 1 and 8 to 15.
    bytes.set([0x02, 0xff], 5 * CLUSTER);
    bytes.set(
      createHash('md5')
        .update(bytes.subarray(at + 24, at + CLUSTER))
        .digest(),
      at + 8,
    );
    files.put(imagePath, bytes);
    return files;
  }

  const openHashed = (files: FakeFiles, flags = {}) => {
    const { loadCrypto } = nodeHost();
    const host = { ...fakeHost({ files }), ...(loadCrypto === undefined ? {} : { loadCrypto }) };
    return testGraph({ host }).openBackend({
      options: { driver: 'parallels', file: { driver: 'file', filename: imagePath } },
      flags,
    });
  };
  const name = '10111213-1415-1617-1819-1a1b1c1d1e1f';

  it.each([
    ['stored bits', BigInt((5 * CLUSTER) / 512), [1, 8, 9, 10, 11, 12, 13, 14, 15]],
    ['no bits', 0n, []],
    ['all bits', 1n, [...Array(16).keys()]],
  ])('dirty bitmap with %s', async (_name, l1, dirty) => {
    const disk = await openHashed(await extended(l1));
    const bitmap = disk.node.dirtyBitmaps.get(name)!;
    expect([...Array(16).keys()].filter((n) => bitmap.has(n * CLUSTER))).toEqual(dirty);
    expect(bitmap.granularity).toBe(CLUSTER);
    await disk.detach();
  });

  it.each<[string, Patch, string]>([
    [
      'magic',
      [0, 8, 5],
      'Wrong parallels Format Extension magic: 0x5, expected: 0xab234cef23dcea87',
    ],
    ['data_size', [40, 4, 70_000], 'Feature data_size exceedes remaining cluster size'],
    [
      'small data_size',
      [40, 4, 8],
      'Too small Bitmap Feature area in Parallels Format Extension: 8 bytes, expected at least ' +
        '32 bytes',
    ],
    ['size', [48, 8, 5], 'Bitmap size (in sectors) 5 differs from disk size in sectors 2048'],
    ['granularity', [72, 4, 3], 'Bitmap granularity is 3 sectors, expected a power of two'],
    [
      'l1_size',
      [76, 4, 0xffffffff],
      'Bitmaps feature corrupted: l1 table exceeds extension data_size',
    ],
  ])('bad %s', async (_name, one, message) => {
    expect(await failure(openHashed(await extended(1n, one)))).toBe(message);
  });

  it('a wrong checksum, an unknown feature that is necessary, bits outside the file', async () => {
    const files = change(await extended(1n), [4 * CLUSTER + 500, 1, 1]);
    expect(await failure(openHashed(files))).toBe(
      'Wrong checksum in Format Extension header. Format extension is corrupted.',
    );
    const unknown = await extended(1n, [24, 8, 7], [32, 8, 1]);
    expect(await failure(openHashed(unknown))).toBe('Unknown feature: 0x7');
    expect(await failure(openHashed(await extended(1n << 40n)))).toBe(
      'Failed to read bitmap data cluster: it lies outside the image',
    );
  });

  it('is left alone by writers, who put nothing where it may lie', async () => {
    const files = await extended(1n);
    const before = files.bytesOf(imagePath).slice(4 * CLUSTER, 6 * CLUSTER);
    const disk = await openHashed(files, { writable: true });
    await disk.write(8 * CLUSTER, filled(CLUSTER, 9));
    await disk.read(0, Iov.alloc(512));
    await disk.detach();
    expect(bat(files, 8)).toBe(6);
    expect(files.bytesOf(imagePath).slice(4 * CLUSTER, 6 * CLUSTER)).toEqual(before);
  });
});
