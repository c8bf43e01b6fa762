// Goal: backups of vdisk-storage-daemon look to clients as those of qemu-storage-daemon 10. Method:
// the same requests to both; of each step the events up to one that is waited for, and the reply,
// are compared as text, and at the end the content of the targets. Whether a reply comes before or
// after an event is left open: that depends on how fast the job is.
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { formatJson } from '../../src/lib/json-text.js';
import { DaemonProcess, isReply } from '../qmp/support.js';
import type { Message } from '../qmp/support.js';
import { binPath, findCommand, requiresQemu10, runOk, tempDir } from '../support/index.js';

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
  return (
    formatJson(message)
      .replaceAll(folder, 'DIR')
      // How far a job has come when it is cancelled.
      .replace(/(CANCELLED.*"offset": )\d+/, '$1N')
      .replace(/#block\d+/g, '#block')
  );
}

function isState(message: Message, state: string): boolean {
  const data = message['data'] as Message | undefined;
  return message['event'] === state || data?.['status'] === state;
}

async function take(daemon: DaemonProcess, step: Step, from: number): Promise<readonly Message[]> {
  daemon.child.stdin.write(`${JSON.stringify(step.request)}\n`);
  const { until } = step;
  const seen = await daemon.lines.until((all) => {
    const now = all.slice(from);
    const failed = now.some((m) => 'error' in m);
    return (
      now.some(isReply) && (failed || until === undefined || now.some((m) => isState(m, until)))
    );
  });
  return seen.slice(from);
}

async function transcript(program: string, steps: (dir: string) => Step[]): Promise<string[]> {
  const dir = tempDir();
  const at = (name: string): string => join(dir, name);
  const img = findCommand('qemu-img') ?? 'qemu-img';
  const io = findCommand('qemu-io') ?? 'qemu-io';
  for (const name of ['source', 'target', 'second', 'small']) {
    const size = name === 'small' ? '512k' : '1M';
    await runOk(img, ['create', '-q', '-f', 'qcow2', at(`${name}.qcow2`), size]);
  }
  const write = ['-c', 'write -P 1 0 256k', '-c', 'write -P 2 640k 64k'];
  await runOk(io, ['-f', 'qcow2', ...write, at('source.qcow2')]);
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
  for (const name of ['target', 'second', 'made']) {
    const same = await runOk(img, [
      'compare',
      '-f',
      'qcow2',
      '-F',
      'qcow2',
      at('source.qcow2'),
      at(`${name}.qcow2`),
    ]);
    out.push(`${name}: ${same.stdout}`);
  }
  return out;
}

const open = (dir: string, name: string): Step =>
  cmd('blockdev-add', {
    driver: 'qcow2',
    'node-name': name,
    file: { driver: 'file', filename: join(dir, `${name}.qcow2`) },
  });

const backup = (args: Message, until?: string): Step =>
  cmd(
    'blockdev-backup',
    { 'job-id': 'j', device: 'source', target: 'target', sync: 'full', ...args },
    until,
  );

const errors = [
  cmd('blockdev-backup', { device: 'source', target: 'target', sync: 'full' }),
  backup({ 'job-id': '1j' }),
  backup({ target: 'source' }),
  backup({ device: 'zz' }),
  backup({ target: 'zz' }),
  backup({ target: 'small' }),
  backup({ speed: -1 }),
  backup({ sync: 'incremental' }),
  backup({ sync: 'bitmap' }),
  backup({ 'bitmap-mode': 'always' }),
  backup({ sync: 'incremental', bitmap: 'zz' }),
  backup({ sync: 'incremental', bitmap: 'b', 'bitmap-mode': 'always' }),
  backup({ sync: 'bitmap', bitmap: 'b' }),
  backup({ sync: 'none', bitmap: 'b', 'bitmap-mode': 'always' }),
  backup({ bitmap: 'b', 'bitmap-mode': 'never' }),
  backup({ 'filter-node-name': 'source' }),
  backup({ 'x-perf': { 'max-workers': 0 } }),
  backup({ 'x-perf': { 'max-chunk': -1 } }),
  backup({ 'x-perf': { 'max-chunk': 1000 } }),
  backup({ 'x-perf': { 'min-cluster-size': 3000 } }),
];

const late = { 'auto-finalize': false, 'auto-dismiss': false };
const add = { node: 'source', name: 'c' };
const action = (type: string, data: Message): Message => ({ type, data });
const second = { 'job-id': 'k', device: 'source', target: 'second', sync: 'full' };
const jobs = cmd('query-block-jobs');

function steps(dir: string): Step[] {
  const toFile = { 'job-id': 'd', device: 'source', target: join(dir, 'made.qcow2') };
  return [
    ...['source', 'target', 'second', 'small'].map((name) => open(dir, name)),
    cmd('block-dirty-bitmap-add', { node: 'source', name: 'b' }),
    ...errors,
    backup(
      { ...late, 'filter-node-name': 'flt', bitmap: 'b', 'bitmap-mode': 'always' },
      'BLOCK_JOB_PENDING',
    ),
    jobs,
    cmd('x-debug-query-block-graph'),
    cmd('blockdev-del', { 'node-name': 'flt' }),
    cmd('blockdev-del', { 'node-name': 'target' }),
    cmd('blockdev-del', { 'node-name': 'source' }),
    cmd('block-job-complete', { device: 'j' }),
    cmd('job-finalize', { id: 'j' }, 'concluded'),
    jobs,
    cmd('job-dismiss', { id: 'j' }, 'null'),
    backup({ sync: 'incremental', bitmap: 'b' }, 'null'),
    backup({ sync: 'none' }),
    cmd('block-job-pause', { device: 'j' }),
    cmd('block-job-cancel', { device: 'j' }),
    cmd('block-job-resume', { device: 'j' }),
    cmd('block-job-cancel', { device: 'j' }, 'null'),
    cmd('transaction', { actions: [action('blockdev-backup', second), action('abort', {})] }),
    cmd('transaction', {
      actions: [action('block-dirty-bitmap-add', add)],
      properties: { 'completion-mode': 'grouped' },
    }),
    cmd(
      'transaction',
      { actions: [action('block-dirty-bitmap-add', add), action('blockdev-backup', second)] },
      'null',
    ),
    cmd(
      'transaction',
      {
        actions: [action('blockdev-backup', { ...second, ...late })],
        properties: { 'completion-mode': 'grouped' },
      },
      'BLOCK_JOB_PENDING',
    ),
    cmd('block-job-cancel', { device: 'k' }, 'concluded'),
    cmd('job-dismiss', { id: 'k' }, 'null'),
    cmd('drive-backup', { ...toFile, sync: 'full', format: 'qcow2' }, 'null'),
  ];
}

requiresQemu10(
  'qemu-storage-daemon',
  'qemu-img',
  'qemu-io',
)('backups of both daemons', () => {
  it('each step is answered as by QEMU’s daemon, and the targets are equal', async () => {
    const theirs = await transcript(findCommand('qemu-storage-daemon') ?? '', steps);
    const ours = await transcript(binPath('vdisk-storage-daemon'), steps);
    expect(ours).toEqual(theirs);
  });
});
