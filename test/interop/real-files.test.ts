// Goal: a file system of real files, of a size that is no multiple of anything, survives every
// format and sub-format: written by vdisk and read by QEMU, and the other way round.
// Method: mke2fs packs documents of this machine; each image is compared by the other's tool and
// converted back; what comes back is the same byte by byte, and zeroes behind it.
import { spawnSync } from 'node:child_process';
import { appendFileSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { binPath, requires, requiresQemu10, runOk, same, tempDir } from '../support/index.js';

const MiB = 1024 * 1024;
const img = binPath('vdisk-img');
const secret = ['--object', 'secret,id=s,data=a passphrase'];

/** Format, options of convert, and whether QEMU writes it as well. */
const formats: readonly (readonly [string, string, boolean])[] = [
  ['vmdk', '', true],
  ['vmdk', '-o zeroed_grain=on', true],
  ['vmdk', '-o subformat=monolithicFlat', true],
  ['vmdk', '-o subformat=twoGbMaxExtentSparse', true],
  ['vmdk', '-o subformat=twoGbMaxExtentFlat', true],
  ['vmdk', '-o subformat=streamOptimized', true],
  ['vpc', '', true],
  ['vpc', '-o force_size=on', true],
  ['vpc', '-o subformat=fixed', true],
  ['vpc', '-o subformat=fixed,force_size=on', true],
  ['vhdx', '', true],
  ['vhdx', '-o block_size=1M,log_size=2M', true],
  ['vhdx', '-o subformat=fixed', true],
  ['vdi', '', true],
  ['vdi', '-o static=on', true],
  ['qed', '', true],
  ['qed', '-o cluster_size=4k,table_size=2', true],
  ['qcow', '', true],
  // QEMU 10.0.2 fails to write most of them.
  ['qcow', '-c', false],
  ['parallels', '', true],
  // QEMU 10.0.2 puts the first cluster in front of where the header says that data begins.
  ['parallels', '-o cluster_size=31k', true],
  ['luks', '-o key-secret=s,iter-time=10', true],
];

let folder = '';
let bytes = new Uint8Array();

function makeFileSystem(): void {
  folder = tempDir({ keep: true });
  const raw = join(folder, 'raw');
  const copy = `mkdir tree && find /usr/share/doc /etc -type f -size -100k 2>/dev/null | head -700 |
    tar -cf - -T - 2>/dev/null | tar -xf - -C tree`;
  spawnSync('sh', ['-c', copy], { cwd: folder });
  writeFileSync(raw, '');
  truncateSync(raw, 23 * MiB);
  const made = spawnSync('mke2fs', ['-q', '-F', '-t', 'ext4', '-d', 'tree', 'raw'], {
    cwd: folder,
    env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` },
  });
  if (made.status !== 0) throw new Error(String(made.stderr));
  appendFileSync(raw, 'x'.repeat(777));
  bytes = readFileSync(raw);
}

async function there(writer: string, reader: string, [format, words]: readonly string[]) {
  const go = (tool: string, ...args: string[]) => runOk(tool, args, { cwd: folder });
  const isLuks = format === 'luks';
  const object = isLuks ? secret : [];
  const options = words === '' ? [] : words!.split(' ');
  await go(writer, 'convert', ...object, '-f', 'raw', '-O', format!, ...options, 'raw', 'image');
  const opened = `driver=${format!},key-secret=s,file.filename=image`;
  const image = isLuks ? ['--image-opts', opened] : ['-f', format!];
  const name = isLuks ? [] : ['image'];
  if (isLuks) {
    await go(reader, 'compare', ...object, ...image, 'driver=raw,file.filename=raw');
  } else await go(reader, 'compare', ...image, '-F', 'raw', 'image', 'raw');
  await go(reader, 'convert', ...object, ...image, '-O', 'raw', ...name, 'back');
  const back = readFileSync(join(folder, 'back'));
  same(back.subarray(0, bytes.length), bytes);
  expect(back.subarray(bytes.length).every((byte) => byte === 0)).toBe(true);
}

requiresQemu10('qemu-img')('what QEMU and vdisk convert', () => {
  requires('mke2fs')('a file system', () => {
    beforeAll(makeFileSystem);
    afterAll(() => void spawnSync('rm', ['-rf', folder]));

    it.each(formats)('%s %s', { timeout: 240_000 }, async (format, words, isTheirs) => {
      await there(img, 'qemu-img', [format, words]);
      if (isTheirs) await there('qemu-img', img, [format, words]);
    });
  });
});
