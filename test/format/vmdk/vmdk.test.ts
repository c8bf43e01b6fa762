// Goal: bad headers and descriptors are refused in QEMU's words, extents make one disk, children
// notice that their parent changed, and streams are read as others write them. Method: disks made
// here are changed byte by byte in simulated files.
import { describe, expect, it } from 'vitest';
import { createImage, prepareCreate } from '../../../src/block/create.js';
import type { Backend, OpenFlags } from '../../../src/index.js';
import { Iov } from '../../../src/index.js';
import { FakeFiles, failure, fakeHost, filled, readBytes, testGraph } from '../../support/index.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const path = '/m/disk.vmdk';

async function create(
  files: FakeFiles,
  option = '',
  filename = path,
  backingFile?: string,
): Promise<void> {
  const graph = testGraph({ host: fakeHost({ files, seed: filename.length }) });
  const optionTexts = option === '' ? [] : [option];
  const backing = backingFile === undefined ? {} : { backingFile, backingFormat: 'vmdk' };
  const request = { filename, format: 'vmdk', size: 4 * MiB, optionTexts, ...backing };
  await createImage(graph, await prepareCreate(graph, request));
  await graph.close();
}

function open(files: FakeFiles, flags: Partial<OpenFlags> = {}, filename = path): Promise<Backend> {
  const graph = testGraph({ host: fakeHost({ files }) });
  const options = { driver: 'vmdk', file: { driver: 'file', filename } };
  return graph.openBackend({ options, flags: { unmap: true, ...flags } });
}

async function sparse(): Promise<FakeFiles> {
  const files = new FakeFiles();
  await create(files);
  const disk = await open(files, { writable: true });
  await disk.write(0, filled(128 * KiB, 1));
  await disk.detach();
  return files;
}

describe('headers out of range', () => {
  it.each([
    ['version', 4, 4, 4n, 'Unsupported VMDK version 4'],
    ['capacity', 12, 8, 2n ** 56n, 'L1 size too big'],
    ['grain size 0', 20, 8, 0n, 'L1 entry size is invalid'],
    ['grain size', 20, 8, 0x400000n, 'Invalid granularity, image may be corrupt'],
    ['grain size', 20, 8, 7n, 'Invalid granularity, image may be corrupt'],
    ['entries of a table 0', 44, 4, 0n, 'L1 entry size is invalid'],
    ['entries of a table', 44, 4, 513n, 'L2 table size too big'],
    ['overhead', 64, 8, 999n, 'File truncated, expecting at least 511488 bytes'],
    ['footer', 56, 8, 2n ** 64n - 1n, 'Invalid footer'],
    [
      'directory',
      56,
      8,
      99999n,
      'Could not read the grain directory: it ends at byte 51199492, past the end of the file ' +
        '(196608)',
    ],
  ])('%s', async (_name, at, width, value, message) => {
    const files = await sparse();
    const bytes = files.bytesOf(path);
    const view = new DataView(bytes.buffer);
    if (width === 8) view.setBigUint64(at, value, true);
    else view.setUint32(at, Number(value), true);
    files.put(path, bytes);
    expect(await failure(open(files))).toBe(message);
  });

  it('version 3 is only read', async () => {
    const files = await sparse();
    const bytes = files.bytesOf(path);
    bytes[4] = 3;
    files.put(path, bytes);
    expect(await failure(open(files, { writable: true }))).toBe('VMDK version 3 must be read only');
    expect((await readBytes(await open(files), 0, 1))[0]).toBe(1);
  });

  it('a table that names metadata is read, not written, and told by check', async () => {
    const files = await sparse();
    const bytes = files.bytesOf(path);
    new DataView(bytes.buffer).setUint32(13824, 2, true);
    files.put(path, bytes);
    const disk = await open(files, { writable: true });
    expect(await failure(disk.write(0, filled(512, 9)))).toBe(
      'A grain table entry names byte 1024, where metadata stands; run check',
    );
    const lines: string[] = [];
    const options = { fixLeaks: false, fixErrors: false };
    const report = (line: string): void => void lines.push(line);
    await disk.node.instance.check!({ ...options, report });
    expect(lines).toEqual(['ERROR: cluster offset in metadata for sector 0']);
  });
});

const describe2 = (type: string, ...lines: string[]): string =>
  `# Disk DescriptorFile\nversion=1\nCID=58ab4847\nparentCID=ffffffff\ncreateType="${type}"\n\n` +
  `# Extent description\n${lines.join('\n')}\n`;

function described(text: string): FakeFiles {
  const files = new FakeFiles();
  files.put(path, new TextEncoder().encode(text));
  files.put('/m/a.bin', new Uint8Array(MiB).fill(1));
  files.put('/m/b.bin', new Uint8Array(MiB).fill(2));
  files.put('/m/x:y', new Uint8Array(MiB).fill(3));
  return files;
}

describe('descriptors', () => {
  const flat = 'RW 2048 FLAT "a.bin"';
  it.each([
    ['monolithicFlat', `${flat} -1`, `Invalid extent line: ${flat} -1`],
    ['monolithicFlat', flat, `Invalid extent line: ${flat}`],
    ['monolithicFlat', 'RW 0 FLAT "a.bin" 0', 'Invalid extent line: RW 0 FLAT "a.bin" 0'],
    ['vmfs', 'RW 2048 VMFS "a.bin" 1', 'Invalid extent line: RW 2048 VMFS "a.bin" 1'],
    ['monolithicFlat', 'RDONLY 2048 FLAT "a.bin" 0', "Unsupported extent access 'RDONLY'"],
    ['monolithicFlat', 'RW 2048 VMFSRDM "a.bin"', "Unsupported extent type 'VMFSRDM'"],
    ['monolithicFlat', '', 'The descriptor names no extent'],
    ['custom', `${flat} 0`, "Unsupported image type 'custom'"],
    ['vmfsSparse', 'RW 2048 VMFSSPARSE "a.bin"', 'Image not in VMDK format'],
    ['seSparse', 'RW 2048 SESPARSE "a.bin"', 'Bad const header magic: 0x0101010101010101'],
    [
      'monolithicFlat',
      'RW 99999999999999999999 FLAT "a.bin" 0',
      'Could not refresh total sector count: File too large',
    ],
  ])('%s: %s', async (type, line, message) => {
    expect(await failure(open(described(describe2(type, line))))).toBe(message);
  });

  it('without what they must have', async () => {
    const text = describe2('monolithicFlat', `${flat} 0`);
    expect(await failure(open(described(text.replace(/^createType.*$/m, ''))))).toBe(
      'invalid VMDK image descriptor',
    );
    expect(await failure(open(described(text.replace(/^CID.*$/m, ''))))).toBe(
      `Could not open '${path}': Invalid argument`,
    );
    const missing = describe2('monolithicFlat', 'RW 2048 FLAT "none" 0');
    expect(await failure(open(described(missing)))).toContain('No such file or directory');
  });

  it('names are paths and nothing else; extents follow each other, zeroes among them', async () => {
    const lines = [`${flat} 0`, 'RW 8 ZERO', 'RW 1024 FLAT "b.bin" 1024', 'RW 2048 FLAT "x:y" 0'];
    const files = described(describe2('monolithicFlat', ...lines));
    const disk = await open(files, { writable: true });
    expect(disk.size).toBe(2.5 * MiB + 4096);
    await disk.write(MiB - 512, Iov.of(new Uint8Array(512).fill(7)));
    await disk.write(1.5 * MiB + 4096 - 100, filled(200, 8));
    const got = await readBytes(disk, 0, disk.size);
    expect([got[0], got[MiB - 1], got[MiB], got[MiB + 4096], got[got.length - 1]]).toEqual([
      1, 7, 0, 2, 3,
    ]);
    await disk.detach();
    expect(files.bytesOf('/m/b.bin')[MiB - 1]).toBe(8);
    expect(files.bytesOf('/m/x:y')[99]).toBe(8);
    expect(files.bytesOf('/m/x:y')[100]).toBe(3);
  });
});

describe('extents that are not what they should be', () => {
  it('the descriptor itself is no sparse extent, and data as a flat one', async () => {
    const sparseLine = 'RW 2048 SPARSE "disk.vmdk"';
    expect(await failure(open(described(describe2('twoGbMaxExtentSparse', sparseLine))))).toBe(
      'Image not in VMDK format',
    );
    const text = describe2('monolithicFlat', 'RW 1 FLAT "disk.vmdk" 0');
    const disk = await open(described(text));
    expect(Buffer.from(await readBytes(disk, 0, 512)).toString()).toContain('DescriptorFile');
    await disk.detach();
  });

  it('one file as many extents has its directory in memory a few times at most', async () => {
    // 2^20 tables of one grain of one sector: 4 MiB of directory in each extent.
    const tables = 2 ** 20;
    const bytes = new Uint8Array(tables * 4 + 1024);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, 0x564d444b, true);
    view.setUint32(4, 1, true);
    const fields = [
      [12, tables],
      [20, 1],
      [56, 1],
    ] as const;
    for (const [at, value] of fields) view.setBigUint64(at, BigInt(value), true);
    view.setUint32(44, 1, true);
    const line = `RW ${String(tables)} SPARSE "big"`;
    const opened = (count: number): Promise<string> => {
      const lines = Array.from({ length: count }, () => line);
      const files = described(describe2('twoGbMaxExtentSparse', ...lines));
      files.put('/m/big', bytes);
      return open(files).then(
        async (disk) => {
          await disk.detach();
          return 'opened';
        },
        (e: unknown) => (e as Error).message,
      );
    };
    expect(await opened(4)).toBe('opened');
    expect(await opened(9)).toBe(
      'The grain directories of all extents have 9437184 entries, expected at most 8388608',
    );
  });
});

/** A header of ESX, whose fields are numbers of 32 or 64 bits one after another. */
function esxHeader(
  bits: 32 | 64,
  values: readonly (number | bigint)[],
  ...changes: readonly (readonly [number, number | bigint])[]
): Uint8Array {
  const bytes = new Uint8Array(64 * KiB);
  const view = new DataView(bytes.buffer);
  const put = (at: number, value: number | bigint): void => {
    if (bits === 32) view.setUint32(at, Number(value), true);
    else view.setBigUint64(at, BigInt(value), true);
  };
  values.forEach((value, i) => {
    put((i * bits) / 8, value);
  });
  for (const [at, value] of changes) put(at, value);
  return bytes;
}

describe('headers of ESX out of range', () => {
  const extent = (type: string, kind: string, bytes: Uint8Array): FakeFiles => {
    const files = described(describe2(type, `RW 2048 ${kind} "x"`));
    files.put('/m/x', bytes);
    return files;
  };
  const cowd = [0x44574f43, 1, 3, 2048, 8, 4, 1];

  it('vmfsSparse as it should be', async () => {
    const files = extent('vmfsSparse', 'VMFSSPARSE', esxHeader(32, cowd));
    expect((await open(files)).size).toBe(MiB);
  });

  it.each<[string, number, number, string]>([
    ['grain size 0', 16, 0, 'L1 entry size is invalid'],
    ['odd grains', 16, 7, 'Invalid granularity, image may be corrupt'],
    ['huge grains', 16, 0x40_0000, 'Invalid granularity, image may be corrupt'],
    ['a huge directory', 24, 0x7fff_ffff, 'L1 size too big'],
    ['no directory', 24, 0, 'The grain directory has 0 entries, expected 1'],
    [
      'a directory past the end',
      20,
      0xffff_ffff,
      'Could not read the grain directory: it ends at byte 2199023255044, past the end of the ' +
        'file (65536)',
    ],
    ['a huge size', 12, 0xffff_ffff, 'The grain directory has 1 entries, expected 131072'],
  ])('vmfsSparse: %s', async (_name, at, value, message) => {
    const files = extent('vmfsSparse', 'VMFSSPARSE', esxHeader(32, cowd, [at, value]));
    expect(await failure(open(files))).toBe(message);
  });

  const seSparse: (number | bigint)[] = [0xcafebaben, 0x2_0000_0001n, 2048, 8, 64, 0];
  const places: (readonly [number, number | bigint])[] = [
    [128, 4],
    [136, 1],
    [144, 5],
    [152, 64],
    [192, 100],
    [512, 0xcafecafen],
  ];
  const seSparseHeader = (...changes: readonly (readonly [number, number | bigint])[]) =>
    extent('seSparse', 'SESPARSE', esxHeader(64, seSparse, ...places, ...changes));

  it('seSparse as it should be', async () => {
    expect((await open(seSparseHeader())).size).toBe(MiB);
  });

  const most = 2n ** 64n - 1n;
  it.each<[string, number, bigint, RegExp]>([
    ['version', 8, 0x3_0000_0001n, /^Unsupported version: 0x0000000300000001$/u],
    ['size', 16, most, /^File too large$/u],
    ['size beyond the directory', 16, 1n << 32n, /^L1 size too big$/u],
    ['grain size 0', 24, 0n, /^Unsupported grain size: 0$/u],
    ['grain size', 24, most, /^Unsupported grain size: /u],
    ['table size', 32, 0n, /^Unsupported grain table size: 0$/u],
    ['flags', 40, 1n, /^Unsupported flags: 0x0000000000000001$/u],
    ['a directory past the end', 128, most, /past the end of the file \(65536\)$/u],
    ['a directory of no bytes', 136, 0n, /^L1 size too big$/u],
    ['the header after it', 512, 1n, /^Bad volatile header magic: 0x0000000000000001$/u],
    ['a journal', 536, 1n, /^Image is dirty, Replaying journal not supported$/u],
  ])('seSparse: %s', async (_name, at, value, message) => {
    expect(await failure(open(seSparseHeader([at, value])))).toMatch(message);
  });
});

describe('extents outside the folder', () => {
  const secret = '/etc/secret';

  function files(name: string): FakeFiles {
    const out = described(describe2('monolithicFlat', `RW 8 FLAT "${name}" 0`));
    for (const other of [secret, '/m/../etc/secret', '/m/sub/x']) {
      out.put(other, new Uint8Array(8 * 512).fill(9));
    }
    return out;
  }

  it.each([secret, '../etc/secret', 'sub/../../etc/secret', '..', '/m/../etc/secret'])(
    '%s is refused, whoever opens it',
    async (name) => {
      for (const writable of [false, true]) {
        expect(await failure(open(files(name), { writable }))).toBe(
          `Extent file '${name}' is outside the folder of the descriptor; name it with ` +
            'extents.0.filename to open it',
        );
      }
      const graph = testGraph({ host: fakeHost({ files: files(name) }) });
      const options = {
        driver: 'vmdk',
        file: { driver: 'file', filename: path },
        extents: [{ driver: 'file', filename: secret }],
      };
      const disk = await graph.openBackend({ options });
      expect(await readBytes(disk, 0, 1)).toEqual(new Uint8Array([9]));
    },
  );

  it.each(['sub/x', './sub/x', '/m/b.bin', 'a..b'])('%s is inside', async (name) => {
    const made = files(name);
    made.put('/m/a..b', 8 * 512);
    made.put('/m/./sub/x', 8 * 512);
    expect((await open(made)).size).toBe(8 * 512);
  });
});

describe('parents', () => {
  it('that were written to since are not read through', async () => {
    const files = new FakeFiles();
    await create(files, '', '/m/base.vmdk');
    await create(files, '', path, 'base.vmdk');
    const before = await open(files);
    expect((await readBytes(before, 0, 1))[0]).toBe(0);
    await before.detach();
    const base = await open(files, { writable: true }, '/m/base.vmdk');
    await base.write(0, filled(512, 1));
    await base.detach();
    const after = await open(files);
    expect(await failure(after.read(0, Iov.alloc(512)))).toBe('Invalid argument');
  });

  it('must be VMDK disks', async () => {
    const files = new FakeFiles();
    files.put('/m/raw', MiB);
    expect(await failure(create(files, '', path, 'raw'))).toMatch(/vmdk|VMDK/);
    expect(await failure(create(files, 'subformat=monolithicFlat', path, 'raw'))).not.toBe('');
    expect(files.disks.has(path)).toBe(false);
  });
});

describe('streams', () => {
  it('hold each grain once, in order, and read back', async () => {
    const files = new FakeFiles();
    await create(files, 'subformat=streamOptimized');
    const disk = await open(files, { writable: true });
    await Promise.all([
      disk.write(0, filled(64 * KiB, 1)),
      disk.write(64 * KiB, filled(192 * KiB, 2)),
      disk.write(MiB, filled(64 * KiB, 3)),
    ]);
    expect(await failure(disk.write(0, filled(64 * KiB, 4)))).toBe('Input/output error');
    expect(await failure(disk.write(2 * MiB, filled(512, 4)))).toBe('Invalid argument');
    await disk.detach();
    const reader = await open(files);
    const got = await readBytes(reader, 0, 4 * MiB);
    expect([got[0], got[64 * KiB], got[255 * KiB], got[256 * KiB], got[MiB], got[2 * MiB]]).toEqual(
      [1, 2, 2, 0, 3, 0],
    );
    // Markers name the grains in ascending order from the first grain on.
    const view = new DataView(files.bytesOf(path).buffer);
    const sectors: number[] = [];
    for (let at = 64 * KiB; at < view.byteLength;) {
      sectors.push(view.getUint32(at, true));
      at += Math.ceil((12 + view.getUint32(at + 8, true)) / 512) * 512;
    }
    expect(sectors).toEqual([0, 128, 256, 384, 2048]);
  });

  it('that lack a grain table are not written there', async () => {
    const files = new FakeFiles();
    await create(files, 'subformat=streamOptimized');
    const bytes = files.bytesOf(path);
    const view = new DataView(bytes.buffer);
    view.setUint32(Number(view.getBigUint64(56, true)) * 512, 0, true);
    files.put(path, bytes);
    const disk = await open(files, { writable: true });
    expect(await failure(disk.write(0, filled(64 * KiB, 1)))).toBe(
      'The extent has no grain table there',
    );
    expect((await readBytes(disk, 0, 1))[0]).toBe(0);
  });

  it('with their directory at the end, as other programs write them, are read', async () => {
    const files = new FakeFiles();
    await create(files, 'subformat=streamOptimized');
    const disk = await open(files, { writable: true });
    await disk.write(128 * KiB, filled(64 * KiB, 5));
    await disk.detach();
    const old = files.bytesOf(path);
    const bytes = new Uint8Array(old.length + 3 * 512);
    bytes.set(old);
    const view = new DataView(bytes.buffer);
    view.setUint32(old.length, 1, true);
    view.setUint32(old.length + 12, 3, true);
    bytes.set(old.subarray(0, 512), old.length + 512);
    view.setBigUint64(56, 2n ** 64n - 1n, true);
    files.put(path, bytes);
    const reader = await open(files);
    expect((await readBytes(reader, 128 * KiB, 1))[0]).toBe(5);
  });

  it('whose grains are damaged say so', async () => {
    const files = new FakeFiles();
    await create(files, 'subformat=streamOptimized');
    const disk = await open(files, { writable: true });
    await disk.write(0, filled(64 * KiB, 5));
    await disk.detach();
    for (const [at, what] of [
      [64 * KiB + 11, 'length'],
      [64 * KiB + 20, 'data'],
    ] as const) {
      const bytes = files.bytesOf(path);
      bytes[at]! ^= 0xff;
      const next = new FakeFiles();
      next.put(path, bytes);
      const text = `Bad ${what} of the compressed grain at byte 65536`;
      const reader = await open(next);
      expect(await failure(reader.read(0, Iov.alloc(512)))).toBe(text);
    }
  });
});
