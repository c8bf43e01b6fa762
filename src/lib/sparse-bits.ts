/** A set of numbers, many of them close to each other: bits in pages that are made on demand. */

/** Bits of a page. */
const PAGE = 32768;

export class SparseBits {
  readonly #pages = new Map<number, Uint8Array>();
  /** How many numbers are in the set. */
  count = 0;

  has(n: number): boolean {
    const page = this.#pages.get(Math.floor(n / PAGE));
    const bit = n % PAGE;
    return page !== undefined && ((page[bit >> 3] ?? 0) & (1 << (bit & 7))) !== 0;
  }

  /** False: it was in the set already. */
  add(n: number): boolean {
    const key = Math.floor(n / PAGE);
    let page = this.#pages.get(key);
    if (page === undefined) this.#pages.set(key, (page = new Uint8Array(PAGE / 8)));
    const bit = n % PAGE;
    const mask = 1 << (bit & 7);
    if (((page[bit >> 3] ?? 0) & mask) !== 0) return false;
    page[bit >> 3]! |= mask;
    this.count++;
    return true;
  }

  delete(n: number): void {
    if (!this.has(n)) return;
    const bit = n % PAGE;
    this.#pages.get(Math.floor(n / PAGE))![bit >> 3]! &= ~(1 << (bit & 7));
    this.count--;
  }
}
