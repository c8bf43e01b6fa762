// Goal: vdisk and QEMU keep each other from an image exactly where two QEMUs would.
// Method: one of them holds a real file open, the other tries; messages and hints are compared
// with those of QEMU against QEMU.
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Backend, OpenFlags } from '../../src/index.js';
import { nodeHost } from '../../src/index.js';
import { failure, requires, run, runOk, tempDir, testGraph } from '../support/index.js';

let path = '';
let holder: ChildProcess | undefined;

/** Starts qemu-io with the image open; it stays until release(). */
async function hold(...args: string[]): Promise<void> {
  const child = spawn('qemu-io', [...args, path], { stdio: ['pipe', 'pipe', 'inherit'] });
  holder = child;
  let said = '';
  const ready = new Promise<void>((resolve, reject) => {
    child.stdout.on('data', (chunk: Buffer) => {
      said += chunk.toString();
      if (said.includes('offset')) resolve();
    });
    child.on('exit', () => {
      reject(new Error(`qemu-io ended: ${said}`));
    });
  });
  child.stdin.write('read 0 512\n');
  await ready;
}

async function release(): Promise<void> {
  const child = holder;
  holder = undefined;
  if (child === undefined || child.exitCode !== null) return;
  child.stdin?.end('quit\n');
  await once(child, 'exit');
}

function open(driver: string, flags: Partial<OpenFlags>): Promise<Backend> {
  const file = { driver: 'file', filename: path };
  return testGraph().openBackend({ options: { driver, file }, flags });
}

const writable = { writable: true };

requires('qemu-img', 'qemu-io')('image locks', () => {
  beforeEach(async () => {
    path = `${tempDir({ keep: true })}/image`;
    await runOk('qemu-img', ['create', '-q', '-f', 'qcow2', path, '1M']);
  });
  afterEach(release);

  describe('while qemu-io writes a qcow2 image', () => {
    it('vdisk may neither write nor read it, but with force-share', async () => {
      await hold('-f', 'qcow2');
      expect(await failure(open('qcow2', writable))).toBe('Failed to get "write" lock');
      await expect(open('qcow2', {})).rejects.toMatchObject({
        message: 'Failed to get shared "write" lock',
        hint: `Is another process using the image [${path}]?`,
      });
      await (await open('qcow2', { forceShare: true })).detach();
      await release();
      await (await open('qcow2', writable)).detach();
    });
  });

  it('while qemu-io reads, vdisk may read and not write', async () => {
    await hold('-r', '-f', 'qcow2');
    await (await open('qcow2', {})).detach();
    expect(await failure(open('qcow2', writable))).toBe('Failed to get "write" lock');
  });

  it('while vdisk writes, QEMU says what it says to another QEMU', async () => {
    await hold('-f', 'qcow2');
    const other = await run('qemu-img', ['check', '-f', 'qcow2', path]);
    const writer = await run('qemu-io', ['-f', 'qcow2', '-c', 'write 0 512', path]);
    await release();
    const disk = await open('qcow2', writable);
    const check = await run('qemu-img', ['check', '-f', 'qcow2', path]);
    expect(check).toMatchObject({ status: other.status, stderr: other.stderr });
    expect(check.stderr).toContain('Failed to get shared "write" lock');
    const write = await run('qemu-io', ['-f', 'qcow2', '-c', 'write 0 512', path]);
    expect(write).toMatchObject({ status: writer.status, stderr: writer.stderr });
    await runOk('qemu-img', ['info', '-U', '-f', 'qcow2', path]);
    await disk.detach();
    await runOk('qemu-img', ['check', '-f', 'qcow2', path]);
  });

  it('while vdisk reads, QEMU may read and not write', async () => {
    const disk = await open('qcow2', {});
    await runOk('qemu-img', ['check', '-f', 'qcow2', path]);
    const write = await run('qemu-io', ['-f', 'qcow2', '-c', 'write 0 512', path]);
    expect(write.stderr).toContain('Failed to get "write" lock');
    await disk.detach();
  });

  it('raw images may be shared, as between two QEMUs', async () => {
    await hold('-f', 'raw');
    const disk = await open('raw', writable);
    await runOk('qemu-io', ['-f', 'raw', '-c', 'write 0 512', path]);
    await disk.detach();
  });

  it('locking=off is no part of it', async () => {
    await hold('-f', 'qcow2');
    const file = { driver: 'file', filename: path, locking: 'off' };
    const options = { driver: 'qcow2', file };
    await (await testGraph().openBackend({ options })).detach();
  });

  it('an image that is being used is not created anew', async () => {
    await hold('-f', 'qcow2');
    const { createImage, prepareCreate } = await import('../../src/block/create.js');
    const graph = testGraph();
    const request = { filename: path, format: 'qcow2', size: 1 << 20 };
    const creation = createImage(graph, await prepareCreate(graph, request));
    await expect(creation).rejects.toMatchObject({
      message: 'Failed to get "write" lock',
      hint: `Is another process using the image [${path}]?`,
    });
    await release();
    await runOk('qemu-img', ['check', path]);
  });
});

it('this host has locks', async () => {
  const files = nodeHost().files!;
  if (!(await files.engines()).includes('io_uring')) return;
  const name = `${tempDir()}/a`;
  const how = { writable: true, direct: false, engine: 'auto', create: 'exclusive' } as const;
  const file = await files.open(name, how);
  expect(await file.tryLock({ offset: 100, bytes: 1, type: 'shared' })).toBe(true);
  await file.close();
});
