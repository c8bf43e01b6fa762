// Goal: bad VDI headers and maps are refused in QEMU's words, differencing images read through to
// their parents, and new images have the layout that others expect. Method: images made here are
// changed byte by byte in simulated files.
import { describe, expect, it } from 'vitest';
import { createImage, prepareCreate } from '../../../src/block/create.js';
import type { Backend, NodeOptions, OpenFlags } from '../../../src/index.js';
import { chainStatus, Iov } from '../../../src/index.js';
import { FakeFiles, failure, fakeHost, filled, readBytes, testGraph } from '../../support/index.js';

const MiB = 1024 * 1024;
const path = '/m/disk.vdi';

async function create(files: FakeFiles, name = path, size = 4 * MiB, option = ''): Promise<void> {
  const graph = testGraph({ host: fakeHost({ files, seed: name.length }) });
  const optionTexts = option === '' ? [] : [option];
  const request = { filename: name, format: 'vdi', size, optionTexts };
  await createImage(graph, await prepareCreate(graph, request));
}

function open(
  files: FakeFiles,
  flags: Partial<OpenFlags> = {},
  more: NodeOptions = {},
  filename = path,
): Promise<Backend> {
  const graph = testGraph({ host: fakeHost({ files }) });
  return graph.openBackend({
    options: { driver: 'vdi', file: { driver: 'file', filename }, ...more },
    flags: { unmap: true, ...flags },
  });
}

/** The image of `files` with some 32-bit numbers changed. */
function changed(files: FakeFiles, numbers: readonly (readonly [number, number])[]): FakeFiles {
  const bytes = files.bytesOf(path);
  const view = new DataView(bytes.buffer);
  for (const [at, value] of numbers) view.setUint32(at, value, true);
  const next = new FakeFiles();
  next.put(path, bytes);
  return next;
}

async function withTwoBlocks(): Promise<FakeFiles> {
  const files = new FakeFiles();
  await create(files);
  const disk = await open(files, { writable: true });
  await disk.write(MiB, filled(512, 1));
  await disk.write(3 * MiB, filled(512, 2));
  await disk.detach();
  return files;
}

describe('headers out of range', () => {
  const unsupported = (what: string): string => `unsupported VDI image (${what})`;
  it.each([
    ['signature', 0x40, 0x1234, 'Image not in VDI format (bad signature 00001234)'],
    ['version', 0x44, 0x10002, unsupported('version 1.2')],
    ['type', 0x4c, 9, unsupported('image type 9')],
    ['map in the header', 0x154, 0, unsupported('block map offset 0x0 lies in the header')],
    ['map unaligned', 0x154, 0x201, unsupported('unaligned block map offset 0x201')],
    ['data unaligned', 0x158, 0x401, unsupported('unaligned data offset 0x401')],
    ['sector size', 0x168, 1024, unsupported('sector size 1024 is not 512')],
    [
      'disk size',
      0x170,
      4 * MiB + 1,
      unsupported('disk size 4194816, image bitmap has room for 4194304'),
    ],
    [
      'disk size',
      0x174,
      0x20000,
      'Unsupported VDI image size (size is 0x2000000400000, max supported is 0x1fffff8000000)',
    ],
    ['block size 0', 0x178, 0, unsupported('block size 0 is not 1048576')],
    ['block size', 0x178, 3 * MiB, unsupported('block size 3145728 is not 1048576')],
    ['block size', 0x178, 0x80000000, unsupported('block size 2147483648 is not 1048576')],
    ['extra bytes', 0x17c, 512, unsupported('512 extra bytes in front of each block')],
    ['blocks', 0x180, 3, unsupported('disk size 4194304, image bitmap has room for 3145728')],
    ['blocks', 0x180, 0xffffffff, unsupported('too many blocks 4294967295, max is 536870784')],
  ])('%s', async (_name, at, value, message) => {
    const files = changed(await withTwoBlocks(), [[at, value]]);
    expect(await failure(open(files))).toBe(message);
  });
});

describe('maps that contradict', () => {
  const lines = async (files: FakeFiles): Promise<string[]> => {
    const disk = await open(files, { check: true });
    const out: string[] = [];
    const options = { fixLeaks: false, fixErrors: false };
    const report = (line: string): void => void out.push(line);
    await disk.node.instance.check?.({ ...options, report });
    return out;
  };

  it('are told by check', async () => {
    const files = await withTwoBlocks();
    expect(await lines(files)).toEqual([]);
    expect(await lines(changed(files, [[0x184, 7]]))).toEqual([
      'ERROR: allocated blocks mismatch, is 2, should be 7',
    ]);
    expect(await lines(changed(files, [[0x200, 1]]))).toEqual([
      'ERROR: block index 3 also used by 0',
      'ERROR: allocated blocks mismatch, is 3, should be 2',
    ]);
    expect(await lines(changed(files, [[0x200, 77]]))).toEqual([
      'ERROR: block index 0 too large, is 77',
    ]);
  });

  it('refuse what would allocate, and nothing is written', async () => {
    const sound = await withTwoBlocks();
    for (const [entry, what] of [
      [77, 'block 77, expected less than 4'],
      [1, 'block 1 twice'],
    ] as const) {
      const files = changed(sound, [[0x200, entry]]);
      const before = files.bytesOf(path);
      const disk = await open(files, { writable: true });
      const text = await failure(disk.write(2 * MiB, filled(512, 3)));
      expect(text).toBe(`Cannot write to the image: its block map names ${what}; run check`);
      await disk.detach();
      expect(Buffer.compare(files.bytesOf(path), before)).toBe(0);
    }
    const disk = await open(changed(sound, [[0x200, 77]]), { writable: true });
    const text = 'Block 0 has the map entry 77; run check';
    expect(await failure(disk.read(0, Iov.alloc(512)))).toBe(text);
    expect(await failure(disk.write(0, filled(2 * MiB, 3)))).toContain('run check');
  });

  it('that the file does not hold are neither read nor written', async () => {
    const files = changed(await withTwoBlocks(), [
      [0x180, 0x1fffff80],
      [0x170, 0],
      [0x174, 0x1ffff],
    ]);
    const disk = await open(files, { writable: true });
    expect(disk.size).toBe(0x1ffff * 2 ** 32);
    const far = 0x1_0000_0000_0000;
    expect(await failure(disk.read(far, Iov.alloc(512)))).toContain('has no map entry; run check');
    expect(await failure(disk.write(far, filled(512, 1)))).toContain('ends before the block map');
    await disk.detach();
    expect((await lines(files)).join()).toContain('the file ends before the block map, at entry');
  });

  it('repairs are refused, as QEMU does', async () => {
    const disk = await open(await withTwoBlocks(), { writable: true });
    const options = { fixLeaks: true, fixErrors: false, report: () => undefined };
    await expect(disk.node.instance.check!(options)).rejects.toMatchObject({ code: 'ENOTSUP' });
  });
});

describe('blocks that a power cut left', () => {
  it('are used again, cleared', async () => {
    const sound = await withTwoBlocks();
    // The first block is not named any more; it still holds ones.
    const files = changed(sound, [[0x204, 0xffffffff]]);
    const disk = await open(files, { writable: true });
    await disk.write(7000, filled(100, 9));
    const around = new Uint8Array(102).fill(9, 1, 101);
    expect((await readBytes(disk, 6999, 102)).join()).toBe(around.join());
    expect((await readBytes(disk, 0, 7000)).every((b) => b === 0)).toBe(true);
    await disk.detach();
    expect(files.bytesOf(path).length).toBe(sound.bytesOf(path).length);
    const view = new DataView(files.bytesOf(path).buffer);
    expect([view.getUint32(0x184, true), view.getUint32(0x200, true)]).toEqual([2, 0]);
  });
});

describe('differencing images', () => {
  const child = '/m/Snapshots/{x}.vdi';
  const parent = '/m/base.vdi';

  /** A child with one block of its own, one of zeroes, and the rest from its parent. */
  async function family(): Promise<FakeFiles> {
    const files = new FakeFiles();
    await create(files, parent);
    const base = await open(files, { writable: true }, {}, parent);
    await base.write(0, filled(3 * MiB, 1));
    await base.detach();
    await create(files, child);
    const top = await open(files, { writable: true }, {}, child);
    await top.write(MiB, filled(512, 2));
    await top.detach();
    const bytes = files.bytesOf(child);
    const view = new DataView(bytes.buffer);
    view.setUint32(0x4c, 4, true);
    view.setUint32(0x208, 0xfffffffe, true);
    const head = files.bytesOf(parent);
    bytes.set(head.subarray(0x188, 0x1a8), 0x1a8);
    files.put(child, bytes);
    files.put('/m/other.vdi', 600);
    return files;
  }

  it('find their parent by its UUIDs and read through', async () => {
    const files = await family();
    const disk = await open(files, {}, {}, child);
    expect(disk.node.backing?.node.file?.node.filename).toBe(parent);
    const first = (at: number): Promise<number> => readBytes(disk, at, 1).then(([b]) => b ?? -1);
    expect([
      await first(0),
      await first(MiB),
      await first(MiB + 600),
      await first(2 * MiB),
    ]).toEqual([1, 2, 0, 0]);
    const depth = async (at: number): Promise<[number, boolean]> => {
      const run = await chainStatus(disk.node, undefined, at, 512);
      return [run.depth, run.zero];
    };
    expect([await depth(0), await depth(MiB), await depth(2 * MiB), await depth(3 * MiB)]).toEqual([
      [1, false],
      [0, false],
      [0, true],
      [1, true],
    ]);
  });

  it('are not taken without their parent, or with another one', async () => {
    const files = await family();
    const bytes = files.bytesOf(parent);
    bytes[0x198]! ^= 1;
    files.put(parent, bytes);
    expect(await failure(open(files, {}, {}, child))).toMatch(
      /^Cannot find the parent of this differencing VDI image: no VDI file nearby has the UUID /,
    );
    const backing = { driver: 'vdi', file: { driver: 'file', filename: parent } };
    const disk = await open(files, {}, { backing }, child);
    expect((await readBytes(disk, 0, 1))[0]).toBe(1);
    const alone = await open(files, {}, { backing: null }, child);
    expect((await readBytes(alone, 0, 1))[0]).toBe(0);
  });

  it('that name each other end', async () => {
    const files = await family();
    const bytes = files.bytesOf(parent);
    bytes.set(bytes.subarray(0x188, 0x1a8), 0x1a8);
    files.put(parent, bytes);
    expect(await failure(open(files, {}, {}, child))).toContain('Could not open backing file');
  });

  it('can only be read', async () => {
    const files = await family();
    expect(await failure(open(files, { writable: true }, {}, child))).toBe(
      'Differencing VDI images can only be read',
    );
    const graph = testGraph({ host: fakeHost({ files }) });
    const options = { driver: 'vdi', file: { driver: 'file', filename: child } };
    const node = await graph.open({ options, flags: { writable: true, autoReadOnly: true } });
    expect(node.readOnly).toBe(true);
    await graph.release(node);
  });
});

describe('creation', () => {
  it('static images have their full length and every block in its place', async () => {
    const files = new FakeFiles();
    await create(files, path, 2 * MiB + 1, 'static=on');
    const bytes = files.bytesOf(path);
    expect(bytes.length).toBe(1024 + 3 * MiB);
    const view = new DataView(bytes.buffer);
    const numbers = [0x4c, 0x158, 0x170, 0x180, 0x184, 0x200, 0x204, 0x208, 0x20c];
    expect(numbers.map((at) => view.getUint32(at, true))).toEqual([
      2,
      1024,
      2 * MiB + 512,
      3,
      3,
      0,
      1,
      2,
      0,
    ]);
  });

  it('refuses what cannot be', async () => {
    const files = new FakeFiles();
    const most =
      'Unsupported VDI image size (size is 0x2010000000000, max supported is 0x1fffff8000000)';
    expect(await failure(create(files, path, 0x2010000000000))).toBe(most);
    expect(await failure(create(files, path, MiB, 'block-size=64k'))).toBe(
      "Invalid parameter 'block-size'",
    );
  });
});
