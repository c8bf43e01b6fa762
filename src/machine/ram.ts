/**
 * Guest RAM: from address 0 up to where the PCI hole begins, the rest from 4 GiB on. Zeroes at
 * the start.
 */
import type { GuestMemory } from '../host/guest-memory.js';

const FOUR_GIB = 2 ** 32;
/** Up to so many bytes it is faster to copy one by one than to make a view. */
const FEW_BYTES = 64;

export class GuestRam implements GuestMemory {
  readonly bytes: number;
  /** Length of the part below 4 GiB. */
  readonly lowBytes: number;
  readonly #low: Uint8Array;
  readonly #high: Uint8Array;

  /** `hole`: where the part below 4 GiB has to end. */
  constructor(bytes: number, hole: number) {
    this.bytes = bytes;
    this.lowBytes = Math.min(bytes, hole);
    this.#low = new Uint8Array(this.lowBytes);
    this.#high = new Uint8Array(bytes - this.lowBytes);
  }

  tryView(address: number, bytes: number): Uint8Array | undefined {
    if (address + bytes <= this.lowBytes) return this.#low.subarray(address, address + bytes);
    const at = address - FOUR_GIB;
    if (at < 0 || at + bytes > this.#high.length) return undefined;
    return this.#high.subarray(at, at + bytes);
  }

  read(address: number, out: Uint8Array): void {
    const { length } = out;
    if (length <= FEW_BYTES && address + length <= this.lowBytes) {
      for (let i = 0; i < length; i++) out[i] = this.#low[address + i]!;
      return;
    }
    const view = this.tryView(address, out.length);
    if (view !== undefined) {
      out.set(view);
      return;
    }
    out.fill(0);
    this.#overlaps(address, out.length, (ram, at) => {
      out.set(ram, at);
    });
  }

  write(address: number, data: Uint8Array): void {
    const { length } = data;
    if (length <= FEW_BYTES && address + length <= this.lowBytes) {
      for (let i = 0; i < length; i++) this.#low[address + i] = data[i]!;
      return;
    }
    const view = this.tryView(address, data.length);
    if (view !== undefined) {
      view.set(data);
      return;
    }
    this.#overlaps(address, data.length, (ram, at) => {
      ram.set(data.subarray(at, at + ram.length));
    });
  }

  /** Calls `each` with every part of the range that is RAM, and where it is in the range. */
  #overlaps(address: number, bytes: number, each: (ram: Uint8Array, at: number) => void): void {
    for (const [base, ram] of [
      [0, this.#low],
      [FOUR_GIB, this.#high],
    ] as const) {
      const from = Math.max(address, base);
      const to = Math.min(address + bytes, base + ram.length);
      if (from < to) each(ram.subarray(from - base, to - base), from - address);
    }
  }
}
