/** A machine with a processor that executes a guest. */
import type { V86Package } from '../host/v86.js';
import type { LinuxFiles } from './linux-boot.js';
import { LinuxBoot } from './linux-boot.js';
import type { MachineInit } from './machine.js';
import { Machine } from './machine.js';
import { V86Processor } from './v86/processor.js';

export interface GuestMachineInit extends Omit<MachineInit, 'processor' | 'type'> {
  readonly package: V86Package;
  readonly firmware: Uint8Array;
  /** Absent: there is no display. */
  readonly videoFirmware?: Uint8Array;
  /** 1 to 4; default 1. */
  readonly serialPorts?: number;
  /** Firmware's own output goes to the first serial port, too. */
  readonly serialConsole?: boolean;
  /** A kernel that is started without a boot loader. */
  readonly linux?: LinuxFiles;
  /** The guest asks for a reset; default: it gets it. */
  readonly onGuestReset?: (machine: Machine) => void;
  /** The processor failed, as with a triple fault: nothing will move any more. */
  readonly onFault?: (error: unknown) => void;
}

/** Where firmware reads the port of its serial console. */
const SERIAL_CONSOLE = 'etc/sercon-port';
const FIRST_SERIAL = [0xf8, 0x03];
const DEFAULT_RAM = 128 * 1024 * 1024;

/** A started machine and its processor: devices are to be added, then `machine.begin()`. */
export interface GuestMachine {
  readonly machine: Machine;
  readonly processor: V86Processor;
}

/**
 * Makes a pc with v86 as its processor. Throws RangeError for RAM or a kernel that cannot be,
 * Error when the package v86 is not one that works.
 */
export async function createGuestMachine(init: GuestMachineInit): Promise<GuestMachine> {
  const { linux, onFault, videoFirmware, serialPorts } = init;
  let machine: Machine | undefined;
  const processor = await V86Processor.create({
    package: init.package,
    ramBytes: init.ramBytes ?? DEFAULT_RAM,
    firmware: init.firmware,
    ...(videoFirmware === undefined ? {} : { videoFirmware }),
    ...(serialPorts === undefined ? {} : { serialPorts }),
    onReset: () => {
      if (machine === undefined) return;
      if (init.onGuestReset === undefined) machine.reset();
      else init.onGuestReset(machine);
    },
    onFault: (error) => {
      machine?.pause('internal-error');
      onFault?.(error);
    },
  });
  try {
    const boot = linux === undefined ? undefined : new LinuxBoot(linux, processor.ram.bytes);
    machine = new Machine({ ...init, type: 'pc', processor });
    await machine.start();
    if (init.serialConsole === true) {
      machine.fwCfg.setFile(SERIAL_CONSOLE, new Uint8Array(FIRST_SERIAL));
    }
    if (boot !== undefined) machine.setLinux(boot);
    return { machine, processor };
  } catch (e) {
    await processor.close();
    throw e;
  }
}
