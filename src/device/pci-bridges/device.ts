/**
 * Bridges with a bus behind them: `pci-bridge` (1b36:0001), `pcie-pci-bridge` (1b36:000e) and
 * `pcie-root-port` (1b36:000c, one slot). Devices come to their buses and go while the guest runs,
 * by the machine's hot-plug ports.
 */
import { assert } from '../../lib/assert.js';
import type { Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';
import type { Bus, Device, DeviceInit, DeviceType } from '../bus/device.js';
import { declareDevice } from '../bus/device.js';
import { PciBridge } from '../bus/pci/bridge.js';
import { PciBus } from '../bus/pci/bus.js';

const RED_HAT = 0x1b36;
const CAPABILITY_EXPRESS = 0x10;
/** Port types of the PCI Express capability. */
const ROOT_PORT = 4;
const TO_PCI = 7;
const EXPRESS_BYTES = 58;

const place = {
  addr: t.optional(t.str({ doc: 'slot and function, hexadecimal: 04.0' })),
} as const;

const properties = t.struct('pci-bridge', {
  ...place,
  chassis_nr: t.uint({ bits: 8 }, { default: 0, doc: 'number of the chassis behind it' }),
});
const expressProperties = t.struct('pcie-pci-bridge', place);
const portProperties = t.struct('pcie-root-port', {
  ...place,
  chassis: t.uint({ bits: 8 }, { default: 0, doc: 'number of the chassis' }),
  slot: t.uint({ bits: 16 }, { default: 0, doc: 'number of the slot in its chassis' }),
  port: t.uint({ bits: 8 }, { default: 0, doc: 'number of the port' }),
});

/** What differs between the kinds. */
interface Model {
  readonly device: number;
  readonly slots: readonly [number, number];
  readonly addr: string | undefined;
  /** Port type of the Express capability; absent: it has none. */
  readonly portType?: number;
  /** Link capabilities' port number, and the number of the slot. */
  readonly port?: number;
  readonly slot?: number;
}

/** PCI Express capability, version 2 (PCI Express Base 3.0, 7.8). */
function express(type: number, { port = 0, slot = 0 }: Model): Uint8Array {
  const body = new Uint8Array(EXPRESS_BYTES);
  const view = new DataView(body.buffer);
  const hasSlot = type === ROOT_PORT;
  view.setUint16(0, 2 | (type << 4) | (hasSlot ? 0x100 : 0), true);
  view.setUint32(2, 0x8000, true);
  // One lane of 2.5 GT/s, and the port's number.
  view.setUint32(10, 0x11 | (port << 24), true);
  view.setUint16(16, 0x11, true);
  if (hasSlot) view.setUint32(18, (slot & 0x1fff) << 19, true);
  return body;
}

class Bridge implements Device {
  readonly type: DeviceType;
  readonly id: string | undefined;
  readonly drive = undefined;
  readonly bus: PciBus;
  readonly buses: Bus[] = [];
  readonly #bridge: PciBridge;
  readonly #model: Model;
  #devfn: number | undefined;

  constructor(init: DeviceInit<unknown>, model: Model) {
    this.type = init.type;
    this.id = init.id;
    this.#model = model;
    assert(init.bus instanceof PciBus, 'a bridge is on a PCI bus');
    this.bus = init.bus;
    this.#bridge = new PciBridge({
      identity: { vendor: RED_HAT, device: model.device },
      busName: this.id ?? `${this.type.name}.0`,
      firmwarePath: () => this.bus.pathOf(this.#devfn ?? 0, 'pci-bridge'),
      slots: model.slots,
    });
    if (model.portType === undefined) return;
    this.#bridge.fn.addCapability(CAPABILITY_EXPRESS, express(model.portType, model));
  }

  async realize(): Promise<void> {
    this.#devfn = this.bus.take(this.#model.addr, this.type.name, this.#bridge.fn);
    this.bus.bridges.add(this.#bridge);
    this.buses.push(this.#bridge.bus);
  }

  pciSlot(): number | undefined {
    return this.#devfn === undefined ? undefined : this.#devfn >> 3;
  }

  reset(): void {
    this.#bridge.reset();
  }

  async unrealize(): Promise<void> {
    this.bus.bridges.delete(this.#bridge);
    if (this.#devfn !== undefined) this.bus.detach(this.#devfn);
    this.#devfn = undefined;
  }
}

/** Slot 0 behind a bridge belongs to its hot-plug controller. */
const CONVENTIONAL_SLOTS = [1, 31] as const;

export const pciBridgeDevice = declareDevice({
  name: 'pci-bridge',
  bus: 'PCI',
  category: 'bridge',
  description: 'bridge to a PCI bus with 31 slots',
  properties,
  create: (init: DeviceInit<Infer<typeof properties>>) =>
    new Bridge(init, { device: 1, slots: CONVENTIONAL_SLOTS, addr: init.options.addr }),
});

export const pciePciBridgeDevice = declareDevice({
  name: 'pcie-pci-bridge',
  bus: 'PCI',
  category: 'bridge',
  description: 'bridge from PCI Express to a PCI bus with 31 slots',
  properties: expressProperties,
  hotpluggable: true,
  create: (init: DeviceInit<Infer<typeof expressProperties>>) =>
    new Bridge(init, {
      device: 0x0e,
      slots: CONVENTIONAL_SLOTS,
      addr: init.options.addr,
      portType: TO_PCI,
    }),
});

export const pcieRootPortDevice = declareDevice({
  name: 'pcie-root-port',
  bus: 'PCI',
  category: 'bridge',
  description: 'PCI Express root port with one slot',
  properties: portProperties,
  create: (init: DeviceInit<Infer<typeof portProperties>>) =>
    new Bridge(init, {
      device: 0x0c,
      slots: [0, 31],
      addr: init.options.addr,
      portType: ROOT_PORT,
      port: init.options.port,
      slot: init.options.slot,
    }),
});
