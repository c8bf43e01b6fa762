/**
 * Bus-master IDE: one channel's DMA engine (Programming Interface for Bus Master IDE Controller,
 * revision 1.0): a table of physical regions, a command and a status register.
 *
 * What guests see of the status when the command is over, ACTIVE and INTERRUPT:
 *   regions as long as the request    INTERRUPT
 *   regions shorter                   neither; the drive is ready and says nothing
 *   regions longer                    both
 *   START taken back meanwhile        ACTIVE falls when the request that is under way has ended
 */
import type { GuestMemory, GuestRange } from '../../../host/guest-memory.js';
import type { AccessSize, IoRegion } from '../space.js';
import type { DmaEngine, DmaPhase } from './unit.js';

const START = 0x01;
const TO_MEMORY = 0x08;
const ACTIVE = 0x01;
const ERROR = 0x02;
const INTERRUPT = 0x04;
/** Bits that software uses to remember what drives can do. */
const CAPABLE = 0x60;
const LAST = 0x8000_0000;
/** Entries of a table: it does not cross a 64 KiB boundary, so there are no more. */
const MAX_ENTRIES = 8192;

export class BusMaster {
  readonly #memory: GuestMemory;
  #command = 0;
  #status = 0;
  #table = 0;
  /** The unit waits for START. */
  #phase: DmaPhase | undefined;
  /** A request is under way. */
  #working = false;
  /** Next entry, and what is left of the present one. */
  #entry = 0;
  #address = 0;
  #left = 0;
  #isLast = false;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  reset(): void {
    this.#command = 0;
    this.#status = 0;
    this.#table = 0;
    this.#phase = undefined;
    this.#working = false;
  }

  /** The unit opened a DMA phase, or (undefined) gave it up. */
  offer(phase: DmaPhase | undefined): void {
    this.#phase = phase;
    if (phase === undefined) {
      this.#working = false;
      return;
    }
    if ((this.#status & ACTIVE) !== 0) this.#go();
  }

  /** The channel's interrupt line rose. */
  interrupted(): void {
    this.#status |= INTERRUPT;
  }

  /** Eight registers, byte by byte. */
  read(offset: number): number {
    switch (offset) {
      case 0:
        return this.#command;
      case 2:
        return this.#status;
      case 4:
      case 5:
      case 6:
      case 7:
        return (this.#table >>> (8 * (offset - 4))) & 0xff;
      default:
        return 0xff;
    }
  }

  write(offset: number, value: number): void {
    switch (offset) {
      case 0:
        this.#setCommand(value);
        return;
      case 2:
        this.#status =
          (value & CAPABLE) |
          (this.#status & ACTIVE) |
          (this.#status & ~value & (ERROR | INTERRUPT));
        return;
      case 4:
      case 5:
      case 6:
      case 7: {
        const shift = 8 * (offset - 4);
        const kept = this.#table & ~(0xff << shift);
        this.#table = ((kept | (value << shift)) & ~3) >>> 0;
        return;
      }
      default:
    }
  }

  #setCommand(value: number): void {
    const before = this.#command;
    this.#command = value & (START | TO_MEMORY);
    if ((before & START) === 0 && (value & START) !== 0) {
      this.#entry = 0;
      this.#left = 0;
      this.#isLast = false;
      this.#status |= ACTIVE;
      if (this.#phase !== undefined) this.#go();
    } else if ((value & START) === 0 && !this.#working) {
      this.#status &= ~ACTIVE;
    }
  }

  #go(): void {
    const phase = this.#phase;
    this.#phase = undefined;
    this.#working = true;
    phase?.go(this.#engine());
  }

  #engine(): DmaEngine {
    return {
      memory: this.#memory,
      take: (bytes) => this.#take(bytes),
      end: (outcome) => {
        this.#working = false;
        const isExhausted = this.#left === 0 && this.#isLast;
        const isStopped = (this.#command & START) === 0;
        if (outcome !== 'done' || isExhausted || isStopped) this.#status &= ~ACTIVE;
      },
    };
  }

  /** The next `bytes` bytes that the table describes, or fewer. */
  #take(bytes: number): GuestRange[] {
    const ranges: GuestRange[] = [];
    for (let wanted = bytes; wanted > 0;) {
      if (this.#left === 0 && !this.#nextEntry()) break;
      const length = Math.min(this.#left, wanted);
      ranges.push({ address: this.#address, bytes: length });
      this.#address += length;
      this.#left -= length;
      wanted -= length;
    }
    return ranges;
  }

  #nextEntry(): boolean {
    if (this.#isLast || this.#entry >= MAX_ENTRIES) return false;
    const raw = new Uint8Array(8);
    this.#memory.read(this.#table + 8 * this.#entry++, raw);
    const view = new DataView(raw.buffer);
    const flags = view.getUint32(4, true);
    this.#address = (view.getUint32(0, true) & ~1) >>> 0;
    this.#left = flags & 0xfffe;
    if (this.#left === 0) this.#left = 0x1_0000;
    this.#isLast = flags >= LAST;
    return true;
  }
}

/** The registers of two channels as one region of 16 ports. */
export function busMasterRegion(channels: readonly [BusMaster, BusMaster]): IoRegion {
  const of = (offset: number): BusMaster => channels[offset < 8 ? 0 : 1];
  return {
    name: 'bmdma',
    bytes: 16,
    misaligned: true,
    read: (offset: number, size: AccessSize): number => {
      let value = 0;
      for (let i = 0; i < size; i++) {
        value += of(offset + i).read((offset + i) & 7) * 2 ** (8 * i);
      }
      return value;
    },
    write: (offset: number, size: AccessSize, value: number): void => {
      for (let i = 0; i < size; i++) {
        of(offset + i).write((offset + i) & 7, (value >>> (8 * i)) & 0xff);
      }
    },
  };
}
