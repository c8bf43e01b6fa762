/** A SCSI bus: units by channel, target and number, and what its controller asks of them. */
import { OptionError } from '../../../options/option-error.js';
import type { Iov } from '../../../lib/iov.js';
import type { Sense } from '../../../wire/mmc.js';
import type { Bus } from '../device.js';

export const ScsiStatus = { good: 0x00, checkCondition: 0x02, busy: 0x08 } as const;

/** What a command moves, as its bytes say. */
export interface ScsiMove {
  readonly direction: 'none' | 'in' | 'out';
  readonly bytes: number;
}

/** A command and the buffers of its initiator: what it sends, and room for what it gets. */
export interface ScsiTask {
  readonly cdb: Uint8Array;
  readonly out: Iov;
  readonly in: Iov;
}

/** How a command ended. */
export interface ScsiOutcome {
  readonly status: number;
  readonly sense?: Sense;
  /** Bytes that moved. */
  readonly bytes: number;
}

/** A logical unit. */
export interface ScsiUnit {
  /** What a command will move; controllers that collect data first ask before they execute. */
  moves(cdb: Uint8Array): ScsiMove;
  /** Carries a command out. Rejects only with what gives requests up (a reset). */
  execute(task: ScsiTask): Promise<ScsiOutcome>;
  /** What is under way is given up; the next command hears of it. */
  reset(): void;
}

/** Where a unit is. */
export interface ScsiPlace {
  readonly channel: number;
  readonly target: number;
  readonly lun: number;
}

export interface ScsiBusInit {
  readonly name: string;
  /** Greatest numbers that the controller can address. */
  readonly maxChannel: number;
  readonly maxTarget: number;
  readonly maxLun: number;
  /** Path of the controller in firmware's words. */
  readonly controllerPath: () => string;
  /** The target number that the controller itself has, which is nobody else's. */
  readonly own?: number;
  /** A unit came or went. */
  readonly changed?: (place: ScsiPlace, isThere: boolean) => void;
}

export class ScsiBus implements Bus {
  readonly kind = 'SCSI';
  readonly name: string;
  readonly removesAtOnce = true;
  readonly isFull = false;
  readonly #init: ScsiBusInit;
  readonly #units = new Map<string, { readonly place: ScsiPlace; readonly unit: ScsiUnit }>();

  constructor(init: ScsiBusInit) {
    this.#init = init;
    this.name = init.name;
  }

  /**
   * The place for a unit: the one asked for, or the first that is free. Throws OptionError when
   * there is none or it is taken.
   */
  place(channel: number, target: number | undefined, lun: number | undefined): ScsiPlace {
    const { maxChannel, maxTarget, maxLun, own } = this.#init;
    if (channel > maxChannel) throw new OptionError('bad scsi channel id: ' + String(channel));
    if (target !== undefined && target > maxTarget) {
      throw new OptionError(`bad scsi device id: ${target}`);
    }
    if (lun !== undefined && lun > maxLun) throw new OptionError(`bad scsi device lun: ${lun}`);
    if (target === undefined) {
      for (let id = 0; id <= maxTarget; id++) {
        const place = { channel, target: id, lun: lun ?? 0 };
        if (id !== own && !this.#units.has(keyOf(place))) return place;
      }
      throw new OptionError('no free target');
    }
    if (lun === undefined) {
      for (let number = 0; number <= maxLun; number++) {
        const place = { channel, target, lun: number };
        if (!this.#units.has(keyOf(place))) return place;
      }
      throw new OptionError('no free lun');
    }
    const place = { channel, target, lun };
    if (this.#units.has(keyOf(place))) {
      throw new OptionError('lun already used by another device');
    }
    return place;
  }

  attach(place: ScsiPlace, unit: ScsiUnit): void {
    this.#units.set(keyOf(place), { place, unit });
    this.#init.changed?.(place, true);
  }

  detach(place: ScsiPlace): void {
    this.#units.get(keyOf(place))?.unit.reset();
    this.#units.delete(keyOf(place));
    this.#init.changed?.(place, false);
  }

  tryUnit(channel: number, target: number, lun: number): ScsiUnit | undefined {
    return this.#units.get(keyOf({ channel, target, lun }))?.unit;
  }

  /** Numbers of a target's units, in order. */
  luns(channel: number, target: number): number[] {
    return [...this.#units.values()]
      .filter(({ place }) => place.channel === channel && place.target === target)
      .map(({ place }) => place.lun)
      .sort((a, b) => a - b);
  }

  reset(): void {
    for (const { unit } of this.#units.values()) unit.reset();
  }

  firmwarePath({ channel, target, lun }: ScsiPlace): string {
    const at = (number: number): string => number.toString(16);
    return `${this.#init.controllerPath()}/channel@${at(channel)}/disk@${at(target)},${at(lun)}`;
  }
}

function keyOf({ channel, target, lun }: ScsiPlace): string {
  return `${channel}:${target}:${lun}`;
}
