// Goal: growing disks of Bochs read as their bitmaps say, damaged headers are refused with QEMU's
// texts, and QEMU's own driver reads the same. Method: images are built byte by byte from a random
// choice of extents and sectors (seeds are printed), beside a model of the disk.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  FakeFiles,
  failure,
  failureCode,
  fakeHost,
  filled,
  readBytes,
  requires,
  runOk,
  binPath,
  seededRandom,
  tempDir,
  testGraph,
} from '../../support/index.js';
import type { Random } from '../../support/index.js';
import type { Backend } from '../../../src/index.js';

const SECTOR = 512;

interface Image {
  readonly file: Uint8Array;
  readonly disk: Uint8Array;
}

/** An image of `extents` extents, stored in random order, some not at all. */
function build(random: Random, version: 1 | 2, extentBytes: number, extents: number): Image {
  const size = extents * extentBytes - SECTOR;
  const perExtent = extentBytes / SECTOR;
  const bitmapBytes = Math.max(1, Math.ceil(perExtent / 8));
  const stored = Math.ceil(bitmapBytes / SECTOR) * SECTOR;
  const order = Array.from({ length: extents }, (_, i) => i);
  for (let i = extents - 1; i > 0; i--) {
    const j = random.int(0, i);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  const kept = order.slice(0, Math.ceil(extents / 2));
  const data = SECTOR + extents * 4;
  const file = new Uint8Array(data + kept.length * (stored + extentBytes));
  const view = new DataView(file.buffer);
  const text = (at: number, s: string): void => file.set(new TextEncoder().encode(s), at);
  text(0, 'Bochs Virtual HD Image');
  text(32, 'Redolog');
  text(48, 'Growing');
  [version << 16, SECTOR, extents, bitmapBytes, extentBytes].forEach((v, i) => {
    view.setUint32(64 + i * 4, v, true);
  });
  view.setBigUint64(version === 1 ? 84 : 88, BigInt(size), true);
  file.fill(0xff, SECTOR, data);
  const disk = new Uint8Array(extents * extentBytes);
  kept.forEach((extent, place) => {
    view.setUint32(SECTOR + extent * 4, place, true);
    const at = data + place * (stored + extentBytes);
    // Sectors whose bit is clear hold something too: it must not show.
    file.set(random.bytes(extentBytes), at + stored);
    for (let s = 0; s < perExtent; s++) {
      if (random.chance(1 / 3)) continue;
      file[at + (s >> 3)]! |= 1 << (s & 7);
      const from = at + stored + s * SECTOR;
      disk.set(file.subarray(from, from + SECTOR), extent * extentBytes + s * SECTOR);
    }
  });
  return { file, disk: disk.subarray(0, size) };
}

function open(file: Uint8Array, writable = false): Promise<Backend> {
  const files = new FakeFiles({});
  files.put('/d', file);
  const graph = testGraph({ host: fakeHost({ files }) });
  return graph.openBackend({
    options: { driver: 'bochs', file: { driver: 'file', filename: '/d' } },
    flags: { writable },
  });
}

const shapes = [
  { version: 1, extentBytes: 512, extents: 9 },
  { version: 2, extentBytes: 4096, extents: 30 },
  { version: 2, extentBytes: 4 * 1024 * 1024, extents: 3 },
] as const;

describe('growing disks', () => {
  it.each(shapes)('version $version, extents of $extentBytes bytes', async (shape) => {
    const random = seededRandom();
    const { file, disk } = build(random, shape.version, shape.extentBytes, shape.extents);
    const backend = await open(file);
    expect(backend.size).toBe(disk.length);
    expect(Buffer.compare(await readBytes(backend, 0, disk.length), disk)).toBe(0);
    for (let i = 0; i < 50; i++) {
      const at = random.int(0, disk.length - 1);
      const n = Math.min(random.int(1, 20_000), disk.length - at);
      const got = await readBytes(backend, at, n);
      expect(Buffer.compare(got, disk.subarray(at, at + n))).toBe(0);
    }
  });

  it('is read-only', async () => {
    const { file } = build(seededRandom(), 2, 4096, 4);
    expect(await failure(open(file, true))).toContain('Image is read-only');
    const backend = await open(file);
    expect(await failureCode(backend.write(0, filled(512, 1)))).toMatch(/EACCES|EPERM/);
  });

  it.each([
    ['an unknown version', 64, 3, 'Image not in Bochs format'],
    ['another type', 32, 0, 'Image not in Bochs format'],
    ['a huge catalog', 72, 0x4000_0000, 'Catalog size is too large'],
    ['no extent size', 80, 0, 'Extent size must be at least 512'],
    ['an odd extent size', 80, 3000, 'Extent size 3000 is not a power of two'],
    ['a huge extent size', 80, 0x8000_0000, 'Extent size 2147483648 is too large'],
    ['a catalog that is too small', 72, 1, 'Catalog size is too small for this disk size'],
    ['a size past 2^53', 92, 0x7f00_0000, 'Catalog size is too small for this disk size'],
  ])('refuses %s', async (_name, at, value, text) => {
    const { file } = build(seededRandom(), 2, 4096, 4);
    new DataView(file.buffer).setUint32(at, value, true);
    expect(await failure(open(file))).toContain(text);
  });

  it('reads a catalog past the end of the file as what follows a file', async () => {
    const { file, disk } = build(seededRandom(), 2, 4096, 4);
    for (const at of [file.length, 0xffff_fffe]) {
      new DataView(file.buffer).setUint32(68, at, true);
      const read = open(file).then((backend) => readBytes(backend, 0, disk.length));
      const got = await read.catch((e: unknown) => e as Error);
      expect(got instanceof Error ? got.message : got.length).toBe(disk.length);
    }
  });

  it('ends reads of extents that no file can hold', async () => {
    const { file } = build(seededRandom(), 2, 8 * 1024 * 1024, 1);
    new DataView(file.buffer).setUint32(SECTOR, 0xffff_fffe, true);
    const backend = await open(file);
    expect(await failureCode(readBytes(backend, 0, 512))).toBe('EIO');
  });
});

requires('qemu-img')('as QEMU reads them', () => {
  it.each(shapes)('version $version, extents of $extentBytes bytes', async (shape) => {
    const folder = tempDir();
    const { file, disk } = build(seededRandom(), shape.version, shape.extentBytes, shape.extents);
    writeFileSync(join(folder, 'b'), file);
    writeFileSync(join(folder, 'raw'), disk);
    const args = ['compare', '-f', 'bochs', '-F', 'raw', join(folder, 'b'), join(folder, 'raw')];
    for (const tool of ['qemu-img', binPath('vdisk-img')]) {
      expect((await runOk(tool, args)).stdout).toContain('Images are identical.');
    }
  });
});
