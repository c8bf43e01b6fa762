/** Long listings put together as bytes: no strings to join, encode and collect. */

/** Bytes before they are handed on. */
const CHUNK = 32 * 1024;
/** Most bytes of one piece: those of a number, or of a short text. */
const MOST = 512;
const ZERO = 0x30;

/** ASCII text that goes to `write` in chunks; `write` keeps no reference to what it is given. */
export class AsciiLines {
  readonly #bytes = new Uint8Array(CHUNK + MOST);
  readonly #write: (bytes: Uint8Array) => void;
  #at = 0;

  constructor(write: (bytes: Uint8Array) => void) {
    this.#write = write;
  }

  /** At most 512 bytes, see {@link ascii}. */
  text(piece: Uint8Array): void {
    if (this.#at >= CHUNK) this.flush();
    this.#bytes.set(piece, this.#at);
    this.#at += piece.length;
  }

  /** A number >= 0, an integer below 2^53, in decimal. */
  number(value: number): void {
    if (this.#at >= CHUNK) this.flush();
    // Halves that fit 31 bits are divided without floating point.
    const high = Math.floor(value / 1e9);
    if (high > 0) {
      this.#digits(high, digitsOf(high));
      this.#digits(value - high * 1e9, 9);
    } else {
      this.#digits(value, digitsOf(value));
    }
  }

  /** Hands on what is left. */
  flush(): void {
    if (this.#at > 0) this.#write(this.#bytes.subarray(0, this.#at));
    this.#at = 0;
  }

  #digits(value: number, count: number): void {
    const bytes = this.#bytes;
    let rest = value | 0;
    for (let i = this.#at + count - 1; i >= this.#at; i--) {
      const tens = (rest / 10) | 0;
      bytes[i] = ZERO + rest - tens * 10;
      rest = tens;
    }
    this.#at += count;
  }
}

/** Decimal digits of an integer from 0 to 2^31 - 1. */
function digitsOf(value: number): number {
  let count = 1;
  for (let end = 10; value >= end; end *= 10) count++;
  return count;
}

/** The bytes of an ASCII text. */
export function ascii(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
