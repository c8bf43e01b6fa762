// Goal: a daemon that is killed in the middle of a job leaves images that open, and a disk that
// holds all that was flushed. Method: vdisk-storage-daemon as a process of its own, a writer
// through its NBD export that remembers what it wrote and flushed, a job that is too slow to end,
// and SIGKILL after a random number of writes; the seed is printed. VDISK_ROUNDS=… makes more.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createGraph } from '../../src/index.js';
import type { Backend, NodeOptions } from '../../src/index.js';
import type { Message } from '../qmp/support.js';
import { DaemonProcess } from '../qmp/support.js';
import type { Random } from '../support/index.js';
import { binPath, filled, readBytes, runOk, seededRandom, tempDir } from '../support/index.js';

const MiB = 1024 * 1024;
const BLOCK = 4096;
const BLOCKS = 1024;
const SIZE = BLOCK * BLOCKS;
const rounds = Number(process.env['VDISK_ROUNDS'] ?? '1');

/** What each block may hold: what it held at the last flush, and what was written since. */
class Model {
  readonly #now = new Uint8Array(BLOCKS);
  readonly #may = Array.from({ length: BLOCKS }, (_, i) => new Set([1 + (i % 3)]));

  constructor() {
    for (let i = 0; i < BLOCKS; i++) this.#now[i] = 1 + (i % 3);
  }

  /** Before the write begins. */
  writes(at: number, value: number): void {
    this.#may[at]?.add(value);
    this.#now[at] = value;
  }

  /** All writes that had ended when the flush began are durable; none ran beside it. */
  flushed(): void {
    this.#may.forEach((set, i) => {
      set.clear();
      set.add(this.#now[i] ?? 0);
    });
  }

  check(content: Uint8Array): void {
    for (let i = 0; i < BLOCKS; i++) {
      const block = content.subarray(i * BLOCK, (i + 1) * BLOCK);
      const value = block[0] ?? 0;
      expect([...(this.#may[i] ?? [])], `block ${String(i)}`).toContain(value);
      expect(
        block.every((byte) => byte === value),
        `block ${String(i)} is whole`,
      ).toBe(true);
    }
  }
}

const slow = { 'job-id': 'j', speed: MiB };

/** The jobs, each of which reads 4 MiB at 1 MiB a second. */
const jobs: Readonly<Record<string, [string, Message]>> = {
  stream: ['block-stream', { device: 'disk', ...slow }],
  'active commit': ['block-commit', { device: 'disk', ...slow }],
  mirror: ['blockdev-mirror', { device: 'disk', target: 'target', sync: 'full', ...slow }],
  'mirror in both': [
    'blockdev-mirror',
    { device: 'disk', target: 'target', sync: 'full', 'copy-mode': 'write-blocking', ...slow },
  ],
  backup: ['blockdev-backup', { device: 'disk', target: 'target', sync: 'full', ...slow }],
};

async function makeImages(at: (name: string) => string): Promise<void> {
  const img = binPath('vdisk-img');
  const content = new Uint8Array(SIZE);
  for (let i = 0; i < BLOCKS; i++) content.fill(1 + (i % 3), i * BLOCK, (i + 1) * BLOCK);
  writeFileSync(at('raw'), content);
  await runOk(img, ['convert', '-f', 'raw', '-O', 'qcow2', at('raw'), at('base')]);
  const over = ['-b', at('base'), '-F', 'qcow2'];
  await runOk(img, ['create', '-q', '-f', 'qcow2', ...over, at('disk')]);
  await runOk(img, ['create', '-q', '-f', 'qcow2', at('target'), String(SIZE)]);
}

/** Writes until the daemon is gone, which it is told to be after some writes. */
async function write(disk: Backend, model: Model, random: Random, kill: () => void) {
  const end = random.int(20, 250);
  for (let n = 0; ; n++) {
    if (n === end) kill();
    const at = random.int(0, BLOCKS - 1);
    const value = random.int(4, 255);
    model.writes(at, value);
    await disk.write(at * BLOCK, filled(BLOCK, value));
    if (random.int(0, 9) > 0) continue;
    await disk.flush();
    model.flushed();
  }
}

async function round([command, args]: [string, Message], random: Random): Promise<void> {
  const dir = tempDir();
  const at = (name: string): string => join(dir, name);
  await makeImages(at);
  const daemon = await new DaemonProcess(binPath('vdisk-storage-daemon')).ready();
  for (const name of ['disk', 'target']) {
    const file = { driver: 'file', filename: at(name) };
    await daemon.ok('blockdev-add', { driver: 'qcow2', 'node-name': name, file });
  }
  const addr = { type: 'unix', data: { path: at('n') } };
  await daemon.ok('nbd-server-start', { addr });
  const served = { id: 'e', type: 'nbd', 'node-name': 'disk', writable: true };
  await daemon.ok('block-export-add', served);
  const graph = createGraph();
  const server = { type: 'unix', path: at('n') };
  const options: NodeOptions = { driver: 'nbd', server, export: 'disk' };
  const disk = await graph.openBackend({ options, flags: { writable: true } });
  const model = new Model();
  await daemon.ok(command, args);
  const kill = (): void => void daemon.child.kill('SIGKILL');
  await expect(write(disk, model, random, kill)).rejects.toThrow();
  await daemon.ended;
  await disk.detach().catch(() => undefined);
  await graph.close().catch(() => undefined);
  await judge(at, model);
}

async function judge(at: (name: string) => string, model: Model): Promise<void> {
  const graph = createGraph();
  const disk = await graph.openBackend({ filename: at('disk'), flags: { writable: true } });
  model.check(await readBytes(disk, 0, SIZE));
  await disk.detach();
  for (const name of ['base', 'target']) {
    await (await graph.openBackend({ filename: at(name) })).detach();
  }
  await graph.close();
  // Leaks there may be; nothing may be corrupt.
  for (const name of ['disk', 'base', 'target']) {
    const check = await runOk(binPath('vdisk-img'), ['check', '-r', 'leaks', at(name)]);
    expect(check.stdout).toContain('No errors were found on the image.');
  }
}

describe('killed in the middle of', () => {
  it.each(Object.keys(jobs))(
    '%s',
    async (kind) => {
      const job = jobs[kind];
      if (job === undefined) throw new Error('no such job');
      const random = seededRandom();
      for (let i = 0; i < rounds; i++) await round(job, random);
    },
    60_000,
  );
});
