/** A PCI function of the emulator's own, shown on a bus of ours. */
import { PciFunction } from '../../device/bus/pci/function.js';
import type { AccessSize } from '../../device/bus/space.js';

const COMMAND = 0x04;
const BARS = 0x10;
const BARS_END = 0x28;
const ROM = 0x30;

/**
 * Its addresses are fixed: they tell their size when asked for it, and else where they are,
 * whatever a guest writes.
 */
export class FixedFunction extends PciFunction {
  readonly #space: Int32Array;
  /** Lengths by base address register. */
  readonly #sizes: readonly number[];
  readonly #probed = new Set<number>();

  constructor(space: Int32Array, sizes: readonly number[]) {
    super({ vendor: (space[0] ?? 0) & 0xffff, device: (space[0] ?? 0) >>> 16, classCode: 0 });
    this.#space = space.slice();
    this.#sizes = sizes;
  }

  override readConfig(offset: number, size: AccessSize): number {
    const at = offset & ~3;
    let value = this.#space[at >> 2] ?? 0;
    if (at === ROM) value = 0;
    if (at >= BARS && at < BARS_END) {
      const bytes = this.#sizes[(at - BARS) >> 2] ?? 0;
      if (bytes === 0) value = 0;
      else if (this.#probed.has(at)) value = -bytes | (value & 15);
    }
    const shifted = value >>> (8 * (offset & 3));
    return size === 4 ? shifted >>> 0 : shifted & (2 ** (8 * size) - 1);
  }

  override writeConfig(offset: number, size: AccessSize, value: number): void {
    const at = offset & ~3;
    if (at >= BARS && at < BARS_END) {
      if (size === 4 && value >>> 0 >= 0xffff_fff0) this.#probed.add(at);
      else this.#probed.delete(at);
      return;
    }
    if (at !== COMMAND && at !== 0x3c) return;
    const shift = 8 * (offset & 3);
    const mask = ((size === 4 ? 2 ** 32 : 2 ** (8 * size)) - 1) * 2 ** shift;
    const kept = (this.#space[at >> 2] ?? 0) & ~mask;
    this.#space[at >> 2] = kept | ((value << shift) & mask);
  }
}
