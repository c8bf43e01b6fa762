/**
 * The battery-backed memory of the real-time clock (MC146818), which tells firmware of memory,
 * drives, and the order of booting. Index at port 0x70, data at 0x71.
 */
import type { GeometryGuess } from '../device/bus/geometry.js';
import { translations } from '../device/bus/geometry.js';
import type { IoRegion } from '../device/bus/space.js';

const DISK_TYPE = 0x12;
const DISK_0_TYPE = 0x19;
const DISK_DATA = [0x1b, 0x24] as const;
const TRANSLATION = 0x39;
/** "The type is in the bytes further on." */
const EXTENDED = 0xf;
const USER_TYPE = 47;

/** What a letter of `-boot order=` stands for: a and b are the same. */
const bootCodes: Readonly<Record<string, number>> = { a: 1, b: 1, c: 2, d: 3, n: 4 };

/** Binary-coded decimal. */
function bcd(value: number): number {
  return Math.floor(value / 10) * 16 + (value % 10);
}

export class Cmos {
  readonly bytes = new Uint8Array(128);
  #index = 0;
  readonly #now: () => Date;

  /** `now`: the guest's time of day. */
  constructor(now: () => Date) {
    this.#now = now;
    // 24 hours, binary-coded decimal; the oscillator runs.
    this.bytes[0x0a] = 0x26;
    this.bytes[0x0b] = 0x02;
    this.bytes[0x0d] = 0x80;
  }

  readonly region: IoRegion = {
    name: 'rtc',
    bytes: 2,
    widest: 1,
    read: (offset) => (offset === 0 ? 0xff : this.#read(this.#index)),
    write: (offset, _size, value) => {
      if (offset === 0) this.#index = value & 0x7f;
      else if (this.#index !== 0x0c && this.#index !== 0x0d) this.bytes[this.#index] = value;
    },
  };

  #read(index: number): number {
    const date = this.#now();
    switch (index) {
      case 0x00:
        return bcd(date.getUTCSeconds());
      case 0x02:
        return bcd(date.getUTCMinutes());
      case 0x04:
        return bcd(date.getUTCHours());
      case 0x06:
        return bcd(date.getUTCDay() + 1);
      case 0x07:
        return bcd(date.getUTCDate());
      case 0x08:
        return bcd(date.getUTCMonth() + 1);
      case 0x09:
        return bcd(date.getUTCFullYear() % 100);
      case 0x32:
        return bcd(Math.floor(date.getUTCFullYear() / 100));
      default:
        return this.bytes[index]!;
    }
  }

  /** Sizes of the memory, in the units that firmware knows. */
  setMemory(ramBytes: number, lowBytes: number): void {
    const word = (at: number, value: number): void => {
      const most = Math.min(value, 0xffff);
      this.bytes[at] = most & 0xff;
      this.bytes[at + 1] = most >> 8;
    };
    word(0x15, 640);
    const extended = Math.max(0, Math.floor(lowBytes / 1024) - 1024);
    word(0x17, extended);
    word(0x30, extended);
    word(0x34, Math.max(0, Math.floor((lowBytes - 16 * 1024 * 1024) / 65536)));
    const above = Math.floor((ramBytes - lowBytes) / 65536);
    this.bytes[0x5b] = above & 0xff;
    this.bytes[0x5c] = (above >> 8) & 0xff;
    this.bytes[0x5d] = (above >> 16) & 0xff;
  }

  /** The four disks of the machine's own IDE channels. */
  setDisks(disks: readonly (GeometryGuess | undefined)[]): void {
    let types = 0;
    let translation = 0;
    disks.slice(0, 4).forEach((disk, i) => {
      if (disk === undefined) return;
      translation |= translations[disk.translation] << (2 * i);
      if (i >= 2) return;
      types |= i === 0 ? EXTENDED << 4 : EXTENDED;
      this.bytes[DISK_0_TYPE + i] = USER_TYPE;
      const at = DISK_DATA[i === 0 ? 0 : 1];
      const { cylinders, heads, sectors } = disk;
      const control = 0xc0 | (heads > 8 ? 8 : 0);
      const low = cylinders & 0xff;
      const high = (cylinders >> 8) & 0xff;
      this.bytes.set([low, high, heads, 0xff, 0xff, control, low, high, sectors], at);
    });
    this.bytes[DISK_TYPE] = types;
    this.bytes[TRANSLATION] = translation;
  }

  /** Types of the two floppy drives (4: 1.44 MB, 5: 2.88 MB, 2: 1.2 MB, 0: none). */
  setFloppies(first: number, second: number): void {
    this.bytes[0x10] = (first << 4) | second;
    const count = (first === 0 ? 0 : 1) + (second === 0 ? 0 : 1);
    // Equipment: a coprocessor, and the floppy drives.
    const drives = count === 0 ? 0 : 0x01 | ((count - 1) << 6);
    this.bytes[0x14] = 0x02 | 0x04 | drives;
  }

  /** The order of booting: letters a, c, d, n. */
  setBoot(order: string, checkFloppy: boolean): void {
    const code = (i: number): number => bootCodes[order.charAt(i)] ?? 0;
    this.bytes[0x3d] = (code(1) << 4) | code(0);
    this.bytes[0x38] = (code(2) << 4) | (checkFloppy ? 0 : 1);
  }
}
