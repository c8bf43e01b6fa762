// Goal: a disk that is taken out takes its drive along and cancels the jobs on it, and drive_del
// is refused until they have ended: none goes on behind a disk that is gone. Method: vdisk-system
// with a backup that a limit of its speed keeps from ending; the answers are QEMU's.
import { join } from 'node:path';
import { beforeEach, expect, it, onTestFinished } from 'vitest';
import { binPath, runOk, tempDir } from '../support/index.js';
import type { Message } from './support.js';
import { DaemonProcess } from './support.js';

const LIMIT = 60_000;
let machine: DaemonProcess;

beforeEach(async () => {
  const folder = tempDir({ keep: true });
  const disk = join(folder, 'disk');
  await runOk(binPath('vdisk-img'), ['create', '-q', '-f', 'qcow2', disk, '4M']);
  await runOk(binPath('vdisk-io'), ['-f', 'qcow2', '-c', 'write 0 4M', disk]);
  const drive = `if=none,id=drive0,file=${disk},format=qcow2,node-name=top`;
  const args = ['-nodefaults', '-accel', 'qtest', '-display', 'none', '-drive', drive];
  const device = ['-device', 'virtio-blk-pci,id=disk0,drive=drive0'];
  machine = new DaemonProcess(binPath('vdisk-system'), [...args, ...device], folder, [
    ...['-chardev', 'stdio,id=qmp', '-mon', 'chardev=qmp,mode=control'],
  ]);
  await machine.ready();
  const target = { driver: 'null-co', 'node-name': 'target', size: 4 << 20 };
  await machine.ok('blockdev-add', target);
  const how = { 'job-id': 'slow', device: 'drive0', target: 'target', sync: 'full' };
  await machine.ok('blockdev-backup', { ...how, speed: 65536 });
});

/** Whether an event came. */
const came = (name: string, data: Message): boolean =>
  machine.lines.seen.some(
    ({ event, data: found }) =>
      event === name && Object.entries(data).every(([k, v]) => (found as Message)[k] === v),
  );

it(
  'device_del: the job is cancelled, and drive and node are gone',
  async () => {
    onTestFinished(() => void machine.child.kill('SIGKILL'));
    await machine.ok('device_del', { id: 'disk0' });
    expect(came('BLOCK_JOB_CANCELLED', { device: 'slow' })).toBe(false);
    // No guest lets the disk go; the reset does.
    await machine.ok('system_reset');
    await expect
      .poll(() => came('BLOCK_JOB_CANCELLED', { device: 'slow' }), { timeout: LIMIT })
      .toBe(true);
    expect(came('DEVICE_DELETED', { device: 'disk0' })).toBe(true);
    const gone = machine.lines.seen.filter(({ event }) => event === 'DEVICE_DELETED');
    const path = '/machine/peripheral/disk0';
    expect(gone.map(({ data }) => data)).toEqual([
      { path: `${path}/virtio-backend` },
      { device: 'disk0', path },
    ]);
    expect(await machine.ok('query-jobs')).toEqual([]);
    expect(await machine.ok('query-block')).toEqual([]);
    const nodes = (await machine.ok('query-named-block-nodes', { flat: true })) as Message[];
    expect(nodes.map((each) => each['node-name'])).toEqual(['target']);
    expect(await machine.quit()).toBe(0);
  },
  LIMIT,
);

it(
  'drive_del: is refused while the job has the drive, and takes it when that is cancelled',
  async () => {
    onTestFinished(() => void machine.child.kill('SIGKILL'));
    const remove = { 'command-line': 'drive_del drive0' };
    const text = await machine.ok('human-monitor-command', remove);
    expect(text).toBe("Node 'drive0' is busy: block device is in use by block job: backup\r\n");
    await machine.ok('block-job-cancel', { device: 'slow', force: true });
    await machine.lines.until1(({ event }) => event === 'BLOCK_JOB_CANCELLED');
    expect(await machine.ok('human-monitor-command', remove)).toBe('');
    // The device stays, without a medium.
    expect(await machine.ok('query-block')).toEqual([
      {
        device: '',
        locked: false,
        removable: false,
        qdev: '/machine/peripheral/disk0/virtio-backend',
        type: 'unknown',
      },
    ]);
    expect(await machine.quit()).toBe(0);
  },
  LIMIT,
);
