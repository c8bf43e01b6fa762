// Goal: vdisk-img as a program: name and status, signals, full disks, forbidden files; one line per
// error, never a stack trace, and the input as it was. Method: it is started for real, in folders
// of its own; where a limit of the machine is needed (a small tmpfs, another user) the block is
// skipped by name when the machine does not have it.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, symlinkSync } from 'node:fs';
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { imgMain } from '../../src/tool/img/main.js';
import { TextOutput } from '../support/text-output.js';
import { binPath, Random, requires, run, runOk, seededRandom, tempDir } from '../support/index.js';

const img = binPath('vdisk-img');
const MIB = 1024 * 1024;

const sha256 = (path: string): string =>
  createHash('sha256').update(readFileSync(path)).digest('hex');

/** A raw image of `mib` MiB of noise. */
function noise(path: string, mib: number, seed = 1): void {
  writeFileSync(path, new Random(seed).bytes(mib * MIB));
}

describe('the program', () => {
  it('speaks by the name it was called by', async () => {
    const folder = tempDir();
    const link = join(folder, 'qemu-img');
    symlinkSync(img, link);
    const result = await run(link, ['info', '/no/such/file']);
    expect(result.stderr).toBe(
      "qemu-img: Could not open '/no/such/file': Could not open '/no/such/file': " +
        'No such file or directory\n',
    );
    expect((await run(link, ['--version'])).stdout).toMatch(/^qemu-img version 10\.\d/);
    expect((await run(img, ['--version'])).stdout).toMatch(/^vdisk-img version \d/);
    expect((await run(img, ['infoo'])).stderr).toBe(
      "vdisk-img: Command not found: infoo\nTry 'vdisk-img --help' for more info\n",
    );
  });

  it('is reached through the umbrella, with the same answers', async () => {
    const vdisk = binPath('vdisk');
    const direct = await run(img, ['info', '/no/such/file']);
    expect(await run(vdisk, ['img', 'info', '/no/such/file'])).toEqual(direct);
    expect((await run(vdisk, [])).stdout).toContain('What do you want to do?');
    expect((await run(vdisk, ['frobnicate'])).status).toBe(1);
  });

  it('has a help for each subcommand', async () => {
    const overview = (await runOk(img, ['--help'])).stdout;
    const names = [...overview.matchAll(/^ {2}([a-z]+) {2,}[a-z]/gm)].map((m) => m[1] ?? '');
    expect(names).toContain('convert');
    for (const name of ['amend', 'bench', 'check', 'convert', 'create', 'info', 'snapshot']) {
      const { stdout, status } = await run(img, [name, '--help']);
      expect(status).toBe(0);
      expect(stdout).toContain(`vdisk-img ${name} `);
      expect(stdout).toMatch(/-h, --help/);
    }
  });

  it('keeps going when nobody reads what it prints', async () => {
    const folder = tempDir();
    await runOk(img, ['create', '-q', '-f', 'qcow2', join(folder, 'a'), '1M']);
    const line = `${img} info ${join(folder, 'a')} | true`;
    expect((await run('/bin/sh', ['-c', line])).stderr).toBe('');
  });
});

describe('Ctrl-C', () => {
  /** Starts a command, interrupts it as soon as it shows progress; what it ended with. */
  async function interrupt(
    args: readonly string[],
    cwd: string,
  ): Promise<[number, string, string]> {
    const child = spawn(img, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    const shown = new Promise<void>((resolve) => {
      child.stdout.on('data', (chunk: Buffer) => {
        stdout += chunk.toString();
        if (/\((?!0\.00)/.test(stdout)) resolve();
      });
    });
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    const ended = new Promise<number>((resolve) => {
      child.on('close', (code, signal) => {
        resolve(signal === null ? (code ?? -1) : -2);
      });
    });
    await Promise.race([shown, ended]);
    child.kill('SIGINT');
    return [await ended, stdout, stderr];
  }

  it('in convert: status 130, progress line ended, image clean, locks gone', async () => {
    const folder = tempDir();
    noise(join(folder, 'a.raw'), 64);
    const before = sha256(join(folder, 'a.raw'));
    const args = ['convert', '-p', '-r', '16M', '-f', 'raw', '-O', 'qcow2', 'a.raw', 'a.qcow2'];
    const [status, stdout, stderr] = await interrupt(args, folder);
    expect(status).toBe(130);
    expect(stdout.endsWith('\n')).toBe(true);
    expect(stdout).not.toContain('(100.00');
    expect(stderr).toBe('');
    const check = await run(img, ['check', 'a.qcow2'], { cwd: folder });
    expect(check.stdout).toContain('No errors were found');
    expect((await run(img, ['resize', 'a.qcow2', '128M'], { cwd: folder })).status).toBe(0);
    expect(sha256(join(folder, 'a.raw'))).toBe(before);
  });

  it('in commit and rebase: what the overlay shows is the same before and after', async () => {
    const folder = tempDir();
    const go = (...args: string[]): ReturnType<typeof runOk> => runOk(img, args, { cwd: folder });
    noise(join(folder, 'over.raw'), 48, 2);
    await go('create', '-q', '-f', 'qcow2', 'base.qcow2', '48M');
    await go('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'o.qcow2');
    await go('convert', '-n', '-f', 'raw', '-O', 'qcow2', 'over.raw', 'o.qcow2');
    const [status] = await interrupt(['commit', '-p', '-r', '16M', 'o.qcow2'], folder);
    expect(status).toBe(130);
    for (const name of ['o.qcow2', 'base.qcow2']) await go('check', name);
    await go('compare', 'o.qcow2', 'over.raw');
  });
});

describe('errors of the machine', () => {
  const mounted: string[] = [];
  afterEach(() => {
    for (const path of mounted.splice(0)) spawnSync('umount', [path]);
  });

  function smallDisk(mib: number): string | undefined {
    const path = tempDir();
    const result = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${String(mib)}m`, 'none', path]);
    if (result.status !== 0) return undefined;
    mounted.push(path);
    return path;
  }

  it('a full disk ends convert with one line', async (context) => {
    const small = smallDisk(8);
    if (small === undefined) return context.skip('mounting a tmpfs is not allowed here');
    const folder = tempDir();
    noise(join(folder, 'a.raw'), 16);
    const before = sha256(join(folder, 'a.raw'));
    for (const format of ['raw', 'qcow2']) {
      const target = join(small, `a.${format}`);
      const result = await run(img, ['convert', '-f', 'raw', '-O', format, 'a.raw', target], {
        cwd: folder,
      });
      expect(result.status, format).toBe(1);
      expect(result.stderr, format).toMatch(
        /^vdisk-img: error while writing at byte \d+: No space left on device\n$/,
      );
      spawnSync('rm', ['-f', target]);
    }
    expect(sha256(join(folder, 'a.raw'))).toBe(before);
  });

  it('a full disk below an overlay loses nothing in commit', async (context) => {
    const small = smallDisk(8);
    if (small === undefined) return context.skip('mounting a tmpfs is not allowed here');
    const folder = tempDir();
    const base = join(small, 'base.qcow2');
    const overlay = join(folder, 'o.qcow2');
    noise(join(folder, 'a.raw'), 16);
    await runOk(img, ['create', '-q', '-f', 'qcow2', base, '16M']);
    await runOk(img, ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', overlay]);
    const fill = ['convert', '-n', '-f', 'raw', '-O', 'qcow2', join(folder, 'a.raw'), overlay];
    await runOk(img, fill);
    const result = await run(img, ['commit', overlay]);
    expect(result.status).toBe(1);
    expect(result.stderr).toContain('No space left on device');
    expect(result.stderr).not.toContain('    at ');
    await runOk(img, ['compare', '-f', 'raw', '-F', 'qcow2', join(folder, 'a.raw'), overlay]);
  });

  it('files that may not be written or read', async (context) => {
    if (process.getuid?.() === 0 && spawnSync('setpriv', ['--version']).status !== 0) {
      return context.skip('root may do everything, and there is no setpriv');
    }
    const folder = tempDir();
    chmodSync(folder, 0o755);
    const path = join(folder, 'a.qcow2');
    await runOk(img, ['create', '-q', '-f', 'qcow2', path, '1M']);
    const asNobody = (...args: string[]): ReturnType<typeof run> =>
      process.getuid?.() === 0
        ? run('setpriv', ['--reuid=65534', '--clear-groups', process.execPath, img, ...args])
        : run(img, args);
    chmodSync(path, 0o444);
    const resize = await asNobody('resize', path, '2M');
    if (resize.stderr.includes('Cannot find module')) {
      return context.skip('the checkout cannot be read by others');
    }
    expect(resize.stderr).toBe(
      `vdisk-img: Could not open '${path}': Could not open '${path}': Permission denied\n`,
    );
    expect(resize.status).toBe(1);
    chmodSync(path, 0);
    const info = await asNobody('info', path);
    expect(info.stderr).toContain('Permission denied\n');
    const create = await asNobody('create', '-q', join(folder, 'b.raw'), '1M');
    expect(create.stderr).toBe(
      `vdisk-img: ${join(folder, 'b.raw')}: Could not create '${join(folder, 'b.raw')}': ` +
        'Permission denied\n',
    );
  });
});

describe('damaged and foreign input', () => {
  it('is told in lines with the name of the program, and stays as it is', async () => {
    const folder = tempDir();
    const path = join(folder, 'a.qcow2');
    await runOk(img, ['create', '-q', '-f', 'qcow2', path, '64M']);
    const good = readFileSync(path);
    const random = seededRandom();
    for (let i = 0; i < 200; i++) {
      const bad = Buffer.from(good);
      // Somewhere in the header, its extensions, the tables.
      const at = random.pick([
        random.int(0, 103),
        random.int(0, 600),
        random.int(0, bad.length - 9),
      ]);
      random.fill(bad.subarray(at, at + random.int(1, 8)));
      writeFileSync(path, bad);
      if (random.chance(0.2)) truncateSync(path, random.int(0, bad.length));
      const before = sha256(path);
      for (const command of ['info', 'map', 'check']) {
        const text = new TextOutput();
        const status = await imgMain('vdisk-img', [command, '-f', 'qcow2', path], text);
        const label = `${command} after ${String(i)}: ${text.stderr}`;
        expect([0, 1, 2, 3], label).toContain(status);
        expect(text.stderr, label).not.toMatch(/vdisk bug|TypeError|RangeError/);
        if (status === 1) expect(text.stderr, label).toMatch(/^vdisk-img: /m);
      }
      expect(sha256(path)).toBe(before);
    }
  });
});

requires('qemu-img', 'qemu-io')('with a QEMU tool that holds the image', () => {
  it('the lock is respected, and -U reads all the same', async () => {
    const folder = tempDir();
    const path = join(folder, 'a.qcow2');
    await runOk(img, ['create', '-q', '-f', 'qcow2', path, '1M']);
    const holder = spawn('qemu-io', ['-f', 'qcow2', path], { stdio: ['pipe', 'pipe', 'ignore'] });
    try {
      await new Promise<void>((resolve) => {
        holder.stdout.once('data', () => {
          resolve();
        });
        holder.stdin.write('write 0 1k\n');
      });
      const info = await run(img, ['info', path]);
      if (info.status === 0) return; // No locks on this host or file system.
      expect(info.stderr).toBe(
        `vdisk-img: Could not open '${path}': Failed to get shared "write" lock\n` +
          `Is another process using the image [${path}]?\n`,
      );
      expect((await run(img, ['info', '-U', path])).status).toBe(0);
    } finally {
      holder.stdin.end('quit\n');
      await new Promise((resolve) => holder.on('close', resolve));
    }
    expect((await run(img, ['info', path])).status).toBe(0);
  });
});

it('leaves no file behind that it did not name', async () => {
  const folder = tempDir();
  mkdirSync(join(folder, 'in'));
  await run(img, ['create', '-q', '-f', 'qcow2', 'in/a.qcow2', '1M'], { cwd: folder });
  await run(img, ['convert', '-O', 'raw', 'in/a.qcow2', 'out.raw'], { cwd: folder });
  expect(existsSync(join(folder, 'out.raw'))).toBe(true);
  expect(statSync(join(folder, 'out.raw')).size).toBe(MIB);
  const left = spawnSync('find', ['.', '-type', 'f'], { cwd: folder, encoding: 'utf8' }).stdout;
  expect(left.split('\n').sort()).toEqual(['', './in/a.qcow2', './out.raw']);
});
