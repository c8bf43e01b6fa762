/**
 * virtio over PCI (virtio 1.2, section 4.1): the legacy registers in BAR 0, MSI-X in BAR 1, the
 * modern structures in BAR 4, each found by its capability.
 */
import { assert } from '../../../lib/assert.js';
import type { Chain, QueuePlace } from '../../../virtio/virtqueue.js';
import { MAX_QUEUE_SIZE, VirtioError, Virtqueue } from '../../../virtio/virtqueue.js';
import { Abandoned } from '../drive.js';
import { Msix } from '../pci/msix.js';
import { PciFunction } from '../pci/function.js';
import type { AccessSize, IoRegion } from '../space.js';

const VENDOR = 0x1af4;
const STATUS_FEATURES_OK = 8;
const STATUS_NEEDS_RESET = 0x40;
const STATUS_DRIVER_OK = 4;
const ISR_QUEUE = 1;
const ISR_CONFIG = 2;
const NO_VECTOR = 0xffff;
/** Offsets of the modern structures in BAR 4. */
const COMMON = 0;
const ISR = 0x1000;
const DEVICE = 0x2000;
const NOTIFY = 0x3000;
const MODERN_BYTES = 0x4000;
const NOTIFY_STEP = 4;
const LEGACY_BYTES = 128;
const LEGACY_PAGE = 4096;
/**
 * Bytes that requests in flight may describe, but for the last of them; others wait in the queue.
 * Memory that is no plain RAM is copied meanwhile.
 */
const MOST_IN_FLIGHT = 64 * 1024 * 1024;
/** PCI device numbers of transitional devices, by device type (4.1.2.1). */
const transitionalIds: Readonly<Record<number, number>> = { 2: 0x1001, 8: 0x1004 };
/** Bits of all devices. */
export const VirtioFeature = {
  anyLayout: 1 << 27,
  indirect: 1 << 28,
  eventIndex: 1 << 29,
} as const;
/** Bit 32, in the upper word. */
const HIGH_VERSION_1 = 1;

/** What a kind of virtio device says and does. */
export interface VirtioModel {
  /** Number of the device type: 2 is block. */
  readonly deviceId: number;
  readonly classCode: number;
  /** Feature bits 0 to 31 that are offered. */
  readonly features: number;
  readonly queues: number;
  readonly queueSize: number;
  /** Configuration space, as it is now. */
  config(): Uint8Array;
  /** The driver writes a byte of it. */
  writeConfig(offset: number, value: number): void;
  /** The driver has looked at the features and taken these (bits 0 to 31). */
  accepted(features: number): void;
  /** Something may be in this queue. */
  kick(queue: number): void;
  /** A reset: requests in flight are given up; their queues are gone. */
  abandon(): void;
}

export interface VirtioPciInit {
  readonly vectors: number;
  readonly hasLegacy: boolean;
  readonly hasModern: boolean;
}

interface QueueState {
  size: number;
  enabled: boolean;
  vector: number;
  /** Page number of a legacy queue. */
  pfn: number;
  readonly words: [number, number, number, number, number, number];
  ring: Virtqueue | undefined;
}

export class VirtioPci {
  readonly fn: PciFunction;
  readonly #model: VirtioModel;
  readonly #msix: Msix | undefined;
  readonly #queues: QueueState[];
  readonly #offered: readonly [number, number];
  #accepted: [number, number] = [0, 0];
  #status = 0;
  #isr = 0;
  #generation = 0;
  #configVector = NO_VECTOR;
  #select = 0;
  #featureSelect = 0;
  #driverFeatureSelect = 0;
  #isModern = false;
  /** Tells what was begun before a reset from what was begun later. */
  #epoch = 0;
  /** Bytes of requests that have not ended, those that resets gave up included. */
  #inFlight = 0;
  /** Queues that got something back of which the driver was not told. */
  readonly #pushed = new Set<number>();

  constructor(model: VirtioModel, init: VirtioPciInit) {
    const { hasLegacy, hasModern } = init;
    assert(hasLegacy || hasModern, 'a device without an interface');
    this.#model = model;
    const transitional = transitionalIds[model.deviceId] ?? 0;
    assert(!hasLegacy || transitional > 0, 'a legacy device without a number');
    this.fn = new PciFunction({
      vendor: VENDOR,
      device: hasLegacy ? transitional : 0x1040 + model.deviceId,
      classCode: model.classCode,
      revision: hasLegacy ? 0 : 1,
      subsystemVendor: VENDOR,
      subsystem: hasLegacy ? model.deviceId : 0x1100,
      interruptPin: 1,
    });
    this.#offered = [model.features, hasModern ? HIGH_VERSION_1 : 0];
    this.#queues = Array.from({ length: model.queues }, () => ({
      size: model.queueSize,
      enabled: false,
      vector: NO_VECTOR,
      pfn: 0,
      words: [0, 0, 0, 0, 0, 0],
      ring: undefined,
    }));
    if (hasLegacy) this.fn.addBar(0, { kind: 'io', region: this.#legacy });
    if (hasModern) this.#addModern();
    this.#msix = init.vectors > 0 ? new Msix(this.fn, 1, init.vectors) : undefined;
    this.fn.onConfigWrite = (offset, bytes): void => {
      this.#msix?.update();
      this.#configAccess(offset, bytes, false);
    };
    this.fn.onConfigRead = (offset, bytes): void => {
      this.#configAccess(offset, bytes, true);
    };
  }

  /** The ring of a queue that the driver switched on. */
  ring(queue: number): Virtqueue | undefined {
    return (this.#status & STATUS_DRIVER_OK) === 0 ? undefined : this.#queues[queue]?.ring;
  }

  /**
   * Tells the driver of what was pushed to a queue, if it wants to hear of it: once for all that
   * ends with this request in one go.
   */
  tell(queue: number): void {
    const pushed = this.#pushed;
    if (pushed.has(queue)) return;
    pushed.add(queue);
    if (pushed.size === 1) queueMicrotask(this.#tellAll);
  }

  readonly #tellAll = (): void => {
    const queues = [...this.#pushed];
    this.#pushed.clear();
    for (const queue of queues) {
      const state = this.#queues[queue];
      if (state?.ring?.shouldTell() === true) this.#interrupt(ISR_QUEUE, state.vector);
    }
  };

  /** The configuration changed. */
  configChanged(): void {
    if ((this.#status & STATUS_DRIVER_OK) === 0) return;
    this.#generation = (this.#generation + 1) & 0xff;
    this.#interrupt(ISR_CONFIG | ISR_QUEUE, this.#configVector);
  }

  /** The driver broke the rules: nothing works until it resets the device. */
  fail(): void {
    this.#epoch++;
    for (const queue of this.#queues) queue.ring = undefined;
    if (!this.#isModern) return;
    this.configChanged();
    this.#status |= STATUS_NEEDS_RESET;
  }

  /**
   * Begins all requests of a queue that are there, and gives each back when `execute` is done with
   * it; what that resolves to is the number of bytes that the driver hears were written. A driver
   * that breaks the queue's rules, here or by a VirtioError of `execute`, has to reset the device.
   */
  serve(queue: number, execute: (chain: Chain) => Promise<number>): void {
    const ring = this.ring(queue);
    if (ring === undefined) return;
    try {
      while (this.#inFlight < MOST_IN_FLIGHT) {
        const chain = ring.pop();
        if (chain === undefined) return;
        this.#start(queue, ring, chain, execute(chain));
      }
    } catch (e) {
      if (!(e instanceof VirtioError)) throw e;
      this.fail();
    }
  }

  #start(queue: number, ring: Virtqueue, chain: Chain, done: Promise<number>): void {
    const epoch = this.#epoch;
    const bytes = Math.min(chain.bytes, MOST_IN_FLIGHT);
    this.#inFlight += bytes;
    done.then(
      (written) => {
        const wasFull = ring.out >= ring.size;
        if (epoch === this.#epoch) {
          ring.push(chain, written);
          this.tell(queue);
        }
        this.#ended(bytes);
        if (wasFull) this.#kick(queue);
      },
      (e: unknown) => {
        if (epoch === this.#epoch && !(e instanceof Abandoned)) this.fail();
        this.#ended(bytes);
      },
    );
  }

  /** A request ended, one that a reset gave up, too: others may have waited for its memory. */
  #ended(bytes: number): void {
    const wasFull = this.#inFlight >= MOST_IN_FLIGHT;
    this.#inFlight -= bytes;
    if (!wasFull || this.#inFlight >= MOST_IN_FLIGHT) return;
    for (let queue = 0; queue < this.#queues.length; queue++) this.#kick(queue);
  }

  /** The device goes: nothing is given back any more. */
  abandon(): void {
    this.#epoch++;
  }

  reset(): void {
    this.fn.reset();
    this.#msix?.reset();
    this.#resetDevice();
  }

  #resetDevice(): void {
    this.#epoch++;
    this.#model.abandon();
    this.#accepted = [0, 0];
    this.#status = 0;
    this.#isr = 0;
    this.#configVector = NO_VECTOR;
    this.#select = 0;
    this.#featureSelect = 0;
    this.#driverFeatureSelect = 0;
    this.#isModern = false;
    for (const queue of this.#queues) {
      queue.size = this.#model.queueSize;
      queue.enabled = false;
      queue.vector = NO_VECTOR;
      queue.pfn = 0;
      queue.words.fill(0);
      queue.ring = undefined;
    }
    this.fn.setIntx(false);
  }

  #interrupt(bits: number, vector: number): void {
    if (this.#msix?.isEnabled === true) {
      this.#isr |= bits;
      if (vector !== NO_VECTOR) this.#msix.notify(vector);
      return;
    }
    this.#isr |= bits;
    this.fn.setIntx(true);
  }

  #readIsr(): number {
    const value = this.#isr;
    this.#isr = 0;
    this.fn.setIntx(false);
    return value;
  }

  #setStatus(value: number): void {
    if (value === 0) {
      this.#resetDevice();
      return;
    }
    let next = value | (this.#status & STATUS_NEEDS_RESET);
    const wantsFeatures = (next & ~this.#status & STATUS_FEATURES_OK) !== 0;
    // A modern driver has to know that it is one.
    if (wantsFeatures && this.#isModern && (this.#accepted[1] & HIGH_VERSION_1) === 0) {
      next &= ~STATUS_FEATURES_OK;
    }
    const begins = (next & ~this.#status & STATUS_DRIVER_OK) !== 0;
    this.#status = next;
    if (!begins) return;
    this.#model.accepted(this.#accepted[0]);
    // Legacy drivers may fill queues before they say that they are ready.
    this.#queues.forEach((_queue, i) => {
      this.#model.kick(i);
    });
  }

  #setVector(vector: number): number {
    return vector < (this.#msix?.vectors ?? 0) ? vector : NO_VECTOR;
  }

  #kick(queue: number): void {
    if (queue < this.#queues.length && (this.#status & STATUS_DRIVER_OK) !== 0) {
      this.#model.kick(queue);
    }
  }

  #makeRing(place: QueuePlace): Virtqueue {
    return new Virtqueue(this.fn.memory, place, {
      indirect: (this.#accepted[0] & VirtioFeature.indirect) !== 0,
      eventIndex: (this.#accepted[0] & VirtioFeature.eventIndex) !== 0,
    });
  }

  // --- legacy (4.1.4.8)

  readonly #legacy: IoRegion = {
    name: 'virtio-legacy',
    bytes: LEGACY_BYTES,
    misaligned: true,
    read: (offset, size) => this.#readLegacy(offset, size),
    write: (offset, size, value) => {
      this.#writeLegacy(offset, size, value);
    },
  };

  get #legacyConfig(): number {
    return this.#msix?.isEnabled === true ? 24 : 20;
  }

  #readLegacy(offset: number, size: AccessSize): number {
    if (offset >= this.#legacyConfig) return this.#readDevice(offset - this.#legacyConfig, size);
    const queue = this.#queues[this.#select];
    switch (offset) {
      case 0:
        return this.#offered[0];
      case 4:
        return this.#accepted[0];
      case 8:
        return queue?.pfn ?? 0;
      case 12:
        return queue === undefined ? 0 : this.#model.queueSize;
      case 14:
        return this.#select;
      case 18:
        return this.#status;
      case 19:
        return this.#readIsr();
      case 20:
        return this.#configVector;
      case 22:
        return queue?.vector ?? NO_VECTOR;
      default:
        return 0;
    }
  }

  #writeLegacy(offset: number, size: AccessSize, value: number): void {
    if (offset >= this.#legacyConfig) {
      this.#writeDevice(offset - this.#legacyConfig, size, value);
      return;
    }
    const queue = this.#queues[this.#select];
    switch (offset) {
      case 4:
        this.#accepted = [(value & this.#offered[0]) >>> 0, 0];
        return;
      case 8:
        if (queue !== undefined) this.#placeLegacy(queue, value);
        return;
      case 14:
        this.#select = value & 0xffff;
        return;
      case 16:
        this.#kick(value & 0xffff);
        return;
      case 18:
        this.#setStatus(value & 0xff);
        return;
      case 20:
        this.#configVector = this.#setVector(value);
        return;
      case 22:
        if (queue !== undefined) queue.vector = this.#setVector(value);
        return;
      default:
    }
  }

  #placeLegacy(queue: QueueState, pfn: number): void {
    queue.pfn = pfn;
    if (pfn === 0) {
      queue.ring = undefined;
      return;
    }
    const descriptors = pfn * LEGACY_PAGE;
    const available = descriptors + 16 * queue.size;
    const end = available + 6 + 2 * queue.size;
    const used = Math.ceil(end / LEGACY_PAGE) * LEGACY_PAGE;
    queue.ring = this.#makeRing({ size: queue.size, descriptors, available, used });
  }

  // --- modern (4.1.4)

  #addModern(): void {
    const capability = (type: number, at: number, bytes: number, more: number[] = []): void => {
      const body = new Uint8Array(14 + more.length);
      const view = new DataView(body.buffer);
      body[0] = body.length + 2;
      body[1] = type;
      body[2] = 4;
      view.setUint32(6, at, true);
      view.setUint32(10, bytes, true);
      body.set(more, 14);
      const offset = this.fn.addCapability(0x09, body);
      if (type === 5) this.#window = offset;
    };
    capability(5, 0, 0, [0, 0, 0, 0]);
    this.fn.allow(this.#window + 4, 0xff, 1);
    this.fn.allow(this.#window + 8, 0xffff_ffff, 4);
    this.fn.allow(this.#window + 12, 0xffff_ffff, 4);
    this.fn.allow(this.#window + 16, 0xffff_ffff, 4);
    capability(2, NOTIFY, 0x1000, [NOTIFY_STEP, 0, 0, 0]);
    capability(4, DEVICE, 0x1000);
    capability(3, ISR, 0x1000);
    capability(1, COMMON, 0x1000);
    const region = this.#modern;
    this.fn.addBar(4, { kind: 'memory', region, is64: true, prefetchable: true });
  }

  readonly #modern: IoRegion = {
    name: 'virtio-modern',
    bytes: MODERN_BYTES,
    read: (offset, size) => this.#readModern(offset, size),
    write: (offset, size, value) => {
      this.#writeModern(offset, size, value);
    },
  };

  /** Offset of the capability through which BARs are reached by configuration cycles. */
  #window = 0;

  /** VIRTIO_PCI_CAP_PCI_CFG: an access to its data is one to the BAR (4.1.4.9). */
  #configAccess(offset: number, bytes: number, isRead: boolean): void {
    const at = this.#window;
    if (at === 0 || offset >= at + 20 || offset + bytes <= at + 16) return;
    const { config } = this.fn;
    const start = this.fn.get32(at + 8);
    const size = this.fn.get32(at + 12);
    if (config[at + 4] !== 4 || (size !== 1 && size !== 2 && size !== 4)) return;
    if (start % size !== 0 || start + size > MODERN_BYTES) return;
    if (isRead) {
      this.fn.set32(at + 16, this.#readModern(start, size));
      return;
    }
    const value = this.fn.get32(at + 16);
    this.#writeModern(start, size, size === 4 ? value : value & (size === 2 ? 0xffff : 0xff));
  }

  #readModern(offset: number, size: AccessSize): number {
    if (offset >= NOTIFY) return 0;
    if (offset >= DEVICE) return this.#readDevice(offset - DEVICE, size);
    if (offset >= ISR) return offset === ISR ? this.#readIsr() : 0;
    return this.#readCommon(offset);
  }

  #writeModern(offset: number, size: AccessSize, value: number): void {
    if (offset >= NOTIFY) this.#kick(Math.floor((offset - NOTIFY) / NOTIFY_STEP));
    else if (offset >= DEVICE) this.#writeDevice(offset - DEVICE, size, value);
    else if (offset < ISR) this.#writeCommon(offset, value);
  }

  #readCommon(offset: number): number {
    const queue = this.#queues[this.#select];
    const words = queue?.words;
    switch (offset) {
      case 0x00:
        return this.#featureSelect;
      case 0x04:
        return this.#offered[this.#featureSelect] ?? 0;
      case 0x08:
        return this.#driverFeatureSelect;
      case 0x0c:
        return this.#accepted[this.#driverFeatureSelect] ?? 0;
      case 0x10:
        return this.#configVector;
      case 0x12:
        return this.#queues.length;
      case 0x14:
        return this.#status;
      case 0x15:
        return this.#generation;
      case 0x16:
        return this.#select;
      case 0x18:
        return queue?.size ?? 0;
      case 0x1a:
        return queue?.vector ?? NO_VECTOR;
      case 0x1c:
        return queue?.enabled === true ? 1 : 0;
      case 0x1e:
        return this.#select;
      default:
        return words?.[(offset - 0x20) / 4] ?? 0;
    }
  }

  #writeCommon(offset: number, value: number): void {
    this.#isModern = true;
    const queue = this.#queues[this.#select];
    switch (offset) {
      case 0x00:
        this.#featureSelect = value;
        return;
      case 0x08:
        this.#driverFeatureSelect = value;
        return;
      case 0x0c: {
        const word = this.#driverFeatureSelect;
        if (word > 1 || (this.#status & STATUS_FEATURES_OK) !== 0) return;
        this.#accepted[word] = (value & (this.#offered[word] ?? 0)) >>> 0;
        return;
      }
      case 0x10:
        this.#configVector = this.#setVector(value);
        return;
      case 0x14:
        this.#setStatus(value & 0xff);
        return;
      case 0x16:
        this.#select = value & 0xffff;
        return;
      default:
        if (queue !== undefined) this.#writeQueue(queue, offset, value);
    }
  }

  #writeQueue(queue: QueueState, offset: number, value: number): void {
    switch (offset) {
      case 0x18: {
        const isPower = value > 0 && (value & (value - 1)) === 0;
        const most = Math.min(this.#model.queueSize, MAX_QUEUE_SIZE);
        if (isPower && value <= most && !queue.enabled) queue.size = value;
        return;
      }
      case 0x1a:
        queue.vector = this.#setVector(value);
        return;
      case 0x1c: {
        if ((value & 0xffff) !== 1 || queue.enabled) return;
        queue.enabled = true;
        const [d0, d1, a0, a1, u0, u1] = queue.words;
        queue.ring = this.#makeRing({
          size: queue.size,
          descriptors: d0 + d1 * 2 ** 32,
          available: a0 + a1 * 2 ** 32,
          used: u0 + u1 * 2 ** 32,
        });
        return;
      }
      default: {
        const word = (offset - 0x20) / 4;
        if (!queue.enabled && Number.isInteger(word) && word >= 0 && word < 6) {
          queue.words[word] = value >>> 0;
        }
      }
    }
  }

  // --- the device's own configuration

  #readDevice(offset: number, size: AccessSize): number {
    const config = this.#model.config();
    let value = 0;
    for (let i = 0; i < size; i++) value += (config[offset + i] ?? 0) * 2 ** (8 * i);
    return value;
  }

  #writeDevice(offset: number, size: AccessSize, value: number): void {
    for (let i = 0; i < size; i++) this.#model.writeConfig(offset + i, (value >>> (8 * i)) & 0xff);
  }
}
