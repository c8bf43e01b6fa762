// Goal: bad qcow headers and entries are refused, compressed clusters are written over, and
// encrypted images need their key. Method: images made here are changed byte by byte in simulated
// files.
import { describe, expect, it } from 'vitest';
import { Iov, Req } from '../../../src/index.js';
import { FakeFiles, failure, filled, readBytes } from '../../support/index.js';
import type { Patch } from '../made-image.js';
import { changed, imagePath, makeImage, openImage } from '../made-image.js';

const KiB = 1024;
const MiB = 1024 * KiB;

const open = (files: FakeFiles, flags = {}, more = {}) => openImage(files, 'qcow', flags, more);
const change = (files: FakeFiles, ...patches: Patch[]) => changed(files, patches, false);

/** Cluster 0 is stored plainly at 4 KiB, its table at 8 KiB; cluster 1 compressed behind both. */
async function sound(): Promise<FakeFiles> {
  const files = new FakeFiles();
  await makeImage(files, { format: 'qcow', size: MiB + 512 });
  const disk = await open(files, { writable: true });
  await disk.write(0, filled(4 * KiB, 1));
  await disk.write(4 * KiB, filled(4 * KiB, 2), Req.compressed);
  await disk.detach();
  return files;
}
const TABLE = 8 * KiB;

describe('headers out of range', () => {
  it.each<[string, Patch, string]>([
    ['magic', [0, 4, 5], 'Image not in qcow format'],
    ['version', [4, 4, 2], 'qcow (v1) does not support qcow version 2'],
    ['size', [24, 8, 1], 'Image size is too small (must be at least 2 bytes)'],
    ['huge size', [24, 8, 1n << 62n], 'Image too large'],
    ['too many tables', [24, 8, (1n << 50n) - 1n], 'Image too large'],
    ['cluster_bits', [32, 1, 8], 'Cluster size must be between 512 and 64k'],
    ['large cluster_bits', [32, 1, 17], 'Cluster size must be between 512 and 64k'],
    ['l2_bits', [33, 1, 5], 'L2 table size must be between 512 and 64k'],
    ['large l2_bits', [33, 1, 14], 'L2 table size must be between 512 and 64k'],
    ['crypt_method', [36, 4, 2], 'invalid encryption method in qcow header'],
  ])('%s', async (_name, one, message) => {
    expect(await failure(open(change(await sound(), one)))).toBe(message);
  });

  it('the name of the backing file is too long', async () => {
    const files = change(await sound(), [8, 8, 48], [16, 4, 1024]);
    expect(await failure(open(files))).toBe('Backing file name too long');
  });

  it('an L1 table that the file does not hold takes no memory', async () => {
    const files = change(await sound(), [24, 8, 1n << 40n]);
    const disk = await open(files, { writable: true });
    expect(await failure(disk.read(1e12, Iov.alloc(512)))).toBe(
      'Entry 476837 of the L1 table cannot be; run check',
    );
    await disk.detach();
  });
});

describe('entries that cannot be', () => {
  it.each<[string, bigint]>([
    ['past the end', 1n << 40n],
    ['unaligned', 4096n + 512n],
    ['compressed, past the end', (1n << 63n) | (100n << 51n) | (1n << 30n)],
    ['compressed, of no length', (1n << 63n) | 4096n],
  ])('%s', async (_name, entry) => {
    const disk = await open(change(await sound(), [TABLE, 8, entry]), { writable: true });
    const text = 'The table entry of cluster 0 cannot be; run check';
    expect(await failure(disk.read(0, Iov.alloc(512)))).toBe(text);
    expect(await failure(disk.write(0, filled(512, 1)))).toBe(text);
    expect(await readBytes(disk, 4 * KiB, 512)).toEqual(new Uint8Array(512).fill(2));
    await disk.detach();
  });

  it('compressed clusters that are none fail, whatever they would become', async () => {
    const entry = (1n << 63n) | (512n << 51n) | 4096n;
    const disk = await open(change(await sound(), [TABLE + 8, 8, entry]));
    expect(await failure(disk.read(4 * KiB, Iov.alloc(512)))).toBe('Input/output error');
    await disk.detach();
  });
});

it('what is written over a compressed cluster keeps what is around it', async () => {
  const files = await sound();
  const disk = await open(files, { writable: true });
  await disk.write(5 * KiB, filled(512, 3));
  const expected = new Uint8Array(4 * KiB).fill(2);
  expected.fill(3, KiB, KiB + 512);
  expect(await readBytes(disk, 4 * KiB, 4 * KiB)).toEqual(expected);
  await disk.detach();
  const next = await open(files);
  expect(await readBytes(next, 4 * KiB, 4 * KiB)).toEqual(expected);
  await next.detach();
});

it('the last cluster may be short, and compressed all the same', async () => {
  const files = await sound();
  const disk = await open(files, { writable: true });
  await disk.write(MiB, filled(512, 9), Req.compressed);
  await disk.detach();
  const next = await open(files);
  expect(await readBytes(next, MiB, 512)).toEqual(new Uint8Array(512).fill(9));
  const status = await next.node.blockStatus(MiB, 512);
  expect([status.data, status.compressed]).toEqual([true, true]);
  await next.detach();
});

it('an image that was emptied holds nothing, and is written to again', async () => {
  const files = await sound();
  const disk = await open(files, { writable: true });
  expect(await readBytes(disk, 4 * KiB, 512)).toEqual(new Uint8Array(512).fill(2));
  await disk.node.instance.makeEmpty?.();
  expect(await readBytes(disk, 0, 8 * KiB)).toEqual(new Uint8Array(8 * KiB));
  await disk.write(8 * KiB, filled(512, 7));
  await disk.detach();
  const next = await open(files);
  const expected = new Uint8Array(16 * KiB);
  expected.fill(7, 8 * KiB, 8 * KiB + 512);
  expect(await readBytes(next, 0, 16 * KiB)).toEqual(expected);
  await next.detach();
});

it('images cannot be empty, and only AES encrypts them', async () => {
  const make = (size: number, options: string) =>
    failure(makeImage(new FakeFiles(), { format: 'qcow', size, options }));
  expect(await make(0, 'encryption=off')).toBe('Image size is too small, cannot be zero length');
  expect(await make(MiB, 'encrypt.format=luks,encrypt.key-secret=s')).toBe(
    'Unsupported encryption format',
  );
  expect(await make(MiB, 'encryption=on')).toBe(
    "Parameter 'encrypt.key-secret' is required for cipher",
  );
  const plain = await sound();
  expect(await failure(open(plain, {}, { encrypt: { format: 'aes' } }))).toBe(
    "No encryption in image header, but options specified format 'aes'",
  );
  expect(await failure(open(change(plain, [36, 4, 1])))).toBe(
    "Parameter 'encrypt.key-secret' is required for cipher",
  );
  expect(plain.bytesOf(imagePath).length).toBeGreaterThan(0);
});
