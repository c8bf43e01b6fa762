// Goal: what vdisk-img tells about an image of any format and subformat is what qemu-img 10 tells:
// info (its format-specific fields and children), check, measure, map, as text and as JSON, and the
// exit status. Method: images that either side made and wrote to are given to both; so are QEMU's
// own samples where VDISK_QEMU_SAMPLES names their folder (tests/qemu-iotests/sample_images).
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { binPath, findCommand, requiresQemu10, run, runOk, tempDir } from '../support/index.js';

const ours = { img: binPath('vdisk-img'), io: binPath('vdisk-io') };
const theirs = { img: 'qemu-img', io: 'qemu-io' };
const SECRET = ['--object', 'secret,id=s,data=abc'];

type Shape = readonly [format: string, options: string, size?: string];

/** The cheapest key derivation. */
const luks = 'key-secret=s,iter-time=10';

const shapes: readonly Shape[] = [
  ['raw', ''],
  ['raw', 'preallocation=full'],
  ['vmdk', ''],
  ['vmdk', 'subformat=monolithicFlat'],
  ['vmdk', 'subformat=twoGbMaxExtentSparse', '3G'],
  ['vmdk', 'subformat=twoGbMaxExtentFlat', '3G'],
  ['vmdk', 'subformat=streamOptimized'],
  ['vmdk', 'adapter_type=lsilogic,hwversion=10,toolsversion=99'],
  ['vmdk', 'compat6=on'],
  ['vmdk', 'zeroed_grain=on'],
  ['vpc', '', '10M'],
  ['vpc', 'subformat=fixed', '10M'],
  ['vpc', 'force_size=on'],
  ['vhdx', ''],
  ['vhdx', 'subformat=fixed'],
  ['vhdx', 'block_size=1M,log_size=2M'],
  ['vhdx', 'block_state_zero=off'],
  ['vdi', ''],
  ['vdi', 'static=on'],
  ['qed', ''],
  ['qed', 'cluster_size=4k,table_size=2'],
  ['qcow', ''],
  ['qcow', 'encrypt.format=aes,encrypt.key-secret=s'],
  ['parallels', ''],
  ['parallels', 'cluster_size=64k'],
  ['luks', luks],
  [
    'luks',
    `${luks},cipher-alg=serpent-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,` +
      'hash-alg=sha512',
  ],
  ['qcow2', ''],
  ['qcow2', 'compat=0.10'],
  ['qcow2', `encrypt.format=luks,encrypt.${luks.replace(',', ',encrypt.')}`],
  ['qcow2', 'encrypt.format=aes,encrypt.key-secret=s'],
  ['qcow2', 'data_file=df,data_file_raw=on'],
  ['qcow2', 'extended_l2=on,cluster_size=128k'],
  ['qcow2', 'lazy_refcounts=on,refcount_bits=1,compression_type=zstd'],
];

/** What both say to the same words. */
async function expectSame(cwd: string, args: readonly string[]): Promise<void> {
  const [expected, got] = await Promise.all(
    ['qemu-img', ours.img].map(async (tool) => {
      const { status, stdout, stderr } = await run(tool, args, { cwd });
      return { status, stdout, stderr: stderr.replaceAll(/\b(?:qemu|vdisk)-img\b/gu, 'img') };
    }),
  );
  expect.soft(got, args.join(' ')).toEqual(expected);
}

function questions(format: string): string[][] {
  const all = [
    ['info'],
    ['info', '--output=json'],
    ['check'],
    ['check', '--output=json'],
    ['measure', '-O', 'raw'],
    ['measure', '-O', 'raw', '--output=json'],
  ];
  // Of VHDX QEMU cannot tell which blocks are stored.
  if (format === 'vhdx') return all;
  return [
    ...all,
    ['measure', '-O', 'qcow2'],
    ['measure', '-O', 'qcow2', '--output=json'],
    ['map'],
    ['map', '--output=json'],
  ];
}

async function makeImage(tools: typeof ours, cwd: string, shape: Shape): Promise<void> {
  const [format, options, size = '10486272'] = shape;
  const secret = options.includes('key-secret') ? SECRET : [];
  const own = options === '' ? [] : ['-o', options];
  await runOk(tools.img, ['create', '-q', '-f', format, ...secret, ...own, 'i', size], { cwd });
  if (secret.length > 0 || options.includes('streamOptimized')) return;
  await runOk(tools.io, ['-f', format, '-c', 'write -P 3 1M 100k', 'i'], { cwd });
}

requiresQemu10('qemu-img', 'qemu-io')('facts about an image', () => {
  describe.each([
    ['vdisk', ours],
    ['QEMU', theirs],
  ])('that %s made', (_name, tools) => {
    it.each(shapes.map((shape) => ({ shape, name: shape.join(' ') })))(
      '$name',
      { timeout: 60_000 },
      async ({ shape }) => {
        const [format, options] = shape;
        const cwd = tempDir();
        await makeImage(tools, cwd, shape);
        await expectSame(cwd, ['info', 'i']);
        for (const words of questions(format)) await expectSame(cwd, [...words, '-f', format, 'i']);
        if (!options.includes('key-secret')) return;
        const key = format === 'luks' ? 'key-secret' : 'encrypt.key-secret';
        const image = ['--image-opts', `driver=${format},file.filename=i,${key}=s`];
        for (const words of questions(format))
          await expectSame(cwd, [...words, ...SECRET, ...image]);
      },
    );
  });
});

const samples = process.env['VDISK_QEMU_SAMPLES'];
const formats: readonly (readonly [string, string])[] = [
  ['.vhdx', 'vhdx'],
  ['.vhd', 'vpc'],
  ['afl5.img', 'vpc'],
  ['.vmdk', 'vmdk'],
  ['.bochs', 'bochs'],
  ['.dmg', 'dmg'],
  ['.cloop', 'cloop'],
  ['parallels-v', 'parallels'],
];
const names = (samples === undefined ? [] : readdirSync(samples)).flatMap((name) => {
  const found = formats.find(([part]) => name.includes(part));
  return found === undefined || !name.endsWith('.bz2') ? [] : [[name, found[1]] as const];
});

const hasAll = samples !== undefined && findCommand('bzip2') !== undefined;
const needs = hasAll ? '' : ' [needs bzip2 and VDISK_QEMU_SAMPLES, a folder]';
requiresQemu10('qemu-img')("facts about QEMU's samples", () => {
  it.runIf(names.length > 0)(`all of them${needs}`, { timeout: 300_000 }, async () => {
    for (const [name, format] of names) {
      const cwd = tempDir();
      const unpack = ['-c', 'exec bzip2 -dc "$0" > i', join(samples ?? '', name)];
      await runOk('/bin/sh', unpack, { cwd });
      // Of DMG QEMU does not tell what is zero.
      const asked = questions(format).filter(
        ([word], i) => format !== 'dmg' || (word !== 'map' && i < 6),
      );
      for (const words of asked) await expectSame(cwd, [...words, '-f', format, 'i']);
    }
  });
});
