/** What the command line says of a guest that really runs: firmware, kernel, display, ends. */
import { readFileSync } from 'node:fs';
import { toHostError } from '../../host/node/errors.js';
import { loadFirmware, loadV86 } from '../../host/node/v86.js';
import type { LinuxFiles } from '../../machine/linux-boot.js';
import type { GuestMachine } from '../../machine/create.js';
import { createGuestMachine } from '../../machine/create.js';
import type { Machine, MachineInit } from '../../machine/machine.js';
import { OptionError } from '../../options/option-error.js';
import type { GivenOption } from './options.js';

/** How a guest came to its end. */
export type GuestEnd = 'shutdown' | 'reset' | 'fault';

export interface ProcessorInit {
  readonly given: readonly GivenOption[];
  /** Everything that a machine without a processor has, too. */
  readonly machine: MachineInit;
  readonly serialPorts: number;
  /** The guest switched itself off, asked for a reset under -no-reboot, or its processor failed. */
  readonly onEnd: (end: GuestEnd, error?: unknown) => void;
  /** The guest was reset by itself. */
  readonly onReset: () => void;
}

/** The largest kernel or RAM disk that is read: more does not fit beside the other. */
const MOST_FILE = 1024 * 1024 * 1024;

function readFile(option: string, path: string): Uint8Array {
  let data: Buffer;
  try {
    data = readFileSync(path);
  } catch (e) {
    throw new OptionError(`could not load '${path}': ${toHostError(e).message}`, option);
  }
  if (data.length > MOST_FILE) throw new OptionError(`'${path}' is larger than 1 GiB`, option);
  return new Uint8Array(data);
}

/** `-kernel`, `-initrd`, `-append`. Throws OptionError. */
function readLinux(value: (name: string) => string | undefined): LinuxFiles | undefined {
  const kernel = value('kernel');
  const initrd = value('initrd');
  const append = value('append');
  if (kernel === undefined) {
    if (initrd !== undefined) throw new OptionError('-initrd only allowed with -kernel option');
    if (append !== undefined) throw new OptionError('-append only allowed with -kernel option');
    return undefined;
  }
  return {
    kernel: readFile('kernel', kernel),
    ...(initrd === undefined ? {} : { initrd: readFile('initrd', initrd) }),
    ...(append === undefined ? {} : { commandLine: append }),
  };
}

/** Whether the guest has a VGA card. */
export function hasDisplay(given: readonly GivenOption[]): boolean {
  const cards = given.filter(({ name }) => name === 'vga');
  if (cards.length > 0) return cards.at(-1)?.value !== 'none';
  return !given.some(({ name }) => name === 'nodefaults');
}

/** Makes the machine with its processor. Throws OptionError, HostError, RangeError. */
export async function makeGuest(init: ProcessorInit): Promise<GuestMachine> {
  const all = (name: string): string[] =>
    init.given.filter((each) => each.name === name).map((each) => each.value);
  const has = (name: string): boolean => init.given.some((each) => each.name === name);
  const linux = readLinux((name) => all(name).at(-1));
  const images = loadFirmware({
    bios: all('bios').at(-1),
    folders: all('L'),
    display: hasDisplay(init.given),
  });
  return createGuestMachine({
    ...init.machine,
    ...images,
    package: await loadV86(),
    serialPorts: Math.max(1, init.serialPorts),
    serialConsole: has('nographic'),
    ...(linux === undefined ? {} : { linux }),
    onPowerOff: () => {
      init.onEnd('shutdown');
    },
    onFault: (error) => {
      init.onEnd('fault', error);
    },
    onGuestReset: (machine: Machine) => {
      if (has('no-reboot')) {
        machine.pause('shutdown');
        init.onEnd('reset');
        return;
      }
      machine.reset();
      init.onReset();
    },
  });
}
