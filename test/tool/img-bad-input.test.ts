// Goal: wrong options, missing arguments, sizes out of range, unknown formats and files that cannot
// be read get QEMU's message and exit status. Method: what qemu-img 10.0.2 said to the same words,
// with the program's name exchanged, is recorded in golden/bad-input.json; letters, and every
// beginning of a long name whose answer is another than the shorter one's, in
// golden/img-abbreviations.json.
import { chmodSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { imgMain } from '../../src/tool/img/main.js';
import { binPath, rootPath, run, runOk, tempDir } from '../support/index.js';
import { TextOutput } from '../support/text-output.js';

interface Case {
  readonly args: readonly string[];
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

const img = binPath('vdisk-img');

async function images(folder: string): Promise<void> {
  const go = (...args: string[]) => runOk(img, ['create', '-q', ...args], { cwd: folder });
  await go('-f', 'qcow2', 'a.qcow2', '1M');
  await go('-f', 'raw', 'a.raw', '1M');
  await go('-f', 'qcow2', '-b', 'a.qcow2', '-F', 'qcow2', 't.qcow2');
  writeFileSync(join(folder, 'txt'), 'hello\n');
}

const files = ['bad-input.json', 'img-abbreviations.json'];

it.each(files)('says what qemu-img says: %s', { timeout: 120_000 }, async (file) => {
  const folder = tempDir();
  await images(folder);
  const path = rootPath(`test/tool/golden/${file}`);
  const cases = JSON.parse(readFileSync(path, 'utf8')) as readonly Case[];
  expect(cases.length).toBeGreaterThan(50);
  const before = process.cwd();
  process.chdir(folder);
  try {
    for (const { args, status, stdout, stderr } of cases) {
      const output = new TextOutput();
      const got = await imgMain('vdisk-img', args, output);
      const said = output.stderr.replace(/#block\d+/g, '#block');
      expect.soft({ args, status: got, stdout: output.stdout, stderr: said }).toEqual({
        args,
        status,
        stdout,
        stderr,
      });
      for (const name of ['b', 'x']) rmSync(name, { force: true });
    }
  } finally {
    process.chdir(before);
  }
});

it('tells of files that may not be read, and makes nothing of them', async () => {
  const folder = tempDir();
  await images(folder);
  chmodSync(join(folder, 'a.raw'), 0);
  const args = ['convert', '-f', 'raw', 'a.raw', 'b'];
  const { status, stderr } = await run(img, args, { cwd: folder });
  // Root reads everything.
  if (process.getuid?.() === 0) expect(status).toBe(0);
  else {
    expect(stderr).toBe(
      "vdisk-img: Could not open 'a.raw': Could not open 'a.raw': Permission denied\n",
    );
    expect([status, existsSync(join(folder, 'b'))]).toEqual([1, false]);
  }
});

it('compare tells by 3 that allocation cannot be learned, by 4 that data cannot', async () => {
  const folder = tempDir();
  await images(folder);
  const write = ['-f', 'qcow2', '-c', 'write 0 64k', 'a.qcow2'];
  await runOk(binPath('vdisk-io'), write, { cwd: folder });
  const at = (event: string) =>
    'driver=qcow2,file.driver=blkdebug,file.image.filename=a.qcow2,' +
    `file.inject-error.0.event=${event}`;
  const compare = (event: string) =>
    run(img, ['compare', '--image-opts', at(event), 'driver=raw,file.filename=a.raw'], {
      cwd: folder,
    });
  expect(await compare('l2_load')).toMatchObject({
    status: 3,
    stdout: '',
    stderr: `vdisk-img: Sector allocation test failed for ${at('l2_load')}\n`,
  });
  expect(await compare('read_aio')).toMatchObject({
    status: 4,
    stdout: '',
    stderr: `vdisk-img: Error while reading offset 0 of ${at('read_aio')}: Input/output error\n`,
  });
});
