/**
 * `virtio-mouse-pci`: a pointing device (virtio 1.2, section 5.8) that nobody moves. Guests find
 * and configure it; no event ever comes.
 */
import { assert } from '../../lib/assert.js';
import type { Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';
import type { Device, DeviceInit, DeviceType } from '../bus/device.js';
import { declareDevice } from '../bus/device.js';
import { PciBus } from '../bus/pci/bus.js';
import type { VirtioModel } from '../bus/virtio/pci.js';
import { VirtioFeature, VirtioPci } from '../bus/virtio/pci.js';

const INPUT_DEVICE = 18;
const EVENT_QUEUE = 0;
const STATUS_QUEUE = 1;
const CONFIG_BYTES = 136;
const MAX_SERIAL = 128;
/** What the driver asks for: name, serial number, identity, or which events there are. */
const Select = { name: 1, serial: 2, identity: 3, events: 0x11 } as const;
const EVENT_KEY = 1;
const EVENT_RELATIVE = 2;
/** Bits of the buttons 0x110 to 0x112 (left, right, middle), and of X, Y and the wheel. */
const buttons = [...new Uint8Array(34), 0x07];
const axes = [0x03, 0x01];

const properties = t.struct('virtio-mouse-pci', {
  addr: t.optional(t.str({ doc: 'slot and function, hexadecimal: 04.0' })),
  serial: t.optional(t.str({ doc: `serial number, at most ${MAX_SERIAL} characters` })),
});

type Properties = Infer<typeof properties>;

class VirtioMouse implements Device, VirtioModel {
  readonly type: DeviceType;
  readonly part = 'virtio-backend';
  readonly id: string | undefined;
  readonly buses = [];
  readonly drive = undefined;
  readonly bus: PciBus;
  readonly deviceId = INPUT_DEVICE;
  readonly classCode = 0x0902;
  readonly features = VirtioFeature.indirect | VirtioFeature.eventIndex;
  readonly queues = 2;
  readonly queueSize = 64;
  readonly #options: Properties;
  readonly #pci: VirtioPci;
  #select = 0;
  #subselect = 0;
  #devfn: number | undefined;

  constructor(init: DeviceInit<Properties>) {
    this.type = init.type;
    this.id = init.id;
    this.#options = init.options;
    assert(init.bus instanceof PciBus, 'virtio-mouse-pci is on a PCI bus');
    this.bus = init.bus;
    this.#pci = new VirtioPci(this, { vectors: 2, hasLegacy: false, hasModern: true });
  }

  async realize(): Promise<void> {
    this.#devfn = this.bus.take(this.#options.addr, this.type.name, this.#pci.fn);
  }

  config(): Uint8Array {
    const out = new Uint8Array(CONFIG_BYTES);
    const data = this.#answer();
    out.set([this.#select, this.#subselect, data.length]);
    out.set(data, 8);
    return out;
  }

  #answer(): ArrayLike<number> {
    const encoder = new TextEncoder();
    switch (this.#select) {
      case Select.name:
        return encoder.encode('QEMU Virtio Mouse');
      case Select.serial:
        return encoder.encode(this.#options.serial ?? '').subarray(0, MAX_SERIAL);
      case Select.identity: // bus, vendor, product, version
        return [6, 0, 0x27, 0x06, 2, 0, 1, 0];
      case Select.events:
        if (this.#subselect === EVENT_KEY) return buttons;
        return this.#subselect === EVENT_RELATIVE ? axes : [];
      default:
        return [];
    }
  }

  writeConfig(offset: number, value: number): void {
    if (offset === 0) this.#select = value;
    else if (offset === 1) this.#subselect = value;
  }

  accepted(): void {
    // No feature of it needs anything.
  }

  /** Buffers for events stay with the device; what the driver tells of lights is given back. */
  kick(queue: number): void {
    if (queue === EVENT_QUEUE) return;
    this.#pci.serve(STATUS_QUEUE, () => Promise.resolve(0));
  }

  abandon(): void {
    this.#select = 0;
    this.#subselect = 0;
  }

  pciSlot(): number | undefined {
    return this.#devfn === undefined ? undefined : this.#devfn >> 3;
  }

  reset(): void {
    this.#pci.reset();
  }

  async unrealize(): Promise<void> {
    if (this.#devfn !== undefined) this.bus.detach(this.#devfn);
    this.#devfn = undefined;
  }
}

export const virtioMousePciDevice = declareDevice({
  name: 'virtio-mouse-pci',
  bus: 'PCI',
  category: 'input',
  description: 'virtio mouse that nobody moves',
  properties,
  hotpluggable: true,
  create: (init) => new VirtioMouse(init),
});
