/**
 * `lsi53c895a` and `lsi53c810`: a SCSI controller with its SCRIPTS processor on PCI (1000:0012,
 * 1000:0001): registers at ports (BAR 0) and in memory (BAR 1), and 8 KiB of its own RAM (BAR 2).
 */
import { assert } from '../../lib/assert.js';
import type { GuestMemory } from '../../host/guest-memory.js';
import { t } from '../../options/schema.js';
import type { Bus, Device, DeviceInit, DeviceType } from '../bus/device.js';
import { declareDevice } from '../bus/device.js';
import { PciBus } from '../bus/pci/bus.js';
import { PciConfig, PciFunction } from '../bus/pci/function.js';
import { ScsiBus } from '../bus/scsi/bus.js';
import type { IoRegion } from '../bus/space.js';
import { RAM_BYTES, ScriptsProcessor } from './scripts.js';

const RAM_BAR = PciConfig.bar0 + 8;
const OWN_ID = 7;

const properties = t.struct('lsi53c895a', {
  addr: t.optional(t.str({ doc: 'slot and function, hexadecimal: 04.0' })),
});

/** By what guests tell the two kinds apart. */
interface Kind {
  readonly name: string;
  readonly pciId: number;
  readonly subsystem?: number;
}

const kind895a: Kind = { name: 'lsi53c895a', pciId: 0x0012, subsystem: 0x1000 };
const kind810: Kind = { name: 'lsi53c810', pciId: 0x0001 };

class Lsi53c8xx implements Device {
  readonly type: DeviceType;
  readonly id: string | undefined;
  readonly drive = undefined;
  readonly buses: Bus[] = [];
  readonly bus: PciBus;
  readonly #addr: string | undefined;
  readonly #function: PciFunction;
  readonly #scsi: ScsiBus;
  readonly #processor: ScriptsProcessor;
  #devfn: number | undefined;

  constructor(init: DeviceInit<{ readonly addr?: string }>, kind: Kind) {
    this.type = init.type;
    this.id = init.id;
    this.#addr = init.options.addr;
    assert(init.bus instanceof PciBus, `${kind.name} is on a PCI bus`);
    this.#function = new PciFunction({
      vendor: 0x1000,
      device: kind.pciId,
      classCode: 0x0100,
      ...(kind.subsystem === undefined ? {} : { subsystem: kind.subsystem }),
      interruptPin: 1,
    });
    this.bus = init.bus;
    this.#scsi = new ScsiBus({
      name: `${this.id ?? 'scsi'}.0`,
      maxChannel: 0,
      maxTarget: OWN_ID,
      maxLun: 0,
      controllerPath: () => this.bus.pathOf(this.#devfn ?? 0, 'scsi'),
      own: OWN_ID,
    });
    this.#processor = new ScriptsProcessor({
      bus: this.#scsi,
      memory: this.#memory(),
      clock: init.context.host.clock,
      interrupt: (level) => {
        this.#function.setIntx(level);
      },
    });
    this.#function.addBar(0, { kind: 'io', region: this.#registers(256) });
    this.#function.addBar(1, { kind: 'memory', region: this.#registers(1024) });
    this.#function.addBar(2, { kind: 'memory', region: this.#ram });
  }

  /** Memory as scripts see it: the guest's, and the function's own RAM where it stands. */
  #memory(): GuestMemory {
    const { memory } = this.#function;
    const own = (address: number, bytes: number): Uint8Array | undefined => {
      const base = (this.#function.get32(RAM_BAR) & ~15) >>> 0;
      const at = address - base;
      if (base === 0 || at < 0 || at + bytes > RAM_BYTES) return undefined;
      return this.#processor.ram.subarray(at, at + bytes);
    };
    return {
      read: (address, out) => {
        const ram = own(address, out.length);
        if (ram === undefined) memory.read(address, out);
        else out.set(ram);
      },
      write: (address, data) => {
        const ram = own(address, data.length);
        if (ram === undefined) memory.write(address, data);
        else ram.set(data);
      },
      tryView: (address, bytes) => memory.tryView(address, bytes),
    };
  }

  #registers(bytes: number): IoRegion {
    return {
      name: 'lsi',
      bytes,
      widest: 1,
      read: (offset) => this.#processor.read(offset & 0xff),
      write: (offset, _size, value) => {
        this.#processor.write(offset & 0xff, value);
      },
    };
  }

  readonly #ram: IoRegion = {
    name: 'lsi-ram',
    bytes: RAM_BYTES,
    widest: 1,
    read: (offset) => this.#processor.ram[offset]!,
    write: (offset, _size, value) => {
      this.#processor.ram[offset] = value;
    },
  };

  async realize(): Promise<void> {
    this.#devfn = this.bus.take(this.#addr, this.type.name, this.#function);
    this.buses.push(this.#scsi);
  }

  pciSlot(): number | undefined {
    return this.#devfn === undefined ? undefined : this.#devfn >> 3;
  }

  reset(): void {
    this.#function.reset();
    this.#processor.reset();
  }

  async unrealize(): Promise<void> {
    this.#processor.reset();
    if (this.#devfn !== undefined) this.bus.detach(this.#devfn);
    this.#devfn = undefined;
  }
}

function declare(kind: Kind, description: string): DeviceType {
  return declareDevice({
    name: kind.name,
    bus: 'PCI',
    category: 'storage',
    description,
    properties,
    hotpluggable: true,
    create: (init) => new Lsi53c8xx(init, kind),
  });
}

export const lsi53c895aDevice = declare(
  kind895a,
  'SCSI controller (LSI 53C895A), one command at a time',
);
export const lsi53c810Device = declare(
  kind810,
  'SCSI controller: the 895A under the identification of the 53C810',
);
