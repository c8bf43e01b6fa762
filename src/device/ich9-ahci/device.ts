/** `ich9-ahci`: an AHCI controller with six ports (AHCI 1.3.1; ICH9 data sheet, chapter 15). */
import { assert } from '../../lib/assert.js';
import type { Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';
import type { Bus, Device, DeviceInit, DeviceType } from '../bus/device.js';
import { declareDevice } from '../bus/device.js';
import { IdeBus } from '../bus/ide/bus.js';
import { PciBus } from '../bus/pci/bus.js';
import { PciFunction } from '../bus/pci/function.js';
import { Msi } from '../bus/pci/msi.js';
import type { IoRegion } from '../bus/space.js';
import { AhciPort } from './port.js';

const PORTS = 6;
const COMMAND_SLOTS = 32;
/** 64-bit addresses, NCQ, AHCI only, 32 slots, 6 ports, first generation speed. */
const CAP = 0xc014_1f05;
const GHC_AHCI = 0x8000_0000;
const GHC_INTERRUPTS = 2;
const GHC_RESET = 1;
const VERSION_1_0 = 0x0001_0000;
const PORT_AT = 0x100;
const PORT_BYTES = 0x80;

const properties = t.struct('ich9-ahci', {
  addr: t.optional(t.str({ doc: 'slot and function, hexadecimal: 04.0' })),
});

class Ich9Ahci implements Device {
  readonly type: DeviceType;
  readonly id: string | undefined;
  readonly drive = undefined;
  readonly buses: Bus[] = [];
  readonly bus: PciBus;
  readonly #init: DeviceInit<Infer<typeof properties>>;
  readonly #function: PciFunction;
  readonly #msi: Msi;
  readonly #ports: AhciPort[];
  #ghc = GHC_AHCI;
  #is = 0;
  #index = 0;
  #devfn: number | undefined;

  constructor(init: DeviceInit<Infer<typeof properties>>) {
    this.#init = init;
    this.type = init.type;
    this.id = init.id;
    assert(init.bus instanceof PciBus, 'ich9-ahci is on a PCI bus');
    this.bus = init.bus;
    const fn = new PciFunction({
      vendor: 0x8086,
      device: 0x2922,
      classCode: 0x0106,
      progIf: 1,
      revision: 2,
      interruptPin: 1,
    });
    this.#function = fn;
    fn.config[0x90] = 0x40;
    fn.allow(0x92, 0x3f, 1);
    fn.addBar(4, { kind: 'io', region: this.#indexed });
    fn.addBar(5, { kind: 'memory', region: this.#registers });
    // SATA capability 1.0: index and data registers are at offset 16 of BAR 4.
    fn.addCapability(0x12, Uint8Array.of(0x10, 0, 0x48, 0, 0, 0), 0xa8);
    this.#msi = new Msi(fn, 0x80);
    this.#ports = Array.from(
      { length: PORTS },
      () =>
        new AhciPort(fn.memory, () => {
          this.#update();
        }),
    );
  }

  async realize(): Promise<void> {
    const { addr } = this.#init.options;
    this.#devfn = this.bus.take(addr, this.type.name, this.#function);
    this.#ports.forEach((port, index) => {
      this.buses.push(
        new IdeBus({
          name: `${this.id ?? 'ide'}.${index}`,
          units: [port.unit],
          controllerPath: () => this.firmwarePath(),
          index,
          queueDepth: COMMAND_SLOTS,
          isInCmos: false,
          changed: () => {
            port.deviceChanged();
          },
        }),
      );
    });
  }

  firmwarePath(): string {
    return this.bus.pathOf(this.#devfn ?? 0, 'pci8086,2922');
  }

  reset(): void {
    this.#function.reset();
    this.#function.config[0x92] = 0;
    this.#msi.reset();
    this.#resetController();
  }

  #resetController(): void {
    this.#ghc = GHC_AHCI;
    this.#is = 0;
    for (const port of this.#ports) port.reset(true);
    this.#update();
  }

  async unrealize(): Promise<void> {
    if (this.#devfn !== undefined) this.bus.detach(this.#devfn);
    this.#devfn = undefined;
  }

  /** A port's interrupts, or what is asked for, changed. */
  #update(): void {
    const before = this.#is;
    for (let i = 0; i < PORTS; i++) if (this.#ports[i]!.pending) this.#is |= 1 << i;
    const isOn = (this.#ghc & GHC_INTERRUPTS) !== 0;
    if (this.#msi.isEnabled) {
      if (isOn && (this.#is & ~before) !== 0) this.#msi.notify();
      return;
    }
    this.#function.setIntx(isOn && this.#is !== 0);
  }

  readonly #registers: IoRegion = {
    name: 'ahci',
    bytes: 0x1000,
    read: (offset, size) => {
      const value = this.#read(offset & ~3);
      return size === 4 ? value : (value >>> (8 * (offset & 3))) & (size === 2 ? 0xffff : 0xff);
    },
    write: (offset, size, value) => {
      // Registers are 32 bits wide; narrower writes have no meaning here.
      if (size === 4) this.#write(offset, value);
    },
  };

  /** Index and data registers at ports, for software that cannot reach memory up there. */
  readonly #indexed: IoRegion = {
    name: 'ahci-idp',
    bytes: 32,
    read: (offset, size) => {
      if (size !== 4) return 0;
      if (offset === 16) return this.#index;
      return offset === 20 ? this.#read(this.#index) : 0;
    },
    write: (offset, size, value) => {
      if (size !== 4) return;
      if (offset === 16) this.#index = value & 0xffc;
      else if (offset === 20) this.#write(this.#index, value);
    },
  };

  #read(offset: number): number {
    if (offset >= PORT_AT) {
      const port = this.#ports[Math.floor((offset - PORT_AT) / PORT_BYTES)];
      return port?.read((offset - PORT_AT) % PORT_BYTES) ?? 0;
    }
    switch (offset) {
      case 0x00:
        return CAP;
      case 0x04:
        return this.#ghc;
      case 0x08:
        return this.#is;
      case 0x0c:
        return 2 ** PORTS - 1;
      case 0x10:
        return VERSION_1_0;
      default:
        return 0;
    }
  }

  #write(offset: number, value: number): void {
    if (offset >= PORT_AT) {
      const port = this.#ports[Math.floor((offset - PORT_AT) / PORT_BYTES)];
      port?.write((offset - PORT_AT) % PORT_BYTES, value);
      return;
    }
    if (offset === 0x04) {
      if ((value & GHC_RESET) !== 0) this.#resetController();
      else this.#ghc = (GHC_AHCI | (value & GHC_INTERRUPTS)) >>> 0;
      this.#update();
    } else if (offset === 0x08) {
      this.#is &= ~value;
      this.#update();
    }
  }
}

export const ich9AhciDevice = declareDevice({
  name: 'ich9-ahci',
  bus: 'PCI',
  category: 'storage',
  description: 'AHCI controller with six ports',
  properties,
  create: (init) => new Ich9Ahci(init),
});
