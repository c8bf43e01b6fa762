// Goal: Apple disk images are read as their chunks say, whatever these are compressed by, bad ones
// are refused in one line, and other tools read the same. Method: images are put together here;
// where QEMU 10 and dmg2img are there, they read them too.
import { writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { deflateSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { Iov } from '../../../src/index.js';
import type { Random } from '../../support/index.js';
import {
  binPath,
  FakeFiles,
  failure,
  readBytes,
  requires,
  requiresQemu10,
  runOk,
  seededRandom,
  tempDir,
} from '../../support/index.js';
import { imagePath, openImage, patch } from '../made-image.js';
import type { Patch } from '../made-image.js';
import type { ChunkInit, DmgInit, Made } from './make-dmg.js';
import { adcEncode, makeDmg, SECTOR, Type, zlibChunk } from './make-dmg.js';
import { bzip2Sample, lzfseSample, lzvnSample, sampleText, xzSample } from './samples.js';

const KiB = 1024;

/** Chunks and the content of all of them. */
interface Parts {
  readonly chunks: readonly ChunkInit[];
  readonly content: Uint8Array;
}

const samples: readonly (readonly [number, string, number])[] = [
  [Type.bzip2, bzip2Sample, 8 * KiB],
  [Type.lzma, xzSample, 8 * KiB],
  [Type.lzfse, lzfseSample, 8 * KiB],
  [Type.lzfse, lzvnSample, KiB],
];

/** Chunks of each kind of `kinds`, in a random order, of random lengths. */
function randomParts(random: Random, kinds: readonly number[], count: number): Parts {
  const chunks: ChunkInit[] = [];
  const contents: Uint8Array[] = [];
  for (let i = 0; i < count; i++) {
    const type = i < kinds.length ? kinds[i]! : random.pick(kinds);
    const found = samples.filter(([sampleType]) => sampleType === type);
    let bytes = random.int(1, 40) * SECTOR;
    if (found.length > 0) {
      const [, text, size] = random.pick(found);
      chunks.push({ type, sectors: size / SECTOR, stored: Buffer.from(text, 'base64') });
      contents.push(sampleText(size));
      continue;
    }
    const content = new Uint8Array(bytes);
    if (type !== Type.zero && type !== Type.ignored) {
      for (let at = 0; at < bytes; at += random.int(1, 900)) content.fill(random.int(0, 255), at);
      random.fill(content.subarray(0, random.int(0, bytes)));
    }
    contents.push(content);
    bytes /= SECTOR;
    if (type === Type.zlib) chunks.push(zlibChunk(content));
    else if (type === Type.adc) chunks.push({ type, sectors: bytes, stored: adcEncode(content) });
    else if (type === Type.raw) chunks.push({ type, stored: content });
    else chunks.push({ type, sectors: bytes });
    if (random.chance(0.2)) chunks.push({ type: Type.comment, sectors: 0 });
  }
  return { chunks, content: new Uint8Array(Buffer.concat(contents)) };
}

function filesWith(image: Uint8Array, ...patches: Patch[]): FakeFiles {
  const files = new FakeFiles();
  const copy = image.slice();
  patch(copy, patches, false);
  files.put(imagePath, copy);
  return files;
}

const all = [0, 1, 2, Type.adc, Type.zlib, Type.bzip2, Type.lzfse, Type.lzma];
const layouts: readonly Omit<DmgInit, 'tables'>[] = [
  {},
  { dataFork: 777 },
  { fork: true },
  { fork: true, dataFork: 4096 },
];

describe.each(layouts)('an image %j', (layout) => {
  it('reads any range, from each kind of chunk', async () => {
    const random = seededRandom();
    const { chunks, content } = randomParts(random, all, 24);
    const cut = random.int(1, chunks.length - 1);
    const tables = [chunks.slice(0, cut), chunks.slice(cut)];
    const disk = await openImage(filesWith(makeDmg({ ...layout, tables }).bytes), 'dmg');
    expect(disk.size).toBe(content.length);
    for (let i = 0; i < 40; i++) {
      const at = random.int(0, content.length - 1);
      const bytes = Math.min(random.int(1, 60 * KiB), content.length - at);
      const got = await readBytes(disk, at, bytes);
      expect(Buffer.compare(got, content.subarray(at, at + bytes))).toBe(0);
    }
    await disk.detach();
  });
});

it('cannot be written to', async () => {
  const files = filesWith(makeDmg({ tables: [[{ type: 0, sectors: 8 }]] }).bytes);
  expect(await failure(openImage(files, 'dmg', { writable: true }))).toBe('Image is read-only');
});

it('tells what is zero and where plain chunks are', async () => {
  const stored = new Uint8Array(4 * SECTOR).fill(7);
  const chunks = [{ type: 2, sectors: 8 }, { type: 1, stored }, zlibChunk(stored)];
  const disk = await openImage(filesWith(makeDmg({ tables: [chunks] }).bytes), 'dmg');
  const { node } = disk;
  const [zero, raw, packed] = await Promise.all(
    [0, 8, 12].map((sector) => node.blockStatus(sector * SECTOR, 4 * SECTOR)),
  );
  expect(zero).toMatchObject({ bytes: 4 * SECTOR, zero: true });
  expect(raw).toMatchObject({ bytes: 4 * SECTOR, zero: false, data: true, offset: 0 });
  expect(packed).toMatchObject({ bytes: 4 * SECTOR, data: true, compressed: true });
  await disk.detach();
});

/** A sound image with a table in a resource fork, whose fields have fixed places. */
function sound(): Made & { readonly table: number } {
  const content = sampleText(8 * KiB);
  const chunks = [zlibChunk(content), { type: 1, stored: content }, { type: 0, sectors: 16 }];
  const made = makeDmg({ tables: [chunks], fork: true });
  return { ...made, table: made.listAt + 256 + 4 };
}

const chunk = (index: number, field: number): number => 204 + 40 * index + field;

describe('bad images', () => {
  const HUGE = (1n << 64n) - 1n;
  it.each<[string, number, 4 | 8, number | bigint, RegExp]>([
    ['chunk count', 200, 4, 0xffffffff, /has 4294967295 chunks, expected at most 4/u],
    ['first sector of the table', 8, 8, HUGE, /first sector of its table is .* too large/u],
    ['data offset of the table', 24, 8, HUGE, /data offset of its table is .* too large/u],
    ['unknown type', chunk(0, 0), 4, 0x80000009, /type 0x80000009, which is not known/u],
    ['first sector', chunk(0, 8), 8, HUGE, /the first sector is .* too large/u],
    ['sectors', chunk(0, 16), 8, HUGE, /the number of sectors is .* too large/u],
    ['a bomb', chunk(0, 16), 8, 131073, /sector count 131073 for chunk 0 is larger than max/u],
    ['offset', chunk(0, 24), 8, HUGE, /the offset is .* too large/u],
    ['length', chunk(0, 32), 8, HUGE, /the length is .* too large/u],
    ['long chunk', chunk(0, 32), 8, 67108865, /length 67108865 for chunk 0 is larger than max/u],
    ['plain chunk that is cut', chunk(1, 32), 8, 512, /length is 512, expected at least 8192/u],
    ['sectors told twice', chunk(1, 8), 8, 15, /Two chunks of the DMG tell of sector 15/u],
  ])('%s', async (_name, at, width, value, message) => {
    const { bytes, table } = sound();
    expect(await failure(openImage(filesWith(bytes, [table + at, width, value]), 'dmg'))).toMatch(
      message,
    );
  });

  it.each<[string, number, 4 | 8, number | bigint, RegExp]>([
    ['no trailer', 0, 4, 0, /Could not locate UDIF trailer/u],
    ['data fork', 24, 8, 1n << 63n, /data fork of the DMG begins past the end/u],
    ['resource fork', 40, 8, 1n << 63n, /resource fork of the DMG lies past the end/u],
    ['long resource fork', 48, 8, 16777217, /has 16777217 bytes, expected at most 16777216/u],
    ['no tables', 48, 8, 0, /neither a property list nor a resource fork/u],
    ['a list that is none', 224, 8, HUGE, /property list of the DMG has .* expected at most/u],
    ['several files', 60, 4, 3, /has 3 files, which is not supported/u],
  ])('trailer: %s', async (_name, at, width, value, message) => {
    const { bytes, trailerAt } = sound();
    const files = filesWith(bytes, [trailerAt + at, width, value]);
    expect(await failure(openImage(files, 'dmg'))).toMatch(message);
  });

  it.each<[string, number, number, RegExp]>([
    ['data past its end', 0, 0xffffff00, /has data past its end/u],
    ['a resource past its end', 256, 0xffff, /has a resource past its end/u],
    ['a resource of no bytes', 256, 0, /has a resource past its end/u],
  ])('resource fork: %s', async (_name, at, value, message) => {
    const { bytes, listAt } = sound();
    expect(await failure(openImage(filesWith(bytes, [listAt + at, 4, value]), 'dmg'))).toMatch(
      message,
    );
  });

  it('encrypted ones and files that are none', async () => {
    const encrypted = new Uint8Array(2000);
    encrypted.set(new TextEncoder().encode('encrcdsa'));
    expect(await failure(openImage(filesWith(encrypted), 'dmg'))).toMatch(/Encrypted DMG/u);
    for (const bytes of [0, 1, 511, 2000]) {
      expect(await failure(openImage(filesWith(new Uint8Array(bytes)), 'dmg'))).toMatch(/trailer/u);
    }
  });

  it('property lists without an end or with no base64', async () => {
    const { bytes, listAt } = makeDmg({ tables: [[{ type: 0, sectors: 8 }]] });
    const text = Buffer.from(bytes).toString('latin1');
    const end = text.indexOf('</data>');
    expect(end).toBeGreaterThan(listAt);
    const cut = filesWith(bytes, [end, 1, 0x20]);
    expect(await failure(openImage(cut, 'dmg'))).toMatch(/cut in its data/u);
    const wrong = filesWith(bytes, [end - 20, 1, 0x21]);
    expect(await failure(openImage(wrong, 'dmg'))).toMatch(/no valid base64/u);
  });

  it('chunks that hold too much, too little or no sound data fail, and no others', async () => {
    const content = sampleText(8 * KiB);
    const bomb = deflateSync(new Uint8Array(1 << 24));
    const cases: ChunkInit[] = [
      { type: Type.zlib, sectors: 17, stored: deflateSync(content) },
      { type: Type.zlib, sectors: 16, stored: Buffer.from('no zlib') },
      { type: Type.adc, sectors: 16, stored: Uint8Array.of(0, 0) },
      { type: Type.adc, sectors: 1, stored: adcEncode(content) },
    ];
    for (const [type, text, bytes] of samples) {
      const stored = Buffer.from(text, 'base64');
      cases.push({ type, sectors: bytes / SECTOR + 1, stored });
      cases.push({ type, sectors: bytes / SECTOR - 1, stored });
      cases.push({ type, sectors: bytes / SECTOR, stored: stored.subarray(0, stored.length - 30) });
    }
    for (const wrong of cases) {
      const after = { type: Type.zlib, sectors: 1, stored: bomb };
      const { bytes } = makeDmg({ tables: [[wrong, { type: 1, stored: content }, after]] });
      const disk = await openImage(filesWith(bytes), 'dmg');
      expect(await failure(disk.read(0, Iov.alloc(512)))).toBe('Input/output error');
      const at = (wrong.sectors ?? 0) * SECTOR;
      const got = await readBytes(disk, at, content.length);
      expect(Buffer.compare(got, content)).toBe(0);
      await disk.detach();
    }
  });

  it('sectors that no chunk tells of, and chunks past the end of the file', async () => {
    const { bytes, table } = sound();
    const gap = filesWith(bytes, [table + chunk(0, 16), 8, 8]);
    const disk = await openImage(gap, 'dmg');
    expect(await failure(disk.read(8 * SECTOR, Iov.alloc(512)))).toMatch(/tells of sector 8/u);
    await disk.detach();
    const past = await openImage(filesWith(bytes, [table + chunk(1, 24), 8, 1 << 30]), 'dmg');
    expect(await failure(past.read(16 * SECTOR, Iov.alloc(512)))).toMatch(/is past the end of it/u);
    await past.detach();
  });
});

requiresQemu10('qemu-img')('beside QEMU 10', () => {
  it.each(layouts)('it reads the same: %j', async (layout) => {
    const random = seededRandom();
    const { chunks, content } = randomParts(random, [0, 1, 2, Type.zlib], 30);
    const cut = random.int(1, chunks.length - 1);
    const dir = tempDir();
    const tables = [chunks.slice(0, cut), chunks.slice(cut)];
    writeFileSync(join(dir, 'x.dmg'), makeDmg({ ...layout, tables }).bytes);
    for (const tool of ['qemu-img', binPath('vdisk-img')]) {
      await runOk(tool, ['convert', '-O', 'raw', 'x.dmg', 'out'], { cwd: dir });
      expect(Buffer.compare(await readFile(join(dir, 'out')), content)).toBe(0);
    }
    const infos = await Promise.all(
      ['qemu-img', binPath('vdisk-img')].map(async (tool) => {
        const { stdout } = await runOk(tool, ['info', '--output=json', 'x.dmg'], { cwd: dir });
        return JSON.parse(stdout) as unknown;
      }),
    );
    expect(infos[1]).toEqual(infos[0]);
  });
});

requires('dmg2img')('beside dmg2img', () => {
  it('it reads the same', async () => {
    const random = seededRandom();
    const kinds = [0, 1, 2, Type.adc, Type.zlib, Type.bzip2];
    const { chunks, content } = randomParts(random, kinds, 20);
    const dir = tempDir();
    writeFileSync(join(dir, 'x.dmg'), makeDmg({ tables: [chunks] }).bytes);
    await runOk('dmg2img', ['-s', 'x.dmg', 'out'], { cwd: dir });
    expect(Buffer.compare(await readFile(join(dir, 'out')), content)).toBe(0);
  });
});
