// Goal: a program that is killed in the middle of its work leaves an image that is clean or only
// has leaked clusters, with the content of before or after. Method: SIGKILL at several moments of
// convert, commit, rebase and amend; `check` of this program and, where it is there, of qemu-img.
import { spawn } from 'node:child_process';
import { copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { binPath, findCommand, Random, run, runOk, tempDir } from '../support/index.js';

const img = binPath('vdisk-img');
const MIB = 1024 * 1024;

/** Ends `args` by a signal after `ms`; the exit status, or undefined when the signal ended it. */
async function stopped(
  args: readonly string[],
  cwd: string,
  signal: NodeJS.Signals,
  ms: number,
): Promise<number | undefined> {
  const child = spawn(img, args, { cwd, stdio: 'ignore' });
  const timer = setTimeout(() => child.kill(signal), ms);
  const status = await new Promise<number | null>((resolve) => {
    child.on('close', resolve);
  });
  clearTimeout(timer);
  return status ?? undefined;
}

/** Sound, or leaked clusters only; and not locked. */
async function expectUsable(path: string): Promise<void> {
  const peers = [img, ...(findCommand('qemu-img') === undefined ? [] : ['qemu-img'])];
  for (const program of peers) {
    const { status, stdout, stderr } = await run(program, ['check', '-f', 'qcow2', path]);
    expect({ program, stdout, stderr, fine: status === 0 || status === 3 }).toMatchObject({
      fine: true,
    });
  }
  await runOk(img, ['check', '-q', '-r', 'all', '-f', 'qcow2', path]);
}

/** A base, and an overlay that differs from it in every second MiB. */
async function chain(folder: string): Promise<void> {
  const go = (...args: string[]) => runOk(img, args, { cwd: folder });
  const base = new Random(1).bytes(24 * MIB);
  writeFileSync(join(folder, 'base.raw'), base);
  const top = Uint8Array.from(base);
  const noise = new Random(2).bytes(MIB);
  for (let at = 0; at < top.byteLength; at += 2 * MIB) top.set(noise, at);
  writeFileSync(join(folder, 'top.raw'), top);
  await go('convert', '-f', 'raw', '-O', 'qcow2', 'base.raw', 'base.qcow2');
  await go('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'top.qcow2');
  await go('convert', '-n', '-f', 'raw', '-O', 'qcow2', 'top.raw', 'top.qcow2');
}

/** Sends Ctrl-C as soon as the program shows progress; what it printed, and its status. */
async function interrupted(
  args: readonly string[],
  cwd: string,
): Promise<{ status: number | null; text: string; errors: string }> {
  const child = spawn(img, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  let errors = '';
  child.stdout.on('data', (chunk: Buffer) => {
    // A second one would end the program at once.
    if (text === '') child.kill('SIGINT');
    text += chunk.toString();
  });
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk.toString();
  });
  const status = await new Promise<number | null>((resolve) => {
    child.on('close', resolve);
  });
  return { status, text, errors };
}

describe('Ctrl-C while progress is shown', () => {
  const commands: readonly (readonly [string, readonly string[], string])[] = [
    ['convert', ['-r', '8M', '-f', 'raw', '-O', 'qcow2', 'top.raw', 'out.qcow2'], 'out.qcow2'],
    ['commit', ['-d', '-r', '8M', 'top.qcow2'], 'top.qcow2'],
    ['rebase', ['-f', 'qcow2', '-b', '', 'top.qcow2'], 'top.qcow2'],
    ['amend', ['-f', 'qcow2', '-o', 'refcount_bits=64', 'base.qcow2'], 'base.qcow2'],
  ];
  it.each(commands)(
    'ends %s with 130, its line ended, no lock, no leak',
    async (name, rest, path) => {
      const folder = tempDir();
      await chain(folder);
      const { status, text, errors } = await interrupted([name, '-p', ...rest], folder);
      // A short one may be through before the signal comes.
      expect(name === 'convert' || name === 'commit' ? [130] : [130, 0]).toContain(status);
      expect(text.endsWith('\n')).toBe(true);
      expect(errors).toBe('');
      const check = ['check', '-q', '-r', 'leaks', '-f', 'qcow2', path];
      expect((await run(img, ['check', '-q', '-f', 'qcow2', path], { cwd: folder })).status).toBe(
        0,
      );
      // To be opened for writing, nobody else may hold its lock.
      await runOk(img, check, { cwd: folder });
    },
  );
});

const MOMENTS = [90, 160, 260, 400];

describe.each<NodeJS.Signals>(['SIGKILL', 'SIGINT'])('%s', (signal) => {
  it('in convert', async () => {
    const folder = tempDir();
    await chain(folder);
    for (const ms of MOMENTS) {
      const args = ['convert', '-r', '40M', '-f', 'raw', '-O', 'qcow2', 'top.raw', 'out.qcow2'];
      const status = await stopped(args, folder, signal, ms + 120);
      // Before the program listens the signal ends it by itself.
      if (signal === 'SIGINT') expect([0, 130, undefined]).toContain(status);
      const out = join(folder, 'out.qcow2');
      if ((await run(img, ['info', '-f', 'qcow2', out])).status === 0) await expectUsable(out);
    }
  });

  it('in commit', async () => {
    const folder = tempDir();
    await chain(folder);
    for (const ms of MOMENTS) {
      await stopped(['commit', '-d', '-r', '20M', 'top.qcow2'], folder, signal, ms);
      for (const name of ['base.qcow2', 'top.qcow2']) await expectUsable(join(folder, name));
      await runOk(img, ['compare', '-f', 'raw', '-F', 'qcow2', 'top.raw', 'top.qcow2'], {
        cwd: folder,
      });
    }
  });

  it('in rebase', async () => {
    const folder = tempDir();
    await chain(folder);
    await runOk(img, ['create', '-q', '-f', 'qcow2', 'empty.qcow2', '24M'], { cwd: folder });
    for (const ms of MOMENTS) {
      const args = ['rebase', '-f', 'qcow2', '-b', 'empty.qcow2', '-F', 'qcow2', 'top.qcow2'];
      await stopped(args, folder, signal, ms);
      await expectUsable(join(folder, 'top.qcow2'));
      await runOk(img, ['compare', '-f', 'raw', '-F', 'qcow2', 'top.raw', 'top.qcow2'], {
        cwd: folder,
      });
    }
  });

  it('in amend', async () => {
    const folder = tempDir();
    await chain(folder);
    for (const [i, ms] of MOMENTS.entries()) {
      copyFileSync(join(folder, 'base.qcow2'), join(folder, 'a.qcow2'));
      const bits = i % 2 === 0 ? 'refcount_bits=64' : 'compat=0.10';
      await stopped(['amend', '-f', 'qcow2', '-o', bits, 'a.qcow2'], folder, signal, ms);
      await expectUsable(join(folder, 'a.qcow2'));
      await runOk(img, ['compare', '-f', 'raw', '-F', 'qcow2', 'base.raw', 'a.qcow2'], {
        cwd: folder,
      });
    }
  });
});
