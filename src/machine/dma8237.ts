/**
 * The two 8237A DMA controllers of a PC and their page registers (Intel 8237A data sheet; ISA
 * wiring): channels 0 to 3 move bytes, 5 to 7 words, 4 joins the two.
 *
 * Invariants
 *  D1  A channel's address stays inside its page of 64 KiB (128 KiB for words): it wraps around.
 *  D2  Only devices move data, and only as much as the count says; nothing moves by itself.
 */
import type { DmaChannel, DmaMoved } from '../device/bus/dma.js';
import type { IoRegion, IoSpace } from '../device/bus/space.js';
import type { GuestMemory } from '../host/guest-memory.js';

const CHANNELS = 4;
/** Command register: the controller is off. */
const DISABLED = 0x04;
const MODE_WRITE = 1;
const MODE_READ = 2;
const MODE_AUTO = 0x10;
const MODE_DOWN = 0x20;

/** Which channel of a controller each page register belongs to, by port from 0x80 on. */
const pagePorts: readonly (number | undefined)[] = [
  undefined,
  2,
  3,
  1,
  undefined,
  undefined,
  undefined,
  0,
];

class Channel implements DmaChannel {
  page = 0;
  mode = 0;
  isMasked = true;
  baseAddress = 0;
  baseCount = 0;
  address = 0;
  count = 0;
  #waiting: (() => void) | undefined;
  readonly #controller: Controller;
  readonly #number: number;

  constructor(controller: Controller, number: number) {
    this.#controller = controller;
    this.#number = number;
  }

  get isReady(): boolean {
    return !this.isMasked && !this.#controller.isDisabled;
  }

  get isWaiting(): boolean {
    return this.#waiting !== undefined;
  }

  await(go: (() => void) | undefined): void {
    this.#waiting = go;
    this.wake();
  }

  /** Lets whoever waits go on, if the channel is open now. */
  wake(): void {
    const go = this.#waiting;
    if (go === undefined || !this.isReady) return;
    this.#waiting = undefined;
    go();
  }

  give(data: Uint8Array): DmaMoved {
    const writes = ((this.mode >> 2) & 3) === MODE_WRITE;
    return this.#move(data.length, (at, place) => {
      if (writes) this.#controller.memory.write(at, data.subarray(place, place + 1));
    });
  }

  take(out: Uint8Array): DmaMoved {
    const reads = ((this.mode >> 2) & 3) === MODE_READ;
    if (!reads) out.fill(0);
    return this.#move(out.length, (at, place) => {
      if (reads) this.#controller.memory.read(at, out.subarray(place, place + 1));
    });
  }

  #move(bytes: number, each: (address: number, place: number) => void): DmaMoved {
    const { width } = this.#controller;
    const base = (this.page & (width === 2 ? 0xfe : 0xff)) * 0x1_0000;
    const step = (this.mode & MODE_DOWN) !== 0 ? 0xffff : 1;
    let moved = 0;
    while (moved + width <= bytes && this.isReady) {
      for (let i = 0; i < width; i++) each(base + this.address * width + i, moved + i);
      moved += width;
      this.address = (this.address + step) & 0xffff;
      this.count = (this.count - 1) & 0xffff;
      if (this.count === 0xffff) {
        this.#end();
        return { bytes: moved, isDone: true };
      }
    }
    return { bytes: moved, isDone: false };
  }

  /** Terminal count. */
  #end(): void {
    this.#controller.ended(this.#number);
    if ((this.mode & MODE_AUTO) !== 0) {
      this.address = this.baseAddress;
      this.count = this.baseCount;
    } else this.isMasked = true;
  }
}

class Controller {
  readonly memory: GuestMemory;
  /** Bytes of one transfer. */
  readonly width: 1 | 2;
  readonly channels: readonly Channel[];
  #command = 0;
  #ended = 0;
  /** The next byte of an address or count is its upper one. */
  #isHigh = false;

  constructor(memory: GuestMemory, width: 1 | 2) {
    this.memory = memory;
    this.width = width;
    this.channels = Array.from({ length: CHANNELS }, (_, i) => new Channel(this, i));
  }

  get isDisabled(): boolean {
    return (this.#command & DISABLED) !== 0;
  }

  ended(channel: number): void {
    this.#ended |= 1 << channel;
  }

  reset(): void {
    this.#command = 0;
    this.#ended = 0;
    this.#isHigh = false;
    for (const channel of this.channels) channel.isMasked = true;
  }

  read(register: number): number {
    if (register < 8) {
      const channel = this.channels[register >> 1]!;
      const value = (register & 1) === 0 ? channel.address : channel.count;
      const isHigh = this.#isHigh;
      this.#isHigh = !isHigh;
      return isHigh ? value >> 8 : value & 0xff;
    }
    if (register === 8) {
      const waiting = this.channels.reduce((bits, each, i) => {
        return each.isWaiting ? bits | (0x10 << i) : bits;
      }, 0);
      const status = this.#ended | waiting;
      this.#ended = 0;
      return status;
    }
    if (register !== 15) return 0;
    return this.channels.reduce((bits, each, i) => (each.isMasked ? bits | (1 << i) : bits), 0);
  }

  write(register: number, value: number): void {
    if (register < 8) {
      this.#writeWord(this.channels[register >> 1]!, (register & 1) === 0, value);
      return;
    }
    const channel = this.channels[value & 3]!;
    switch (register) {
      case 8:
        this.#command = value;
        break;
      case 10:
        channel.isMasked = (value & 4) !== 0;
        break;
      case 11:
        channel.mode = value;
        break;
      case 12:
        this.#isHigh = false;
        break;
      case 13:
        this.reset();
        break;
      case 14:
      case 15:
        this.channels.forEach((each, i) => {
          each.isMasked = register === 15 && (value & (1 << i)) !== 0;
        });
        break;
      default: // 9: no software requests memory-to-memory transfers here
    }
    for (const each of this.channels) each.wake();
  }

  #writeWord(channel: Channel, isAddress: boolean, value: number): void {
    const shift = this.#isHigh ? 8 : 0;
    const mask = this.#isHigh ? 0x00ff : 0xff00;
    this.#isHigh = !this.#isHigh;
    if (isAddress) {
      channel.baseAddress = (channel.baseAddress & mask) | (value << shift);
      channel.address = channel.baseAddress;
    } else {
      channel.baseCount = (channel.baseCount & mask) | (value << shift);
      channel.count = channel.baseCount;
    }
  }
}

export class Dma8237 {
  readonly #controllers: readonly [Controller, Controller];

  constructor(memory: GuestMemory) {
    this.#controllers = [new Controller(memory, 1), new Controller(memory, 2)];
  }

  /** Channel 0 to 7. */
  channel(number: number): DmaChannel {
    return this.#controllers[number < CHANNELS ? 0 : 1].channels[number % CHANNELS]!;
  }

  reset(): void {
    for (const controller of this.#controllers) controller.reset();
  }

  /** Puts the registers at their ports. */
  map(ports: IoSpace): void {
    const [bytes, words] = this.#controllers;
    ports.map(0x00, registers('dma1', bytes, 0));
    ports.map(0xc0, registers('dma2', words, 1));
    ports.map(0x80, pages('dma1-page', bytes));
    ports.map(0x88, pages('dma2-page', words));
  }
}

/** 16 registers; `shift`: those of the second controller are two ports apart. */
function registers(name: string, controller: Controller, shift: number): IoRegion {
  return {
    name,
    bytes: 16 << shift,
    widest: 1,
    read: (offset) => controller.read(offset >> shift),
    write: (offset, _size, value) => {
      controller.write(offset >> shift, value);
    },
  };
}

function pages(name: string, controller: Controller): IoRegion {
  const spare = new Uint8Array(pagePorts.length);
  return {
    name,
    bytes: pagePorts.length,
    widest: 1,
    read: (offset) => {
      const channel = pagePorts[offset];
      return channel === undefined ? spare[offset]! : controller.channels[channel]!.page;
    },
    write: (offset, _size, value) => {
      const channel = pagePorts[offset];
      if (channel === undefined) spare[offset] = value;
      else controller.channels[channel]!.page = value;
    },
  };
}
