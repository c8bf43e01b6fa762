// Goal: differencing VHD and VHDX read sector by sector from the child or its parent, which the
// locators name; a parent that is another disk is refused, and so is writing. Method: children are
// built byte by byte over a random model, from printed seeds.
import { describe, expect, it } from 'vitest';
import { guidText } from '../../../src/format/vhdx/guid.js';
import { createImage, prepareCreate } from '../../../src/block/create.js';
import type { Backend } from '../../../src/index.js';
import { Iov } from '../../../src/index.js';
import type { Random } from '../../support/index.js';
import {
  FakeFiles,
  failure,
  failureCode,
  fakeHost,
  filled,
  readBytes,
  same,
  seededRandom,
  testGraph,
} from '../../support/index.js';
import { ascii, buildVhd, KiB, MiB, openImage, path, utf16 } from './support.js';
import { dataGuid, vhdxChild } from './vhdx-child.js';

const SECTOR = 512;

/** A child's blocks over `base`: `disk` becomes what the child shows. */
function vhdBlocks(
  random: Random,
  disk: Uint8Array,
  blockSize: number,
): Map<number, { bitmap: Uint8Array; data: Uint8Array }> {
  const blocks = new Map<number, { bitmap: Uint8Array; data: Uint8Array }>();
  for (let block = 0; block * blockSize < disk.length; block++) {
    if (random.chance(0.4)) continue;
    const bitmap = new Uint8Array(SECTOR);
    // Sectors that the bitmap leaves out hold something too: it must not show.
    const data = random.bytes(blockSize);
    for (let s = 0; s < blockSize / SECTOR; s++) {
      if (random.chance()) continue;
      bitmap[s >> 3]! |= 0x80 >> (s & 7);
      const at = block * blockSize + s * SECTOR;
      if (at < disk.length) disk.set(data.subarray(s * SECTOR, (s + 1) * SECTOR), at);
    }
    blocks.set(block, { bitmap, data });
  }
  return blocks;
}

const parentId = new Uint8Array(16).fill(7);

interface Names {
  readonly parent: string;
  readonly relative?: string;
  readonly absolute?: string;
  readonly url?: string;
  readonly name?: string;
}

/** A child at /dir/child over a dynamic parent; the model of what it shows. */
function vhdPair(random: Random, names: Names): { files: FakeFiles; disk: Uint8Array } {
  const size = 100 * KiB + SECTOR;
  const blockSize = 8 * KiB;
  const disk = new Uint8Array(size);
  const full = new Uint8Array(SECTOR).fill(0xff);
  const below = new Map<number, { bitmap: Uint8Array; data: Uint8Array }>();
  for (let block = 0; block * blockSize < size; block++) {
    if (random.chance(0.3)) continue;
    const data = random.bytes(blockSize);
    disk.set(data.subarray(0, Math.min(blockSize, size - block * blockSize)), block * blockSize);
    below.set(block, { bitmap: full, data });
  }
  const files = new FakeFiles();
  files.put(names.parent, buildVhd({ size, blockSize, blocks: below, id: parentId }));
  const locators: { code: number; path: Uint8Array }[] = [];
  if (names.absolute !== undefined) {
    locators.push({ code: 0x5732_6b75, path: utf16(names.absolute) });
  }
  if (names.relative !== undefined) {
    locators.push({ code: 0x5732_7275, path: utf16(names.relative) });
  }
  if (names.url !== undefined) locators.push({ code: 0x4d61_6358, path: ascii(names.url) });
  const child = buildVhd({
    size,
    blockSize,
    type: 4,
    blocks: vhdBlocks(random, disk, blockSize),
    parentId,
    locators,
    ...(names.name === undefined ? {} : { parentName: names.name }),
  });
  files.put('/dir/child', child);
  return { files, disk };
}

async function openChild(files: FakeFiles, format: string, options = {}): Promise<Backend> {
  const graph = testGraph({ host: fakeHost({ files }) });
  return graph.openBackend({
    options: { driver: format, file: { driver: 'file', filename: '/dir/child' }, ...options },
  });
}

async function compare(disk: Backend, want: Uint8Array, random: Random): Promise<void> {
  same(await readBytes(disk, 0, want.length), want);
  for (let i = 0; i < 30; i++) {
    const at = random.int(0, want.length - 1);
    const n = Math.min(random.int(1, 20_000), want.length - at);
    same(await readBytes(disk, at, n), want.subarray(at, at + n));
  }
  // Whatever is said to be here or to be zero has to be so.
  for (let at = 0; at < want.length;) {
    const run = await disk.node.blockStatus(at, want.length - at);
    expect(run.bytes).toBeGreaterThan(0);
    if (run.zero) same(want.slice(at, at + run.bytes), new Uint8Array(run.bytes));
    at += run.bytes;
  }
}

describe('VHD', () => {
  it.each<[string, Names]>([
    ['a relative path', { parent: '/dir/sub/p.vhd', relative: '.\\sub\\p.vhd' }],
    ['a URL', { parent: '/other/p q.vhd', url: 'file://localhost/other/p%20q.vhd' }],
    ['an absolute path, by its name', { parent: '/dir/p.vhd', absolute: 'C:\\images\\p.vhd' }],
    ['the name in the header', { parent: '/dir/p.vhd', name: 'C:\\images\\p.vhd' }],
    ['a name with a colon, as a file', { parent: '/dir/./nbd:p', relative: 'nbd:p' }],
    ['what exists', { parent: '/dir/p.vhd', relative: 'gone.vhd', absolute: 'D:\\p.vhd' }],
  ])('finds its parent by %s', async (_name, names) => {
    const random = seededRandom();
    const { files, disk } = vhdPair(random, names);
    const child = await openChild(files, 'vpc');
    expect(child.node.backing?.node.driver.name).toBe('vpc');
    await compare(child, disk, random);
  });

  it('refuses another parent, and writing', async () => {
    const random = seededRandom();
    const { files } = vhdPair(random, { parent: '/dir/p.vhd', relative: 'p.vhd' });
    const other = buildVhd({ size: 100 * KiB + SECTOR, blockSize: 8 * KiB });
    files.put('/dir/p.vhd', other);
    const child = await openChild(files, 'vpc');
    expect(await failure(readBytes(child, 0, child.size))).toMatch(
      /^Cannot read the parent '\/dir\/p\.vhd': its unique ID is 0101.*, expected 0707/,
    );
    expect(await failureCode(child.write(0, filled(512, 1)))).toBe('EPERM');
    await child.detach();
    const graph = testGraph({ host: fakeHost({ files }) });
    const options = { driver: 'vpc', file: { driver: 'file', filename: '/dir/child' } };
    expect(await failure(graph.openBackend({ options, flags: { writable: true } }))).toContain(
      'Differencing VHD images can only be opened read-only',
    );
  });

  it('says when there is no name or no parent', async () => {
    const random = seededRandom();
    const { files } = vhdPair(random, { parent: '/dir/p.vhd' });
    expect(await failure(openChild(files, 'vpc'))).toContain('the differencing disk names none');
    const gone = vhdPair(random, { parent: '/dir/p.vhd', relative: 'q.vhd' });
    expect(await failure(openChild(gone.files, 'vpc'))).toContain('/dir/q.vhd');
    // Without a parent its sectors are zero.
    const child = await openChild(gone.files, 'vpc', { backing: null });
    await readBytes(child, 0, child.size);
  });

  it('does not take a backing file for a disk without a parent', async () => {
    const files = new FakeFiles();
    files.put(path, buildVhd({ size: 64 * KiB, blockSize: 8 * KiB }));
    const backing = { driver: 'null-co' };
    expect(await failure(openImage(files, 'vpc', {}, { backing }))).toContain(
      "does not support the option 'backing' for this image",
    );
  });
});

describe('VHDX', () => {
  async function pair(
    random: Random,
    relative: string,
  ): Promise<{ files: FakeFiles; disk: Uint8Array }> {
    const files = new FakeFiles();
    const host = fakeHost({ files, seed: random.uint32() });
    const size = 5 * MiB + 512;
    const graph = testGraph({ host });
    const optionTexts = ['block_size=1M'];
    const request = { filename: '/dir/p.vhdx', format: 'vhdx', size, optionTexts };
    await createImage(graph, await prepareCreate(graph, request));
    const fresh = files.bytesOf('/dir/p.vhdx');
    const disk = new Uint8Array(size);
    const options = { driver: 'vhdx', file: { driver: 'file', filename: '/dir/p.vhdx' } };
    const parent = await graph.openBackend({ options, flags: { writable: true } });
    for (let i = 0; i < 6; i++) {
      const at = 512 * random.int(0, 10_000);
      const data = random.bytes(Math.min(300_000, size - at));
      disk.set(data, at);
      await parent.write(at, Iov.of(data));
    }
    await parent.detach();
    const link = guidText(dataGuid(files.bytesOf('/dir/p.vhdx')));
    files.put('/dir/child', vhdxChild(random, fresh, disk, link, relative));
    return { files, disk };
  }

  it('reads blocks of every state, sector by sector', async () => {
    const random = seededRandom();
    const { files, disk } = await pair(random, '.\\p.vhdx');
    const child = await openChild(files, 'vhdx');
    await compare(child, disk, random);
    expect(await failureCode(child.write(0, filled(512, 1)))).toBe('EPERM');
  });

  it('refuses a parent that was written since, and writing', async () => {
    const random = seededRandom();
    const { files } = await pair(random, 'p.vhdx');
    const graph = testGraph({ host: fakeHost({ files, seed: 5 }) });
    const options = { driver: 'vhdx', file: { driver: 'file', filename: '/dir/p.vhdx' } };
    const parent = await graph.openBackend({ options, flags: { writable: true } });
    await parent.write(0, filled(512, 1));
    await parent.detach();
    const backend = await openChild(files, 'vhdx');
    const whole = { driver: 'vhdx', file: { driver: 'file', filename: '/dir/child' } };
    // Where all is in the child, no parent is asked.
    let at = 0;
    while (at < backend.size) {
      const run = await backend.node.blockStatus(at, backend.size - at);
      const read = readBytes(backend, at, run.bytes);
      if (run.allocated) await read;
      else expect(await failure(read)).toContain("Cannot read the parent '/dir/p.vhdx': its data");
      at += run.bytes;
    }
    await backend.detach();
    expect(
      await failure(graph.openBackend({ options: whole, flags: { writable: true } })),
    ).toContain('Differencing VHDX images can only be opened read-only');
  });
});
