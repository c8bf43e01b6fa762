/** Commands about the machine and the monitor itself. */
import { HmpError } from '../arguments.js';
import type { HmpCommand, HmpRun } from '../command.js';
import { isNamed } from '../command.js';

/** A command that is a QMP command without arguments. */
function plain(name: string, qmp: string, help: string): HmpCommand {
  return {
    name,
    args: '',
    params: '',
    help,
    run: async (run) => {
      await run.qmp(qmp);
    },
  };
}

export const controlCommands: readonly HmpCommand[] = [
  plain('quit|q', 'quit', 'end the program: images are flushed and closed'),
  plain('stop|s', 'stop', 'let the guest stand still'),
  plain('cont|c', 'cont', 'let the guest go on'),
  plain('exit_preconfig', 'x-exit-preconfig', 'make the machine that -preconfig holds back'),
  plain('system_reset', 'system_reset', 'press the reset button'),
  plain('system_powerdown', 'system_powerdown', 'press the power button'),
  {
    name: 'device_add',
    args: 'device:S',
    params: 'driver[,prop=value][,...]',
    help: 'add a device, as -device does',
    run: (run) => run.machine.addDevice(run.text('device')),
  },
  {
    name: 'device_del',
    args: 'id:s',
    params: 'device',
    help: 'ask for a device to go',
    run: async (run) => {
      await run.qmp('device_del', { id: run.text('id') });
    },
  },
  {
    name: 'object_add',
    args: 'object:S',
    params: '[qom-type=]type,id=str[,prop=value][,...]',
    help: 'make an object: a secret, a throttle group, credentials',
    run: (run) => run.context.objects.add(run.text('object')),
  },
  {
    name: 'object_del',
    args: 'id:s',
    params: 'id',
    help: 'delete an object that nobody uses',
    run: async (run) => {
      await run.qmp('object-del', { id: run.text('id') });
    },
  },
  {
    name: 'chardev-add',
    args: 'args:s',
    params: 'args',
    help: 'make a character device, as -chardev does',
    run: (run) => run.context.chardevs.add(run.text('args')),
  },
  {
    name: 'chardev-remove',
    args: 'id:s',
    params: 'id',
    help: 'delete a character device that nobody uses',
    run: async (run) => {
      await run.qmp('chardev-remove', { id: run.text('id') });
    },
  },
];

export const controlInfos: readonly HmpCommand[] = [
  {
    name: 'version',
    args: '',
    params: '',
    help: 'the release that this program behaves like, and its own',
    run: ({ context, print }) => {
      const { major, minor, micro } = context.version.qemu;
      const release = `${String(major)}.${String(minor)}.${String(micro)}`;
      print(`${release} ${context.version.package}\n`);
    },
  },
  {
    name: 'status',
    args: '',
    params: '',
    help: 'whether the guest runs',
    run: ({ machine, print }) => {
      const { runState } = machine;
      const plainState = runState === 'running' || runState === 'paused';
      const state = runState === 'running' ? 'running' : 'paused';
      print(`VM status: ${state}${plainState ? '' : ` (${runState})`}\n`);
    },
  },
  {
    name: 'name',
    args: '',
    params: '',
    help: 'the name that the machine was given',
    run: ({ machine, print }) => {
      if (machine.vmName !== undefined) print(`${machine.vmName}\n`);
    },
  },
  {
    name: 'uuid',
    args: '',
    params: '',
    help: 'the UUID that the machine was given',
    run: ({ machine, print }) => {
      print(`${machine.uuid}\n`);
    },
  },
  {
    name: 'chardev',
    args: '',
    params: '',
    help: 'the character devices and what they are connected to',
    run: ({ context, print }) => {
      for (const { id, filename } of context.chardevs.list()) {
        print(`${id}: filename=${filename}\n`);
      }
    },
  },
  {
    name: 'iothreads',
    args: '',
    params: '',
    help: 'the loop threads that were asked for',
    run: ({ context, print }) => {
      for (const [id, kind] of context.objects.list()) if (kind === 'iothread') print(`${id}:\n`);
    },
  },
  {
    name: 'history',
    args: '',
    params: '',
    help: 'the lines that were entered',
    run: ({ history, print }) => {
      for (const [index, line] of history.entries()) print(`${String(index)}: '${line}'\n`);
    },
  },
];

interface Lists {
  readonly commands: readonly HmpCommand[];
  readonly infos: readonly HmpCommand[];
}

/** `help` and `info` without a word, which show what there is. */
export function helpCommands(lists: () => Lists): readonly HmpCommand[] {
  return [
    {
      name: 'help|?',
      args: 'name:S?',
      params: '[cmd]',
      help: 'show what commands there are, or what one does',
      run: (run) => {
        showHelp(run, lists(), run.tryText('name') ?? '');
      },
    },
    {
      name: 'info',
      args: 'item:s?',
      params: '[subcommand]',
      help: 'show how things stand',
      run: (run) => {
        for (const each of lists().infos) run.print(`info ${helpLine(each)}`);
      },
    },
  ];
}

function showHelp(run: HmpRun, { commands, infos }: Lists, name: string): void {
  const [word = '', item] = name.trim().split(/\s+/);
  if (word === '') {
    for (const each of commands) run.print(helpLine(each));
    return;
  }
  if (word === 'info' && item !== undefined) {
    const found = infos.find((each) => isNamed(each, item));
    if (found === undefined) throw new HmpError(`unknown command: 'info ${item}'`);
    run.print(`info ${helpLine(found)}`);
    return;
  }
  const found = commands.find((each) => isNamed(each, word));
  if (found === undefined) throw new HmpError(`unknown command: '${word}'`);
  run.print(helpLine(found));
}

/** One line of help. */
export function helpLine({ name, params, help }: HmpCommand): string {
  return `${name} ${params}${params === '' ? '' : ' '}-- ${help}\n`;
}
