/** Commands of a program with a machine; a storage daemon has none of them. */
import { t } from '../../options/schema.js';
import { defineCommand, definePlainCommand } from '../command.js';
import type { MonitorContext } from '../context.js';
import { runHmp } from '../hmp/run.js';
import type { MachineControl } from '../machine.js';
import { QmpError } from '../qmp-error.js';
import { deviceCommands } from './device.js';
import { migrationCommands } from './migration.js';
import { mediumCommands } from './medium.js';
import { snapshotJobCommands } from './snapshot-job.js';
import { replicationCommands } from './replication.js';

function machineOf({ machine }: MonitorContext): MachineControl {
  if (machine === undefined) throw new QmpError('There is no machine');
  return machine;
}

const humanMonitorCommand = defineCommand({
  name: 'human-monitor-command',
  doc: "Carries out a line of the human monitor and answers its text, which is for people's eyes.",
  args: t.struct('q_obj_human-monitor-command-arg', {
    'command-line': t.str({ doc: 'the line' }),
    'cpu-index': t.optional(t.int({}, { doc: 'accepted; no command looks at a processor' })),
  }),
  returns: t.str(),
  since: '0.14',
  run: async (context, args) => {
    let text = '';
    const print = (more: string): void => {
      text += more;
    };
    await runHmp(context, args['command-line'], { history: [], print });
    // QEMU's monitor writes lines as for a terminal.
    return text.replaceAll('\n', '\r\n');
  },
});

const runState = t.enumOf(
  'debug',
  'inmigrate',
  'internal-error',
  'io-error',
  'paused',
  'postmigrate',
  'prelaunch',
  'finish-migrate',
  'restore-vm',
  'running',
  'save-vm',
  'shutdown',
  'suspended',
  'watchdog',
  'guest-panicked',
  'colo',
  { name: 'RunState' },
);

const queryStatus = definePlainCommand({
  name: 'query-status',
  doc: 'Tells whether the guest runs.',
  returns: t.struct('StatusInfo', { running: t.bool(), status: runState }),
  since: '0.14',
  run: (context) => {
    const status = machineOf(context).runState;
    return { running: status === 'running', status };
  },
});

const stop = definePlainCommand({
  name: 'stop',
  doc: 'Lets the guest stand still.',
  since: '0.14',
  run: (context) => machineOf(context).stop(),
});

const cont = definePlainCommand({
  name: 'cont',
  doc: 'Lets the guest go on.',
  since: '0.14',
  run: (context) => machineOf(context).cont(),
});

const reset = definePlainCommand({
  name: 'system_reset',
  doc: 'Presses the reset button.',
  since: '0.14',
  run: (context) => {
    machineOf(context).reset();
  },
});

const powerDown = definePlainCommand({
  name: 'system_powerdown',
  doc: 'Presses the power button.',
  since: '0.14',
  run: (context) => {
    machineOf(context).powerDown();
  },
});

const queryName = definePlainCommand({
  name: 'query-name',
  doc: 'Tells the name that the machine was given.',
  returns: t.struct('NameInfo', { name: t.optional(t.str()) }),
  since: '0.14',
  run: (context) => ({ name: machineOf(context).vmName }),
});

const queryUuid = definePlainCommand({
  name: 'query-uuid',
  doc: 'Tells the UUID that the machine was given.',
  returns: t.struct('UuidInfo', { UUID: t.str() }),
  since: '0.14',
  run: (context) => ({ UUID: machineOf(context).uuid }),
});

const queryKvm = definePlainCommand({
  name: 'query-kvm',
  doc: 'Tells that no processor of the host runs the guest.',
  returns: t.struct('KvmInfo', { enabled: t.bool(), present: t.bool() }),
  since: '0.14',
  run: () => ({ enabled: false, present: false }),
});

const queryCpus = definePlainCommand({
  name: 'query-cpus-fast',
  doc: 'Lists the processors of the machine: none where a test drives the devices.',
  returns: t.arrayOf(
    t.struct('CpuInfoFast', {
      'cpu-index': t.int(),
      'qom-path': t.str(),
      'thread-id': t.int({}, { doc: 'number of the thread that runs it; 0: not known' }),
      target: t.enumOf('i386', { name: 'SysEmuTarget' }),
    }),
  ),
  since: '2.12',
  run: (context) => {
    const path = '/machine/unattached/cpu[0]';
    const cpu = { 'cpu-index': 0, 'qom-path': path, 'thread-id': 0, target: 'i386' };
    return machineOf(context).hasProcessor ? [cpu] : [];
  },
});

const exitPreconfig = definePlainCommand({
  name: 'x-exit-preconfig',
  doc: 'Makes the machine of a program that was started with -preconfig.',
  since: '3.0',
  features: ['unstable'],
  run: async (context) => {
    const machine = machineOf(context);
    if (!machine.isBeingMade) {
      throw new QmpError('The command is permitted only before machine initialization');
    }
    await machine.make();
  },
});

/** What a program with a machine has besides the commands of a storage daemon. */
export const systemCommands = [
  humanMonitorCommand,
  queryStatus,
  exitPreconfig,
  stop,
  cont,
  reset,
  powerDown,
  queryName,
  queryUuid,
  queryKvm,
  queryCpus,
  ...mediumCommands,
  ...deviceCommands,
  ...migrationCommands,
  ...snapshotJobCommands,
  ...replicationCommands,
] as const;
