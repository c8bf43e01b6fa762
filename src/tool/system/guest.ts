/**
 * The machine of a command line: its kind and size, drives that have a place on it, default
 * drives, `-device`, and who drives it.
 */
import { messageOf } from '../../block/errors.js';
import { deviceTypes } from '../../catalog/devices.js';
import { deviceHelp, deviceListHelp } from '../../machine/device-help.js';
import { SteppedClock } from '../../machine/clock.js';
import type { GlobalProperty, MachineInit } from '../../machine/machine.js';
import { Machine } from '../../machine/machine.js';
import type { Drive } from '../../monitor/machine.js';
import { parseJson } from '../../lib/json-text.js';
import { scanSize } from '../../lib/sizes.js';
import { isObject } from '../../block/node-options.js';
import { isJsonArgument } from '../../options/keyval.js';
import { OptionError } from '../../options/option-error.js';
import { parseOpts } from '../../options/qemu-opts.js';
import type { Daemon } from '../daemon/run.js';
import { readBoot } from './boot.js';
import type { SystemControl } from './control.js';
import type { GivenOption } from './options.js';

/** Names of `-hda` and its likes, and the place that each stands for. */
const shorthands: Readonly<Record<string, string>> = {
  hda: 'index=0,media=disk',
  hdb: 'index=1,media=disk',
  hdc: 'index=2,media=disk',
  hdd: 'index=3,media=disk',
  cdrom: 'index=2,media=cdrom',
  fda: 'if=floppy,index=0',
  fdb: 'if=floppy,index=1',
};

/** The argument of `-drive` that an option is short for; undefined: it is none. */
export function driveArgument({ name, value }: GivenOption): string | undefined {
  if (name === 'drive') return value;
  const place = shorthands[name];
  return place === undefined ? undefined : `${place},file=${value.replaceAll(',', ',,')}`;
}

/** A device as `-device` describes it. */
type Properties = Readonly<Record<string, unknown>>;

/** Drivers that take the place of the default CD-ROM drive. */
const replacesCdrom = new Set(['ide-cd', 'ide-hd', 'scsi-cd', 'scsi-hd']);

/** `-device` as text or JSON. Throws OptionError. */
export function readDevice(text: string): {
  readonly properties: Properties;
  readonly json: boolean;
} {
  if (isJsonArgument(text)) {
    // Test programs write JSON with single quotes, as QEMU takes it.
    const value = parseJson(text);
    if (!isObject(value)) throw new OptionError('Invalid parameter type, expected: object');
    return { properties: value, json: true };
  }
  const { id, values } = parseOpts(text, { implied: 'driver' });
  const properties = { ...Object.fromEntries(values), ...(id === undefined ? {} : { id }) };
  return { properties, json: false };
}

/** `-m`: a size, in MiB where it has no suffix. Throws OptionError. */
export function readMemory(text: string): number {
  const { values } = parseOpts(text, { implied: 'size' });
  for (const name of values.keys()) {
    if (name === 'size') continue;
    const known = name === 'slots' || name === 'maxmem';
    throw new OptionError(
      known ? `Option '${name}' is not supported` : `Invalid parameter '${name}'`,
      name,
    );
  }
  const size = values.get('size') ?? '';
  const { result, end } = scanSize(size, 'm');
  if (result.status !== 'ok' || end < size.length || result.bytes === 0) {
    throw new OptionError("Parameter 'size' expects a non-negative number below 2^64");
  }
  // Whole pages.
  return Math.ceil(result.bytes / 8192) * 8192;
}

/** `-global DRIVER.PROPERTY=VALUE`. Throws OptionError. */
export function readGlobal(text: string): GlobalProperty {
  const found = /^([^.=]+)\.([^=]+)=(.*)$/s.exec(text);
  if (found !== null) return { driver: found[1]!, property: found[2]!, value: found[3]! };
  const { values } = parseOpts(text);
  const part = (name: string): string => {
    const value = values.get(name);
    if (value === undefined) throw new OptionError('Invalid -global property');
    return value;
  };
  return { driver: part('driver'), property: part('property'), value: part('value') };
}

/** Text for `-device help` and `-device X,help`; undefined: the argument describes a device. */
export function tryDeviceHelp(text: string): string | undefined {
  if (text === 'help' || text === '?') return deviceListHelp(deviceTypes);
  if (isJsonArgument(text)) return undefined;
  const words = text.split(',');
  if (!words.slice(1).some((word) => word === 'help' || word === '?')) return undefined;
  return deviceHelp(Machine.deviceType((words[0] ?? '').replace(/^driver=/, '')));
}

export interface GuestInit {
  readonly daemon: Daemon;
  readonly control: SystemControl;
  readonly type: 'pc' | 'q35';
  readonly given: readonly GivenOption[];
  /** The clock goes when a test says so. */
  readonly isQtest: boolean;
}

/** What a machine takes from the command line, with or without a processor. */
export function machineInit(init: GuestInit): MachineInit {
  const { daemon, control, given } = init;
  const all = (name: string): string[] => given.filter((g) => g.name === name).map((g) => g.value);
  const memory = all('m').at(-1);
  return {
    graph: daemon.graph,
    type: init.type,
    ...(memory === undefined ? {} : { ramBytes: readMemory(memory) }),
    ...(init.isQtest ? { clock: new SteppedClock() } : {}),
    boot: readBoot(all('boot'), all('no-fd-bootchk').length === 0),
    globals: all('global').map(readGlobal),
    keepDefaultSlots: all('nodefaults').length === 0,
    isPaused: control.runState !== 'running',
    emit: (name, data) => {
      daemon.emit(name, data);
    },
    onDriveLeft: async (drive) => {
      for (const job of daemon.jobs.all) if (job.uses(drive.node)) void job.cancel(false);
      await control.removeDrive(drive.name);
    },
    onRunState: (isRunning, reason) => {
      control.machineRuns(isRunning, reason);
    },
  };
}

/** Makes a machine without a processor, with its own devices; drives and `-device` follow. */
export async function makeMachine(init: GuestInit): Promise<Machine> {
  const machine = new Machine(machineInit(init));
  await machine.start();
  return machine;
}

/** Puts a drive with a place where it belongs. Throws OptionError or BlockError. */
export async function attachDrive(machine: Machine, drive: Drive): Promise<void> {
  const { interface: kind, bus, unit, id, media } = drive;
  const isCdrom = media === 'cdrom';
  switch (kind) {
    case 'none':
      return;
    case 'ide': {
      const driver = isCdrom ? 'ide-cd' : 'ide-hd';
      // Each port of a SATA controller has one unit; QEMU counts two to a bus all the same.
      const isSata = machine.type === 'q35';
      const name = isSata ? `ide.${String(bus * 2 + unit)}` : `ide.${String(bus)}`;
      if (machine.buses.some((each) => each.name === name)) {
        const place = { bus: name, unit: isSata ? '0' : String(unit) };
        await machine.addBoardDevice({ driver, drive: id, ...place });
        return;
      }
      break;
    }
    case 'floppy':
      // A machine that has no controller by itself gets one for its drives.
      if (!machine.buses.some((each) => each.kind === 'floppy-bus')) {
        await machine.addBoardDevice({ driver: 'isa-fdc' });
      }
      await machine.addBoardDevice({ driver: 'floppy', drive: id, unit: String(unit) });
      return;
    case 'virtio':
      await machine.addDevice({ driver: 'virtio-blk-pci', drive: id }, 'keyval');
      return;
    default:
  }
  const place = `if=${kind},bus=${String(bus)},unit=${String(unit)}`;
  throw new OptionError(`machine type does not support ${place}`);
}

/** The drives that a machine has without being asked: an empty CD-ROM drive. */
export function defaultDrives(machine: Machine, init: GuestInit): readonly string[] {
  const has = (name: string): boolean => init.given.some((each) => each.name === name);
  if (has('nodefaults')) return [];
  const bus = machine.type === 'pc' ? 'ide.1' : 'ide.2';
  if (!machine.buses.some((each) => each.name === bus)) return [];
  const isReplaced = init.given.some(({ name, value }) => {
    if (name !== 'device') return false;
    try {
      const { driver } = readDevice(value).properties;
      return typeof driver === 'string' && replacesCdrom.has(driver);
    } catch (e) {
      throw new OptionError(messageOf(e));
    }
  });
  const isTaken = [...init.control.drives.values()].some(
    (drive) =>
      drive.media === 'cdrom' || (drive.interface === 'ide' && drive.bus === 1 && drive.unit === 0),
  );
  return isReplaced || isTaken ? [] : ['index=2,media=cdrom'];
}
