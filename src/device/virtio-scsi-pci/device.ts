/** `virtio-scsi-pci`: a virtio SCSI controller on PCI (virtio 1.2, section 5.6). */
import { assert } from '../../lib/assert.js';
import { OptionError } from '../../options/option-error.js';
import type { Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';
import { addressBytes, readChain, scsiAddress, scsiCommand } from '../../virtio/scsi.js';
import { ScsiResponse, writeChain } from '../../virtio/scsi.js';
import type { Chain } from '../../virtio/virtqueue.js';
import { MAX_QUEUE_SIZE, VirtioError } from '../../virtio/virtqueue.js';
import { senseData } from '../../wire/mmc.js';
import type { Bus, Device, DeviceInit, DeviceType } from '../bus/device.js';
import { declareDevice } from '../bus/device.js';
import { PciBus } from '../bus/pci/bus.js';
import type { ScsiPlace } from '../bus/scsi/bus.js';
import { ScsiBus } from '../bus/scsi/bus.js';
import { tryTarget } from '../bus/scsi/target.js';
import type { VirtioModel } from '../bus/virtio/pci.js';
import { VirtioFeature, VirtioPci } from '../bus/virtio/pci.js';

const SCSI_DEVICE = 8;
const CONTROL_QUEUE = 0;
const EVENT_QUEUE = 1;
const FIRST_REQUEST_QUEUE = 2;
const MAX_QUEUES = 64;
const MAX_TARGET = 255;
const MAX_LUN = 16383;
const CONFIG_BYTES = 36;
const SENSE_SIZE_AT = 20;
const CDB_SIZE_AT = 24;
const DEFAULT_CDB = 32;
const DEFAULT_SENSE = 96;
const MAX_CDB = 260;
const MAX_SENSE = 252;
const EVENT_BYTES = 16;
/** A unit came or went, and how. */
const EVENT_TRANSPORT_RESET = 1;
const RESET_RESCAN = 1;
const RESET_REMOVED = 2;
const EVENTS_MISSED = 0x8000_0000;
const Feature = { hotplug: 2 } as const;
const TMF = 0;
/** Task management functions that reset units. */
const RESET_FUNCTIONS = new Set([0, 1, 2, 4, 5]);

const properties = t.struct('virtio-scsi-pci', {
  addr: t.optional(t.str({ doc: 'slot and function, hexadecimal: 04.0' })),
  num_queues: t.uint({ bits: 32 }, { default: 4294967295, doc: 'request queues; default: one' }),
  virtqueue_size: t.uint({ bits: 32 }, { default: 256, doc: 'entries of a queue, a power of two' }),
  max_sectors: t.uint({ bits: 32 }, { default: 65535, doc: 'greatest transfer that is offered' }),
  cmd_per_lun: t.uint({ bits: 32 }, { default: 128, doc: 'commands of a unit at a time' }),
  hotplug: t.bool({ default: true, doc: 'the guest is told of units that come and go' }),
  iothread: t.optional(t.str({ doc: 'accepted: there is one loop' })),
  vectors: t.uint({ bits: 32 }, { default: 4294967295, doc: 'MSI-X vectors; default: queues + 1' }),
  'disable-legacy': t.enumOf('auto', 'on', 'off', { name: 'OnOffAuto', default: 'auto' }),
  'disable-modern': t.bool({ default: false }),
  indirect_desc: t.bool({ default: true }),
  event_idx: t.bool({ default: true }),
});

type Properties = Infer<typeof properties>;

class VirtioScsiPci implements Device, VirtioModel {
  readonly type: DeviceType;
  readonly part = 'virtio-backend';
  readonly id: string | undefined;
  readonly drive = undefined;
  readonly buses: Bus[] = [];
  readonly bus: PciBus;
  readonly deviceId = SCSI_DEVICE;
  readonly classCode = 0x0100;
  readonly features: number;
  readonly queues: number;
  readonly queueSize: number;
  readonly #options: Properties;
  readonly #pci: VirtioPci;
  readonly #scsi: ScsiBus;
  #devfn: number | undefined;
  #cdbBytes = DEFAULT_CDB;
  #senseBytes = DEFAULT_SENSE;
  #missedEvents = false;

  constructor(init: DeviceInit<Properties>) {
    this.type = init.type;
    this.id = init.id;
    assert(init.bus instanceof PciBus, 'virtio-scsi-pci is on a PCI bus');
    this.bus = init.bus;
    const { options } = init;
    this.#options = options;
    const requests = options.num_queues === 4294967295 ? 1 : options.num_queues;
    if (requests < 1 || requests > MAX_QUEUES) {
      throw new OptionError(`Invalid number of queues (= ${requests}), must be a positive integer`);
    }
    const size = options.virtqueue_size;
    if (size < 4 || size > MAX_QUEUE_SIZE || (size & (size - 1)) !== 0) {
      throw new OptionError(`invalid virtqueue_size property (= ${size}), must be a power of 2`);
    }
    this.queues = requests + FIRST_REQUEST_QUEUE;
    this.queueSize = size;
    this.features =
      VirtioFeature.anyLayout |
      (options.hotplug ? Feature.hotplug : 0) |
      (options.indirect_desc ? VirtioFeature.indirect : 0) |
      (options.event_idx ? VirtioFeature.eventIndex : 0);
    if (options['disable-modern'] && options['disable-legacy'] === 'on') {
      throw new OptionError('device cannot work as neither modern nor legacy mode is enabled');
    }
    this.#scsi = new ScsiBus({
      name: `${this.id ?? 'scsi'}.0`,
      maxChannel: 0,
      maxTarget: MAX_TARGET,
      maxLun: MAX_LUN,
      controllerPath: () => this.bus.pathOf(this.#devfn ?? 0, 'scsi'),
      changed: (place, isThere) => {
        this.#unitChanged(place, isThere);
      },
    });
    const vectors = options.vectors === 4294967295 ? this.queues + 1 : options.vectors;
    this.#pci = new VirtioPci(this, {
      vectors: Math.min(vectors, 128),
      hasLegacy: options['disable-legacy'] !== 'on',
      hasModern: !options['disable-modern'],
    });
  }

  async realize(): Promise<void> {
    this.#devfn = this.bus.take(this.#options.addr, this.type.name, this.#pci.fn);
    this.buses.push(this.#scsi);
  }

  // --- virtio

  config(): Uint8Array {
    const out = new Uint8Array(CONFIG_BYTES);
    const view = new DataView(out.buffer);
    view.setUint32(0, this.queues - FIRST_REQUEST_QUEUE, true);
    view.setUint32(4, this.queueSize - 2, true);
    view.setUint32(8, this.#options.max_sectors, true);
    view.setUint32(12, this.#options.cmd_per_lun, true);
    view.setUint32(16, EVENT_BYTES, true);
    view.setUint32(SENSE_SIZE_AT, this.#senseBytes, true);
    view.setUint32(CDB_SIZE_AT, this.#cdbBytes, true);
    view.setUint16(30, MAX_TARGET, true);
    view.setUint32(32, MAX_LUN, true);
    return out;
  }

  writeConfig(offset: number, value: number): void {
    const raw = this.config();
    raw[offset] = value;
    const view = new DataView(raw.buffer);
    this.#senseBytes = Math.min(MAX_SENSE, view.getUint32(SENSE_SIZE_AT, true));
    this.#cdbBytes = Math.max(1, Math.min(MAX_CDB, view.getUint32(CDB_SIZE_AT, true)));
  }

  accepted(): void {
    // No feature of it needs anything.
  }

  kick(queue: number): void {
    // Buffers for events stay until there is something to tell.
    if (queue === EVENT_QUEUE) {
      if (this.#missedEvents) this.#event(0, undefined, 0);
      return;
    }
    this.#pci.serve(queue, (chain) =>
      queue === CONTROL_QUEUE ? Promise.resolve(this.#control(chain)) : this.#execute(chain),
    );
  }

  async #execute(chain: Chain): Promise<number> {
    const { memory } = this.#pci.fn;
    const command = scsiCommand(memory, chain, this.#cdbBytes, this.#senseBytes);
    const { address, cdb } = command;
    const unit =
      address === undefined ? undefined : tryTarget(this.#scsi, 0, address.target, address.lun);
    const none = new Uint8Array(0);
    if (unit === undefined) {
      const response = address === undefined ? ScsiResponse.incorrectLun : ScsiResponse.badTarget;
      return command.finish({ response, status: 0, bytes: 0, sense: none });
    }
    // Commands read bytes up to the sixteenth, however few the driver gives.
    const whole = new Uint8Array(Math.max(16, cdb.length));
    whole.set(cdb);
    const outcome = await unit.execute({ cdb: whole, out: command.out, in: command.in });
    const sense = outcome.sense === undefined ? none : senseData(outcome.sense);
    return command.finish({
      response: ScsiResponse.ok,
      status: outcome.status,
      bytes: outcome.bytes,
      sense,
    });
  }

  /** Task management and asynchronous notifications; gives the bytes that were written. */
  #control(chain: Chain): number {
    const { memory } = this.#pci.fn;
    const request = readChain(memory, chain, 24);
    if (request.length < 16) throw new VirtioError('a control request that is too short');
    const view = new DataView(request.buffer, request.byteOffset, request.byteLength);
    const type = view.getUint32(0, true);
    if (type !== TMF) {
      // No notification exists that could be asked for.
      return writeChain(memory, chain, Uint8Array.of(0, 0, 0, 0, ScsiResponse.ok));
    }
    const response = this.#manage(view.getUint32(4, true), scsiAddress(request.subarray(8)));
    return writeChain(memory, chain, Uint8Array.of(response));
  }

  #manage(subtype: number, address: { target: number; lun: number } | undefined): number {
    if (address === undefined) return ScsiResponse.incorrectLun;
    const luns = this.#scsi.luns(0, address.target);
    if (luns.length === 0) return ScsiResponse.badTarget;
    if (subtype === 4) {
      for (const lun of luns) this.#scsi.tryUnit(0, address.target, lun)?.reset();
      return ScsiResponse.ok;
    }
    const unit = this.#scsi.tryUnit(0, address.target, address.lun);
    if (unit === undefined) return ScsiResponse.incorrectLun;
    // Commands that are under way end by themselves; only those that wait for the guest to go on
    // are given up.
    if (subtype === 5) unit.reset();
    return RESET_FUNCTIONS.has(subtype) || subtype === 6 || subtype === 7
      ? ScsiResponse.ok
      : ScsiResponse.functionRejected;
  }

  #unitChanged({ target, lun }: ScsiPlace, isThere: boolean): void {
    if (!this.#options.hotplug || this.#devfn === undefined) return;
    const reason = isThere ? RESET_RESCAN : RESET_REMOVED;
    this.#event(EVENT_TRANSPORT_RESET, { target, lun }, reason);
  }

  /** Tells the driver of something, if it gave a buffer for that. */
  #event(
    event: number,
    address: { readonly target: number; readonly lun: number } | undefined,
    reason: number,
  ): void {
    const ring = this.#pci.ring(EVENT_QUEUE);
    if (ring === undefined) return;
    try {
      const chain = ring.pop();
      if (chain === undefined) {
        this.#missedEvents = true;
        return;
      }
      const data = new Uint8Array(EVENT_BYTES);
      const view = new DataView(data.buffer);
      view.setUint32(0, (event | (this.#missedEvents ? EVENTS_MISSED : 0)) >>> 0, true);
      if (address !== undefined) data.set(addressBytes(address), 4);
      view.setUint32(12, reason, true);
      this.#missedEvents = false;
      ring.push(chain, writeChain(this.#pci.fn.memory, chain, data));
      this.#pci.tell(EVENT_QUEUE);
    } catch (e) {
      if (!(e instanceof VirtioError)) throw e;
      this.#pci.fail();
    }
  }

  abandon(): void {
    this.#cdbBytes = DEFAULT_CDB;
    this.#senseBytes = DEFAULT_SENSE;
    this.#missedEvents = false;
    this.#scsi.reset();
  }

  // --- device

  pciSlot(): number | undefined {
    return this.#devfn === undefined ? undefined : this.#devfn >> 3;
  }

  reset(): void {
    this.#pci.reset();
  }

  async unrealize(): Promise<void> {
    this.#pci.abandon();
    if (this.#devfn !== undefined) this.bus.detach(this.#devfn);
    this.#devfn = undefined;
  }
}

export const virtioScsiPciDevice = declareDevice({
  name: 'virtio-scsi-pci',
  bus: 'PCI',
  category: 'storage',
  description: 'virtio SCSI controller',
  properties,
  hotpluggable: true,
  create: (init) => new VirtioScsiPci(init),
});
