// Goal: each field of VHD and VHDX headers that is out of its range gets one clear line, soon and
// without much memory; damaged copies are made up for by the other one. Method: images in which one
// field is changed and the checksum is right again; the texts that QEMU has are the same here.
import { describe, expect, it } from 'vitest';
import { seal } from '../../../src/format/vhdx/header.js';
import { crc32c } from '../../../src/lib/crc32c.js';
import { Iov } from '../../../src/index.js';
import {
  FakeFiles,
  failure,
  filled,
  readBytes,
  requiresQemu10,
  run,
  seededRandom,
  tempDir,
} from '../../support/index.js';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Shape } from './support.js';
import { buildVhd, closeImage, KiB, makeFiles, MiB, openImage, path } from './support.js';

type Change = (view: DataView, bytes: Uint8Array) => void;

const u32 =
  (at: number, value: number): Change =>
  (view) => {
    view.setUint32(at, value);
  };
const u64 =
  (at: number, value: bigint): Change =>
  (view) => {
    view.setBigUint64(at, value);
  };

const cut = 'free_data_block_offset points after the end of file. The image has been truncated.';
const vhdCases: readonly (readonly [string, Change, string])[] = [
  ['another cookie', u32(0, 1), 'invalid VPC image'],
  ['a header far away', u64(16, 1n << 60n), 'Invalid header magic'],
  ['a size above 2040 GiB', u64(48, 3n << 40n), 'File too large'],
  ['a size above 2^53', u64(48, 1n << 62n), 'File too large'],
  ['another cookie of the header', u32(512, 1), 'Invalid header magic'],
  ['no block size', u32(544, 0), 'Invalid block size 0'],
  ['tiny blocks', u32(544, 256), 'Invalid block size 256'],
  ['odd blocks', u32(544, 3000), 'Invalid block size 3000'],
  ['blocks of 4 GiB - 1', u32(544, 0xffff_ffff), 'Invalid block size 4294967295'],
  ['a table that is too small', u32(540, 3), 'Page table too small'],
  ['a huge table', u32(540, 0x2000_0000), 'Max Table Entries too large (536870912)'],
  ['the hugest table', u32(540, 0xffff_ffff), 'Max Table Entries too large (-1)'],
  ['a table past the end', u64(528, 1n << 40n), cut],
  ['a table at 2^63', u64(528, 1n << 63n), 'Error reading pagetable'],
  ['a table at 2^64 - 1', u64(528, (1n << 64n) - 1n), 'Error reading pagetable'],
  ['a block past the end', u32(1536, 1000), cut],
  ['a block at the last sector', u32(1540, 0xffff_fffe), cut],
];

/** The footer's checksum, right again. */
function sumVhd(bytes: Uint8Array): void {
  const view = new DataView(bytes.buffer);
  view.setUint32(64, 0);
  view.setUint32(64, ~bytes.subarray(0, 512).reduce((a, b) => a + b, 0) >>> 0);
}

function vhd(change: Change): Uint8Array {
  const bytes = buildVhd({ size: 64 * KiB, blockSize: 8 * KiB });
  change(new DataView(bytes.buffer), bytes);
  sumVhd(bytes);
  return bytes;
}

async function opening(format: string, bytes: Uint8Array): Promise<string> {
  const files = new FakeFiles({ maxBytes: 64 * MiB });
  files.put(path, bytes);
  const text = await failure(openImage(files, format));
  expect(text).not.toContain('\n');
  return text;
}

describe('VHD', () => {
  it.each(vhdCases)('refuses %s', async (_name, change, text) => {
    expect(await opening('vpc', vhd(change))).toContain(text);
  });

  it('refuses wrong checksums, short files and unknown sizes', async () => {
    const bytes = vhd(() => undefined);
    bytes[65]! ^= 1;
    expect(await opening('vpc', bytes)).toContain('Incorrect header checksum');
    expect(await opening('vpc', new Uint8Array(0))).toContain('File too small for a VHD header');
    expect(await opening('vpc', new Uint8Array(5000))).toContain('invalid VPC image');
    const many = vhd((view) => {
      view.setBigUint64(48, 2040n << 30n);
      view.setUint32(540, 0x1fff_ffff);
      view.setUint32(544, 8192);
    });
    expect(await opening('vpc', many)).toContain('its page table has 267386880 entries, expected');
    const files = new FakeFiles();
    files.put(
      path,
      vhd(() => undefined),
    );
    const options = { force_size_calc: 'no' };
    expect(await failure(openImage(files, 'vpc', {}, options))).toContain(
      "Invalid size calculation mode: 'no'",
    );
  });

  it('keeps a fixed disk fixed whatever the guest writes into its first sector', async () => {
    const shape: Shape = { name: '', format: 'vpc', size: MiB, create: 'subformat=fixed' };
    const files = await makeFiles(shape, seededRandom());
    const open = await openImage(files, 'vpc');
    const size = open.disk.size;
    const fake = buildVhd({ size: 64 * KiB, blockSize: 8 * KiB, type: 4, parentName: 'secret' });
    await open.disk.write(0, Iov.of(fake));
    await closeImage(open);
    const again = await openImage(files, 'vpc', {});
    expect(again.disk.size).toBe(size);
    expect(again.disk.node.backing).toBeUndefined();
  });

  it('refuses a fixed disk that is longer than its file', async () => {
    const shape: Shape = { name: '', format: 'vpc', size: MiB, create: 'subformat=fixed' };
    const files = await makeFiles(shape, seededRandom());
    const bytes = files.bytesOf(path);
    const text = await opening('vpc', bytes.slice(512 * 100));
    expect(text).toMatch(/Cannot open the fixed VHD: its size is \d+, expected at most \d+/);
  });
});

const HEAD = 64 * KiB;
const REGIONS = 192 * KiB;
const META = 3 * MiB;
const ITEMS = META + 64 * KiB;
const BAT = 2 * MiB;

const le32 =
  (at: number, value: number): Change =>
  (view) => {
    view.setUint32(at, value, true);
  };
const le64 =
  (at: number, value: bigint): Change =>
  (view) => {
    view.setBigUint64(at, value, true);
  };
/** In both headers, or both region tables. */
const twice =
  (make: (at: number) => Change, first: number, distance: number): Change =>
  (view, bytes) => {
    make(first)(view, bytes);
    make(first + distance)(view, bytes);
  };
const head = (at: number, value: number): Change =>
  twice((to) => le32(to, value), HEAD + at, 64 * KiB);
const region = (at: number, value: number): Change =>
  twice((to) => le32(to, value), REGIONS + at, 64 * KiB);

const vhdxCases: readonly (readonly [string, Change, string])[] = [
  ['another identifier', le32(0, 1), 'Invalid argument'],
  ['headers of version 2', head(64, 0x2_0000), 'No valid VHDX header found'],
  ['a log of version 1', head(64, 0x1_0001), 'log version is 1, expected 0'],
  ['no log', head(68, 0), 'log length is 0, expected whole MiB'],
  ['an odd log', head(68, 1000), 'log length is 1000'],
  ['a log in the headers', head(72, 0), 'log offset is 0'],
  ['a log past all files', head(76, 0x7fff_ffff), 'log offset is'],
  ['a log over the BAT', head(72, BAT), 'VHDX region 2097152-3145728 overlaps with region'],
  ['too many regions', region(8, 3000), 'number of regions is 3000, expected at most 2047'],
  ['one region', region(8, 1), 'The VHDX image has no metadata region'],
  ['no region', region(8, 0), 'The VHDX image has no BAT region'],
  ['an unknown region that is required', region(16, 1), 'needs the region 00000001-F623-4200-'],
  ['a region at an odd offset', region(32, BAT + 1), 'offset of region 2DC27766-F623-4200-9D64-'],
  ['a region past all files', region(36, 0x7fff_ffff), 'offset of region 2DC27766'],
  ['an empty region', region(40, 0), 'length of region 2DC27766-F623-4200-9D64-115E9BFD4A08 is 0'],
  ['a BAT past the end', region(32, 1024 * MiB), 'end of the BAT is 1073741'],
  ['regions that overlap', region(32, META), 'overlaps with region 3145728-4194304'],
  ['no metadata table', le32(META, 1), 'The metadata region of the VHDX image has no table'],
  ['too many items', le32(META + 8, 3000 << 16), 'number of metadata items is 3000'],
  ['a missing item', le32(META + 8, 4 << 16), 'The VHDX image has no physical sector size'],
  ['an unknown item', le32(META + 32, 1), 'needs the metadata item 00000001-FA36-4D43'],
  ['an item in the table', le32(META + 48, 0), 'offset of metadata item CAA16737-'],
  ['an item past the region', le32(META + 48, MiB), 'offset of metadata item CAA16737-'],
  ['a short item', le32(META + 52, 4), 'length of the file parameters is 4, expected 8'],
  ['a long item', le32(META + 52, 0xffff_ffff), 'expected inside the region'],
  ['no block size', le32(ITEMS, 0), 'block size is 0, expected a power of two'],
  ['small blocks', le32(ITEMS, 64 * KiB), 'block size is 65536, expected a power of two'],
  ['odd blocks', le32(ITEMS, 3 * MiB), 'block size is 3145728, expected a power of two'],
  ['large blocks', le32(ITEMS, 512 * MiB), 'block size is 536870912, expected a power of two'],
  ['a parent without a locator', le32(ITEMS + 4, 2), 'has a parent, but no parent locator'],
  ['an odd size', le32(ITEMS + 8, 100), 'virtual disk size is 100, expected whole sectors'],
  ['a huge size', le32(ITEMS + 12, 0x7fff_ffff), 'expected at most 64 TiB'],
  ['64 TiB in small blocks', le64(ITEMS + 8, 1n << 46n), 'its BAT has 67125247 entries'],
  ['a BAT that is too small', le64(ITEMS + 8, 1n << 42n), 'length of the BAT region is 1048576'],
  ['odd sectors', le32(ITEMS + 32, 1000), 'logical sector size is 1000, expected 512 or 4096'],
  ['odd physical sectors', le32(ITEMS + 36, 1000), 'physical sector size is 1000'],
  ['a block past the end', le64(BAT, (1n << 40n) + 6n), 'BAT entry 0 start offset 1099511627776'],
  ['a block at the end', le64(BAT, 4n * 1048576n + 6n), 'VHDX BAT entry 0 end offset 5242880'],
  ['a block in the headers', le64(BAT, 6n), 'VHDX region 0-1048576 overlaps with region'],
  ['a block in the BAT', le64(BAT, 2n * 1048576n + 6n), 'overlaps with region 2097152-3145728'],
  ['an undefined state', le64(BAT + 8, 5n), 'VHDX BAT entry 1 has the state 5'],
  ['part of a block, no parent', le64(BAT, 7n), 'VHDX BAT entry 0 has the state 7'],
];

async function freshVhdx(): Promise<Uint8Array> {
  const shape: Shape = { name: '', format: 'vhdx', size: 8 * MiB, create: 'block_size=1M' };
  return (await makeFiles(shape, seededRandom())).bytesOf(path);
}

function vhdx(fresh: Uint8Array, change: Change): Uint8Array {
  const bytes = fresh.slice();
  change(new DataView(bytes.buffer), bytes);
  for (const at of [HEAD, 2 * HEAD]) seal(bytes.subarray(at, at + 4 * KiB), crc32c);
  for (const at of [REGIONS, REGIONS + HEAD]) seal(bytes.subarray(at, at + 64 * KiB), crc32c);
  return bytes;
}

describe('VHDX', () => {
  it.each(vhdxCases)('refuses %s', async (_name, change, text) => {
    expect(await opening('vhdx', vhdx(await freshVhdx(), change))).toContain(text);
  });

  it('takes the other header or region table where one is damaged', async () => {
    const fresh = await freshVhdx();
    for (const at of [HEAD, 2 * HEAD, REGIONS, REGIONS + HEAD]) {
      const bytes = fresh.slice();
      bytes[at + 100]! ^= 1;
      const files = new FakeFiles();
      files.put(path, bytes);
      const open = await openImage(files, 'vhdx');
      await open.disk.write(0, filled(4096, 9));
      await closeImage(open);
      const again = await openImage(files, 'vhdx', {});
      expect(await readBytes(again.disk, 4095, 2)).toEqual(new Uint8Array([9, 0]));
      await closeImage(again);
    }
    const bytes = fresh.slice();
    bytes[HEAD]! ^= 1;
    bytes[2 * HEAD]! ^= 1;
    expect(await opening('vhdx', bytes)).toContain('No valid VHDX header found');
  });

  it('check tells entries that cannot be, and a reader changes nothing', async () => {
    const bytes = vhdx(await freshVhdx(), le64(BAT, (1n << 40n) + 6n));
    const files = new FakeFiles();
    files.put(path, bytes);
    const { disk } = await openImage(files, 'vhdx', { check: true });
    const lines: string[] = [];
    const found = await disk.node.instance.check!({
      fixErrors: false,
      fixLeaks: false,
      report: (line) => lines.push(line),
    });
    expect(found.corruptions).toBe(1);
    expect(lines.join()).toContain('VHDX BAT entry 0 start offset 1099511627776 points after end');
    await disk.detach();
    expect(Buffer.compare(files.bytesOf(path), bytes)).toBe(0);
  });

  it('a log of entries that overlap, or a very long one, ends soon', async () => {
    const shape: Shape = { name: '', format: 'vhdx', size: 8 * MiB, create: 'log_size=4M' };
    const bytes = (await makeFiles(shape, seededRandom())).bytesOf(path);
    const view = new DataView(bytes.buffer);
    for (const at of [HEAD, 2 * HEAD]) {
      view.setUint32(at + 48, 7);
      seal(bytes.subarray(at, at + 4 * KiB), crc32c);
    }
    for (let at = MiB; at < 5 * MiB; at += 4 * KiB) {
      view.setUint32(at, 0x6567_6f6c, true);
      view.setUint32(at + 8, 4 * MiB, true);
      view.setUint32(at + 16, 1, true);
      view.setUint32(at + 32, 7);
    }
    expect(await opening('vhdx', bytes)).toContain('The VHDX log is damaged: entries overlap');
    for (const at of [HEAD, 2 * HEAD]) {
      view.setUint32(at + 68, 1024 * MiB, true);
      seal(bytes.subarray(at, at + 4 * KiB), crc32c);
    }
    expect(await opening('vhdx', bytes)).toContain('is longer than 268435456 bytes');
  });
});

requiresQemu10('qemu-img')('texts that QEMU has', () => {
  it('are the same for VHD', async () => {
    const cwd = tempDir();
    for (const [name, change, text] of vhdCases) {
      writeFileSync(join(cwd, 'i'), vhd(change));
      const { stderr } = await run('qemu-img', ['info', '-f', 'vpc', 'i'], { cwd });
      expect(stderr, name).toContain(text);
    }
  });
});
