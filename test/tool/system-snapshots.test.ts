// Goal: vdisk-system stores its machine in an image and comes back to it, by jobs, by lines of the
// human monitor and by -loadvm, and QEMU's tools find such images sound. Method: the program
// itself; the texts and the order of events are those of qemu-system-x86_64 10.
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Message } from '../qmp/support.js';
import { DaemonProcess } from '../qmp/support.js';
import { binPath, requires, run, runOk, tempDir } from '../support/index.js';

const img = binPath('vdisk-img');
const io = binPath('vdisk-io');
const bare = ['-nodefaults', '-accel', 'qtest', '-display', 'none', '-m', '16'];

async function images(): Promise<Record<'a' | 'b' | 'r', string>> {
  const folder = tempDir();
  const [a, b, r] = ['a', 'b', 'r'].map((name) => join(folder, name)) as [string, string, string];
  for (const path of [a, b]) await runOk(img, ['create', '-q', '-f', 'qcow2', path, '4M']);
  await runOk(img, ['create', '-q', '-f', 'raw', r, '1M']);
  return { a, b, r };
}

const node = (name: string, driver: string, path: string): string[] => [
  '-blockdev',
  `driver=${driver},node-name=${name},file.driver=file,file.filename=${path}`,
];

function start(...args: readonly string[]): Promise<DaemonProcess> {
  const program = binPath('vdisk-system');
  return new DaemonProcess(program, [...bare, ...args], undefined, ['-qmp', 'stdio']).ready();
}

async function line(program: DaemonProcess, text: string): Promise<string> {
  const answer = await program.ok('human-monitor-command', { 'command-line': text });
  return String(answer).replaceAll('\r', '');
}

/** Runs a job to its end; resolves to its error, and what was told of it. */
async function job(
  program: DaemonProcess,
  name: string,
  args: Message,
): Promise<{ error: unknown; told: unknown[] }> {
  const from = program.lines.seen.length;
  await program.ok(name, { 'job-id': 'j', ...args });
  const isEnd = ({ data }: Message): boolean =>
    (data as Message | undefined)?.['status'] === 'concluded';
  await program.lines.until((seen) => seen.slice(from).some(isEnd));
  const [found] = (await program.ok('query-jobs')) as Message[];
  expect(found).toMatchObject({ type: name, 'current-progress': 1, 'total-progress': 1 });
  const told = program.lines.seen.slice(from).filter((each) => 'event' in each);
  await program.ok('job-dismiss', { id: 'j' });
  return {
    error: found?.['error'],
    told: told.map(({ event, data }) => (data as Message | undefined)?.['status'] ?? event),
  };
}

async function names(path: string): Promise<string[]> {
  const { stdout } = await runOk(img, ['info', '-U', '--output=json', path]);
  const { snapshots = [] } = JSON.parse(stdout) as { snapshots?: { name: string }[] };
  return snapshots.map(({ name }) => name);
}

const both = { vmstate: 'a', devices: ['a', 'b'] };

describe('jobs', () => {
  it('store a machine, bring it back, and delete it', async () => {
    const { a, b } = await images();
    const program = await start(...node('a', 'qcow2', a), ...node('b', 'qcow2', b));
    await line(program, 'qemu-io a "write -P 1 0 1M"');
    const ends = ['waiting', 'pending', 'concluded'];
    expect(await job(program, 'snapshot-save', { ...both, tag: 's' })).toEqual({
      error: undefined,
      told: ['created', 'running', 'STOP', 'RESUME', ...ends],
    });
    await line(program, 'qemu-io a "write -P 2 0 1M"');
    expect(await job(program, 'snapshot-load', { ...both, tag: 's' })).toEqual({
      error: undefined,
      told: ['created', 'running', 'STOP', 'RESUME', ...ends],
    });
    expect(await line(program, 'qemu-io a "read -P 1 0 1M"')).not.toContain('failed');
    expect(await job(program, 'snapshot-delete', { tag: 's', devices: ['a', 'b'] })).toEqual({
      error: undefined,
      told: ['created', 'running', ...ends],
    });
    expect(await program.quit()).toBe(0);
    expect([await names(a), await names(b)]).toEqual([[], []]);
  });

  it('are refused in QEMU’s words, and change nothing', async () => {
    const { a, b, r } = await images();
    const nodes = [...node('a', 'qcow2', a), ...node('b', 'qcow2', b), ...node('r', 'raw', r)];
    const program = await start(...nodes);
    expect((await job(program, 'snapshot-save', { ...both, tag: 's' })).error).toBeUndefined();
    const cases: readonly (readonly [string, Message, string])[] = [
      ['save', { tag: 's' }, "Snapshot 's' already exists in one or more devices"],
      ['save', { tag: 't', vmstate: 'x' }, "vmstate block device 'x' does not exist"],
      ['save', { tag: 't', devices: ['b'] }, "vmstate block device 'a' does not exist"],
      ['save', { tag: 't', devices: ['a', 'x'] }, "No block device node 'x'"],
      [
        'save',
        { tag: 't', devices: ['a', 'r'] },
        "Device 'r' is writable but does not support snapshots",
      ],
      ['save', { tag: 't', devices: [] }, 'At least one device is required for snapshot'],
      ['load', { tag: 'no' }, "Snapshot 'no' does not exist in one or more devices"],
      [
        'load',
        { tag: 's', vmstate: 'b' },
        'This is a disk-only snapshot. Revert to it  offline using qemu-img',
      ],
      ['load', { tag: 's', devices: ['a', 'x'] }, "No block device node 'x'"],
    ];
    for (const [verb, args, text] of cases) {
      const { error, told } = await job(program, `snapshot-${verb}`, { ...both, ...args });
      expect([error, told]).toEqual([text, ['created', 'running', 'aborting', 'concluded']]);
    }
    expect(await program.ok('query-status')).toEqual({ running: true, status: 'running' });
    expect(await program.quit()).toBe(0);
    expect([await names(a), await names(b)]).toEqual([['s'], ['s']]);
  });
});

describe('lines', () => {
  it('store machines under names, list them, bring one back, and delete one', async () => {
    const { a, b } = await images();
    const disks = [a, b].map((path) => ['-drive', `if=none,file=${path},format=qcow2`]).flat();
    const program = await start(...disks);
    expect(await line(program, 'info snapshots')).toBe('There is no snapshot available.\n');
    expect(await line(program, 'savevm s')).toBe('');
    expect(await line(program, 'savevm')).toBe('');
    const list = await line(program, 'info snapshots');
    expect(list).toMatch(/^List of snapshots present on all disks:\nID +TAG +VM_SIZE +DATE/);
    expect(list).toMatch(/\n-- +s .*\n-- +vm-\d{14} /);
    expect(await line(program, 'loadvm no')).toBe(
      "Error: Snapshot 'no' does not exist in one or more devices\n",
    );
    expect(await line(program, 'loadvm s')).toBe('');
    expect(await line(program, 'delvm s')).toBe('');
    expect(await line(program, 'loadvm')).toBe(
      'loadvm: string expected\nTry "help loadvm" for more information\n',
    );
    expect(await program.quit()).toBe(0);
    expect(await names(a)).toEqual([expect.stringMatching(/^vm-/)]);
  });
});

requires('qemu-img', 'qemu-io')('an image with a machine', () => {
  it('is sound to QEMU’s tools', async () => {
    const { a } = await images();
    const program = await start(a);
    await line(program, 'qemu-io ide0-hd0 "write -P 1 0 1M"');
    await line(program, 'savevm one');
    await line(program, 'qemu-io ide0-hd0 "write -P 2 512k 1M"');
    await line(program, 'savevm two');
    await line(program, 'loadvm one');
    await line(program, 'delvm two');
    expect(await program.quit()).toBe(0);
    const { stdout } = await runOk('qemu-img', ['snapshot', '-l', a]);
    expect(stdout).toMatch(/\n1 +one +[\d.]+ (Ki)?B /);
    await runOk('qemu-img', ['check', a]);
    const read = ['-f', 'qcow2', '-c', 'read -P 1 0 1M', '-c', 'read -P 0 1M 3M', a];
    expect((await runOk('qemu-io', read)).stdout).not.toContain('failed');
  });
});

describe('-loadvm', () => {
  it('begins with the machine and the disk of a snapshot', async () => {
    const { a } = await images();
    const first = await start(a);
    await line(first, 'qemu-io ide0-hd0 "write -P 1 0 64k"');
    await line(first, 'savevm s');
    await line(first, 'qemu-io ide0-hd0 "write -P 2 0 64k"');
    expect(await first.quit()).toBe(0);
    const second = await start(a, '-loadvm', 's');
    expect(await second.ok('query-status')).toEqual({ running: true, status: 'running' });
    expect(await line(second, 'qemu-io ide0-hd0 "read -P 1 0 64k"')).not.toContain('failed');
    expect(second.lines.seen.filter((each) => 'event' in each)).toEqual([]);
    expect(await second.quit()).toBe(0);
    await runOk(io, ['-f', 'qcow2', '-c', 'read -P 1 0 64k', a]);
  });

  it.each([
    [['-loadvm', 'x'], "Snapshot 'x' does not exist in one or more devices"],
    [['-loadvm', 'x', '-incoming', 'defer'], "'incoming' and 'loadvm' options are mutually exc"],
    [['-loadvm', 'x', '-preconfig'], "'preconfig' and 'loadvm' options are mutually exclusive"],
  ])('%j ends the program', async (args, text) => {
    const { a } = await images();
    const { status, stderr } = await run(binPath('vdisk-system'), [...bare, a, ...args]);
    expect(stderr).toContain(text);
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
    expect(status).toBe(1);
  });
});
