// Goal: two machines keep a disk equal between checkpoints in the way that QEMU's documentation
// tells, and the secondary goes on alone. Method: two vdisk-system programs with the disks of
// docs/block-replication.txt, whose guests are lines of qemu-io, driven by the `xen-*` commands.
import { join } from 'node:path';
import { beforeEach, expect, it } from 'vitest';
import { binPath, runOk, tempDir } from '../support/index.js';
import { DaemonProcess } from './support.js';

const LIMIT = 30_000;
let at: (name: string) => string;

beforeEach(() => {
  const folder = tempDir();
  at = (name) => join(folder, name);
});

function machine(...drives: readonly string[]): Promise<DaemonProcess> {
  const args = ['-nodefaults', '-accel', 'qtest', '-display', 'none'];
  for (const drive of drives) args.push('-drive', drive);
  const monitor = ['-chardev', 'stdio,id=qmp', '-mon', 'chardev=qmp,mode=control'];
  return new DaemonProcess(binPath('vdisk-system'), args, undefined, monitor).ready();
}

async function hmp(vm: DaemonProcess, line: string): Promise<string> {
  return String(await vm.ok('human-monitor-command', { 'command-line': line }));
}

/** A request of a guest; its result is printed between the monitor's messages. */
async function guest(vm: DaemonProcess, disk: string, request: string): Promise<void> {
  const from = vm.lines.printed.length;
  expect(await hmp(vm, `qemu-io ${disk} "${request}"`)).toBe('');
  expect(vm.lines.printed.slice(from)).toMatch(/^(wrote|read) [0-9]+/);
}

async function write(vm: DaemonProcess, disk: string, value: number, where = '0 64k') {
  await guest(vm, disk, `write -P ${String(value)} ${where}`);
}

async function holds(vm: DaemonProcess, disk: string, value: number, where = '0 64k') {
  await guest(vm, disk, `read -P ${String(value)} ${where}`);
}

it(
  'a primary and a secondary machine: checkpoints, a failover, the rest of the primary',
  async () => {
    const img = binPath('vdisk-img');
    await runOk(img, ['create', '-q', '-f', 'raw', at('1.raw'), '1M']);
    await runOk(img, ['create', '-q', '-f', 'raw', at('2.raw'), '1M']);
    for (const name of ['active', 'hidden']) {
      await runOk(img, ['create', '-q', '-f', 'qcow2', at(`${name}.qcow2`), '1M']);
    }
    const disk = `if=none,driver=raw,file.filename=${at('2.raw')},id=colo1`;
    const secondary = await machine(disk);
    const image = (name: string, backing: unknown) => ({
      driver: 'qcow2',
      file: { driver: 'file', filename: at(`${name}.qcow2`) },
      backing,
    });
    const end = { driver: 'replication', mode: 'secondary', 'top-id': 'top-disk1' };
    const chain = image('active', image('hidden', 'colo1'));
    const quorum = { driver: 'quorum', 'read-pattern': 'fifo', 'vote-threshold': 1 };
    const children = [{ ...end, file: chain }];
    await secondary.ok('blockdev-add', { ...quorum, 'node-name': 'top-disk1', children });
    const addr = { type: 'unix', data: { path: at('nbd') } };
    await secondary.ok('nbd-server-start', { addr });
    await secondary.ok('nbd-server-add', { device: 'colo1', writable: true });
    const primary = await machine(
      'if=none,driver=quorum,read-pattern=fifo,id=colo1,vote-threshold=1,' +
        `children.0.file.filename=${at('1.raw')},children.0.driver=raw`,
    );
    await hmp(
      primary,
      'drive_add -n buddy driver=replication,mode=primary,file.driver=nbd,' +
        `file.server.type=unix,file.server.path=${at('nbd')},file.export=colo1,` +
        'node-name=nbd_client1',
    );
    await primary.ok('x-blockdev-change', { parent: 'colo1', node: 'nbd_client1' });
    expect(await secondary.ok('query-xen-replication-status')).toEqual({
      error: true,
      desc: 'Block replication is not running',
    });
    await secondary.ok('xen-set-replication', { enable: true, primary: false });
    await primary.ok('xen-set-replication', { enable: true, primary: true });

    await write(primary, 'colo1', 1);
    await holds(secondary, 'colo1', 1);
    await holds(secondary, 'top-disk1', 0);
    await write(secondary, 'top-disk1', 2, '32k 64k');
    for (const vm of [primary, secondary]) await vm.ok('xen-colo-do-checkpoint');
    await holds(secondary, 'top-disk1', 1);
    await holds(secondary, 'top-disk1', 0, '64k 64k');
    await write(primary, 'colo1', 3, '64k 64k');
    await write(secondary, 'top-disk1', 4, '128k 64k');
    for (const vm of [primary, secondary]) {
      expect(await vm.ok('query-xen-replication-status')).toEqual({ error: false });
    }

    // The primary machine is gone: the secondary goes on with what its guest saw.
    await secondary.ok('nbd-server-stop');
    await write(primary, 'colo1', 5);
    expect(await primary.ok('query-xen-replication-status')).toMatchObject({ error: true });
    await secondary.ok('xen-set-replication', { enable: false, primary: false, failover: true });
    for (const [value, where] of [
      [1, '0 64k'],
      [0, '64k 64k'],
      [4, '128k 64k'],
    ] as const) {
      await holds(secondary, 'top-disk1', value, where);
    }
    // And the primary without the other: its child goes.
    await primary.ok('xen-set-replication', { enable: false, primary: true });
    await primary.ok('x-blockdev-change', { parent: 'colo1', child: 'children.1' });
    await holds(primary, 'colo1', 5);
    expect(await secondary.quit()).toBe(0);
    expect(await primary.quit()).toBe(0);
  },
  LIMIT,
);

it(
  'x-blockdev-change and xen-set-replication tell what is wrong',
  async () => {
    const vm = await machine();
    const memory = (name: string, size = 65536) => ({
      driver: 'null-co',
      'node-name': name,
      size,
      'read-zeroes': true,
    });
    const children = [memory('a'), memory('b')];
    const own = { driver: 'quorum', 'node-name': 'q', 'vote-threshold': 2 };
    await vm.ok('blockdev-add', { ...own, children });
    for (const [name, size] of [
      ['c', 65536],
      ['long', 131072],
    ] as const) {
      await vm.ok('blockdev-add', memory(name, size));
    }
    const texts = [
      [{ parent: 'x', node: 'c' }, "Cannot find device='x' nor node-name='x'"],
      [{ parent: 'q' }, 'Either child or node must be specified'],
      [
        { parent: 'q', node: 'c', child: 'children.0' },
        'The parameters child and node are in conflict',
      ],
      [{ parent: 'q', node: 'd' }, "Node 'd' not found"],
      [{ parent: 'c', node: 'long' }, 'The node c does not support adding a child'],
      [{ parent: 'q', node: 'b' }, 'The node b already has a parent'],
      [{ parent: 'q', node: 'long' }, 'The node long has another length than the quorum'],
      [{ parent: 'q', child: 'children.5' }, "Node 'q' does not have child 'children.5'"],
      [
        { parent: 'q', child: 'children.0' },
        'The number of children cannot be lower than the vote threshold 2',
      ],
    ] as const;
    for (const [args, desc] of texts) {
      expect(await vm.execute('x-blockdev-change', args)).toMatchObject({ error: { desc } });
    }
    await vm.ok('x-blockdev-change', { parent: 'q', node: 'c' });
    await vm.ok('x-blockdev-change', { parent: 'q', child: 'children.0' });
    await vm.ok('blockdev-del', { 'node-name': 'q' });
    const args = { enable: true, primary: true, failover: true };
    expect(await vm.execute('xen-set-replication', args)).toMatchObject({
      error: { desc: "Parameter 'failover' is only for stopping replication" },
    });
    expect(await vm.quit()).toBe(0);
  },
  LIMIT,
);
