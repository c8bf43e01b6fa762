// Goal: a command that fails changes nothing: no node, edge, disk, device, job, export, bitmap or
// object comes, goes or becomes another, and the images keep their bytes. Method: commands whose
// arguments are random but mostly of names that there are go to a storage daemon and to a machine;
// around each one that fails everything that queries tell is compared. A failure prints its seed:
// VDISK_SEED=… repeats it. And failures of the second part of what a command does, one by one.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { binPath, Random, runOk, tempDir, testSeed } from '../support/index.js';
import type { SchemaType } from './random-arguments.js';
import { RandomArguments } from './random-arguments.js';
import type { Message } from './support.js';
import { DaemonProcess } from './support.js';

const STEPS = Number(process.env['VDISK_STEPS'] ?? 250);
const img = binPath('vdisk-img');

const questions: readonly (readonly [string, Message?])[] = [
  ['query-named-block-nodes'],
  ['x-debug-query-block-graph'],
  ['query-block'],
  ['query-jobs'],
  ['query-block-jobs'],
  ['query-block-exports'],
  ['qom-list', { path: '/objects' }],
];
const ofMachine: typeof questions = [['qom-list', { path: '/machine/peripheral' }]];

const images = ['base', 'mid', 'top', 'other', 'spare', 'over', 'extra', 'full', 'idle'];

async function makeImages(cwd: string): Promise<void> {
  const create = ['create', '-q', '-f', 'qcow2'];
  await runOk(img, [...create, 'base', '1M'], { cwd });
  await runOk(img, [...create, '-b', 'base', '-F', 'qcow2', 'mid'], { cwd });
  await runOk(img, [...create, '-b', 'mid', '-F', 'qcow2', 'top'], { cwd });
  for (const name of images.slice(3)) await runOk(img, [...create, name, '1M'], { cwd });
  await runOk(img, ['bitmap', '--add', 'other', 'stored'], { cwd });
  await runOk(img, ['snapshot', '-c', 'state', 'other'], { cwd });
}

const file = (filename: string): Message => ({ driver: 'file', filename });
const full = {
  driver: 'blkdebug',
  'node-name': 'full-file',
  image: file('full'),
  'inject-error': [{ event: 'none', iotype: 'write', errno: 28 }],
};

/** Nodes, jobs and more of which the random arguments speak. */
const setup: readonly (readonly [string, Message])[] = [
  ['object-add', { 'qom-type': 'throttle-group', id: 'tg' }],
  [
    'blockdev-add',
    {
      driver: 'qcow2',
      'node-name': 'top',
      file: { ...file('top'), 'node-name': 'top-file' },
      backing: {
        driver: 'qcow2',
        'node-name': 'mid',
        file: file('mid'),
        backing: { driver: 'qcow2', 'node-name': 'base', file: file('base') },
      },
    },
  ],
  ['blockdev-add', { driver: 'qcow2', 'node-name': 'other', file: file('other') }],
  ['blockdev-add', { driver: 'qcow2', 'node-name': 'spare', file: file('spare'), backing: null }],
  ['blockdev-add', { driver: 'qcow2', 'node-name': 'over', file: file('over'), backing: null }],
  ['blockdev-add', { driver: 'qcow2', 'node-name': 'full', file: full }],
  [
    'blockdev-add',
    {
      driver: 'qcow2',
      'node-name': 'idle',
      active: false,
      file: { ...file('idle'), active: false },
    },
  ],
  [
    'blockdev-add',
    { driver: 'throttle', 'node-name': 'limit', file: 'other', 'throttle-group': 'tg' },
  ],
  ['blockdev-add', { driver: 'null-co', 'node-name': 'n0', size: 1 << 20 }],
  ['blockdev-add', { driver: 'null-co', 'node-name': 'n1', size: 1 << 20 }],
  ['blockdev-add', { driver: 'null-co', 'node-name': 'n2', size: 1 << 20 }],
  ['blockdev-add', { driver: 'null-co', 'node-name': 'n3', size: 4096 }],
  ['blockdev-add', { driver: 'null-co', 'node-name': 'n4', size: 1 << 20 }],
  [
    'blockdev-add',
    { driver: 'quorum', 'node-name': 'q', 'vote-threshold': 2, children: ['n0', 'n1'] },
  ],
  ['block-dirty-bitmap-add', { node: 'top', name: 'b0' }],
  ['block-dirty-bitmap-add', { node: 'top', name: 'b1', disabled: true }],
  [
    'blockdev-mirror',
    { 'job-id': 'j', device: 'n2', target: 'n3x', sync: 'none', 'auto-dismiss': false },
  ],
];

class Peer {
  constructor(
    readonly process: DaemonProcess,
    readonly cwd: string,
    readonly asked: typeof questions,
  ) {}

  /** Everything that is told, and what the files are. */
  async facts(): Promise<Message> {
    const out: Message = {};
    for (const [name, args] of this.asked)
      out[`${name}${args === undefined ? '' : ` ${String(args['path'])}`}`] = await this.process.ok(
        name,
        args,
      );
    for (const name of images) {
      const bytes = readFileSync(join(this.cwd, name));
      out[name] = `${String(bytes.length)} ${createHash('sha1').update(bytes).digest('hex')}`;
    }
    return out;
  }

  async end(): Promise<void> {
    this.process.child.kill('SIGKILL');
    await this.process.ended;
  }
}

async function settled(process: DaemonProcess): Promise<void> {
  await process.ok('blockdev-add', { driver: 'null-co', 'node-name': 'n3x', size: 1 << 20 });
}

type Start = () => Promise<Peer>;

async function prepared(
  process: DaemonProcess,
  cwd: string,
  asked: typeof questions,
): Promise<Peer> {
  await process.ready();
  await settled(process);
  for (const [name, args] of setup) await process.ok(name, args);
  await process.lines.until1(({ event }) => event === 'BLOCK_JOB_READY');
  return new Peer(process, cwd, asked);
}

const startDaemon: Start = async () => {
  const cwd = tempDir();
  await makeImages(cwd);
  const daemon = new DaemonProcess(binPath('vdisk-storage-daemon'), [], cwd);
  const server = { type: 'unix', data: { path: 'socket' } };
  const peer = await prepared(daemon, cwd, questions);
  await daemon.ok('nbd-server-start', { addr: server });
  await daemon.ok('block-export-add', { type: 'nbd', id: 'e', 'node-name': 'spare', name: 'e' });
  return peer;
};

const machineArgs = [
  ...['-nodefaults', '-accel', 'qtest', '-display', 'none', '-qmp', 'stdio'],
  ...['-device', 'virtio-scsi-pci,id=scsi', '-device', 'ahci,id=ahci'],
  ...['-device', 'ide-cd,bus=ahci.0,id=cd'],
];

const startMachine: Start = async () => {
  const cwd = tempDir();
  await makeImages(cwd);
  const machine = new DaemonProcess(binPath('vdisk-system'), [], cwd, machineArgs);
  const peer = await prepared(machine, cwd, [...questions, ...ofMachine]);
  await machine.ok('device_add', { driver: 'scsi-hd', id: 'disk', bus: 'scsi.0', drive: 'limit' });
  await machine.ok('device_add', { driver: 'virtio-blk-pci', id: 'vd', drive: 'top' });
  return peer;
};

const drivers = new RegExp(
  '^(qcow2|raw|file|throttle|null-co|copy-on-read|blkdebug|quorum|copy-before-write|' +
    'preallocate|bogus)$',
);
const nodes = [
  'top',
  'mid',
  'base',
  'other',
  'spare',
  'full',
  'limit',
  'n0',
  'n1',
  'n2',
  'n3',
  'q',
];
/** What a member of this name may hold. */
function texts(member: string): readonly string[] {
  switch (member) {
    case 'filename':
    case 'snapshot-file':
    case 'backing-file':
      return [...images, 'new', 'none/x'];
    case 'job-id':
      return ['j', 'k'];
    case 'id':
      return ['j', 'disk', 'vd', 'cd', 'e', 'tg', 'new', 'scsi', ...nodes.slice(0, 2)];
    case 'bitmap':
    case 'name':
      return ['b0', 'b1', 'b2', 'stored', 'state', 'e'];
    case 'bus':
      return ['scsi.0', 'ahci.0', 'ahci.1', 'pci.0', 'none'];
    case 'driver':
      return ['scsi-hd', 'virtio-blk-pci', 'ide-hd', 'ide-cd', 'none'];
    case 'child':
      return ['children.0', 'children.1', 'file', 'backing'];
    default:
      return [...nodes, 'top-file', 'full-file', 'new', 'n3x'];
  }
}

const leftOut = new RegExp(
  '^(query-|qom-|quit|qmp_cap|human-|chardev-|nbd-server-|migrate|stop|cont|system_|x-exit|' +
    'x-query|x-debug|device-list|xen-)',
);
/** Drivers and servers that are beyond this process. */
const outside = /"driver":"(ssh|nbd|https?|ftps?|iscsi|nfs|gluster|host_\w+|vvfat|io_uring)"/;

/** Whether a command's success may go on after its answer. */
const goesOn =
  /job|mirror|backup|stream|commit|create|amend|snapshot-(save|load|delete)|transaction/;

/** Facts without those that a command may change though it fails. */
function comparable(facts: Message, command: string, args: unknown): Message {
  const text = JSON.stringify(facts, (key, value: unknown) => {
    // A write that failed may have reached the disk, so that its bits are set.
    return key === 'dirty-bitmaps' ? (value as Message[]).map(withoutCount) : value;
  });
  const out = JSON.parse(text) as Message;
  const mode = (args as Message | null)?.['mode'];
  // An image that is made first: what can be judged before is judged before, not all can be.
  const makes = /^(drive-|blockdev-snapshot-sync)/.test(command) && mode !== 'existing';
  // Images that were given up, or taken, before what failed have what was held back, and are taken,
  // or given up, again: their bytes are others, what they hold is not.
  if (makes || command === 'blockdev-set-active' || command === 'block-export-add') {
    for (const name of images) out[name] = undefined;
    return JSON.parse(JSON.stringify(out).replace(lengths, '')) as Message;
  }
  return out;
}

/** What is told of the length of a file. */
const lengths = /"(virtual-size|actual-size)":\d+,/g;

const withoutCount = ({ count: _, ...rest }: Message): Message => rest;

async function tryCommands(start: Start): Promise<void> {
  const seed = testSeed();
  const random = new Random(seed);
  let peer = await start();
  try {
    const types = (await peer.process.ok('query-qmp-schema')) as SchemaType[];
    const make = new RandomArguments(types, random, {
      wrong: 0.03,
      texts,
      values: (values) => {
        const known = values.filter((each) => drivers.test(each));
        return known.length > 5 ? known : values;
      },
    });
    const commands = types.filter(
      (type) => type['meta-type'] === 'command' && !leftOut.test(type.name),
    );
    let failed = 0;
    let before = await peer.facts();
    for (let i = 0; i < STEPS; i++) {
      const command = commands[random.int(0, commands.length - 1)]!;
      const args = make.make(command['arg-type']!);
      const text = JSON.stringify({ execute: command.name, arguments: args });
      if (outside.test(text)) continue;
      const replied = peer.process.talk(text).then((all) => all.at(-1)!);
      const reply = await Promise.race([replied, peer.process.ended.then(() => undefined)]);
      expect(reply, `${text} ended it: ${peer.process.stderr}`).toBeDefined();
      if (reply !== undefined && 'error' in reply) {
        failed++;
        const why = `seed ${String(seed)}, step ${String(i)}: ${text}: ${JSON.stringify(reply)}`;
        const now = await peer.facts();
        expect(comparable(now, command.name, args), why).toEqual(
          comparable(before, command.name, args),
        );
        before = now;
      } else if (goesOn.test(command.name)) {
        await peer.end();
        peer = await start();
        before = await peer.facts();
      } else {
        before = await peer.facts();
      }
    }
    expect(failed).toBeGreaterThan(STEPS / 4);
  } finally {
    await peer.end();
  }
}

const qcow2 = (name: string, more: Message = {}): Message => ({
  driver: 'qcow2',
  file: file(name),
  ...more,
});
const add = (name: string): Message => ({
  type: 'block-dirty-bitmap-add',
  data: { node: 'top', name },
});
const snapshot = { type: 'blockdev-snapshot', data: { node: 'top', overlay: 'over' } };
const abort = { type: 'abort', data: {} };
const backup = { device: 'other', target: 'n4', sync: 'full', 'job-id': 'k' };

const driveBackup = { device: 'other', target: 'extra', sync: 'full', 'job-id': 'k' };

/** Commands whose first part succeeds, and what is said of the second. */
const failing: readonly (readonly [string, string, Message, RegExp])[] = [
  [
    'a node below whose backing file is missing',
    'blockdev-add',
    { ...qcow2('extra'), 'node-name': 'new', backing: qcow2('missing') },
    /missing/,
  ],
  [
    'a quorum whose last child is missing',
    'blockdev-add',
    {
      driver: 'quorum',
      'node-name': 'new',
      'vote-threshold': 2,
      children: ['n0', { driver: 'null-co', 'node-name': 'child' }, file('missing')],
    },
    /missing/,
  ],
  [
    'an inactive node that is exported with a bitmap that is missing',
    'block-export-add',
    { type: 'nbd', id: 'new', 'node-name': 'idle', bitmaps: ['missing'] },
    /missing/,
  ],
  [
    'bitmaps of which one is there already',
    'transaction',
    { actions: [add('new'), add('newer'), add('b0')] },
    /b0/,
  ],
  [
    'a snapshot, a bitmap, and what is always refused',
    'transaction',
    { actions: [add('new'), snapshot, abort] },
    /abort/,
  ],
  [
    'a backup, and one of a node that is missing',
    'transaction',
    {
      actions: [
        { type: 'blockdev-backup', data: backup },
        { type: 'blockdev-backup', data: { ...backup, device: 'missing', 'job-id': 'l' } },
      ],
    },
    /missing/,
  ],
  [
    'a cleared bitmap, a merge, and one of a bitmap that is missing',
    'transaction',
    {
      actions: [
        { type: 'block-dirty-bitmap-clear', data: { node: 'top', name: 'b0' } },
        { type: 'block-dirty-bitmap-remove', data: { node: 'top', name: 'b1' } },
        {
          type: 'block-dirty-bitmap-merge',
          data: { node: 'top', target: 'b0', bitmaps: ['missing'] },
        },
      ],
    },
    /missing/,
  ],
  [
    'two nodes reopened, the second with what it cannot change',
    'blockdev-reopen',
    {
      options: [
        { ...qcow2('other'), 'node-name': 'other', 'lazy-refcounts': true },
        { driver: 'null-co', 'node-name': 'n3', size: 8192 },
      ],
    },
    /size|n3/,
  ],
  [
    'a backing file that would stand on its own overlay',
    'blockdev-reopen',
    { options: [{ driver: 'qcow2', 'node-name': 'mid', file: file('mid'), backing: 'top' }] },
    /cycle|top|mid/i,
  ],
  [
    'a longer image on a disk that is full',
    'block_resize',
    { 'node-name': 'full', size: 1 << 30 },
    /space/,
  ],
  [
    'a backing file noted on a disk that is full',
    'change-backing-file',
    { device: 'full', 'image-node-name': 'full', 'backing-file': 'base' },
    /space|backing/,
  ],
  [
    'an overlay whose file is in the way',
    'blockdev-snapshot-sync',
    { 'node-name': 'top', 'snapshot-file': 'none/x', 'snapshot-node-name': 'new' },
    /none/,
  ],
  [
    'a backup to an image that is there, by a filter whose name is taken',
    'drive-backup',
    { ...driveBackup, 'filter-node-name': 'n0' },
    /Duplicate nodes with node-name='n0'/,
  ],
  [
    'a backup to an image that is there, by a job that there is',
    'drive-backup',
    { ...driveBackup, 'job-id': 'j' },
    /already in use/,
  ],
  [
    'a backup to an image that is there, of a bitmap that is missing',
    'drive-backup',
    { ...driveBackup, sync: 'bitmap', bitmap: 'missing', 'bitmap-mode': 'always' },
    /could not be found/,
  ],
  [
    'backups to two images that are there, the second too slow',
    'transaction',
    {
      actions: [
        { type: 'drive-backup', data: { ...driveBackup, 'job-id': 'j' } },
        { type: 'drive-backup', data: { ...driveBackup, speed: -1 } },
      ],
    },
    /already in use/,
  ],
  [
    'a mirror to an image that is there, by units that are none',
    'drive-mirror',
    { ...driveBackup, granularity: 1000 },
    /power of 2/,
  ],
  [
    'a mirror to an image that is there, as a node whose name is taken',
    'drive-mirror',
    { ...driveBackup, 'node-name': 'top' },
    /Duplicate nodes/,
  ],
  [
    'a mirror to an image that is there, in place of a node that is missing',
    'drive-mirror',
    { ...driveBackup, 'node-name': 'new', replaces: 'missing' },
    /missing/,
  ],
  [
    'an export of the name of another',
    'block-export-add',
    { type: 'nbd', id: 'new', 'node-name': 'n3', name: 'e' },
    /e/,
  ],
  ['a backup to less', 'blockdev-backup', { ...backup, target: 'n3' }, /.*/],
  ['a child that the quorum has', 'x-blockdev-change', { parent: 'q', node: 'q' }, /cycle|q/i],
  [
    'a child that the quorum needs',
    'x-blockdev-change',
    { parent: 'q', child: 'children.0' },
    /.+/,
  ],
  ['a child that there is not', 'x-blockdev-change', { parent: 'q', child: 'children.7' }, /.+/],
  ['a node in use', 'blockdev-del', { 'node-name': 'other' }, /in use|use/],
  ['an object in use', 'object-del', { id: 'tg' }, /use/],
];

describe('a command that fails changes nothing', () => {
  it('random ones to a storage daemon', { timeout: 240_000 }, () => tryCommands(startDaemon));
  it('random ones to a machine', { timeout: 240_000 }, () => tryCommands(startMachine));

  it('ones whose second part fails', { timeout: 120_000 }, async () => {
    const peer = await startDaemon();
    try {
      const before = await peer.facts();
      for (const [what, name, args, why] of failing) {
        const reply = await peer.process.execute(name, args);
        const { desc } = (reply['error'] ?? { desc: `${name} is fine` }) as { desc: string };
        expect.soft(reply, what).toHaveProperty('error');
        expect.soft(desc, what).toMatch(why);
        expect.soft(await peer.facts(), what).toEqual(before);
      }
    } finally {
      await peer.end();
    }
  });
});
