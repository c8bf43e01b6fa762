// Goal: a program that is killed in the middle of a job leaves images that open, of which QEMU's
// check and ours say the same (leaks there may be, nothing corrupt), and a disk that holds all that
// was flushed. Method: vdisk-storage-daemon or vdisk-system as a process of its own, a writer
// through its NBD export that remembers what it wrote and flushed, a job that is too slow to end
// or that is done again and again, and SIGKILL after a random number of writes; the seed is
// printed. VDISK_ROUNDS=… makes more.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createGraph } from '../../src/index.js';
import type { Backend, NodeOptions } from '../../src/index.js';
import type { Message } from '../qmp/support.js';
import { DaemonProcess } from '../qmp/support.js';
import type { Random } from '../support/index.js';
import {
  binPath,
  filled,
  findCommand,
  readBytes,
  run,
  runOk,
  seededRandom,
  tempDir,
} from '../support/index.js';

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

/** How the disk that is written to is made; 'over' stands on `base`. */
type Disk = 'over' | 'encrypted' | 'luks';

interface Kind {
  readonly disk?: Disk;
  readonly program?: 'vdisk-system';
  /** Starts the job; resolves when the writer may begin. */
  readonly start: (daemon: DaemonProcess, at: (name: string) => string) => Promise<void>;
  /** Other images that have to be sound. */
  readonly others?: readonly string[];
  /** An image that the job makes, and that may be half made. */
  readonly made?: string;
}

/** A job of 4 MiB at 1 MiB a second, which is not ready when the writer ends. */
const slow = { 'job-id': 'j', speed: MiB };

const isStatus =
  (status: string) =>
  ({ event, data }: Message): boolean =>
    event === 'JOB_STATUS_CHANGE' && (data as Message)['status'] === status;

async function statusOf(daemon: DaemonProcess): Promise<unknown> {
  const [job] = (await daemon.ok('query-jobs')) as Message[];
  return job?.['status'];
}

/** One that is in the middle of its first copy. */
const running =
  (command: string, args: Message, at?: (at: (name: string) => string) => Message) =>
  async (daemon: DaemonProcess, path: (name: string) => string): Promise<void> => {
    await daemon.ok(command, { device: 'disk', ...slow, ...args, ...at?.(path) });
    expect(await statusOf(daemon)).toBe('running');
  };

/** One that has copied all, and copies what the writer writes. */
const ready =
  (command: string, args: Message) =>
  async (daemon: DaemonProcess): Promise<void> => {
    await daemon.ok(command, { device: 'disk', 'job-id': 'j', ...args });
    await daemon.lines.until1(({ event }) => event === 'BLOCK_JOB_READY');
    expect(await statusOf(daemon)).toBe('ready');
  };

/** Runs a job to its end, which has to be good. Never resolves when the program is killed. */
async function toEnd(daemon: DaemonProcess, command: string, args: Message): Promise<void> {
  const from = daemon.lines.seen.length;
  await daemon.ok(command, { 'job-id': 'j', ...args });
  await daemon.lines.until((seen) => seen.slice(from).some(isStatus('concluded')));
  const [job] = (await daemon.ok('query-jobs')) as Message[];
  expect(job?.['error']).toBeUndefined();
  await daemon.ok('job-dismiss', { id: 'j' });
}

/** Jobs one after the other until the program is killed; once around before the writer begins. */
const again =
  (...jobs: readonly [string, Message][]) =>
  async (daemon: DaemonProcess): Promise<void> => {
    const once = async (): Promise<void> => {
      for (const [command, args] of jobs) await toEnd(daemon, command, args);
    };
    await once();
    void (async () => {
      for (;;) await once();
    })();
  };

const snapshot = { tag: 't', devices: ['disk'] };
const save: [string, Message] = ['snapshot-save', { ...snapshot, vmstate: 'disk' }];
const forget: [string, Message] = ['snapshot-delete', snapshot];

const amend = (driver: string, wrap: (keys: Message) => Message): [string, Message][] =>
  [
    { state: 'active', 'new-secret': 'b', 'iter-time': 10 },
    { state: 'inactive', 'old-secret': 'b' },
  ].map((keys) => [
    'x-blockdev-amend',
    { 'node-name': 'disk', options: { driver, ...wrap(keys) } },
  ]);

const toTarget = { target: 'target', sync: 'full' };
const qcow2 = { format: 'qcow2' };

const kinds: Readonly<Record<string, Kind>> = {
  stream: { start: running('block-stream', {}) },
  commit: {
    start: running('block-commit', { 'top-node': 'mid', 'base-node': 'base' }),
  },
  'active commit': { start: running('block-commit', {}) },
  'active commit that is ready': { start: ready('block-commit', {}) },
  mirror: { start: running('blockdev-mirror', toTarget) },
  'mirror that is ready': { start: ready('blockdev-mirror', toTarget) },
  'mirror in both': {
    start: running('blockdev-mirror', { ...toTarget, 'copy-mode': 'write-blocking' }),
  },
  'mirror in both that is ready': {
    start: ready('blockdev-mirror', { ...toTarget, 'copy-mode': 'write-blocking' }),
  },
  'drive-mirror to an existing image': {
    start: running('drive-mirror', { sync: 'full', mode: 'existing', ...qcow2 }, (at) => ({
      target: at('there'),
    })),
    others: ['base', 'mid', 'there'],
  },
  'drive-mirror to a new image': {
    start: running('drive-mirror', { sync: 'full', mode: 'absolute-paths', ...qcow2 }, (at) => ({
      target: at('new'),
    })),
    others: ['base', 'mid', 'new'],
  },
  'drive-mirror to a new overlay': {
    // What is above `mid` comes with the writer.
    start: async (daemon, at) => {
      const where = { target: at('new'), mode: 'absolute-paths', ...qcow2 };
      await ready('drive-mirror', { sync: 'top', ...where })(daemon);
    },
    others: ['base', 'mid', 'new'],
  },
  backup: { start: running('blockdev-backup', toTarget) },
  'drive-backup': {
    start: running('drive-backup', { sync: 'full', ...qcow2 }, (at) => ({ target: at('new') })),
    others: ['base', 'mid', 'new'],
  },
  create: {
    start: async (daemon, at) => {
      const made = { driver: 'file', 'node-name': 'made', filename: at('made') };
      await daemon.ok('blockdev-add', made);
      const options = { driver: 'qcow2', file: 'made', size: SIZE, preallocation: 'full' };
      await again(['blockdev-create', { options }])(daemon);
    },
    made: 'made',
  },
  'amend of qcow2': {
    disk: 'encrypted',
    start: again(...amend('qcow2', (keys) => ({ encrypt: { format: 'luks', ...keys } }))),
  },
  'amend of luks': { disk: 'luks', start: again(...amend('luks', (keys) => keys)) },
  'snapshot-save and snapshot-delete': { program: 'vdisk-system', start: again(save, forget) },
};

const img = binPath('vdisk-img');
const secret = (id: string): string => `word-${id}`;
const withSecret = ['--object', `secret,id=a,data=${secret('a')}`];

async function makeImages(at: (name: string) => string, disk: Disk): Promise<void> {
  const content = new Uint8Array(SIZE);
  for (let i = 0; i < BLOCKS; i++) content.fill(1 + (i % 3), i * BLOCK, (i + 1) * BLOCK);
  writeFileSync(at('raw'), content);
  writeFileSync(at('made'), '');
  writeFileSync(at('old'), content.slice().fill(99, 0, SIZE / 2));
  await runOk(img, ['convert', '-f', 'raw', '-O', 'qcow2', at('old'), at('base')]);
  const over = (name: string): string[] => ['-b', at(name), '-F', 'qcow2'];
  await runOk(img, ['create', '-q', '-f', 'qcow2', ...over('base'), at('mid')]);
  // A commit of `mid` has something to copy.
  await runOk(binPath('vdisk-io'), ['-c', `write -s ${at('raw')} 0 ${SIZE / 2}`, at('mid')]);
  for (const name of ['target', 'there']) {
    await runOk(img, ['create', '-q', '-f', 'qcow2', at(name), String(SIZE)]);
  }
  if (disk === 'over') {
    await runOk(img, ['create', '-q', '-f', 'qcow2', ...over('mid'), at('disk')]);
    return;
  }
  const prefix = disk === 'luks' ? '' : 'encrypt.';
  const format = disk === 'luks' ? '' : 'encrypt.format=luks,';
  const keys = `${format}${prefix}key-secret=a,${prefix}iter-time=10`;
  const to = ['-O', disk === 'luks' ? 'luks' : 'qcow2', '-o', keys, at('raw'), at('disk')];
  await runOk(img, ['convert', ...withSecret, '-f', 'raw', ...to]);
}

/** Exit statuses of check: all is well, leaks only, not an image. */
const [WELL, NO_IMAGE, LEAKS] = [0, 1, 3];

/** What `check` says of an image; QEMU's says the same of it, where there is one. */
async function checked(path: string, form: Disk): Promise<number> {
  const opts = `driver=qcow2,encrypt.key-secret=a,file.filename=${path}`;
  const image = form === 'over' ? ['-f', 'qcow2', path] : [...withSecret, '--image-opts', opts];
  const args = ['check', '--output=json', ...image];
  const ours = await run(img, args);
  if (findCommand('qemu-img') === undefined) return ours.status;
  const theirs = await run('qemu-img', args);
  expect(ours.status, ours.stderr + theirs.stderr).toBe(theirs.status);
  if (ours.status === NO_IMAGE) return ours.status;
  const [our, their] = [ours, theirs].map(({ stdout }) => JSON.parse(stdout) as Message);
  for (const key of ['leaks', 'corruptions', 'check-errors', 'image-end-offset']) {
    expect(our?.[key], key).toBe(their?.[key]);
  }
  return ours.status;
}

async function sound(path: string, form: Disk): Promise<void> {
  expect([WELL, LEAKS], path).toContain(await checked(path, form));
}

/** Writes until the program is gone, which it is told to be after some writes. */
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

function begin(kind: Kind): Promise<DaemonProcess> {
  if (kind.program === undefined) {
    return new DaemonProcess(binPath('vdisk-storage-daemon')).ready();
  }
  const bare = ['-nodefaults', '-accel', 'qtest', '-display', 'none', '-m', '16'];
  return new DaemonProcess(binPath(kind.program), bare, undefined, ['-qmp', 'stdio']).ready();
}

/** Options of the disk's node. */
function diskOptions(disk: Disk, filename: string): Message {
  const file = { driver: 'file', filename };
  if (disk === 'luks') return { driver: 'luks', 'key-secret': 'a', file };
  const encrypt = { format: 'luks', 'key-secret': 'a' };
  return { driver: 'qcow2', ...(disk === 'encrypted' ? { encrypt } : {}), file };
}

async function addNodes(daemon: DaemonProcess, at: (name: string) => string, disk: Disk) {
  for (const id of ['a', 'b']) {
    await daemon.ok('object-add', { 'qom-type': 'secret', id, data: secret(id) });
  }
  const below = (name: string, more: Message): Message => ({
    driver: 'qcow2',
    'node-name': name,
    file: { driver: 'file', filename: at(name) },
    ...more,
  });
  const under = { backing: below('mid', { backing: below('base', {}) }) };
  const options = { ...diskOptions(disk, at('disk')), ...(disk === 'over' ? under : {}) };
  await daemon.ok('blockdev-add', { ...options, 'node-name': 'disk' });
  await daemon.ok('blockdev-add', below('target', {}));
}

async function round(kind: Kind, random: Random): Promise<void> {
  const dir = tempDir();
  const at = (name: string): string => join(dir, name);
  const form = kind.disk ?? 'over';
  await makeImages(at, form);
  const daemon = await begin(kind);
  await addNodes(daemon, at, form);
  await daemon.ok('nbd-server-start', { addr: { type: 'unix', data: { path: at('n') } } });
  const served = { id: 'e', type: 'nbd', 'node-name': 'disk', writable: true };
  await daemon.ok('block-export-add', served);
  const graph = createGraph();
  const server = { type: 'unix', path: at('n') };
  const options: NodeOptions = { driver: 'nbd', server, export: 'disk' };
  const disk = await graph.openBackend({ options, flags: { writable: true } });
  const model = new Model();
  await kind.start(daemon, at);
  const kill = (): void => void daemon.child.kill('SIGKILL');
  await expect(write(disk, model, random, kill)).rejects.toThrow();
  await daemon.ended;
  await disk.detach().catch(() => undefined);
  await graph.close().catch(() => undefined);
  await judge(kind, at, model);
}

async function judge(kind: Kind, at: (name: string) => string, model: Model): Promise<void> {
  const { disk: form = 'over', others = ['base', 'mid', 'target'], made } = kind;
  // Before any program opens them for writing.
  if (form !== 'luks') await sound(at('disk'), form);
  for (const name of others) await sound(at(name), 'over');
  if (made !== undefined) await checked(at(made), 'over');
  const secrets = async (id: string): Promise<Uint8Array> => new TextEncoder().encode(secret(id));
  const graph = createGraph({ secret: secrets });
  const options = diskOptions(form, at('disk'));
  const disk = await graph.openBackend({ options, flags: { writable: true } });
  model.check(await readBytes(disk, 0, SIZE));
  await disk.detach();
  for (const name of others) await (await graph.openBackend({ filename: at(name) })).detach();
  await graph.close();
  if (made !== undefined) {
    await runOk(img, ['create', '-q', '-f', 'qcow2', at(made), String(SIZE)]);
  }
  for (const name of [...others, ...(made === undefined ? [] : [made])]) await mended(at(name));
}

/** Leaks can be repaired. */
async function mended(path: string): Promise<void> {
  const check = await runOk(img, ['check', '-r', 'leaks', path]);
  expect(check.stdout).toContain('No errors were found on the image.');
}

/** The disk holds what it held before the load, or what the snapshot holds, nothing of both. */
async function loadRound(random: Random): Promise<void> {
  const dir = tempDir();
  const at = (name: string): string => join(dir, name);
  await makeImages(at, 'over');
  const daemon = await begin({ program: 'vdisk-system', start: () => Promise.resolve() });
  await addNodes(daemon, at, 'over');
  const fill = async (value: number): Promise<void> => {
    for (const line of [`write -P ${String(value)} 0 ${String(SIZE)}`, 'flush']) {
      await daemon.ok('human-monitor-command', { 'command-line': `qemu-io disk "${line}"` });
    }
  };
  await fill(1);
  await toEnd(daemon, ...save);
  for (let left = random.int(0, 3); left > 0; left--) {
    await fill(2);
    await toEnd(daemon, 'snapshot-load', { ...snapshot, vmstate: 'disk' });
  }
  await fill(2);
  const load = { 'job-id': 'j', ...snapshot, vmstate: 'disk' };
  void daemon.ok('snapshot-load', load);
  await new Promise((resolve) => setTimeout(resolve, random.int(0, 40)));
  daemon.child.kill('SIGKILL');
  await daemon.ended;
  for (const name of ['disk', 'base', 'mid']) await sound(at(name), 'over');
  const graph = createGraph();
  const disk = await graph.openBackend({ filename: at('disk'), flags: { writable: true } });
  const content = await readBytes(disk, 0, SIZE);
  expect([1, 2]).toContain(content[0]);
  expect(content.every((byte) => byte === content[0])).toBe(true);
  await disk.detach();
  await graph.close();
  await mended(at('disk'));
}

describe('killed in the middle of', () => {
  it.each(Object.keys(kinds))(
    '%s',
    async (name) => {
      const kind = kinds[name];
      if (kind === undefined) throw new Error('no such job');
      const random = seededRandom();
      for (let i = 0; i < rounds; i++) await round(kind, random);
    },
    60_000 * rounds,
  );

  it(
    'snapshot-load',
    async () => {
      const random = seededRandom();
      for (let i = 0; i < rounds; i++) await loadRound(random);
    },
    60_000 * rounds,
  );
});
