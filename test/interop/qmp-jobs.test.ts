// Goal: jobs of vdisk-storage-daemon look to clients as those of qemu-storage-daemon 10. Method:
// the same requests to both; of each step the events up to one that is waited for, and the reply,
// are compared as text. Whether a reply comes before or after an event is left open: that depends
// on how fast the job is.
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Message } from '../qmp/support.js';
import { binPath, findCommand, requiresQemu10, runOk } from '../support/index.js';
import type { Folder, Step } from './qmp-transcript.js';
import { cmd, transcript } from './qmp-transcript.js';

const ours = binPath('vdisk-storage-daemon');

async function prepare({ at }: Folder, img: string, io: string): Promise<void> {
  const chain = [
    ['base', undefined, 'write -P 1 0 256k'],
    ['mid', 'base', 'write -P 2 128k 256k'],
    ['top', 'mid', 'write -P 3 512k 128k'],
  ] as const;
  for (const [name, backing, write] of chain) {
    const over = backing === undefined ? [] : ['-b', `${backing}.qcow2`, '-F', 'qcow2'];
    await runOk(img, ['create', '-q', '-f', 'qcow2', ...over, at(`${name}.qcow2`), '1M']);
    await runOk(io, ['-f', 'qcow2', '-c', write, at(`${name}.qcow2`)]);
  }
}

async function judge({ dir, at }: Folder, img: string): Promise<string[]> {
  const out: string[] = [];
  for (const name of ['base', 'mid', 'top']) {
    const info = await runOk(img, ['info', '-U', '--output=json', at(`${name}.qcow2`)]);
    const facts = JSON.parse(info.stdout) as Message;
    out.push(`${name}: ${String(facts['backing-filename'])}`.replace(dir, 'DIR'));
  }
  const map = await runOk(img, ['map', '--output=json', at('top.qcow2')]);
  out.push(map.stdout.replaceAll(dir, 'DIR').replace(/"offset": \d+/g, '"offset": N'));
  return out;
}

const add = (args: Message): Step => cmd('blockdev-add', args);
const jobs = cmd('query-jobs');

let nextJob = 0;
function create(options: Message): Step[] {
  const id = `c${String(nextJob++)}`;
  const start = cmd('blockdev-create', { 'job-id': id, options }, 'concluded');
  return [start, jobs, cmd('job-dismiss', { id }, 'null')];
}

const flat = cmd('query-named-block-nodes', { flat: true });
const slowly = { speed: 65536, 'auto-finalize': false, 'auto-dismiss': false };

const openIn =
  (dir: string) =>
  (name: string, more: Message = {}): Step =>
    add({
      driver: 'qcow2',
      'node-name': name,
      file: { driver: 'file', filename: join(dir, `${name}.qcow2`) },
      ...more,
    });

function openChain(dir: string): Step[] {
  const open = openIn(dir);
  return [
    add({ driver: 'null-co', 'node-name': 'n', size: 65536 }),
    open('base'),
    open('mid', { backing: 'base' }),
    open('top', { backing: 'mid' }),
  ];
}

const stream = (args: Message): Step =>
  cmd('block-stream', { device: 'top', 'job-id': 's', ...args });
const commit = (args: Message): Step =>
  cmd('block-commit', { device: 'top', 'job-id': 'c', ...args });

const streamErrors = [
  cmd('block-stream', { device: 'top' }),
  stream({ 'job-id': '1s' }),
  stream({ device: 'zz' }),
  stream({ base: 'x', 'base-node': 'base' }),
  stream({ base: 'x', bottom: 'base' }),
  stream({ bottom: 'mid', 'base-node': 'base' }),
  stream({ 'base-node': 'zz' }),
  stream({ 'base-node': 'n' }),
  stream({ 'base-node': 'top' }),
  stream({ bottom: 'zz' }),
  stream({ bottom: 'n' }),
  stream({ base: 'zz' }),
  stream({ speed: -1 }),
  stream({ 'backing-file': 'x' }),
  stream({ 'filter-node-name': 'n' }),
];

const commitErrors = [
  cmd('block-commit', { device: 'top' }),
  commit({ device: 'zz' }),
  commit({ device: 'mid' }),
  commit({ base: 'x', 'base-node': 'base' }),
  commit({ top: 'x', 'top-node': 'top' }),
  commit({ 'base-node': 'zz' }),
  commit({ 'base-node': 'n' }),
  commit({ base: 'zz' }),
  commit({ 'top-node': 'zz' }),
  commit({ 'top-node': 'n' }),
  commit({ top: 'zz' }),
  commit({ 'top-node': 'base' }),
  commit({ 'base-node': 'top' }),
  commit({ 'top-node': 'mid', 'base-node': 'mid' }),
  commit({ 'top-node': 'base', 'base-node': 'mid' }),
  commit({ device: 'n' }),
  commit({ 'backing-file': 'x' }),
  commit({ speed: -1 }),
  commit({ 'top-node': 'mid', speed: -1 }),
];

/** What is refused while a job works on the chain. */
const busy = [
  stream({ 'job-id': 's2' }),
  cmd('blockdev-del', { 'node-name': 'top' }),
  cmd('blockdev-del', { 'node-name': 'mid' }),
];

const verbs = (id: string): Step[] => [
  cmd('job-pause', { id }),
  cmd('job-complete', { id }),
  cmd('job-dismiss', { id }),
  cmd('block-job-complete', { device: id }),
  cmd('block-job-dismiss', { id }),
  cmd('block-job-set-speed', { device: id, speed: -1 }),
  cmd('block-job-change', { id, type: 'stream' }),
  cmd('block-job-resume', { device: 'zz' }),
  cmd('job-cancel', { id: 'zz' }),
];

const scripts: Readonly<Record<string, (dir: string) => Step[]>> = {
  'images are made': (dir) => {
    nextJob = 0;
    const size = 1048576;
    const f1 = join(dir, 'f1');
    const file = (filename: string, more: Message = {}): Step[] =>
      create({ driver: 'file', filename: join(dir, filename), size: 0, ...more });
    const on = (driver: string, more: Message = {}): Step[] =>
      create({ driver, file: 'f1', size, ...more });
    return [
      ...file('f1'),
      ...file('f2'),
      add({ driver: 'file', 'node-name': 'f1', filename: f1 }),
      add({ driver: 'file', 'node-name': 'f2', filename: join(dir, 'f2') }),
      ...create({ driver: 'zz' }),
      ...create({ driver: 'null-co' }),
      ...file('no/x'),
      ...file('g', { size: 1000 }),
      ...file('g', { size: 65536, preallocation: 'metadata' }),
      ...file('g', { size: 65536, preallocation: 'full' }),
      ...create({ driver: 'qcow2', file: 'f1' }),
      ...on('qcow2', { file: 'zz' }),
      ...on('qcow2'),
      ...on('qcow2', { size: 1000 }),
      ...on('qcow2', { 'cluster-size': 1234 }),
      ...on('qcow2', { 'refcount-bits': 7 }),
      ...on('qcow2', { 'backing-fmt': 'qcow2' }),
      ...on('qcow2', { 'backing-fmt': 'zz' }),
      ...on('qcow2', { 'backing-file': 'base.qcow2', preallocation: 'full' }),
      ...on('qcow2', { 'backing-file': 'base.qcow2', 'backing-fmt': 'qcow2' }),
      ...on('qcow2', { version: 'v2', 'lazy-refcounts': true }),
      ...on('qcow2', { 'data-file': 'f2' }),
      ...on('qcow2', { 'data-file': 'f2', 'data-file-raw': true, version: 'v2' }),
      ...on('qcow2', { file: { driver: 'file', filename: f1 } }),
      ...on('qcow2', { file: { driver: 'file', filename: join(dir, 'nope') } }),
      ...on('qcow2', { encrypt: { format: 'luks', 'key-secret': 'zz' } }),
      ...on('luks'),
      ...on('luks', { 'key-secret': 'zz' }),
      ...on('vdi'),
      ...on('vdi', { preallocation: 'full' }),
      ...on('vdi', { preallocation: 'metadata' }),
      ...on('vpc'),
      ...on('vpc', { subformat: 'fixed', 'force-size': true }),
      ...on('vpc', { size: 2 ** 45 }),
      ...on('qed', { 'cluster-size': 4096, 'table-size': 1 }),
      ...on('qed', { 'cluster-size': 1234 }),
      ...on('vhdx'),
      ...on('vhdx', { 'block-size': 1234567 }),
      ...on('vhdx', { 'log-size': 1234567 }),
      ...on('vhdx', { size: 2 ** 50 }),
      ...on('vmdk'),
      ...on('vmdk', { subformat: 'monolithicFlat' }),
      ...on('vmdk', { extents: ['f2'] }),
      ...on('vmdk', { 'adapter-type': 'foo' }),
      ...on('qcow2', { 'cluster-size': 4096, 'compression-type': 'zstd' }),
      add({ driver: 'qcow2', 'node-name': 'q', file: 'f1' }),
      cmd('blockdev-create', { 'job-id': '1', options: { driver: 'qcow2', file: 'f1', size: 1 } }),
    ];
  },
  'an image is streamed': (dir) => [
    ...openChain(dir),
    ...streamErrors,
    cmd('block-stream', { device: 'n', 'job-id': 's' }, 'null'),
    cmd('block-stream', { device: 'top', 'job-id': 's', 'base-node': 'mid', speed: 100 }, 'null'),
    cmd('block-stream', { device: 'top', 'job-id': 's', ...slowly, 'filter-node-name': 'f' }),
    ...busy,
    cmd('blockdev-del', { 'node-name': 'f' }),
    cmd('job-pause', { id: 's' }, 'paused'),
    ...verbs('s'),
    cmd('job-resume', { id: 's' }),
    cmd('block-job-set-speed', { device: 's', speed: 0 }, 'BLOCK_JOB_PENDING'),
    cmd('query-block-jobs'),
    ...verbs('s'),
    cmd('job-finalize', { id: 's' }, 'concluded'),
    ...verbs('s'),
    jobs,
    cmd('job-dismiss', { id: 's' }, 'null'),
    flat,
  ],
  'an image is streamed down to a base': (dir) => [
    ...openChain(dir),
    cmd('block-stream', { device: 'top', 'job-id': 's', base: join(dir, 'base.qcow2') }, 'null'),
    flat,
    cmd('blockdev-del', { 'node-name': 'mid' }),
  ],
  'an image between others is streamed, its base being named': (dir) => [
    ...openChain(dir),
    cmd(
      'block-stream',
      { device: 'mid', 'job-id': 's', bottom: 'mid', 'backing-file': 'x', 'on-error': 'stop' },
      'null',
    ),
    cmd('block-stream', { device: 'mid', 'job-id': 's' }, 'null'),
    flat,
  ],
  'a stream is cancelled, and another by the end of the daemon': (dir) => [
    ...openChain(dir),
    cmd('block-stream', { device: 'top', 'job-id': 's', ...slowly }),
    cmd('job-pause', { id: 's' }, 'paused'),
    cmd('block-job-cancel', { device: 's' }),
    cmd('block-job-cancel', { device: 's', force: true }, 'concluded'),
    jobs,
    cmd('query-block-jobs'),
    cmd('job-dismiss', { id: 's' }, 'null'),
    flat,
    cmd('block-stream', { device: 'top', 'job-id': 'e', speed: 100, 'auto-dismiss': false }),
    cmd('job-pause', { id: 'e' }, 'paused'),
    cmd('job-resume', { id: 'e' }),
  ],
  'an image between others is committed': (dir) => [
    ...openChain(dir),
    ...commitErrors,
    cmd('block-commit', {
      device: 'top',
      'job-id': 'c',
      'top-node': 'mid',
      ...slowly,
      'filter-node-name': 'flt',
    }),
    cmd('job-pause', { id: 'c' }, 'paused'),
    cmd('block-commit', { device: 'top', 'job-id': 'c2', 'top-node': 'mid' }),
    ...busy,
    cmd('blockdev-del', { 'node-name': 'flt' }),
    cmd('job-resume', { id: 'c' }),
    cmd('block-job-set-speed', { device: 'c', speed: 0 }, 'BLOCK_JOB_PENDING'),
    cmd('job-finalize', { id: 'c' }, 'concluded'),
    cmd('job-dismiss', { id: 'c' }, 'null'),
    flat,
    cmd('blockdev-del', { 'node-name': 'mid' }),
  ],
  'a commit is cancelled': (dir) => [
    ...openChain(dir),
    cmd('block-commit', { device: 'top', 'job-id': 'c', 'top-node': 'mid', speed: 65536 }),
    cmd('job-pause', { id: 'c' }, 'paused'),
    cmd('job-cancel', { id: 'c' }, 'null'),
    flat,
  ],
  'the active image is committed, and the base becomes the disk': (dir) => [
    ...openChain(dir),
    cmd(
      'block-commit',
      { device: 'top', 'job-id': 'a', 'filter-node-name': 'flt', 'auto-dismiss': false },
      'BLOCK_JOB_READY',
    ),
    cmd('query-block-jobs'),
    ...busy,
    cmd('block-commit', { device: 'top', 'job-id': 's' }),
    cmd('job-pause', { id: 'a' }, 'standby'),
    cmd('job-resume', { id: 'a' }, 'ready'),
    cmd('job-complete', { id: 'a' }, 'concluded'),
    jobs,
    cmd('job-dismiss', { id: 'a' }, 'null'),
    flat,
  ],
  'jobs on neighbours are refused where they share an image': (dir) => {
    const slow = { speed: 65536 };
    const names = { 'filter-node-name': 'flt' };
    return [
      ...openChain(dir),
      commit({ 'top-node': 'mid', ...slow, ...names }),
      stream({ 'base-node': 'mid' }),
      stream({}),
      cmd('job-cancel', { id: 'c' }, 'null'),
    ];
  },
  'a backing file that another stands for is not found by its name': (dir) => {
    const open = openIn(dir);
    return [
      open('base'),
      open('top', { backing: 'base' }),
      commit({ base: join(dir, 'mid.qcow2') }),
      commit({ base: 'mid.qcow2' }),
      stream({ base: 'mid.qcow2' }),
    ];
  },
  'neighbours are streamed at the same time': (dir) => [
    ...openChain(dir),
    cmd('block-stream', { device: 'mid', 'job-id': 't', speed: 65536 }),
    cmd('block-stream', { device: 'top', 'job-id': 's', 'base-node': 'mid' }, 'null'),
    cmd('block-job-set-speed', { device: 't', speed: 0 }, 'null'),
    flat,
  ],
  'the active image is committed, and stays the disk': (dir) => [
    ...openChain(dir),
    cmd('block-commit', { device: 'top', 'job-id': 'a', 'base-node': 'mid' }, 'BLOCK_JOB_READY'),
    cmd('block-job-cancel', { device: 'a' }, 'null'),
    flat,
    cmd('block-commit', { device: 'top', 'job-id': 'a' }, 'BLOCK_JOB_READY'),
    cmd('block-job-cancel', { device: 'a', force: true }, 'null'),
    flat,
  ],
};

requiresQemu10(
  'qemu-storage-daemon',
  'qemu-img',
  'qemu-io',
)('jobs of both daemons', () => {
  describe.each(Object.keys(scripts))('%s', (name) => {
    it('the same replies and events', async () => {
      const steps = scripts[name];
      if (steps === undefined) throw new Error('no such script');
      const peer = findCommand('qemu-storage-daemon') ?? '';
      const script = { prepare, steps, judge };
      const [theirs, own] = await Promise.all([transcript(peer, script), transcript(ours, script)]);
      expect(own).toEqual(theirs);
    }, 60_000);
  });
});
