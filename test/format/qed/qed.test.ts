// Goal: bad QED headers and tables are refused or told, images that were not closed are repaired,
// and growing and naming backing files work. Method: images made here are changed byte by byte in
// simulated files.
import { describe, expect, it } from 'vitest';
import { Iov } from '../../../src/index.js';
import {
  FakeClock,
  FakeFiles,
  failure,
  fakeHost,
  filled,
  readBytes,
  testGraph,
} from '../../support/index.js';
import type { Patch } from '../made-image.js';
import { changed, checkImage, imagePath, makeImage, openImage } from '../made-image.js';

const KiB = 1024;
const MiB = 1024 * KiB;
/** Places in a new image with clusters of 64 KiB and tables of 4. */
const L1 = 64 * KiB;
const DATA = 320 * KiB;
const L2 = 384 * KiB;
const SECOND = 640 * KiB;
const NEED_CHECK = 2;

const open = (files: FakeFiles, flags = {}) => openImage(files, 'qed', flags);
const change = (files: FakeFiles, ...patches: Patch[]) => changed(files, patches, true);

/** An image with clusters 0 and 3 written. */
async function sound(options = ''): Promise<FakeFiles> {
  const files = new FakeFiles();
  const size = 4 * MiB;
  await makeImage(files, { format: 'qed', size, ...(options === '' ? {} : { options }) });
  const disk = await open(files, { writable: true });
  await disk.write(0, filled(64 * KiB, 1));
  await disk.write(3 * 64 * KiB, filled(512, 2));
  await disk.detach();
  return files;
}

const features = (files: FakeFiles): number => files.bytesOf(imagePath)[16] ?? 0;

describe('headers out of range', () => {
  it.each<[string, Patch, string]>([
    ['magic', [0, 4, 0x1234], 'Image not in QED format'],
    ['feature', [16, 8, 0x18], 'Unsupported QED features: 18'],
    ['features above 2^53', [16, 8, 1n << 63n], 'Unsupported QED features: 8000000000000000'],
    ['cluster_size', [4, 4, 5000], 'QED cluster size is invalid'],
    ['cluster_size of 0', [4, 4, 0], 'QED cluster size is invalid'],
    ['huge cluster_size', [4, 4, 2 ** 31], 'QED cluster size is invalid'],
    ['table_size', [8, 4, 32], 'QED table size is invalid'],
    ['table_size of 0', [8, 4, 0], 'QED table size is invalid'],
    ['header_size of 0', [12, 4, 0], 'QED header size is invalid'],
    ['header_size', [12, 4, 0xffff_ffff], 'QED table offset is invalid'],
    ['l1_table_offset in the header', [40, 8, 0], 'QED table offset is invalid'],
    ['l1_table_offset past the end', [40, 8, 1n << 40n], 'QED table offset is invalid'],
    ['image_size beyond the tables', [48, 8, 1n << 60n], 'QED image size is invalid'],
    ['image_size unaligned', [48, 8, 1000], 'QED image size is invalid'],
  ])('%s', async (_name, one, message) => {
    expect(await failure(open(change(await sound(), one)))).toBe(message);
  });

  it('backing file names outside the header, or too long', async () => {
    const files = await sound();
    const outside = change(files, [16, 8, 1], [56, 4, 65530], [60, 4, 7]);
    expect(await failure(open(outside))).toBe('QED backing filename offset is invalid');
    const long = change(files, [16, 8, 1], [56, 4, 64], [60, 4, 1024]);
    expect(await failure(open(long))).toBe('QED backing filename is too long');
  });

  it('tables of 1 GiB take no memory', async () => {
    const files = new FakeFiles({ maxBytes: 2 ** 33 });
    await makeImage(files, {
      format: 'qed',
      size: 4 * MiB,
      options: 'cluster_size=64M,table_size=16',
    });
    const disk = await open(files, { writable: true });
    await disk.write(MiB, filled(512, 7));
    expect(await readBytes(disk, MiB, 512)).toEqual(new Uint8Array(512).fill(7));
    await disk.detach();
  });
});

describe('tables that contradict', () => {
  it('are counted by check as by QEMU, and mended where that is possible', async () => {
    const files = await sound();
    const sums = async (...patches: Patch[]): Promise<number[]> => {
      const { result } = await checkImage(change(files, ...patches), 'qed');
      return [result.corruptions, result.leaks, result.checkErrors];
    };
    expect(await sums()).toEqual([0, 0, 0]);
    // A cluster past the end of the file; it is lost.
    expect(await sums([L2, 8, 1n << 40n])).toEqual([1, 1, 0]);
    expect(await sums([L2, 8, DATA + 512])).toEqual([1, 1, 0]);
    // Named twice: the other is lost.
    expect(await sums([L2, 8, SECOND])).toEqual([1, 1, 0]);
    // The L2 table is lost with all it names: 4 clusters and 2 of data.
    expect(await sums([L1, 8, 0])).toEqual([0, 6, 0]);
    expect(await sums([L1, 8, 123])).toEqual([1, 6, 0]);
    const broken = change(files, [L2, 8, 1n << 40n], [L1 + 8, 8, 5]);
    const { result } = await checkImage(broken, 'qed', true);
    expect([result.corruptions, result.corruptionsFixed, result.leaks]).toEqual([0, 2, 1]);
    const again = await checkImage(broken, 'qed');
    expect([again.result.corruptions, again.result.leaks]).toEqual([0, 1]);
  });

  it('fail reads and writes of what they damage, and nothing else', async () => {
    const disk = await open(change(await sound(), [L2, 8, 1n << 40n]), { writable: true });
    const text = 'The table entry of cluster 0 cannot be; run check';
    expect(await failure(disk.read(0, Iov.alloc(512)))).toBe(text);
    expect(await failure(disk.write(0, filled(512, 1)))).toBe(text);
    expect(await readBytes(disk, 3 * 64 * KiB, 512)).toEqual(new Uint8Array(512).fill(2));
    await disk.detach();
  });
});

describe('images that were not closed', () => {
  it('say so while clusters are given out, and not any more when closed', async () => {
    const files = new FakeFiles();
    await makeImage(files, { format: 'qed', size: 4 * MiB });
    const disk = await open(files, { writable: true });
    expect(features(files)).toBe(0);
    await disk.write(0, filled(512, 1));
    expect(features(files)).toBe(NEED_CHECK);
    expect((await disk.node.instance.info?.())?.isDirty).toBe(true);
    await disk.detach();
    expect(features(files)).toBe(0);
  });

  it('say so no more after five seconds without writes, which waits for nobody', async () => {
    const files = new FakeFiles();
    await makeImage(files, { format: 'qed', size: 4 * MiB });
    const clock = new FakeClock();
    const graph = testGraph({ host: fakeHost({ files, clock }) });
    const options = { driver: 'qed', file: { driver: 'file', filename: imagePath } };
    const disk = await graph.openBackend({ options, flags: { writable: true } });
    await disk.write(0, filled(512, 1));
    await clock.advance(4000);
    await disk.write(64 * KiB, filled(512, 2));
    await clock.advance(4000);
    expect(features(files)).toBe(NEED_CHECK);
    await clock.advance(1000);
    expect(features(files)).toBe(0);
    expect(clock.pending).toBe(0);
    const { result } = await checkImage(change(files), 'qed');
    expect([result.corruptions, result.leaks]).toEqual([0, 0]);
    // A write in a cluster that has its place changes nothing; the next new one sets it again.
    await disk.write(512, filled(512, 3));
    expect(features(files)).toBe(0);
    await disk.write(128 * KiB, filled(512, 4));
    expect(features(files)).toBe(NEED_CHECK);
    // Writes that come while the flag is taken away, one after the other, are kept.
    const idle = clock.advance(5000);
    const late: Promise<void>[] = [];
    for (const n of [3, 4, 5]) {
      late.push(disk.write(n * 64 * KiB, filled(512, n)));
      for (let i = 0; i < n * 7; i++) await Promise.resolve();
    }
    await Promise.all([idle, ...late]);
    await disk.write(6 * 64 * KiB, filled(512, 6));
    expect(features(files)).toBe(NEED_CHECK);
    await disk.detach();
    expect(features(files)).toBe(0);
    const after = await checkImage(change(files), 'qed');
    expect([after.result.corruptions, after.result.leaks]).toEqual([0, 0]);
    const reader = await open(files);
    for (const n of [3, 4, 5]) {
      expect(await readBytes(reader, n * 64 * KiB, 512)).toEqual(new Uint8Array(512).fill(n));
    }
  });

  it('are repaired by who opens them for writing, and left alone by readers', async () => {
    const files = change(await sound(), [16, 8, NEED_CHECK], [L2 + 8, 8, 1n << 40n]);
    const reader = await open(files);
    expect(await failure(reader.read(64 * KiB, Iov.alloc(512)))).toContain('cluster 1');
    await reader.detach();
    expect(features(files)).toBe(NEED_CHECK);
    const writer = await open(files, { writable: true });
    expect(features(files)).toBe(0);
    expect(await readBytes(writer, 64 * KiB, 512)).toEqual(new Uint8Array(512));
    expect(await readBytes(writer, 3 * 64 * KiB, 512)).toEqual(new Uint8Array(512).fill(2));
    await writer.detach();
  });

  it('are refused to writers where the damage stays', async () => {
    const files = change(await sound(), [16, 8, NEED_CHECK], [L2 + 8, 8, DATA]);
    expect(await failure(open(files, { writable: true }))).toBe(
      'The image was not closed and cannot be repaired; run check',
    );
    expect(features(files)).toBe(NEED_CHECK);
  });
});

describe('changing an image', () => {
  it('grows, and shows zeroes there; shrinking is refused', async () => {
    const files = await sound();
    const disk = await open(files, { writable: true });
    await disk.truncate(3 * 1024 * MiB, { exact: true });
    await disk.write(3 * 1024 * MiB - 512, filled(512, 9));
    expect(await readBytes(disk, 4 * MiB, 512)).toEqual(new Uint8Array(512));
    expect(await failure(disk.truncate(MiB, { exact: true }))).toBe(
      'Shrinking images is currently not supported',
    );
    expect(await failure(disk.truncate(2 ** 50, { exact: true }))).toBe(
      'Invalid image size specified',
    );
    await disk.detach();
    const next = await open(files);
    expect(next.size).toBe(3 * 1024 * MiB);
    expect(await readBytes(next, 3 * 1024 * MiB - 512, 512)).toEqual(new Uint8Array(512).fill(9));
    await next.detach();
  });

  it('forgets autoclear features before anything is written', async () => {
    const files = change(await sound(), [32, 8, 5n]);
    await (await open(files)).detach();
    expect(files.bytesOf(imagePath)[32]).toBe(5);
    await (await open(files, { writable: true })).detach();
    expect(files.bytesOf(imagePath)[32]).toBe(0);
  });

  it('names another backing file, unless features are unknown', async () => {
    const files = await sound();
    const disk = await open(files, { writable: true });
    await disk.node.instance.changeBackingFile?.('/other', 'raw');
    await disk.detach();
    expect(features(files)).toBe(5);
    const next = await open(files, { noBacking: true });
    expect([next.node.backingFile, next.node.backingFormat]).toEqual(['/other', 'raw']);
    await next.detach();
    const odd = await open(change(files, [24, 8, 1]), { writable: true, noBacking: true });
    expect(await failure(odd.node.instance.changeBackingFile!(null, null))).toBe(
      'Operation not supported',
    );
    await odd.detach();
  });
});
