/**
 * The command line of `vdisk-system`: QEMU's words with one dash (two are taken, too). One table
 * says what each option is; help, the man page and the refusal of others come from it.
 */

import type { CommandSpec } from '../../options/getopt.js';
import type { Example } from '../reference.js';

/** What becomes of an option. */
export type OptionUse =
  /** main.ts carries it out. */
  | 'used'
  /** It changes nothing here. */
  | 'accepted'
  /** It is QEMU's, and not there. */
  | 'refused';

export interface SystemOption {
  readonly name: string;
  /** How its argument is shown; absent: it takes none. */
  readonly arg?: string;
  readonly use: OptionUse;
  readonly doc: string;
}

const used = (name: string, arg: string | undefined, doc: string): SystemOption => ({
  name,
  ...(arg === undefined ? {} : { arg }),
  use: 'used',
  doc,
});

const accepted = (name: string, arg?: string): SystemOption => ({
  name,
  ...(arg === undefined ? {} : { arg }),
  use: 'accepted',
  doc: 'accepted, and changes nothing',
});

const refused = (name: string, arg?: string): SystemOption => ({
  name,
  ...(arg === undefined ? {} : { arg }),
  use: 'refused',
  doc: 'not supported',
});

/** What people mostly want. */
export const systemExamples: readonly Example[] = [
  ['vdisk-system -m 256 -hda disk.qcow2 -nographic', 'boot from a disk; Ctrl-A X ends it'],
  [
    'vdisk-system -nodefaults -accel qtest -nographic -drive if=none,id=d,file=disk.qcow2',
    'a human monitor on a disk, without a guest',
  ],
  [
    'vdisk-system -nodefaults -accel qtest -display none -qmp unix:qmp.sock,server,nowait',
    'listen for commands on a socket',
  ],
];

/** By name, without dashes. */
export const systemOptions: ReadonlyMap<string, SystemOption> = new Map(
  [
    used('h', undefined, 'show this text'),
    used('help', undefined, 'show this text'),
    used('version', undefined, 'show the version'),
    used('machine', '[type=]NAME[,accel=NAME]', 'kind of machine; help lists them'),
    used('M', '[type=]NAME[,accel=NAME]', 'the same as -machine'),
    used(
      'accel',
      'NAME',
      'who runs the guest: v86 (also tcg), or qtest: a test drives the devices',
    ),
    used('drive', 'OPTIONS', 'a drive: file=F,format=F,if=none,id=N,cache=M,snapshot=on,…'),
    used('hda', 'FILE', 'a disk: first unit of the first IDE channel'),
    used('hdb', 'FILE', 'second unit of the first channel'),
    used('hdc', 'FILE', 'first unit of the second channel'),
    used('hdd', 'FILE', 'second unit of the second channel'),
    used('cdrom', 'FILE', 'a CD: first unit of the second channel'),
    used('fda', 'FILE', 'the first floppy drive'),
    used('fdb', 'FILE', 'the second floppy drive'),
    used('global', 'DRIVER.PROPERTY=VALUE', 'a property of all devices of a kind'),
    used('m', 'SIZE', 'memory of the guest; MiB without a suffix'),
    used(
      'boot',
      '[order=]abcdn[,once=…]',
      'what firmware boots from; menu=on, splash-time=MS, reboot-timeout=MS, strict=on',
    ),
    used('no-fd-bootchk', undefined, 'firmware does not look whether a floppy can be booted'),
    used('nodefaults', undefined, 'no drives but those that are asked for'),
    used('blockdev', 'OPTIONS', 'open a node, as the command blockdev-add does; JSON or dotted'),
    used('object', 'OPTIONS', 'object that options refer to: secret, throttle-group, iothread, …'),
    used('chardev', 'OPTIONS', 'character device: socket, stdio, null; id=ID'),
    used('mon', 'OPTIONS', 'monitor on a character device: chardev=ID,mode=readline|control'),
    used('monitor', 'DEVICE', 'human monitor: stdio, unix:PATH,server, tcp:HOST:PORT, none'),
    used('qmp', 'DEVICE', 'QMP monitor on such a device'),
    used('qmp-pretty', 'DEVICE', 'the same, with replies over several lines'),
    used('qtest', 'DEVICE', 'whose lines drive the devices, by the qtest protocol'),
    used('qtest-log', 'FILE', 'where these lines and the answers go, or none; default: stderr'),
    used('device', 'OPTIONS', 'a device that the guest sees; help lists them'),
    used('snapshot', undefined, 'write to temporary files: drives stay as they are'),
    used('S', undefined, 'the guest stands still until the command cont'),
    used('name', 'NAME', 'name of the machine'),
    used('uuid', 'UUID', 'UUID of the machine'),
    used('daemonize', undefined, 'return when everything is ready, and go on in the background'),
    used('pidfile', 'FILE', 'write the number of the process there'),
    used('nographic', undefined, 'no display; serial port and human monitor share the terminal'),
    used(
      'serial',
      'DEVICE',
      'where a serial port is connected: stdio, mon:stdio, file:PATH, unix:PATH, tcp:…, none',
    ),
    used('display', 'TYPE', "none, or curses: the guest's text screen in the terminal"),
    used('vga', 'TYPE', 'none: a guest without a display'),
    used('kernel', 'FILE', 'a Linux kernel that firmware starts without a boot loader'),
    used('initrd', 'FILE', 'its initial RAM disk'),
    used('append', 'TEXT', 'its command line'),
    used('bios', 'FILE', 'the BIOS; default: SeaBIOS of the system'),
    used('L', 'FOLDER', 'where firmware is looked for first'),
    used('no-reboot', undefined, 'the program ends when the guest wants a reset'),
    used('no-shutdown', undefined, 'the program stays when the guest switches itself off'),
    used('preconfig', undefined, 'monitors come first; x-exit-preconfig makes the machine'),
    used('loadvm', 'TAG', 'go back to a stored machine before the guest begins'),
    used('incoming', 'URI', 'wait for a machine to come: tcp:, unix:, exec:, fd:, file:; or defer'),
    accepted('no-user-config'),
    accepted('cpu', 'MODEL'),
    accepted('smp', 'N'),
    accepted('trace', 'PATTERN'),
    accepted('T', 'PATTERN'),
    accepted('msg', 'OPTIONS'),
    accepted('rtc', 'OPTIONS'),
    accepted('action', 'OPTIONS'),
    accepted('overcommit', 'OPTIONS'),
    accepted('parallel', 'DEVICE'),
    accepted('net', 'OPTIONS'),
    accepted('nic', 'OPTIONS'),
    accepted('sandbox', 'OPTIONS'),
    accepted('run-with', 'OPTIONS'),
    refused('add-fd', 'OPTIONS'),
    refused('set', 'ARG'),
    refused('readconfig', 'FILE'),
    refused('netdev', 'OPTIONS'),
    refused('usb'),
    refused('usbdevice', 'NAME'),
    refused('fsdev', 'OPTIONS'),
    refused('virtfs', 'OPTIONS'),
    refused('enable-kvm'),
    refused('gdb', 'DEVICE'),
    refused('s'),
    refused('vnc', 'DISPLAY'),
    refused('full-screen'),
    refused('k', 'LANGUAGE'),
    refused('pflash', 'FILE'),
    refused('mtdblock', 'FILE'),
    refused('sd', 'FILE'),
    refused('smbios', 'OPTIONS'),
    refused('acpitable', 'OPTIONS'),
    refused('fw_cfg', 'OPTIONS'),
    refused('option-rom', 'FILE'),
    refused('tpmdev', 'OPTIONS'),
    refused('spice', 'OPTIONS'),
    refused('audiodev', 'OPTIONS'),
    refused('audio', 'OPTIONS'),
    refused('semihosting'),
    refused('icount', 'OPTIONS'),
    refused('watchdog-action', 'ACTION'),
    refused('echr', 'CHAR'),
    refused('debugcon', 'DEVICE'),
    refused('d', 'ITEMS'),
    refused('D', 'FILE'),
    refused('only-migratable'),
  ].map((option) => [option.name, option]),
);

/** An option as it was given. */
export interface GivenOption {
  readonly name: string;
  readonly value: string;
  /** What an error message begins with: `-drive file=x`. */
  readonly written: string;
}

/** Wrong use of the command line; the message is complete but for the program's name. */
export class SystemUsageError extends Error {
  override readonly name = 'SystemUsageError';
}

/** Reads a command line. Throws SystemUsageError with QEMU's texts. */
export function readSystemOptions(args: readonly string[]): GivenOption[] {
  const given: GivenOption[] = [];
  for (let at = 0; at < args.length; at++) {
    const word = args[at] ?? '';
    if (!word.startsWith('-')) {
      given.push({ name: 'hda', value: word, written: word });
      continue;
    }
    const name = word.replace(/^--?/, '');
    const option = systemOptions.get(name);
    if (option === undefined) throw new SystemUsageError(`${word}: invalid option`);
    let value = '';
    if (option.arg !== undefined) {
      const next = args[++at];
      if (next === undefined) throw new SystemUsageError(`${word}: requires an argument`);
      value = next;
    }
    const written = option.arg === undefined ? word : `${word} ${value}`;
    if (option.use === 'refused') throw new SystemUsageError(`${written}: is not supported`);
    given.push({ name, value, written });
  }
  return given;
}

/** The options for shell completion, with two dashes. */
export function systemSpec(): CommandSpec {
  const known = [...systemOptions.values()].filter(({ use }) => use !== 'refused');
  const options = known.map(({ name, arg, doc }): [string, CommandSpec['options'][string]] => [
    name,
    { long: name, ...(arg === undefined ? {} : { arg }), doc },
  ]);
  return { name: '', summary: '', options: Object.fromEntries(options) };
}
