// Goal: the programs under examples/ run as their heads say. Method: the library is built, and each
// is started on images made on the spot; what it prints and writes is looked at.
import { spawn, spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { bootDisk, requiresFirmware } from './support/guest.js';
import { binPath, Random, rootPath, run, runOk, tempDir } from './support/index.js';

const MIB = 1024 * 1024;

beforeAll(() => {
  // Does nothing when dist/ is fresh, as it is in `npm test`.
  spawnSync(process.execPath, [rootPath('tools/build.mjs'), '--quick'], { cwd: rootPath() });
});

const example = (name: string, ...args: string[]): ReturnType<typeof run> =>
  run(process.execPath, [rootPath('examples', `${name}.mjs`), ...args]);

/** A folder with 3 MiB of noise between zeroes. */
function makeDisk(): { folder: string; disk: string } {
  const folder = tempDir();
  const disk = join(folder, 'disk.raw');
  const content = Buffer.alloc(16 * MIB);
  new Random(1).fill(content.subarray(4 * MIB, 7 * MIB));
  content.write('begins here', 512);
  writeFileSync(disk, content);
  return { folder, disk };
}

it('read.mjs prints bytes of an image', async () => {
  const { disk } = makeDisk();
  const result = await example('read', disk, '512', '16');
  expect(result.stderr).toBe('');
  expect(result.stdout).toBe(
    `${disk}: raw, 16777216 bytes\n` +
      '00000200  62 65 67 69 6e 73 20 68 65 72 65 00 00 00 00 00  begins here.....\n',
  );
});

it('convert.mjs converts and shows progress; map.mjs shows what came out', async () => {
  const { folder, disk } = makeDisk();
  const target = join(folder, 'disk.qcow2');
  const result = await example('convert', disk, target, 'qcow2', 'cluster_size=128k');
  expect(result.stderr).toBe('');
  expect(result.stdout).toMatch(/100\.0 % of \d+ bytes/);
  expect(result.stdout).toContain(`${target} is written`);
  const back = join(folder, 'back.raw');
  await runOk(binPath('vdisk-img'), ['convert', '-O', 'raw', target, back]);
  expect(Buffer.compare(readFileSync(back), readFileSync(disk))).toBe(0);

  const map = await example('map', target);
  expect(map.stderr).toBe('');
  expect(map.stdout).toMatch(/^0 \+131072: data, depth 0 at \d+ of .*disk\.qcow2$/m);
  expect(map.stdout).toContain(`data: ${String(3 * MIB + 131072)} bytes`);
});

it('each tells a missing image in one line', async () => {
  for (const name of ['read', 'convert', 'map']) {
    const result = await example(name, '/no/such/image', '/no/such/target');
    expect(result.status, name).toBe(1);
    expect(result.stderr, name).toBe(
      "Could not open '/no/such/image': No such file or directory\n",
    );
  }
});

it('serve.mjs serves an image until it is interrupted', async () => {
  const { folder, disk } = makeDisk();
  const socket = join(folder, 'socket');
  const child = spawn(process.execPath, [rootPath('examples', 'serve.mjs'), disk, socket]);
  const ended = new Promise((resolve) => child.once('close', resolve));
  await new Promise((resolve) => child.stdout.once('data', resolve));
  const uri = `nbd+unix:///?socket=${socket}`;
  await runOk(binPath('vdisk-io'), ['-f', 'raw', '-c', 'write -P 7 0 512', uri]);
  child.kill('SIGINT');
  expect(await ended).toBe(0);
  expect(readFileSync(disk).subarray(0, 512)).toEqual(Buffer.alloc(512, 7));
});

it('live.mjs changes a disk under a writer', async () => {
  const folder = tempDir();
  const disk = join(folder, 'disk.qcow2');
  const overlay = join(folder, 'overlay.qcow2');
  await runOk(binPath('vdisk-img'), ['create', '-q', '-f', 'qcow2', disk, '4M']);
  const result = await example('live', disk, overlay);
  expect(result.stderr).toMatch(
    new RegExp(
      '^64 KiB of base are full, by \\d+ bytes\n' +
        '\\d+ writes, 0 blocks are not what was written last\n' +
        "the disk has 5242880 bytes now, on 'top'\ntop: qcow2, ",
    ),
  );
  expect(result.stdout).toMatch(/label="backing r"/);
  expect(result.status).toBe(0);
  const info = await runOk(binPath('vdisk-img'), ['info', '--output=json', overlay]);
  expect(JSON.parse(info.stdout)).toMatchObject({
    'virtual-size': 5242880,
    'backing-filename': disk,
  });
  await runOk(binPath('vdisk-img'), ['check', '-q', overlay]);
});

it('incremental-backup.mjs backs up a disk under a writer, and then what has changed', async () => {
  const folder = tempDir();
  const names = ['disk', 'full', 'changes'].map((name) => join(folder, `${name}.qcow2`));
  const [disk = '', , changes = ''] = names;
  const img = binPath('vdisk-img');
  await runOk(img, ['create', '-q', '-f', 'qcow2', disk, '16M']);
  const write = ['-c', 'write -P 9 1M 3M'];
  await runOk(binPath('vdisk-io'), ['-f', 'qcow2', ...write, disk]);
  const result = await example('incremental-backup', ...names);
  expect(result.stderr).toMatch(/^full: \d+ of \d+ bytes, 0 left/m);
  expect(result.stdout).toMatch(/^\d+ writes; 0 bytes are not in a backup\n$/);
  const both = ['-f', 'qcow2', '-F', 'qcow2'];
  expect((await runOk(img, ['compare', ...both, disk, changes])).stdout).toBe(
    'Images are identical.\n',
  );
});

it('migrate.mjs moves a disk under a writer to the process of serve.mjs', async () => {
  const { folder, disk } = makeDisk();
  const target = join(folder, 'target.raw');
  writeFileSync(target, Buffer.alloc(16 * MIB, 3));
  const socket = join(folder, 'socket');
  const child = spawn(process.execPath, [rootPath('examples', 'serve.mjs'), target, socket]);
  const ended = new Promise((resolve) => child.once('close', resolve));
  await new Promise((resolve) => child.stdout.once('data', resolve));
  const result = await example('migrate', disk, socket);
  child.kill('SIGINT');
  expect(await ended).toBe(0);
  expect(result.stdout).toMatch(
    /^the disk is 'nbd' now\n\d+ writes, \d+ of them after the pivot\n/,
  );
  // Only the last writes are not in the old image.
  const [old, moved] = [readFileSync(disk), readFileSync(target)];
  let differ = 0;
  for (let at = 0; at < old.length; at += 4096) {
    if (old.compare(moved, at, at + 4096, at, at + 4096) !== 0) differ++;
  }
  expect(differ).toBeGreaterThan(50);
  expect(differ).toBeLessThan(1000);
});

it('ide.mjs reads a sector through the registers of an IDE disk', async () => {
  const { disk } = makeDisk();
  const result = await example('ide', disk, '1');
  expect(result.stderr).toBe('');
  expect(result.stdout).toMatch(/^sector 1:\nbegins here\0{501}$/);
});

requiresFirmware()('boot.mjs', () => {
  it('prints what a guest says', async () => {
    const disk = join(tempDir(), 'disk.raw');
    writeFileSync(disk, bootDisk('a guest was here'));
    const image = `${disk}.qcow2`;
    await runOk(binPath('vdisk-img'), ['convert', '-f', 'raw', '-O', 'qcow2', disk, image]);
    const program = rootPath('examples/boot.mjs');
    const result = await run(process.execPath, [program, image], { timeout: 120_000 });
    expect([result.stderr, result.stdout]).toEqual(['', 'a guest was here']);
  }, 120_000);
});
