/** `virtio-blk-pci`: a virtio block device on PCI (virtio 1.2, section 5.2). */
import type { Backend } from '../../block/backend.js';
import { assert } from '../../lib/assert.js';
import { writeU64 } from '../../lib/fields.js';
import { OptionError } from '../../options/option-error.js';
import type { Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';
import type { BlockTarget } from '../../virtio/block.js';
import { executeBlock, SECTOR } from '../../virtio/block.js';
import { MAX_QUEUE_SIZE } from '../../virtio/virtqueue.js';
import type { BlockSizes, Claim } from '../bus/block-properties.js';
import {
  attachBackend,
  blockProperties,
  blockSizes,
  diskGeometry,
  errorProperties,
  geometryProperties,
} from '../bus/block-properties.js';
import type { Device, DeviceInit, DeviceType } from '../bus/device.js';
import { declareDevice } from '../bus/device.js';
import type { Drive } from '../bus/drive.js';
import { Abandoned, fixedUser } from '../bus/drive.js';
import type { Geometry } from '../bus/geometry.js';
import { parseDevfn, PciBus } from '../bus/pci/bus.js';
import type { VirtioModel } from '../bus/virtio/pci.js';
import { VirtioFeature, VirtioPci } from '../bus/virtio/pci.js';

const BLOCK_DEVICE = 2;
const CONFIG_BYTES = 60;
const WRITE_CACHE_AT = 32;
/** Greatest DISCARD and WRITE ZEROES: what a 32-bit count of bytes holds, in sectors. */
const MAX_SECTORS = 0x3f_ffff;
const MAX_QUEUES = 127;

const Feature = {
  segMax: 1 << 2,
  geometry: 1 << 4,
  readOnly: 1 << 5,
  blockSize: 1 << 6,
  flush: 1 << 9,
  topology: 1 << 10,
  configWce: 1 << 11,
  multiQueue: 1 << 12,
  discard: 1 << 13,
  writeZeroes: 1 << 14,
} as const;

const onOffAuto = { name: 'OnOffAuto' } as const;

const properties = t.struct('virtio-blk-pci', {
  ...blockProperties,
  ...errorProperties,
  ...geometryProperties,
  addr: t.optional(t.str({ doc: 'slot and function, hexadecimal: 04.0' })),
  serial: t.optional(t.str({ doc: 'serial number, at most 20 characters' })),
  'config-wce': t.bool({ default: true, doc: 'the guest may switch the write cache' }),
  'num-queues': t.uint({ bits: 16 }, { default: 65535, doc: 'queues; 65535: one' }),
  'queue-size': t.uint({ bits: 16 }, { default: 256, doc: 'entries of a queue, a power of two' }),
  discard: t.bool({ default: true }),
  'write-zeroes': t.bool({ default: true }),
  'max-discard-sectors': t.uint({ bits: 32 }, { default: MAX_SECTORS }),
  'max-write-zeroes-sectors': t.uint({ bits: 32 }, { default: MAX_SECTORS }),
  'request-merging': t.bool({ default: true, doc: 'accepted: the engine gathers requests' }),
  'seg-max-adjust': t.bool({ default: true }),
  iothread: t.optional(t.str({ doc: 'accepted: there is one loop' })),
  ioeventfd: t.bool({ default: true, doc: 'accepted' }),
  vectors: t.uint({ bits: 32 }, { default: 4294967295, doc: 'MSI-X vectors; default: queues + 1' }),
  'disable-legacy': t.enumOf('auto', 'on', 'off', { ...onOffAuto, default: 'auto' }),
  'disable-modern': t.bool({ default: false }),
  indirect_desc: t.bool({ default: true }),
  event_idx: t.bool({ default: true }),
});

type Properties = Infer<typeof properties>;

class VirtioBlkPci implements Device, VirtioModel {
  readonly type: DeviceType;
  readonly part = 'virtio-backend';
  readonly id: string | undefined;
  readonly buses = [];
  readonly bootindex: number;
  readonly bus: PciBus;
  readonly deviceId = BLOCK_DEVICE;
  readonly classCode = 0x0100;
  readonly queueSize: number;
  readonly queues: number;
  features = 0;
  readonly #init: DeviceInit<Properties>;
  #drive: Drive | undefined;
  #pci: VirtioPci | undefined;
  #devfn: number | undefined;
  #target: BlockTarget | undefined;
  #sizes: BlockSizes | undefined;
  #geometry: Geometry | undefined;

  constructor(init: DeviceInit<Properties>) {
    this.#init = init;
    this.type = init.type;
    this.id = init.id;
    this.bootindex = init.options.bootindex;
    assert(init.bus instanceof PciBus, 'virtio-blk-pci is on a PCI bus');
    this.bus = init.bus;
    const { 'num-queues': queues, 'queue-size': size } = init.options;
    this.queues = queues === 65535 ? 1 : queues;
    this.queueSize = size;
    if (this.queues < 1 || this.queues > MAX_QUEUES) {
      throw new OptionError(`num-queues property must be between 1 and ${MAX_QUEUES}`);
    }
    if (size < 4 || size > MAX_QUEUE_SIZE || (size & (size - 1)) !== 0) {
      throw new OptionError(
        `invalid queue-size property (${size}), must be a power of 2 (max ${MAX_QUEUE_SIZE})`,
      );
    }
  }

  get drive(): Drive | undefined {
    return this.#drive;
  }

  async realize(): Promise<void> {
    const { options, context } = this.#init;
    if (options.drive === undefined) throw new OptionError('drive property not set');
    if (options['disable-modern'] && options['disable-legacy'] === 'on') {
      throw new OptionError('device cannot work as neither modern nor legacy mode is enabled');
    }
    const addr = options.addr === undefined ? undefined : parseDevfn(options.addr, this.type.name);
    const devfn = this.bus.place(addr, this.type.name);
    await attachBackend(context, options, (backend, claim) => this.#attach(backend, claim, devfn));
  }

  async #attach(backend: Backend, claim: Claim, devfn: number): Promise<void> {
    const { options } = this.#init;
    if (!backend.isInserted) throw new OptionError('Device needs media, but drive is empty');
    const sizes = blockSizes(options);
    const isReadOnly = backend.node.staysReadOnly;
    // The disk proper is a part of the device on the bus.
    const path = `${this.#init.qomPath}/${this.part}`;
    const drive = await claim({
      user: fixedUser({ qdev: path, qomPath: path }),
      isReadOnly,
      resized: () => {
        this.#pci?.configChanged();
      },
    });
    this.#drive = drive;
    this.#sizes = sizes;
    this.#geometry = await diskGeometry(options, maxGeometry, backend);
    this.#target = {
      disk: drive,
      serial: options.serial ?? '',
      blockBytes: sizes.logical,
      maxDiscardSectors: options.discard ? options['max-discard-sectors'] : undefined,
      maxZeroSectors: options['write-zeroes'] ? options['max-write-zeroes-sectors'] : undefined,
    };
    this.features = this.#offer(isReadOnly);
    const vectors = options.vectors === 4294967295 ? this.queues + 1 : options.vectors;
    this.#pci = new VirtioPci(this, {
      vectors: Math.min(vectors, 128),
      hasLegacy: options['disable-legacy'] !== 'on',
      hasModern: !options['disable-modern'],
    });
    this.#devfn = devfn;
    this.bus.attach(devfn, this.#pci.fn);
  }

  #offer(isReadOnly: boolean): number {
    const { options } = this.#init;
    return (
      VirtioFeature.anyLayout |
      Feature.segMax |
      Feature.geometry |
      Feature.blockSize |
      Feature.flush |
      Feature.topology |
      (options['config-wce'] ? Feature.configWce : 0) |
      (this.queues > 1 ? Feature.multiQueue : 0) |
      (options.discard ? Feature.discard : 0) |
      (options['write-zeroes'] ? Feature.writeZeroes : 0) |
      (isReadOnly ? Feature.readOnly : 0) |
      (options.indirect_desc ? VirtioFeature.indirect : 0) |
      (options.event_idx ? VirtioFeature.eventIndex : 0)
    );
  }

  // --- virtio

  config(): Uint8Array {
    const out = new Uint8Array(CONFIG_BYTES);
    const view = new DataView(out.buffer);
    const { options } = this.#init;
    const drive = this.#drive;
    const sizes = this.#sizes;
    const geometry = this.#geometry;
    if (drive === undefined || sizes === undefined || geometry === undefined) return out;
    writeU64(view, 0, Math.floor(drive.bytes / SECTOR), true);
    view.setUint32(12, options['seg-max-adjust'] ? this.queueSize - 2 : 126, true);
    view.setUint16(16, geometry.cylinders, true);
    out[18] = geometry.heads;
    out[19] = geometry.sectors;
    view.setUint32(20, sizes.logical, true);
    out[24] = Math.log2(sizes.physical / sizes.logical);
    view.setUint16(26, sizes.minIo / sizes.logical, true);
    view.setUint32(28, sizes.optIo / sizes.logical, true);
    out[WRITE_CACHE_AT] = drive.backend.writeCache ? 1 : 0;
    view.setUint16(34, this.queues, true);
    if (options.discard) {
      view.setUint32(36, options['max-discard-sectors'], true);
      view.setUint32(40, 1, true);
      view.setUint32(44, (sizes.discardGranularity ?? sizes.logical) / SECTOR, true);
    }
    if (options['write-zeroes']) {
      view.setUint32(48, options['max-write-zeroes-sectors'], true);
      view.setUint32(52, 1, true);
      out[56] = 1;
    }
    return out;
  }

  writeConfig(offset: number, value: number): void {
    if (offset !== WRITE_CACHE_AT || !this.#init.options['config-wce']) return;
    if (this.#drive !== undefined) this.#drive.backend.writeCache = (value & 1) !== 0;
  }

  accepted(features: number): void {
    // A driver that does not flush has to find its data durable.
    const backend = this.#drive?.backend;
    if (backend === undefined || (features & Feature.configWce) !== 0) return;
    if ((features & Feature.flush) === 0) backend.writeCache = false;
  }

  kick(queue: number): void {
    const pci = this.#pci;
    const target = this.#target;
    if (pci === undefined || target === undefined) return;
    pci.serve(queue, (chain) => executeBlock(pci.fn.memory, chain, target, isGivenUp));
  }

  abandon(): void {
    this.#drive?.abandon();
  }

  // --- device

  reset(): void {
    this.#pci?.reset();
  }

  pciSlot(): number | undefined {
    return this.#devfn === undefined ? undefined : this.#devfn >> 3;
  }

  firmwarePath(): string {
    return `${this.bus.pathOf(this.#devfn ?? 0, 'scsi')}/disk@0,0`;
  }

  logicalGeometry(): readonly [number, number, number] | undefined {
    const { lcyls, lheads, lsecs } = this.#init.options;
    return lcyls === 0 && lheads === 0 && lsecs === 0 ? undefined : [lcyls, lheads, lsecs];
  }

  async unrealize(): Promise<void> {
    this.#pci?.abandon();
    if (this.#devfn !== undefined) this.bus.detach(this.#devfn);
    this.#devfn = undefined;
    this.#pci = undefined;
    await this.#drive?.release();
    this.#drive = undefined;
  }
}

const maxGeometry = { cylinders: 65535, heads: 255, sectors: 255 };

function isGivenUp(e: unknown): boolean {
  return e instanceof Abandoned;
}

export const virtioBlkPciDevice = declareDevice({
  name: 'virtio-blk-pci',
  bus: 'PCI',
  category: 'storage',
  description: 'virtio block device',
  properties,
  hotpluggable: true,
  create: (init) => new VirtioBlkPci(init),
});
