// Goal: mirrors of vdisk-storage-daemon, drive-mirror among them, look to clients as those of
// qemu-storage-daemon 10 and leave the same chains. Method: the same requests to both, compared as
// text (see qmp-transcript.ts), and the images they leave.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Message } from '../qmp/support.js';
import { binPath, findCommand, requiresQemu10, runOk } from '../support/index.js';
import type { Folder, Step } from './qmp-transcript.js';
import { cmd, transcript } from './qmp-transcript.js';

const images = ['base', 'top', 'made', 'there', 'plain'] as const;

async function prepare({ at }: Folder, img: string, io: string): Promise<void> {
  const qcow2 = ['create', '-q', '-f', 'qcow2'];
  const over = ['-b', 'base.qcow2', '-F', 'qcow2'];
  await runOk(img, [...qcow2, at('base.qcow2'), '1M']);
  await runOk(io, ['-f', 'qcow2', '-c', 'write -P 1 0 256k', at('base.qcow2')]);
  await runOk(img, [...qcow2, ...over, at('top.qcow2'), '1M']);
  await runOk(io, ['-f', 'qcow2', '-c', 'write -P 2 128k 256k', at('top.qcow2')]);
  await runOk(img, [...qcow2, ...over, at('there.qcow2'), '1M']);
  await runOk(img, [...qcow2, at('plain.qcow2'), '1M']);
  await runOk(img, [...qcow2, at('small.qcow2'), '512k']);
}

async function judge({ dir, at }: Folder, img: string): Promise<string[]> {
  const out: string[] = [];
  for (const name of images) {
    const file = at(`${name}.qcow2`);
    if (!existsSync(file)) continue;
    const info = JSON.parse((await runOk(img, ['info', '--output=json', file])).stdout) as Message;
    out.push(`${name}: ${String(info['backing-filename'])}`.replaceAll(dir, 'DIR'));
    out.push(...merged((await runOk(img, ['map', '--output=json', file])).stdout));
  }
  return out;
}

/** Runs of one kind; where in the file they are depends on the order of writes. */
function merged(map: string): string[] {
  const out: { end: number; kind: string }[] = [];
  for (const { start, length, offset: _, ...kind } of JSON.parse(map) as Run[]) {
    const last = out.at(-1);
    const text = JSON.stringify(kind);
    if (last?.kind === text) last.end = start + length;
    else out.push({ end: start + length, kind: text });
  }
  return out.map(({ end, kind }) => `up to ${String(end)}: ${kind}`);
}

interface Run {
  readonly start: number;
  readonly length: number;
  readonly offset?: number;
}

const openTop = (dir: string): Step =>
  cmd('blockdev-add', {
    driver: 'qcow2',
    'node-name': 'disk',
    file: { driver: 'file', filename: join(dir, 'top.qcow2') },
    backing: {
      driver: 'qcow2',
      'node-name': 'under',
      file: { driver: 'file', filename: join(dir, 'base.qcow2') },
    },
  });

const drive = (dir: string, args: Message, until = 'BLOCK_JOB_READY'): Step =>
  cmd(
    'drive-mirror',
    { 'job-id': 'j', device: 'disk', target: join(dir, 'made.qcow2'), ...args },
    until,
  );

const complete = cmd('block-job-complete', { device: 'j' }, 'null');
const stop = cmd('block-job-cancel', { device: 'j' }, 'null');
const blocks = cmd('query-named-block-nodes', { flat: true });

/** What each mode copies, and what the target stands on afterwards. */
const modes: Readonly<Record<string, Message>> = {
  full: { sync: 'full' },
  top: { sync: 'top' },
  none: { sync: 'none' },
  'with a name': { sync: 'top', 'node-name': 'new', replaces: 'disk' },
  'write-blocking': { sync: 'full', 'copy-mode': 'write-blocking' },
};

const scripts: Record<string, (dir: string) => Step[]> = {
  errors: (dir) => {
    const wrong = (args: Message): Step => drive(dir, { sync: 'full', ...args }, 'never');
    return [
      openTop(dir),
      wrong({ device: 'zz' }),
      wrong({ sync: 'incremental' }),
      wrong({ sync: 'bitmap' }),
      wrong({ replaces: 'disk' }),
      wrong({ replaces: 'zz', 'node-name': 'new' }),
      wrong({ replaces: 'under', 'node-name': 'new' }),
      wrong({ format: 'zz' }),
      wrong({ mode: 'existing', target: join(dir, 'missing') }),
      wrong({ 'node-name': 'disk' }),
      wrong({ granularity: 7 }),
      wrong({ granularity: 65537 }),
      wrong({ 'buf-size': -1 }),
      wrong({ speed: -1 }),
      wrong({ 'job-id': '1' }),
      wrong({ target: join(dir, 'no', 'folder') }),
    ];
  },
  'another size': (dir) => [
    openTop(dir),
    drive(dir, { sync: 'full', mode: 'existing', target: join(dir, 'small.qcow2') }, 'null'),
  ],
  existing: (dir) => [
    openTop(dir),
    drive(dir, { sync: 'top', mode: 'existing', target: join(dir, 'there.qcow2') }),
    complete,
    blocks,
  ],
  'existing, full': (dir) => [
    openTop(dir),
    drive(dir, { sync: 'full', mode: 'existing', target: join(dir, 'plain.qcow2') }),
    stop,
    blocks,
  ],
  'the copy mode changes': (dir) => {
    const change = (mode: string, more: Message = {}): Step =>
      cmd('block-job-change', { id: 'j', type: 'mirror', 'copy-mode': mode, ...more });
    return [
      openTop(dir),
      drive(dir, { sync: 'top' }),
      change('background'),
      change('write-blocking'),
      change('write-blocking'),
      change('background'),
      change('zz'),
      cmd('block-job-change', { id: 'j', type: 'commit' }),
      cmd('block-job-change', { id: 'k', type: 'mirror', 'copy-mode': 'background' }),
      stop,
    ];
  },
};

for (const [name, args] of Object.entries(modes)) {
  scripts[`${name}, completed`] = (dir) => [openTop(dir), drive(dir, args), complete, blocks];
  scripts[`${name}, stopped`] = (dir) => [openTop(dir), drive(dir, args), stop, blocks];
}

requiresQemu10(
  'qemu-storage-daemon',
  'qemu-img',
  'qemu-io',
)('drive-mirror of both daemons', () => {
  describe('each step is answered as by QEMU’s daemon', () => {
    it.each(Object.keys(scripts))('%s', async (name) => {
      const steps = scripts[name] ?? ((): Step[] => []);
      const script = { prepare, steps, judge };
      const ours = await transcript(binPath('vdisk-storage-daemon'), script);
      const theirs = await transcript(findCommand('qemu-storage-daemon') ?? '', script);
      expect(ours).toEqual(theirs);
    });
  });
});
