/** The 256 words that IDENTIFY DEVICE and IDENTIFY PACKET DEVICE return (ATA8-ACS 7.16). */

/** The answer: 256 little-endian words. */
export class IdentifyWords {
  readonly bytes = new Uint8Array(512);
  readonly #view = new DataView(this.bytes.buffer);

  set(word: number, value: number): this {
    this.#view.setUint16(2 * word, value, true);
    return this;
  }

  set32(word: number, value: number): this {
    this.#view.setUint32(2 * word, value >>> 0, true);
    return this;
  }

  /** A 64-bit value at four words; exact to 2^53. */
  set64(word: number, value: number): this {
    return this.set32(word, value % 2 ** 32).set32(word + 2, Math.floor(value / 2 ** 32));
  }

  /** Text: the first character of each word in its high byte, padded with blanks. */
  text(word: number, words: number, text: string): this {
    for (let i = 0; i < 2 * words; i++) {
      const code = i < text.length ? text.charCodeAt(i) & 0x7f : 0x20;
      this.bytes[2 * word + (i ^ 1)] = code;
    }
    return this;
  }
}

/** Longest texts that fit: serial number, firmware revision, model. */
export const identifyLimits = { serial: 20, version: 8, model: 40 } as const;
