/**
 * MSI-X (PCI 3.0, section 6.8.2): a table of messages and an array of pending bits in a BAR of
 * 4 KiB, and a capability that switches them on.
 */
import type { IoRegion } from '../space.js';
import type { PciFunction } from './function.js';

const CAPABILITY = 0x11;
const ENABLE = 0x80;
const MASK_ALL = 0x40;
const ENTRY_BYTES = 16;
const PENDING_AT = 0x800;
const REGION_BYTES = 0x1000;

export class Msix {
  readonly vectors: number;
  readonly #fn: PciFunction;
  readonly #control: number;
  readonly #table: DataView;
  readonly #pending: Uint8Array;

  /** `bar`: where the table goes; at most 128 vectors. */
  constructor(fn: PciFunction, bar: number, vectors: number) {
    this.vectors = vectors;
    this.#fn = fn;
    this.#table = new DataView(new ArrayBuffer(vectors * ENTRY_BYTES));
    this.#pending = new Uint8Array(Math.ceil(vectors / 64) * 8);
    const body = new Uint8Array(10);
    const view = new DataView(body.buffer);
    view.setUint16(0, vectors - 1, true);
    view.setUint32(2, bar, true);
    view.setUint32(6, PENDING_AT | bar, true);
    const at = fn.addCapability(CAPABILITY, body);
    this.#control = at + 3;
    fn.allow(this.#control, ENABLE | MASK_ALL, 1);
    fn.addBar(bar, { kind: 'memory', region: this.#region });
    this.reset();
  }

  reset(): void {
    for (let i = 0; i < this.vectors; i++) {
      for (let at = 0; at < 12; at += 4) this.#table.setUint32(i * ENTRY_BYTES + at, 0, true);
      this.#table.setUint32(i * ENTRY_BYTES + 12, 1, true);
    }
    this.#pending.fill(0);
    const { config } = this.#fn;
    config[this.#control] = config[this.#control]! & ~(ENABLE | MASK_ALL);
  }

  get isEnabled(): boolean {
    return (this.#fn.config[this.#control]! & ENABLE) !== 0;
  }

  /** Sends a vector's message, or remembers that it is due. */
  notify(vector: number): void {
    if (vector >= this.vectors || !this.isEnabled) return;
    if (this.#isMasked(vector)) {
      this.#pending[vector >> 3] = this.#pending[vector >> 3]! | (1 << (vector & 7));
      return;
    }
    const at = vector * ENTRY_BYTES;
    const high = this.#table.getUint32(at + 4, true);
    const address = high * 2 ** 32 + this.#table.getUint32(at, true);
    this.#fn.sendMessage(address, this.#table.getUint32(at + 8, true));
  }

  /** After a write to configuration space: what was due and is not masked any more goes. */
  update(): void {
    for (let vector = 0; vector < this.vectors; vector++) {
      const bit = 1 << (vector & 7);
      if ((this.#pending[vector >> 3]! & bit) === 0 || this.#isMasked(vector)) continue;
      this.#pending[vector >> 3] = this.#pending[vector >> 3]! & ~bit;
      this.notify(vector);
    }
  }

  #isMasked(vector: number): boolean {
    if ((this.#fn.config[this.#control]! & MASK_ALL) !== 0) return true;
    return (this.#table.getUint32(vector * ENTRY_BYTES + 12, true) & 1) !== 0;
  }

  readonly #region: IoRegion = {
    name: 'msix',
    bytes: REGION_BYTES,
    read: (offset, size) => {
      let value = 0;
      for (let i = 0; i < size; i++) value += this.#byte(offset + i) * 2 ** (8 * i);
      return value;
    },
    write: (offset, size, value) => {
      for (let i = 0; i < size; i++) {
        const at = offset + i;
        if (at < this.#table.byteLength) this.#table.setUint8(at, (value >>> (8 * i)) & 0xff);
      }
      this.update();
    },
  };

  #byte(at: number): number {
    if (at < this.#table.byteLength) return this.#table.getUint8(at);
    return this.#pending[at - PENDING_AT] ?? 0;
  }
}
