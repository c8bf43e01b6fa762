/** MSI with one message and a 64-bit address (PCI 3.0, section 6.8.1). */
import type { PciFunction } from './function.js';

const CAPABILITY = 0x05;
const WIDE = 0x80;

export class Msi {
  readonly #fn: PciFunction;
  readonly #at: number;

  constructor(fn: PciFunction, at: number) {
    this.#fn = fn;
    const body = new Uint8Array(12);
    body[0] = WIDE;
    this.#at = fn.addCapability(CAPABILITY, body, at);
    fn.allow(at + 2, 1, 1);
    fn.allow(at + 4, 0xffff_fffc, 4);
    fn.allow(at + 8, 0xffff_ffff, 4);
    fn.allow(at + 12, 0xffff, 2);
  }

  get isEnabled(): boolean {
    return (this.#fn.config[this.#at + 2]! & 1) !== 0;
  }

  reset(): void {
    this.#fn.config[this.#at + 2] = WIDE;
    this.#fn.config[this.#at + 3] = 0;
    this.#fn.set32(this.#at + 4, 0);
    this.#fn.set32(this.#at + 8, 0);
    this.#fn.set16(this.#at + 12, 0);
  }

  notify(): void {
    if (!this.isEnabled) return;
    const address = this.#fn.get32(this.#at + 8) * 2 ** 32 + this.#fn.get32(this.#at + 4);
    this.#fn.sendMessage(address, this.#fn.get16(this.#at + 12));
  }
}
