// Goal: `prealloc-mode` and `prealloc-size` make the file grow as in QEMU 10: by so much when a
// write needs room, cut off at close, and after a crash no worse than space that nobody names.
// Method: file lengths of simulated and real files; QEMU 10 reads, checks and does the same.
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { reopenNode } from '../../../src/block/reopen.js';
import { Perm } from '../../../src/block/types.js';
import type { NodeOptions } from '../../../src/index.js';
import {
  binPath,
  FakeFiles,
  failure,
  filled,
  readBytes,
  requiresQemu10,
  run,
  runOk,
  tempDir,
} from '../../support/index.js';
import { checkImage, imagePath, makeImage, openImage } from '../made-image.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const CLUSTER = 64 * KiB;

async function made(): Promise<FakeFiles> {
  const files = new FakeFiles();
  await makeImage(files, { format: 'parallels', size: 16 * MiB, options: 'cluster_size=64k' });
  return files;
}

const open = (files: FakeFiles, options: NodeOptions, flags = {}) =>
  openImage(files, 'parallels', { writable: true, ...flags }, options);
const lengthOf = (files: FakeFiles): number => files.bytesOf(imagePath).length;

describe('a file that grows by the size given', () => {
  it.each<[string, NodeOptions, number]>([
    ['falloc', { 'prealloc-mode': 'falloc', 'prealloc-size': MiB }, MiB],
    ['truncate', { 'prealloc-mode': 'truncate', 'prealloc-size': MiB }, MiB],
    ['a size alone', { 'prealloc-size': '300k' }, 300 * KiB],
    ['less than a cluster', { 'prealloc-size': 100 }, CLUSTER],
    ['nothing', { 'prealloc-size': 0 }, CLUSTER],
    ['a mode alone', { 'prealloc-mode': 'truncate' }, 128 * MiB],
  ])('%s', async (_name, options, step) => {
    const files = await made();
    const before = lengthOf(files);
    const disk = await open(files, options);
    expect(lengthOf(files)).toBe(before);
    await disk.write(5 * CLUSTER, filled(512, 1));
    const grown = before + CLUSTER + step;
    expect(lengthOf(files)).toBe(grown);
    // What has room does not make it grow.
    for (let n = 1; n * CLUSTER <= Math.min(step, MiB); n++) {
      await disk.write((10 + n) * CLUSTER, filled(CLUSTER, n));
    }
    expect(lengthOf(files)).toBe(grown);
    const fresh = await readBytes(disk, 5 * CLUSTER + 512, 512);
    expect(fresh).toEqual(new Uint8Array(512));
    await disk.detach();
    const named = 1 + Math.floor(Math.min(step, MiB) / CLUSTER);
    expect(lengthOf(files)).toBe(before + named * CLUSTER);
    expect((await checkImage(files, 'parallels')).lines).toEqual([]);
  });

  it('is cut when the image becomes read-only, for who only reads cannot', async () => {
    const files = await made();
    const disk = await open(files, { 'prealloc-size': MiB });
    const before = lengthOf(files);
    await disk.write(0, filled(CLUSTER, 1));
    expect(lengthOf(files)).toBe(before + CLUSTER + MiB);
    await disk.setPerms({ perm: Perm.consistentRead, shared: Perm.all });
    await reopenNode(disk.node, { flags: { writable: false } });
    expect(lengthOf(files)).toBe(before + CLUSTER);
    await disk.detach();
  });
});

it('other words and sizes are refused as in QEMU', async () => {
  const files = await made();
  const refusal = (options: NodeOptions): Promise<string> => failure(open(files, options));
  expect(await refusal({ 'prealloc-mode': 'off' })).toBe('invalid parameter value: off');
  expect(await refusal({ 'prealloc-mode': 'full' })).toBe('invalid parameter value: full');
  expect(await refusal({ 'prealloc-size': 'bad' })).toContain("Parameter 'prealloc-size' expects");
});

requiresQemu10('qemu-img', 'qemu-io')('beside QEMU 10', () => {
  const sizes = ['prealloc-size=4M', 'prealloc-size=1500k', 'prealloc-size=0'];
  const both = ['prealloc-mode=truncate,prealloc-size=2M', 'prealloc-mode=falloc'];
  it.each([...sizes, ...both])('%s leaves the same after a crash', async (own) => {
    const cwd = tempDir();
    const lengths: number[] = [];
    for (const [io, file] of [
      ['qemu-io', 'theirs.hdd'],
      [binPath('vdisk-io'), 'ours.hdd'],
    ] as const) {
      await runOk('qemu-img', ['create', '-q', '-f', 'parallels', file, '64M'], { cwd });
      const image = `driver=parallels,file.driver=file,file.filename=${file},${own}`;
      const lines = ['write -P 1 0 64k', 'flush', 'write -P 2 5M 3M', 'flush', 'abort'];
      const args = ['--image-opts', image, ...lines.flatMap((line) => ['-c', line])];
      expect((await run(io, args, { cwd })).status).not.toBe(0);
      lengths.push(statSync(join(cwd, file)).size);
    }
    expect(lengths[1]).toBe(lengths[0]);
    // QEMU mends what the crash left, and finds the data.
    await runOk('qemu-img', ['check', '-q', '-r', 'all', 'ours.hdd'], { cwd });
    const reads = ['read -P 1 0 64k', 'read -P 0 64k 960k', 'read -P 2 5M 3M', 'read -P 0 8M 1M'];
    const args = ['-r', '-f', 'parallels', ...reads.flatMap((line) => ['-c', line]), 'ours.hdd'];
    const { stdout } = await runOk('qemu-io', args, { cwd });
    expect(stdout).not.toContain('Pattern verification failed');
    expect(statSync(join(cwd, 'ours.hdd')).size).toBe(5 * MiB);
  });
});
