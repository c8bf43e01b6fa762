// Goal: images that vdisk makes are read alike by libraries that share nothing with QEMU (libvmdk,
// libvhdi, libqcow), an overlay of VMDK on its parent included; vdisk reads what cloop-utils make.
// Method: a disk of random data and holes (seeds are printed), converted to every sub-format; the
// library's Python module reads all of it back.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  binPath,
  debianPython,
  requires,
  runOk,
  same,
  seededRandom,
  tempDir,
} from '../support/index.js';
import type { Random } from '../support/index.js';

const img = binPath('vdisk-img');
const io = binPath('vdisk-io');
const SECTOR = 512;

/** MODULE FILE [PARENT…]: opens them, each the parent of the one before, and prints the content. */
const reader = `
import importlib, sys
module = importlib.import_module(sys.argv[1])
def opened(path):
    image = module.handle() if sys.argv[1] == 'pyvmdk' else module.file()
    image.open(path)
    if sys.argv[1] == 'pyvmdk': image.open_extent_data_files()
    return image
images = [opened(path) for path in sys.argv[2:]]
for child, parent in reversed(list(zip(images, images[1:]))): child.set_parent(parent)
top = images[0]
size = top.get_media_size()
at = 0
while at < size:
    data = top.read_buffer_at_offset(min(1 << 20, size - at), at)
    if not data: break
    sys.stdout.buffer.write(data)
    at += len(data)
`;

async function readWith(module: string, ...files: string[]): Promise<Uint8Array> {
  return (await runOk(debianPython, ['-c', reader, module, ...files])).bytes;
}

/** Runs of random bytes, of one byte and of zeroes; the size is odd in everything but sectors. */
function randomDisk(random: Random): Uint8Array {
  const disk = new Uint8Array(5 * 1024 ** 2 + 3 * SECTOR);
  for (let at = 0; at < disk.length;) {
    const bytes = Math.min(disk.length - at, random.int(1, 400_000));
    const kind = random.int(0, 3);
    if (kind <= 1) disk.set(random.bytes(bytes), at);
    else if (kind === 2) disk.fill(0x5a, at, at + bytes);
    at += bytes;
  }
  return disk;
}

/** Formats round sizes up: what follows the disk is zeroes. */
function expectDisk(read: Uint8Array, disk: Uint8Array): void {
  same(read.subarray(0, disk.length), disk);
  expect(read.subarray(disk.length).every((byte) => byte === 0)).toBe(true);
}

async function convertTo(dir: string, format: string, options: string): Promise<Uint8Array> {
  const disk = randomDisk(seededRandom());
  writeFileSync(join(dir, 'raw'), disk);
  const given = options === '' ? [] : options === '-c' ? ['-c'] : ['-o', options];
  await runOk(img, ['convert', '-f', 'raw', '-O', format, ...given, 'raw', 'image'], { cwd: dir });
  return disk;
}

/** An overlay in which a few pieces are written; what it shows then. */
async function writeOverlay(dir: string, create: string[], disk: Uint8Array): Promise<Uint8Array> {
  await runOk(img, ['create', '-q', ...create, 'overlay'], { cwd: dir });
  const out = disk.slice();
  const commands = [70_000, 1_000_000, 3_000_000].flatMap((at, i) => {
    out.fill(0x31 + i, at, at + 100_000);
    return ['-c', `write -P ${0x31 + i} ${at} 100000`];
  });
  await runOk(io, [...commands, 'overlay'], { cwd: dir });
  return out;
}

requires('python3-libvmdk')('libvmdk', () => {
  const subformats = [
    'monolithicSparse',
    'monolithicFlat',
    'twoGbMaxExtentSparse',
    'twoGbMaxExtentFlat',
    'streamOptimized',
  ];

  it.each(subformats)('reads %s', async (subformat) => {
    const dir = tempDir();
    const disk = await convertTo(dir, 'vmdk', `subformat=${subformat}`);
    expectDisk(await readWith('pyvmdk', join(dir, 'image')), disk);
  });

  it('reads an overlay', async () => {
    const dir = tempDir();
    const disk = await convertTo(dir, 'vmdk', '');
    const shown = await writeOverlay(dir, ['-f', 'vmdk', '-b', 'image', '-F', 'vmdk'], disk);
    expectDisk(await readWith('pyvmdk', join(dir, 'overlay'), join(dir, 'image')), shown);
  });
});

requires('python3-libvhdi')('libvhdi', () => {
  const cases = [
    ['vpc', 'subformat=dynamic'],
    ['vpc', 'subformat=dynamic,force_size=on'],
    ['vpc', 'subformat=fixed'],
    ['vhdx', 'subformat=dynamic'],
    ['vhdx', 'subformat=fixed'],
    ['vhdx', 'subformat=dynamic,block_size=2M,log_size=2M'],
  ] as const;

  it.each(cases)('reads %s, %s', async (format, options) => {
    const dir = tempDir();
    const disk = await convertTo(dir, format, options);
    expectDisk(await readWith('pyvhdi', join(dir, 'image')), disk);
  });
});

requires('python3-libqcow')('libqcow', () => {
  const cases = [
    ['qcow', ''],
    ['qcow2', ''],
    ['qcow2', 'compat=0.10'],
    ['qcow2', 'cluster_size=512'],
    ['qcow2', '-c'],
  ] as const;

  it.each(cases)('reads %s %s', async (format, options) => {
    const dir = tempDir();
    const disk = await convertTo(dir, format, options);
    expectDisk(await readWith('pyqcow', join(dir, 'image')), disk);
  });
});

requires('create_compressed_fs')('cloop-utils', () => {
  describe('images', () => {
    it.each([512, 65_536, 1_048_576])('with blocks of %i bytes are read', async (block) => {
      const dir = tempDir();
      const disk = randomDisk(seededRandom());
      writeFileSync(join(dir, 'raw'), disk);
      await runOk('create_compressed_fs', ['-q', '-B', `${block}`, 'raw', 'image'], { cwd: dir });
      await runOk(img, ['convert', '-f', 'cloop', '-O', 'raw', 'image', 'back'], { cwd: dir });
      const { bytes } = await runOk('cat', [join(dir, 'back')]);
      expectDisk(bytes, disk);
    });
  });
});
