// Goal: jobs of vdisk-storage-daemon look to clients as those of qemu-storage-daemon 10. Method:
// the same requests to both; of each step the events up to one that is waited for, and the reply,
// are compared as text. Whether a reply comes before or after an event is left open: that depends
// on how fast the job is.
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { formatJson } from '../../src/lib/json-text.js';
import { DaemonProcess, isReply } from '../qmp/support.js';
import type { Message } from '../qmp/support.js';
import { binPath, findCommand, requiresQemu10, runOk, tempDir } from '../support/index.js';

const ours = binPath('vdisk-storage-daemon');

/** A request, and the state of a job that is waited for before the next. */
interface Step {
  readonly request: Message;
  readonly until: string | undefined;
}

const cmd = (execute: string, args: Message = {}, until?: string): Step => ({
  request: { execute, arguments: args },
  until,
});

function scrub({ timestamp: _, ...message }: Message, folder: string): string {
  return formatJson(message)
    .replaceAll(folder, 'DIR')
    .replace(/#block\d+/g, '#block')
    .replace(/"actual-size": \d+/g, '"actual-size": N');
}

function hasState(message: Message, state: string): boolean {
  const data = message['data'] as Message | undefined;
  return message['event'] === 'JOB_STATUS_CHANGE' && data?.['status'] === state;
}

async function take(daemon: DaemonProcess, step: Step, from: number): Promise<readonly Message[]> {
  daemon.child.stdin.write(`${JSON.stringify(step.request)}\n`);
  const { until } = step;
  const seen = await daemon.lines.until((all) => {
    const now = all.slice(from);
    const failed = now.some((m) => 'error' in m);
    const reached = until === undefined || now.some((m) => hasState(m, until));
    return now.some(isReply) && (failed || reached);
  });
  return seen.slice(from);
}

/** Where a step's messages begin: behind all of the step before. */
async function transcript(program: string, steps: (dir: string) => Step[]): Promise<string[]> {
  const dir = tempDir();
  const at = (name: string): string => join(dir, name);
  const img = findCommand('qemu-img') ?? 'qemu-img';
  const io = findCommand('qemu-io') ?? 'qemu-io';
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
  const daemon = await new DaemonProcess(program).ready();
  const out: string[] = [];
  let from = daemon.lines.seen.length;
  for (const step of steps(dir)) {
    out.push(`> ${formatJson(step.request)}`.replaceAll(dir, 'DIR'));
    const messages = await take(daemon, step, from);
    from += messages.length;
    const texts = (which: boolean): string[] =>
      messages.filter((m) => isReply(m) === which).map((m) => scrub(m, dir));
    out.push(...texts(false), ...texts(true));
  }
  out.push(`status ${String(await daemon.quit())}`);
  out.push(...daemon.lines.seen.slice(from).map((m) => scrub(m, dir)));
  for (const name of ['base', 'mid', 'top']) {
    const info = await runOk(img, ['info', '-U', '--output=json', at(`${name}.qcow2`)]);
    const facts = JSON.parse(info.stdout) as Message;
    out.push(`${name}: ${String(facts['backing-filename'])} ${String(facts['virtual-size'])}`);
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
      const [theirs, own] = await Promise.all([transcript(peer, steps), transcript(ours, steps)]);
      expect(own).toEqual(theirs);
    }, 60_000);
  });
});
