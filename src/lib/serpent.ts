/**
 * Serpent: R. Anderson, E. Biham, L. Knudsen, "Serpent: A Proposal for the Advanced Encryption
 * Standard", in its bitsliced form. Blocks of 16 bytes, keys of up to 32; words little-endian.
 */
import type { BlockCipher } from './block-cipher.js';
import { boxes, inverseBoxes } from './serpent-boxes.js';

const ROUNDS = 32;
/** Fractional part of the golden ratio. */
const PHI = 0x9e37_79b9;

function rotl(x: number, n: number): number {
  return (x << n) | (x >>> (32 - n));
}

/** The four words of each of the 33 round keys. */
function roundKeys(key: Uint8Array): Uint32Array {
  const padded = new Uint8Array(32);
  padded.set(key);
  if (key.byteLength < 32) padded[key.byteLength] = 1;
  const words = new Uint32Array(8 + 4 * (ROUNDS + 1));
  const view = new DataView(padded.buffer);
  for (let i = 0; i < 8; i++) words[i] = view.getUint32(4 * i, true);
  for (let i = 8; i < words.length; i++) {
    const x = words[i - 8]! ^ words[i - 5]! ^ words[i - 3]! ^ words[i - 1]! ^ PHI ^ (i - 8);
    words[i] = rotl(x, 11);
  }
  const keys = words.subarray(8);
  for (let r = 0; r <= ROUNDS; r++) boxes[(3 + 8 - (r % 8)) % 8]!(keys.subarray(4 * r, 4 * r + 4));
  return keys;
}

function mix(s: Uint32Array): void {
  let [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
  a = rotl(a, 13);
  c = rotl(c, 3);
  b = rotl(b ^ a ^ c, 1);
  d = rotl(d ^ c ^ (a << 3), 7);
  a = rotl(a ^ b ^ d, 5);
  c = rotl(c ^ d ^ (b << 7), 22);
  s[0] = a;
  s[1] = b;
  s[2] = c;
  s[3] = d;
}

function unmix(s: Uint32Array): void {
  let [a, b, c, d] = [s[0]!, s[1]!, s[2]!, s[3]!];
  c = rotl(c, 10) ^ d ^ (b << 7);
  a = rotl(a, 27) ^ b ^ d;
  d = rotl(d, 25) ^ c ^ (a << 3);
  b = rotl(b, 31) ^ a ^ c;
  s[2] = rotl(c, 29);
  s[0] = rotl(a, 19);
  s[1] = b;
  s[3] = d;
}

export class Serpent implements BlockCipher {
  readonly blockBytes = 16;
  readonly #keys: Uint32Array;
  readonly #state = new Uint32Array(4);

  constructor(key: Uint8Array) {
    this.#keys = roundKeys(key);
  }

  encryptBlock(data: Uint8Array, at: number): void {
    const s = this.#load(data, at);
    for (let r = 0; r < ROUNDS; r++) {
      this.#addKey(r);
      boxes[r & 7]!(s);
      if (r < ROUNDS - 1) mix(s);
    }
    this.#addKey(ROUNDS);
    this.#store(data, at);
  }

  decryptBlock(data: Uint8Array, at: number): void {
    const s = this.#load(data, at);
    this.#addKey(ROUNDS);
    for (let r = ROUNDS - 1; r >= 0; r--) {
      if (r < ROUNDS - 1) unmix(s);
      inverseBoxes[r & 7]!(s);
      this.#addKey(r);
    }
    this.#store(data, at);
  }

  #addKey(round: number): void {
    for (let i = 0; i < 4; i++) this.#state[i]! ^= this.#keys[4 * round + i]!;
  }

  #load(data: Uint8Array, at: number): Uint32Array {
    const view = new DataView(data.buffer, data.byteOffset + at, 16);
    for (let i = 0; i < 4; i++) this.#state[i] = view.getUint32(4 * i, true);
    return this.#state;
  }

  #store(data: Uint8Array, at: number): void {
    const view = new DataView(data.buffer, data.byteOffset + at, 16);
    for (let i = 0; i < 4; i++) view.setUint32(4 * i, this.#state[i]!, true);
  }
}
