// Goal: `vdisk compact` gives space back and changes nothing else: raw, encrypted and compressed
// images; what it cannot do it refuses; a killed or interrupted run leaves the image sound.
// Method: the program itself, on images made by vdisk-img; qemu-img looks at them, where present.
import { spawn } from 'node:child_process';
import { copyFileSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  binPath,
  findCommand,
  Random,
  run,
  runOk,
  seededRandom,
  tempDir,
} from '../support/index.js';

const vdisk = binPath('vdisk');
const img = binPath('vdisk-img');
const io = binPath('vdisk-io');
const MIB = 1024 * 1024;
const secret = ['--object', 'secret,id=s,data=secret'];

function onDisk(path: string): number {
  return statSync(path).blocks * 512;
}

describe('vdisk compact', () => {
  it('makes holes in a raw image', async () => {
    const folder = tempDir();
    const path = join(folder, 'a.raw');
    const bytes = new Uint8Array(8 * MIB + 1536);
    bytes.set(new Random(1).bytes(MIB), 3 * MIB + 512);
    bytes.set(new Random(2).bytes(700), 8 * MIB + 700);
    writeFileSync(path, bytes);
    expect(onDisk(path)).toBeGreaterThanOrEqual(8 * MIB);
    const { stdout, stderr } = await runOk(vdisk, ['compact', '-f', 'raw', path]);
    expect(stderr).toBe('');
    expect(stdout).toMatch(/^Image compacted: it takes 1(\.\d+)? MiB, before 8(\.\d+)? MiB\.\n$/);
    expect(onDisk(path)).toBeLessThan(1.1 * MIB);
    expect(Buffer.compare(readFileSync(path), bytes)).toBe(0);
    const json = await runOk(vdisk, ['compact', '--output=json', '-f', 'raw', path]);
    expect(JSON.parse(json.stdout)).toMatchObject({ 'zeroed-bytes': 0, 'moved-bytes': 0 });
  });

  it('encrypts anew what moves in an image with LUKS', async () => {
    const folder = tempDir();
    const go = (program: string, ...args: string[]) => runOk(program, args, { cwd: folder });
    writeFileSync(join(folder, 'a.raw'), new Random(3).bytes(12 * MIB));
    const options = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10';
    await go(img, 'create', '-q', ...secret, '-f', 'qcow2', '-o', options, 'a.qcow2', '12M');
    const opts = 'driver=qcow2,file.filename=a.qcow2,encrypt.key-secret=s';
    const to = ['--target-image-opts', opts];
    await go(img, 'convert', '-n', ...secret, '-f', 'raw', 'a.raw', ...to);
    await go(img, 'snapshot', '--image-opts', ...secret, '-c', 'one', opts);
    await go(io, ...secret, '--image-opts', '-c', 'write -P 7 0 4M', '-c', 'discard 5M 3M', opts);
    await go(img, 'snapshot', '--image-opts', ...secret, '-d', 'one', opts);
    const before = statSync(join(folder, 'a.qcow2')).size;
    const raw = ['-O', 'raw', 'before.raw'];
    await go(img, 'convert', ...secret, '--image-opts', opts, ...raw);
    await go(vdisk, 'compact', ...secret, '--image-opts', opts);
    expect(statSync(join(folder, 'a.qcow2')).size).toBeLessThan(before - 2 * MIB);
    const peers = findCommand('qemu-img') === undefined ? [img] : [img, 'qemu-img'];
    for (const peer of peers) {
      await go(peer, 'check', ...secret, '--image-opts', opts);
      await go(peer, 'convert', ...secret, '--image-opts', opts, '-O', 'raw', 'after.raw');
      const [a, b] = ['before.raw', 'after.raw'].map((name) => readFileSync(join(folder, name)));
      expect(Buffer.compare(a!, b!)).toBe(0);
    }
    const { status, stderr } = await run(vdisk, ['compact', 'a.qcow2'], { cwd: folder });
    expect(status).toBe(1);
    expect(stderr).toContain("Parameter 'encrypt.key-secret' is required for cipher");
  });

  it('shortens a compressed image whose first half was given up', async () => {
    const folder = tempDir();
    const go = (program: string, ...args: string[]) => runOk(program, args, { cwd: folder });
    const bytes = new Random(4).bytes(16 * MIB);
    for (let at = 0; at < bytes.length; at += 65536) bytes.fill(1, at, at + 40000);
    writeFileSync(join(folder, 'a.raw'), bytes);
    await go(img, 'convert', '-c', '-f', 'raw', '-O', 'qcow2', 'a.raw', 'a.qcow2');
    await go(io, '-c', 'discard 0 9M', 'a.qcow2');
    const before = statSync(join(folder, 'a.qcow2')).size;
    await go(vdisk, 'compact', '-q', 'a.qcow2');
    expect(statSync(join(folder, 'a.qcow2')).size).toBeLessThan(before * 0.6);
    bytes.fill(0, 0, 9 * MIB);
    writeFileSync(join(folder, 'a.raw'), bytes);
    await go(img, 'check', 'a.qcow2');
    await go(img, 'compare', '-f', 'raw', '-F', 'qcow2', 'a.raw', 'a.qcow2');
  });

  it('refuses what it cannot do in one line', async () => {
    const folder = tempDir();
    const fails = async (...args: string[]): Promise<string> => {
      const { status, stdout, stderr } = await run(vdisk, ['compact', ...args], { cwd: folder });
      expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
      return stderr;
    };
    const luks = ['-f', 'luks', '-o', 'key-secret=s,iter-time=10'];
    await runOk(img, ['create', '-q', ...secret, ...luks, 'a.luks', '1M'], { cwd: folder });
    const opts = 'driver=luks,file.filename=a.luks,key-secret=s';
    expect(await fails(...secret, '--image-opts', opts)).toBe(
      "vdisk: Cannot compact an image of format 'luks'\n",
    );
    expect(await fails('none.qcow2')).toBe(
      "vdisk: Could not open 'none.qcow2': Could not open 'none.qcow2': " +
        'No such file or directory\n',
    );
    expect(await fails()).toContain('vdisk: Expecting one image file name\n');
  });

  it('makes holes in a data file', async () => {
    const folder = tempDir();
    const data = ['-o', 'data_file=d', 'd.qcow2', '4M'];
    await runOk(img, ['create', '-q', '-f', 'qcow2', ...data], { cwd: folder });
    const lines = ['-c', 'write -P 1 0 4M', '-c', 'write -P 0 1M 2M'];
    await runOk(io, [...lines, 'd.qcow2'], { cwd: folder });
    const blocks = (): number => statSync(join(folder, 'd')).blocks * 512;
    const before = blocks();
    await runOk(vdisk, ['compact', '-q', 'd.qcow2'], { cwd: folder });
    const reads = ['read -P 1 0 1M', 'read -P 0 1M 2M', 'read -P 1 3M 1M'];
    await runOk(io, [...reads.flatMap((line) => ['-c', line]), 'd.qcow2'], { cwd: folder });
    expect(before - blocks()).toBe(2 * 1024 * 1024);
  });

  it('refuses an image that another process uses', async () => {
    const folder = tempDir();
    await runOk(img, ['create', '-q', '-f', 'qcow2', 'a.qcow2', '1M'], { cwd: folder });
    const child = spawn(io, ['a.qcow2'], { cwd: folder, stdio: ['pipe', 'pipe', 'ignore'] });
    await new Promise((resolve) => child.stdout.once('data', resolve));
    const { status, stderr } = await run(vdisk, ['compact', 'a.qcow2'], { cwd: folder });
    child.stdin.end('quit\n');
    await new Promise((resolve) => child.once('close', resolve));
    expect(status).toBe(1);
    expect(stderr).toContain('Failed to get "write" lock');
  });
});

/** Ends a run `ms` after it told its first progress; its status, or null by the signal. */
async function stopped(
  folder: string,
  signal: NodeJS.Signals,
  ms: number,
): Promise<{ status: number | null; text: string }> {
  const args = ['compact', '-p', 'a.qcow2'];
  const child = spawn(vdisk, args, { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  let timer: NodeJS.Timeout | undefined;
  child.stdout.on('data', (chunk: Buffer) => {
    text += chunk.toString();
    timer ??= setTimeout(() => child.kill(signal), ms);
  });
  const status = await new Promise<number | null>((resolve) => {
    child.on('close', resolve);
  });
  clearTimeout(timer);
  return { status, text };
}

describe.each<NodeJS.Signals>(['SIGKILL', 'SIGINT'])('%s while compacting', (signal) => {
  it('leaves a sound image with the same content', { timeout: 120_000 }, async () => {
    const folder = tempDir();
    const random = seededRandom();
    const go = (program: string, ...args: string[]) => runOk(program, args, { cwd: folder });
    const bytes = random.bytes(32 * MIB);
    writeFileSync(join(folder, 'a.raw'), bytes);
    await go(img, 'convert', '-f', 'raw', '-O', 'qcow2', 'a.raw', 'worn.qcow2');
    const commands: string[] = [];
    for (let at = 0; at < 30; at += 2) commands.push('-c', `discard ${String(at)}M 1M`);
    await go(io, ...commands, 'worn.qcow2');
    await go(img, 'convert', '-O', 'raw', 'worn.qcow2', 'a.raw');
    let ended = 0;
    for (let round = 0; round < 4 || (ended === 0 && round < 40); round++) {
      copyFileSync(join(folder, 'worn.qcow2'), join(folder, 'a.qcow2'));
      const { status, text } = await stopped(folder, signal, random.int(0, 80));
      if (status !== 0) ended++;
      if (signal === 'SIGINT') {
        expect([0, 130, null]).toContain(status);
        if (status === 130) expect(text.endsWith('\n')).toBe(true);
      }
      const check = await run(img, ['check', 'a.qcow2'], { cwd: folder });
      // Ctrl-C leaves no leak behind either.
      expect(signal === 'SIGINT' ? [0] : [0, 3]).toContain(check.status);
      await go(img, 'compare', '-f', 'raw', '-F', 'qcow2', 'a.raw', 'a.qcow2');
    }
    await go(vdisk, 'compact', '-q', 'a.qcow2');
    await go(img, 'check', '-q', 'a.qcow2');
    await go(img, 'compare', '-f', 'raw', '-F', 'qcow2', 'a.raw', 'a.qcow2');
    expect(statSync(join(folder, 'a.qcow2')).size).toBeLessThan(19 * MIB);
    expect(ended).toBeGreaterThan(0);
  });
});
