// Goal: backups of vdisk-storage-daemon look to clients as those of qemu-storage-daemon 10. Method:
// the same requests to both; of each step the events up to one that is waited for, and the reply,
// are compared as text, and at the end the content of the targets. Whether a reply comes before or
// after an event is left open: that depends on how fast the job is.
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { Message } from '../qmp/support.js';
import { binPath, findCommand, requiresQemu10, runOk } from '../support/index.js';
import type { Folder, Step } from './qmp-transcript.js';
import { cmd, transcript } from './qmp-transcript.js';

async function prepare({ at }: Folder, img: string, io: string): Promise<void> {
  for (const name of ['source', 'target', 'second', 'small']) {
    const size = name === 'small' ? '512k' : '1M';
    await runOk(img, ['create', '-q', '-f', 'qcow2', at(`${name}.qcow2`), size]);
  }
  const write = ['-c', 'write -P 1 0 256k', '-c', 'write -P 2 640k 64k'];
  await runOk(io, ['-f', 'qcow2', ...write, at('source.qcow2')]);
}

async function judge({ at }: Folder, img: string): Promise<string[]> {
  const out: string[] = [];
  const both = ['-f', 'qcow2', '-F', 'qcow2'];
  for (const name of ['target', 'second', 'made']) {
    const files = [at('source.qcow2'), at(`${name}.qcow2`)];
    const same = await runOk(img, ['compare', ...both, ...files]);
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
    const script = { prepare, steps, judge };
    const theirs = await transcript(findCommand('qemu-storage-daemon') ?? '', script);
    const ours = await transcript(binPath('vdisk-storage-daemon'), script);
    expect(ours).toEqual(theirs);
  });
});
