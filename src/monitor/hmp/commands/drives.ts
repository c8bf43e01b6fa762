/** Drives, media, and the exerciser. */
import { Backend } from '../../../block/backend.js';
import { messageOf } from '../../../block/errors.js';
import { checkOp } from '../../../block/op-blockers.js';
import { BugError } from '../../../lib/assert.js';
import { Perm } from '../../../block/types.js';
import { lookupNode } from '../../commands/blockdev.js';
import { findDevice } from '../../devices.js';
import { HmpError } from '../arguments.js';
import type { HmpCommand, HmpRun } from '../command.js';

/** Runs `work`; what it throws stands alone, without `Error: ` before it. */
async function alone<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (e) {
    if (e instanceof BugError) throw e;
    throw new HmpError(messageOf(e));
  }
}

/** Numbers of interfaces in QEMU's list, which a message shows. */
const interfaces = ['none', 'ide', 'scsi', 'floppy', 'pflash', 'mtd', 'sd', 'virtio', 'xen'];

async function driveAdd(run: HmpRun): Promise<void> {
  const options = run.text('opts');
  const { machine } = run;
  if (run.flag('node')) {
    await alone(() => machine.addNode(options));
    return;
  }
  const drive = await alone(() => machine.addDrive(options));
  if (drive.interface === 'none') {
    run.print('OK\n');
    return;
  }
  await machine.removeDrive(drive.id);
  const type = String(interfaces.indexOf(drive.interface));
  throw new HmpError(`Can't hot-add drive to type ${type}`);
}

async function driveDelete(run: HmpRun): Promise<void> {
  const id = run.text('id');
  if (run.context.graph.tryNode(id) !== undefined) {
    await alone(() => run.qmp('blockdev-del', { 'node-name': id }));
    return;
  }
  const backend = run.context.graph.backends.get(id);
  if (backend === undefined) throw new HmpError(`Device '${id}' not found`);
  await alone(async () => {
    if (backend.isInserted) checkOp(backend.node, 'drive-del');
    await run.context.exports.ejected(backend);
    await run.machine.removeDrive(id);
  });
}

async function exerciser(run: HmpRun): Promise<void> {
  const name = run.text('device');
  const { graph } = run.context;
  const { machine } = run;
  const complain = run.print;
  const line = run.text('command');
  let backend = run.flag('qdev') ? findDevice(graph, { id: name }) : graph.backends.get(name);
  if (backend !== undefined) {
    await machine.runIo(backend, line, complain);
    return;
  }
  const node = lookupNode(graph, undefined, name);
  backend = new Backend({ graph, name: '', perm: 0, shared: Perm.all });
  await backend.attach(node);
  try {
    await machine.runIo(backend, line, complain);
  } finally {
    // What the command has begun goes on; the backend is given up when it has ended.
    await closeLater(backend);
  }
}

async function closeLater(backend: Backend): Promise<void> {
  if (backend.inFlight === 0) await backend.close();
  else void backend.close();
}

export const driveCommands: readonly HmpCommand[] = [
  {
    name: 'drive_add',
    args: 'node:-n,pci_addr:s,opts:s',
    params: '[-n] [[<domain>:]<bus>:]<slot> [file=file][,if=type][,id=name][,...]',
    help: 'add a drive that a device can take, as -drive if=none does (-n: a node)',
    run: driveAdd,
  },
  {
    name: 'drive_del',
    args: 'id:B',
    params: 'device',
    help: 'take a drive away, whether or not a device uses it',
    run: driveDelete,
  },
  {
    name: 'eject',
    args: 'force:-f,device:B',
    params: '[-f] device',
    help: 'take the medium out of a device (-f: even if the guest has locked it)',
    run: async (run) => {
      await run.qmp('eject', { device: run.text('device'), force: run.flag('force') });
    },
  },
  {
    name: 'change',
    args: 'device:B,force:-f,target:F,arg:s?,read-only-mode:s?',
    params: 'device [-f] filename [format [read-only-mode]]',
    help: 'put another medium into a device (-f: even if the guest has locked it)',
    run: async (run) => {
      const format = run.tryText('arg');
      const mode = run.tryText('read-only-mode');
      await run.qmp('blockdev-change-medium', {
        device: run.text('device'),
        filename: run.text('target'),
        ...(format === undefined ? {} : { format }),
        ...(mode === undefined ? {} : { 'read-only-mode': mode }),
        force: run.flag('force'),
      });
    },
  },
  {
    name: 'block_resize',
    args: 'device:B,size:o',
    params: 'device size',
    help: 'change the length of a disk; a size without a suffix is in MiB',
    run: async (run) => {
      const size = run.tryNumber('size') ?? 0;
      await run.qmp('block_resize', { device: run.text('device'), size });
    },
  },
  {
    name: 'block_set_io_throttle',
    args: 'device:B,bps:l,bps_rd:l,bps_wr:l,iops:l,iops_rd:l,iops_wr:l',
    params: 'device bps bps_rd bps_wr iops iops_rd iops_wr',
    help: 'limit what a device may do in a second; 0: no limit',
    run: async (run) => {
      const name = run.text('device');
      const limits = ['bps', 'bps_rd', 'bps_wr', 'iops', 'iops_rd', 'iops_wr'] as const;
      const values = limits.map((limit) => [limit, run.tryNumber(limit) ?? 0] as const);
      const which = run.context.graph.backends.has(name) ? { device: name } : { id: name };
      await run.qmp('block_set_io_throttle', { ...which, ...Object.fromEntries(values) });
    },
  },
  {
    name: 'qemu-io',
    args: 'qdev:-d,device:B,command:s',
    params: '[-d] [device] "[command]"',
    help: "run a command of vdisk-io on a device or a node; its results go to the program's output",
    run: exerciser,
  },
];
