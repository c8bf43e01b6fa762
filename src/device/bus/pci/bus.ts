/**
 * A PCI bus: functions by slot and function number, configuration cycles, interrupt pins.
 */
import { assert } from '../../../lib/assert.js';
import type { GuestMemory } from '../../../host/guest-memory.js';
import { OptionError } from '../../../options/option-error.js';
import type { Bus } from '../device.js';
import type { IoRegion, RegionMapper } from '../space.js';
import type { PciBridge } from './bridge.js';
import type { PciFunction, PciUplink } from './function.js';

/** What a root bus needs of its machine. */
export interface PciBusInit {
  readonly name: string;
  readonly ports: RegionMapper;
  readonly mmio: RegionMapper;
  readonly memory: GuestMemory;
  /** Level of pin 1 to 4 of a slot. */
  readonly setPin: (slot: number, pin: number, level: boolean) => void;
  readonly sendMessage: (address: number, data: number) => void;
  /** Path of the bus in firmware's words: `/pci@i0cf8`. */
  readonly firmwarePath: () => string;
  /** First and last slot that devices may take; default 1 to 31, and 0 when asked for. */
  readonly slots?: readonly [first: number, last: number];
  /** No device comes or goes while the guest runs. */
  readonly refusesHotplug?: boolean;
}

const ROOT_SLOTS = [1, 31] as const;

/** The place of a function: 0 to 255, slot * 8 + function. */
export type Devfn = number;

export class PciBus implements Bus {
  readonly kind = 'PCI';
  readonly name: string;
  readonly refusesHotplug: boolean;
  /** Bridges that are on it. */
  readonly bridges = new Set<PciBridge>();
  readonly functions = new Map<Devfn, PciFunction>();
  /** Slots that are kept free although nothing is there. */
  readonly reserved = new Set<number>();
  readonly #init: PciBusInit;

  constructor(init: PciBusInit) {
    this.#init = init;
    this.name = init.name;
    this.refusesHotplug = init.refusesHotplug ?? false;
  }

  get firmwarePath(): string {
    return this.#init.firmwarePath();
  }

  /** A function's path in firmware's words: `/pci@i0cf8/scsi@4,1`. */
  pathOf(devfn: Devfn, name: string): string {
    const fn = (devfn & 7) === 0 ? '' : `,${devfn & 7}`;
    return `${this.firmwarePath}/${name}@${(devfn >> 3).toString(16)}${fn}`;
  }

  /** A bus behind this one, by its number. */
  tryBus(number: number): PciBus | undefined {
    for (const bridge of this.bridges) {
      const found = bridge.tryBus(number);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  get isFull(): boolean {
    return this.#freeSlot() === undefined;
  }

  #freeSlot(): number | undefined {
    const [first, last] = this.#init.slots ?? ROOT_SLOTS;
    for (let slot = first; slot <= last; slot++) {
      if (this.reserved.has(slot)) continue;
      let used = false;
      for (let fn = 0; fn < 8; fn++) used ||= this.functions.has(slot * 8 + fn);
      if (!used) return slot;
    }
    return undefined;
  }

  /** Puts a function where a property `addr` says, and gives its place. Throws OptionError. */
  take(addr: string | undefined, device: string, fn: PciFunction): Devfn {
    const devfn = this.place(addr === undefined ? undefined : parseDevfn(addr, device), device);
    this.attach(devfn, fn);
    return devfn;
  }

  /** The place that `addr` names, or the first free slot. Throws OptionError when taken. */
  place(addr: Devfn | undefined, device: string): Devfn {
    if (addr === undefined) {
      const slot = this.#freeSlot();
      if (slot === undefined) {
        throw new OptionError(
          `PCI: no slot/function available for ${device}, all in use or reserved`,
        );
      }
      return slot * 8;
    }
    const [first, last] = this.#init.slots ?? [0, 31];
    if (addr >> 3 < first || addr >> 3 > last) {
      throw new OptionError(
        `Unsupported PCI slot ${addr >> 3} for ${device}. ` +
          `Valid slots are between ${first} and ${last}.`,
      );
    }
    if (this.functions.has(addr)) {
      const where = `${addr >> 3} function ${addr & 7}`;
      throw new OptionError(`PCI: slot ${where} not available for ${device}, in use`);
    }
    return addr;
  }

  attach(devfn: Devfn, fn: PciFunction): void {
    assert(!this.functions.has(devfn), `two functions at ${devfn}`);
    this.functions.set(devfn, fn);
    const { ports, mmio, memory, sendMessage } = this.#init;
    const uplink: PciUplink = {
      ports,
      mmio,
      memory,
      sendMessage,
      setPin: (pin, level): void => {
        this.#pin(devfn, pin, level);
      },
    };
    fn.connect(uplink);
  }

  detach(devfn: Devfn): void {
    const fn = this.functions.get(devfn);
    this.functions.delete(devfn);
    fn?.disconnect();
  }

  readonly #pins = new Map<number, number>();

  /** Functions of one slot may share a pin: count those that assert it. */
  #pin(devfn: Devfn, pin: number, level: boolean): void {
    const key = (devfn >> 3) * 4 + (pin - 1);
    const before = this.#pins.get(key) ?? 0;
    const bit = 1 << (devfn & 7);
    const after = level ? before | bit : before & ~bit;
    this.#pins.set(key, after);
    if ((before !== 0) !== (after !== 0)) this.#init.setPin(devfn >> 3, pin, after !== 0);
  }
}

/** Parses a device's `addr=SLOT[.FUNCTION]`, hexadecimal both. Throws OptionError. */
export function parseDevfn(text: string, device: string): Devfn {
  const match = /^(?:0x)?([0-9a-f]{1,2})(?:\.(?:0x)?([0-7]))?$/i.exec(text);
  const slot = match === null ? NaN : parseInt(match[1]!, 16);
  if (match === null || slot > 31) {
    throw new OptionError(`Property '${device}.addr' doesn't take value '${text}'`, 'addr');
  }
  return slot * 8 + (match[2] === undefined ? 0 : parseInt(match[2], 16));
}

/**
 * Mechanism #1: CONFIG_ADDRESS at offset 0 and CONFIG_DATA at offset 4 (PCI 3.0, 3.2.2.3.2).
 * The low two bits of the address register count, too, or-ed with those of the port.
 */
export class PciConfigPorts {
  #address = 0;
  readonly #find: (bus: number) => PciBus | undefined;

  /** `find`: the bus with a number. */
  constructor(find: (bus: number) => PciBus | undefined) {
    this.#find = find;
  }

  reset(): void {
    this.#address = 0;
  }

  readonly address: IoRegion = {
    name: 'pci-conf-idx',
    bytes: 4,
    read: (_offset, size) => (size === 4 ? this.#address : 0xffff_ffff),
    write: (_offset, size, value) => {
      if (size === 4) this.#address = value;
    },
  };

  readonly data: IoRegion = {
    name: 'pci-conf-data',
    bytes: 4,
    read: (offset, size) => {
      const fn = this.#target();
      return fn === undefined ? 0xffff_ffff : fn.readConfig(this.#register(offset), size);
    },
    write: (offset, size, value) => {
      this.#target()?.writeConfig(this.#register(offset), size, value);
    },
  };

  #register(offset: number): number {
    return (this.#address & 0xff) | offset;
  }

  #target(): PciFunction | undefined {
    if (this.#address < 0x8000_0000) return undefined;
    return this.#find((this.#address >>> 16) & 0xff)?.functions.get((this.#address >>> 8) & 0xff);
  }
}
