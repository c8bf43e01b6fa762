/**
 * ACPI's PCI hot-plug ports (QEMU's docs/specs/acpi_pci_hotplug): which slots got a device, which
 * shall lose theirs, and ejection. A selector says which bus the other registers mean; buses are
 * numbered in the order in which they came.
 */
import type { Bus, Device, DeviceType } from '../device/bus/device.js';
import { PciBus } from '../device/bus/pci/bus.js';
import type { IoRegion } from '../device/bus/space.js';
import { OptionError } from '../options/option-error.js';

const UP = 0x00;
const DOWN = 0x04;
const EJECT = 0x08;
const REMOVABLE = 0x0c;
const SELECT = 0x10;
const BYTES = 0x14;

export interface PciHotplugInit {
  readonly buses: () => readonly PciBus[];
  /** Takes a device out for good. */
  readonly depart: (device: Device) => Promise<void>;
  /** Tells the guest that it shall look at the registers. */
  readonly notify: () => void;
  /**
   * Arrivals stay until the next one comes: SeaBIOS's own tables look for each slot by itself.
   * Else they are told once, as to the tables of QEMU.
   */
  readonly repeats: boolean;
}

export class PciHotplug {
  readonly #init: PciHotplugInit;
  /** Devices that somebody wants to go. */
  readonly #leaving = new Set<Device>();
  /** Devices that came at last. */
  readonly #arrived = new Set<Device>();
  /** The guest has looked at those. */
  #isRead = false;
  #select = 0;

  constructor(init: PciHotplugInit) {
    this.#init = init;
  }

  /** A device came while the guest ran. */
  arrived(device: Device): void {
    if (device.pciSlot?.() === undefined) return;
    if (this.#isRead && this.#init.repeats) this.#arrived.clear();
    this.#isRead = false;
    this.#arrived.add(device);
    this.#init.notify();
  }

  /** A device shall go when the guest lets it. */
  ask(device: Device): void {
    this.#leaving.add(device);
    this.#init.notify();
  }

  /** A device is gone. */
  forget(device: Device): void {
    this.#leaving.delete(device);
    this.#arrived.delete(device);
  }

  /** The machine was reset: who shall go goes. */
  async reset(): Promise<void> {
    this.#select = 0;
    this.#arrived.clear();
    for (const device of [...this.#leaving]) await this.#depart(device);
  }

  readonly region: IoRegion = {
    name: 'acpi-pci-hotplug',
    bytes: BYTES,
    read: (offset) => {
      switch (offset) {
        case UP: {
          const slots = this.#slots(this.#arrived);
          this.#isRead = true;
          if (this.#init.repeats) return slots;
          for (const device of this.#on(this.#arrived)) this.#arrived.delete(device);
          return slots;
        }
        case DOWN:
          return this.#slots(this.#leaving);
        case REMOVABLE:
          return this.#bus === undefined || this.#bus.refusesHotplug ? 0 : 0xffff_ffff;
        case SELECT:
          return this.#select;
        default:
          return 0;
      }
    },
    write: (offset, _size, value) => {
      if (offset === SELECT) this.#select = value;
      else if (offset === EJECT) void this.#eject(value);
    },
  };

  get #bus(): PciBus | undefined {
    return this.#init.buses()[this.#select];
  }

  /** Those on the selected bus. */
  #on(devices: ReadonlySet<Device>): Device[] {
    return [...devices].filter((device) => device.bus === this.#bus);
  }

  #slots(devices: ReadonlySet<Device>): number {
    let slots = 0;
    for (const device of this.#on(devices)) slots |= 1 << (device.pciSlot?.() ?? 0);
    return slots >>> 0;
  }

  async #eject(slots: number): Promise<void> {
    for (const device of this.#on(this.#leaving)) {
      const slot = device.pciSlot?.();
      if (slot !== undefined && (slots & (1 << slot)) !== 0) await this.#depart(device);
    }
  }

  async #depart(device: Device): Promise<void> {
    // Two ejections may come close upon each other.
    if (this.#leaving.delete(device)) await this.#init.depart(device);
  }
}

/** The PCI buses among others. */
export function pciBuses(buses: readonly unknown[]): PciBus[] {
  return buses.filter((bus) => bus instanceof PciBus);
}

/** Throws OptionError when a device cannot come while the guest runs. */
export function checkHotplug(type: DeviceType, bus: Bus | undefined): void {
  if (bus?.refusesHotplug === true) {
    throw new OptionError(`Bus '${bus.name}' does not support hotplugging`);
  }
  if (!type.hotpluggable) {
    throw new OptionError(`Device '${type.name}' does not support hotplugging`);
  }
}
