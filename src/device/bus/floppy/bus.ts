/** The cable between a floppy controller and its two drives. */
import { OptionError } from '../../../options/option-error.js';
import type { Bus } from '../device.js';
import type { FloppyDrive } from './drive.js';
import type { FloppyType } from './geometry.js';

/** Drives on a PC's controller. */
export const UNITS = 2;

export interface FloppyBusInit {
  readonly name: string;
  /** Kinds of drives that the controller's properties say; undefined: as the drive says. */
  readonly types: readonly (FloppyType | undefined)[];
  /** The kind of a drive that nothing tells of. */
  readonly fallback: FloppyType;
  readonly firmwarePath: () => string;
  /** Where firmware looks for something to boot, by unit, as the controller's properties say. */
  readonly bootindexes: readonly number[];
}

export class FloppyBus implements Bus {
  readonly kind = 'floppy-bus';
  readonly refusesHotplug = true;
  readonly name: string;
  readonly drives: (FloppyDrive | undefined)[] = Array.from({ length: UNITS }, () => undefined);
  readonly #init: FloppyBusInit;

  constructor(init: FloppyBusInit) {
    this.#init = init;
    this.name = init.name;
  }

  get isFull(): boolean {
    return !this.drives.includes(undefined);
  }

  get fallback(): FloppyType {
    return this.#init.fallback;
  }

  typeOf(unit: number): FloppyType | undefined {
    return this.#init.types[unit];
  }

  bootindexOf(unit: number): number {
    return this.#init.bootindexes[unit] ?? -1;
  }

  firmwarePath(unit: number): string {
    return `${this.#init.firmwarePath()}/floppy@${unit}`;
  }

  /** The number of a drive's unit. Throws OptionError when there is none or it is in use. */
  place(unit: number | undefined): number {
    const number = unit ?? (this.isFull ? UNITS : this.drives.indexOf(undefined));
    if (number >= UNITS) {
      throw new OptionError(`Can't create floppy unit ${number}, bus supports only ${UNITS} units`);
    }
    if (this.drives[number] !== undefined) {
      throw new OptionError(`Floppy unit ${number} is in use`);
    }
    return number;
  }
}
