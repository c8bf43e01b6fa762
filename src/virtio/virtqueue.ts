/**
 * A split virtqueue from the device's side (virtio 1.2, section 2.7).
 *
 * Invariants
 *  V1  A chain has at most MAX_CHAIN descriptors, each of at least one byte, readable ones before
 *      writable ones; indirect tables do not nest. Anything else is a VirtioError, after which
 *      the queue gives nothing until it is reset.
 *  V2  No more chains are out than the queue has entries.
 *  V3  What the device writes it writes before the used index that tells of it.
 */
import type { GuestMemory, GuestRange } from '../host/guest-memory.js';

/** Largest queue that the standard allows here, and the longest chain. */
export const MAX_QUEUE_SIZE = 1024;
const MAX_CHAIN = 1024;

const DESC_NEXT = 1;
const DESC_WRITE = 2;
const DESC_INDIRECT = 4;
const AVAIL_NO_INTERRUPT = 1;
const DESC_BYTES = 16;

/** The driver broke the rules of the queue; the device has to be reset. */
export class VirtioError extends Error {
  override readonly name = 'VirtioError';
}

/** A request: what the device reads, and what it writes. */
export interface Chain {
  readonly head: number;
  readonly readable: readonly GuestRange[];
  readonly writable: readonly GuestRange[];
  /** Length of all of them. */
  readonly bytes: number;
}

/** Little-endian numbers in guest memory, in RAM where it stands or by copies. */
class Numbers {
  readonly #memory: GuestMemory;
  readonly #base: number;
  readonly #view: DataView | undefined;
  readonly #scratch = new Uint8Array(8);
  readonly #scratchView = new DataView(this.#scratch.buffer);

  constructor(memory: GuestMemory, base: number, bytes: number) {
    this.#memory = memory;
    this.#base = base;
    const ram = memory.tryView(base, bytes);
    this.#view = ram && new DataView(ram.buffer, ram.byteOffset, ram.byteLength);
  }

  get16(at: number): number {
    if (this.#view !== undefined) return this.#view.getUint16(at, true);
    this.#memory.read(this.#base + at, this.#scratch.subarray(0, 2));
    return this.#scratchView.getUint16(0, true);
  }

  get32(at: number): number {
    if (this.#view !== undefined) return this.#view.getUint32(at, true);
    this.#memory.read(this.#base + at, this.#scratch.subarray(0, 4));
    return this.#scratchView.getUint32(0, true);
  }

  get64(at: number): number {
    return this.get32(at) + this.get32(at + 4) * 2 ** 32;
  }

  set16(at: number, value: number): void {
    if (this.#view !== undefined) {
      this.#view.setUint16(at, value, true);
      return;
    }
    this.#scratchView.setUint16(0, value, true);
    this.#memory.write(this.#base + at, this.#scratch.subarray(0, 2));
  }

  set32(at: number, value: number): void {
    if (this.#view !== undefined) {
      this.#view.setUint32(at, value, true);
      return;
    }
    this.#scratchView.setUint32(0, value, true);
    this.#memory.write(this.#base + at, this.#scratch.subarray(0, 4));
  }
}

/** Where a driver put the parts of a queue. */
export interface QueuePlace {
  readonly size: number;
  readonly descriptors: number;
  readonly available: number;
  readonly used: number;
}

export interface QueueFeatures {
  readonly indirect: boolean;
  readonly eventIndex: boolean;
}

export class Virtqueue {
  readonly size: number;
  readonly #memory: GuestMemory;
  readonly #features: QueueFeatures;
  readonly #descriptors: Numbers;
  readonly #available: Numbers;
  readonly #used: Numbers;
  #nextAvailable = 0;
  #nextUsed = 0;
  /** Used index up to which the driver was told. */
  #told = 0;
  #out = 0;
  #broken = false;

  constructor(memory: GuestMemory, place: QueuePlace, features: QueueFeatures) {
    this.size = place.size;
    this.#memory = memory;
    this.#features = features;
    this.#descriptors = new Numbers(memory, place.descriptors, DESC_BYTES * place.size);
    this.#available = new Numbers(memory, place.available, 6 + 2 * place.size);
    this.#used = new Numbers(memory, place.used, 6 + 8 * place.size);
  }

  /** Requests that were taken and not given back. */
  get out(): number {
    return this.#out;
  }

  /** The next request; undefined: there is none (now). Throws VirtioError. */
  pop(): Chain | undefined {
    if (this.#broken || this.#out >= this.size) return undefined;
    let index = this.#available.get16(2);
    if (index === this.#nextAvailable) {
      if (!this.#features.eventIndex) return undefined;
      // Asks to be told of the next one, and looks once more.
      this.#used.set16(4 + 8 * this.size, this.#nextAvailable);
      index = this.#available.get16(2);
      if (index === this.#nextAvailable) return undefined;
    }
    try {
      if (((index - this.#nextAvailable) & 0xffff) > this.size) {
        throw new VirtioError('the index of available requests is too far ahead');
      }
      const head = this.#available.get16(4 + 2 * (this.#nextAvailable % this.size));
      if (head >= this.size) throw new VirtioError('there is no such descriptor');
      const chain = this.#follow(head);
      this.#nextAvailable = (this.#nextAvailable + 1) & 0xffff;
      this.#out++;
      return chain;
    } catch (e) {
      this.#broken = true;
      throw e;
    }
  }

  #follow(head: number): Chain {
    const readable: GuestRange[] = [];
    const writable: GuestRange[] = [];
    let table = this.#descriptors;
    let entries = this.size;
    let isIndirect = false;
    let total = 0;
    for (let at = head, seen = 0; ;) {
      const base = DESC_BYTES * at;
      const address = table.get64(base);
      const bytes = table.get32(base + 8);
      const flags = table.get16(base + 12);
      if ((flags & DESC_INDIRECT) !== 0) {
        if (isIndirect || !this.#features.indirect || seen > 0) {
          throw new VirtioError('an indirect descriptor where none may be');
        }
        if (bytes === 0 || bytes % DESC_BYTES !== 0 || bytes / DESC_BYTES > MAX_CHAIN) {
          throw new VirtioError('an indirect table of a wrong length');
        }
        isIndirect = true;
        entries = bytes / DESC_BYTES;
        table = new Numbers(this.#memory, address, bytes);
        at = 0;
        continue;
      }
      if (++seen > Math.min(MAX_CHAIN, entries)) throw new VirtioError('a chain without end');
      if (bytes === 0) throw new VirtioError('a descriptor of no bytes');
      if ((flags & DESC_WRITE) !== 0) writable.push({ address, bytes });
      else if (writable.length > 0) {
        throw new VirtioError('a readable descriptor behind a writable one');
      } else readable.push({ address, bytes });
      total += bytes;
      if ((flags & DESC_NEXT) === 0) return { head, readable, writable, bytes: total };
      at = table.get16(base + 14);
      if (at >= entries) throw new VirtioError('there is no such descriptor');
    }
  }

  /** Gives a request back of which `written` bytes were written. */
  push(chain: Chain, written: number): void {
    this.#out--;
    const at = 4 + 8 * (this.#nextUsed % this.size);
    this.#used.set32(at, chain.head);
    this.#used.set32(at + 4, written);
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
    this.#used.set16(2, this.#nextUsed);
  }

  /** Whether the driver wants to hear of what was pushed since the last time. */
  shouldTell(): boolean {
    const from = this.#told;
    this.#told = this.#nextUsed;
    if (from === this.#nextUsed) return false;
    if (!this.#features.eventIndex) return (this.#available.get16(0) & AVAIL_NO_INTERRUPT) === 0;
    const event = this.#available.get16(4 + 2 * this.size);
    const sinceEvent = (this.#nextUsed - event - 1) & 0xffff;
    return sinceEvent < ((this.#nextUsed - from) & 0xffff);
  }
}

/** The part of a list of ranges from byte `start` on, `bytes` long. */
export function sliceRanges(
  ranges: readonly GuestRange[],
  start: number,
  bytes: number,
): GuestRange[] {
  const out: GuestRange[] = [];
  let skip = start;
  let left = bytes;
  for (const range of ranges) {
    if (left === 0) break;
    if (skip >= range.bytes) {
      skip -= range.bytes;
      continue;
    }
    const length = Math.min(range.bytes - skip, left);
    out.push({ address: range.address + skip, bytes: length });
    skip = 0;
    left -= length;
  }
  return out;
}

/** Sum of the lengths. */
export function rangeBytes(ranges: readonly GuestRange[]): number {
  let bytes = 0;
  for (const range of ranges) bytes += range.bytes;
  return bytes;
}
