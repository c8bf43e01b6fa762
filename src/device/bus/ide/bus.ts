/** The IDE bus as a place for ide-hd and ide-cd: two units on a channel, one on a SATA port. */
import { OptionError } from '../../../options/option-error.js';
import type { Bus, Device } from '../device.js';
import type { IdeModel, IdeUnit } from './unit.js';

export interface IdeBusInit {
  readonly name: string;
  /** The units that drives can become. */
  readonly units: readonly IdeUnit[];
  /** What stands before `drive@`: `/pci@i0cf8/ide@1,1`. */
  readonly controllerPath: () => string;
  /** Number of the channel or port on its controller. */
  readonly index: number;
  /** Depth of the port's command queue (NCQ); 0: it has none. */
  readonly queueDepth: number;
  /** CMOS tells of its disks: it is a channel of the machine itself. */
  readonly isInCmos: boolean;
  /** A unit got or lost its drive. */
  readonly changed: (unit: number) => void;
}

/** One unit's place. */
export interface IdePlace {
  readonly number: number;
  readonly unit: IdeUnit;
}

export class IdeBus implements Bus {
  readonly kind = 'IDE';
  readonly refusesHotplug = true;
  readonly name: string;
  readonly index: number;
  readonly queueDepth: number;
  readonly isInCmos: boolean;
  /** The device of each unit. */
  readonly devices: (Device | undefined)[];
  readonly #init: IdeBusInit;

  constructor(init: IdeBusInit) {
    this.#init = init;
    this.name = init.name;
    this.index = init.index;
    this.queueDepth = init.queueDepth;
    this.isInCmos = init.isInCmos;
    this.devices = init.units.map(() => undefined);
  }

  get isFull(): boolean {
    return !this.devices.includes(undefined);
  }

  /** The unit for a drive. Throws OptionError when there is none or it is in use. */
  place(unit: number | undefined): IdePlace {
    const number = unit ?? (this.isFull ? this.devices.length : this.devices.indexOf(undefined));
    const found = this.#init.units[number];
    if (found === undefined) {
      throw new OptionError(
        unit === undefined
          ? `Bus '${this.name}' is full`
          : `Can't create IDE unit ${number}, bus supports only ${this.devices.length} units`,
      );
    }
    if (this.devices[number] !== undefined) {
      throw new OptionError(`IDE unit ${number} is in use`);
    }
    return { number, unit: found };
  }

  attach(number: number, device: Device, model: IdeModel): void {
    this.devices[number] = device;
    const unit = this.#init.units[number];
    if (unit !== undefined) {
      unit.model = model;
      unit.reset();
    }
    this.#init.changed(number);
  }

  detach(number: number): void {
    this.devices[number] = undefined;
    const unit = this.#init.units[number];
    if (unit !== undefined) {
      unit.abandon();
      unit.model = undefined;
      unit.reset();
    }
    this.#init.changed(number);
  }

  firmwarePath(unit: number): string {
    return `${this.#init.controllerPath()}/drive@${this.index}/disk@${unit}`;
  }
}
