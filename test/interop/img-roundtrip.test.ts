// Goal: what vdisk-img converts stays what it was, by the judgement of QEMU's and ext4's own tools;
// and images that qemu-img wrote read the same. Method: a file system of real files goes raw →
// qcow2 in each variant → raw; every intermediate is checked and compared by qemu-img, the last by
// sha256 and e2fsck. Then random images, with printed seeds, both ways.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Random } from '../support/index.js';
import {
  binPath,
  requires,
  requiresQemu10,
  run,
  runOk,
  seededRandom,
  tempDir,
} from '../support/index.js';

const img = binPath('vdisk-img');

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Uint8Array);
  return hash.digest('hex');
}

requires(
  'qemu-img',
  'mke2fs',
  'e2fsck',
)('a file system of real files', () => {
  let folder = '';
  let hash = '';
  const go = (tool: string, ...args: string[]): ReturnType<typeof runOk> =>
    runOk(tool, args, { cwd: folder });

  beforeAll(async () => {
    folder = tempDir({ keep: true });
    const include = process.execPath.replace(/\/bin\/node$/, '/include');
    spawnSync('mkdir', ['-p', `${folder}/tree`]);
    const find = `find ${include} /usr/share/doc /etc -type f -size -200k 2>/dev/null | head -1500`;
    spawnSync('sh', ['-c', `${find} | tar -cf - -T - | tar -xf - -C ${folder}/tree`]);
    spawnSync('sh', ['-c', `head -c 16M ${process.execPath} > ${folder}/tree/program`]);
    writeFileSync(join(folder, 'fs.raw'), '');
    truncateSync(join(folder, 'fs.raw'), 96 * 1024 * 1024);
    await go('mke2fs', '-q', '-F', '-t', 'ext4', '-d', 'tree', 'fs.raw');
    hash = await sha256(join(folder, 'fs.raw'));
  });

  afterAll(() => {
    spawnSync('rm', ['-rf', folder]);
  });

  it.each([
    [''],
    ['-c'],
    ['-c -o compression_type=zstd'],
    ['-o cluster_size=512'],
    ['-o cluster_size=4k'],
    ['-c -o cluster_size=4k'],
    ['-o cluster_size=2M'],
    ['-c -o cluster_size=2M,compression_type=zstd'],
    ['-o cluster_size=2M,extended_l2=on'],
    ['-o compat=0.10'],
    ['-o refcount_bits=1'],
    ['-o refcount_bits=64,lazy_refcounts=on'],
    ['-S 0'],
    ['-S 64k'],
    ['-m 1'],
    ['-m 16 -W'],
    ['-o preallocation=metadata'],
    ['-t none -T none'],
    ['-t writethrough'],
    ['-o data_file=ext.data,data_file_raw=on'],
  ])('raw → qcow2 %s → raw', async (options) => {
    const words = options === '' ? [] : options.split(' ');
    await go(img, 'convert', '-f', 'raw', '-O', 'qcow2', ...words, 'fs.raw', 'o.qcow2');
    const check = await go('qemu-img', 'check', 'o.qcow2');
    expect(check.stdout).toContain('No errors were found on the image.');
    await go('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', 'fs.raw', 'o.qcow2');
    await go(img, 'convert', '-f', 'qcow2', '-O', 'raw', 'o.qcow2', 'back.raw');
    expect(await sha256(join(folder, 'back.raw'))).toBe(hash);
  });

  it('onto a backing file, and on from there', async () => {
    await go(img, 'convert', '-f', 'raw', '-O', 'qcow2', 'fs.raw', 'base.qcow2');
    await go(img, 'create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'over.qcow2');
    await go('qemu-io', '-c', 'write -P 7 10M 1M', '-c', 'write -z 20M 3M', 'over.qcow2');
    await go('qemu-img', 'convert', '-O', 'raw', 'over.qcow2', 'want.raw');
    const backing = ['-B', 'base.qcow2', '-F', 'qcow2'];
    await go(img, 'convert', '-O', 'qcow2', ...backing, 'over.qcow2', 'copy.qcow2');
    await go('qemu-img', 'check', 'copy.qcow2');
    await go('qemu-img', 'compare', 'copy.qcow2', 'want.raw');
    await go(img, 'convert', '-O', 'raw', 'copy.qcow2', 'back.raw');
    expect(await sha256(join(folder, 'back.raw'))).toBe(await sha256(join(folder, 'want.raw')));
    await go(img, 'rebase', '-b', '', 'copy.qcow2');
    await go('qemu-img', 'check', 'copy.qcow2');
    await go('qemu-img', 'compare', 'copy.qcow2', 'want.raw');
    await go(img, 'commit', 'over.qcow2');
    await go('qemu-img', 'check', 'base.qcow2');
    await go('qemu-img', 'compare', 'base.qcow2', 'want.raw');
  });

  it('in the end the file system is sound', async () => {
    await go(img, 'convert', '-c', '-O', 'qcow2', 'fs.raw', 'o.qcow2');
    await go(img, 'convert', '-O', 'raw', 'o.qcow2', 'back.raw');
    expect((await run('e2fsck', ['-fn', 'back.raw'], { cwd: folder })).status).toBe(0);
  });

  it.each([
    [''],
    ['-c'],
    ['-c -o compression_type=zstd'],
    ['-o cluster_size=512'],
    ['-o cluster_size=2M'],
    ['-o extended_l2=on'],
    ['-o compat=0.10'],
    ['-o preallocation=full'],
  ])('what qemu-img wrote (%s) reads the same', async (options) => {
    const words = options === '' ? [] : options.split(' ');
    const made = await run(
      'qemu-img',
      ['convert', '-f', 'raw', '-O', 'qcow2', ...words, 'fs.raw', 'q.qcow2'],
      { cwd: folder },
    );
    expect(made.status, made.stderr).toBe(0);
    await go(img, 'check', 'q.qcow2');
    await go(img, 'compare', '-f', 'raw', '-F', 'qcow2', 'fs.raw', 'q.qcow2');
    await go(img, 'convert', '-f', 'qcow2', '-O', 'raw', 'q.qcow2', 'back.raw');
    expect(await sha256(join(folder, 'back.raw'))).toBe(hash);
  });
});

requiresQemu10('qemu-img', 'qemu-io')('random images', () => {
  /** A qcow2 image that qemu-io wrote into at random, maybe over a backing file; its name. */
  async function makeImage(
    random: Random,
    cwd: string,
    name: string,
    base?: string,
  ): Promise<void> {
    const cluster = random.pick(['512', '4k', '64k', '2M']);
    const backing = base === undefined ? [] : ['-b', base, '-F', 'qcow2'];
    const size = random.int(1, 64 * 1024) * 512;
    const options = ['-f', 'qcow2', '-o', `cluster_size=${cluster}`];
    await runOk('qemu-img', ['create', '-q', ...options, ...backing, name, String(size)], { cwd });
    const commands: string[] = [];
    for (let i = 0; i < 12; i++) {
      const offset = random.int(0, size / 512 - 1) * 512;
      const bytes = Math.min(random.int(1, 256) * 512 * random.pick([1, 8]), size - offset);
      const kind = random.pick([
        'write -P 5',
        'write -P 200',
        'write -z',
        'write -z -u',
        'discard',
      ]);
      commands.push('-c', `${kind} ${String(offset)} ${String(bytes)}`);
    }
    await runOk('qemu-io', [...commands, name], { cwd });
  }

  it.each([1, 2, 3, 4, 5, 6, 7, 8])(
    'map, compare and convert agree with qemu-img, %i',
    async () => {
      const random = seededRandom();
      const cwd = tempDir();
      await makeImage(random, cwd, 'base.qcow2');
      await makeImage(random, cwd, 'top.qcow2', random.chance() ? 'base.qcow2' : undefined);
      const same = async (...args: string[]): Promise<void> => {
        const ours = await run(img, args, { cwd });
        const theirs = await run('qemu-img', args, { cwd });
        expect(ours.stdout).toBe(theirs.stdout);
        expect(ours.status).toBe(theirs.status);
      };
      await same('map', 'top.qcow2');
      await same('map', '--start-offset=70000', '--max-length=9000000', 'top.qcow2');
      await same('compare', 'top.qcow2', 'base.qcow2');
      await same('measure', '-O', 'qcow2', '-o', 'cluster_size=4k', 'base.qcow2');
      await runOk('qemu-img', ['convert', '-O', 'raw', 'top.qcow2', 'want.raw'], { cwd });
      const extra = random.pick([[], ['-c'], ['-o', 'cluster_size=4k'], ['-S', '0']]);
      await runOk(img, ['convert', '-O', 'qcow2', ...extra, 'top.qcow2', 'copy.qcow2'], { cwd });
      await runOk(img, ['convert', '-O', 'raw', 'copy.qcow2', 'back.raw'], { cwd });
      expect(await sha256(join(cwd, 'back.raw'))).toBe(await sha256(join(cwd, 'want.raw')));
      await runOk('qemu-img', ['check', 'copy.qcow2'], { cwd });
      await runOk(img, ['rebase', '-b', '', 'top.qcow2'], { cwd });
      await runOk('qemu-img', ['check', 'top.qcow2'], { cwd });
      await runOk('qemu-img', ['compare', 'top.qcow2', 'want.raw'], { cwd });
    },
  );
});
