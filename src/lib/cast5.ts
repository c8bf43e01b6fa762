/**
 * CAST-128, also called CAST5 (RFC 2144), with keys of 16 bytes: 16 rounds over blocks of 8 bytes,
 * words big-endian.
 */
import type { BlockCipher } from './block-cipher.js';
import { CAST5_SBOXES } from './cast5-sboxes.js';

const ROUNDS = 16;

let tables: readonly Uint32Array[] | undefined;

/** S1 to S8. */
function sboxes(): readonly Uint32Array[] {
  tables ??= Array.from({ length: 8 }, (_, box) =>
    Uint32Array.from({ length: 256 }, (_, i) => {
      const at = (256 * box + i) * 8;
      return parseInt(CAST5_SBOXES.slice(at, at + 8), 16);
    }),
  );
  return tables;
}

/**
 * Section 2.4. The bytes x0 to xF and z0 to zF are numbers 0 to 31. Four steps change z from x or x
 * from z: each says the word that is set, the one it comes from, and the bytes that index S5, S6,
 * S7, S8 and then S7, S8, S5 and S6 in turn.
 */
const fromX = [
  [4, 0, 13, 15, 12, 14, 8],
  [5, 2, 16, 18, 17, 19, 10],
  [6, 3, 23, 22, 21, 20, 9],
  [7, 1, 26, 25, 27, 24, 11],
] as const;
const fromZ = [
  [0, 6, 21, 23, 20, 22, 16],
  [1, 4, 0, 2, 1, 3, 18],
  [2, 5, 7, 6, 5, 4, 17],
  [3, 7, 10, 9, 11, 8, 19],
] as const;
const LAST_BOX = [6, 7, 4, 5] as const;
/** After each of them four subkeys: bytes that index S5, S6, S7, S8 and then S5 to S8 in turn. */
const subkeys = [
  [
    [24, 25, 23, 22, 18],
    [26, 27, 21, 20, 22],
    [28, 29, 19, 18, 25],
    [30, 31, 17, 16, 28],
  ],
  [
    [3, 2, 12, 13, 8],
    [1, 0, 14, 15, 13],
    [7, 6, 8, 9, 3],
    [5, 4, 10, 11, 7],
  ],
  [
    [19, 18, 28, 29, 25],
    [17, 16, 30, 31, 28],
    [23, 22, 24, 25, 18],
    [21, 20, 26, 27, 22],
  ],
  [
    [8, 9, 7, 6, 3],
    [10, 11, 5, 4, 7],
    [12, 13, 3, 2, 8],
    [14, 15, 1, 0, 13],
  ],
] as const;

/** Sixteen masking subkeys, then the sixteen that say how far to rotate. */
function schedule(key: Uint8Array): Uint32Array {
  const bytes = new Uint8Array(32);
  bytes.set(key);
  const words = new DataView(bytes.buffer);
  const s = sboxes();
  const look = (box: number, at: number): number => s[box]![bytes[at]!]!;
  const out = new Uint32Array(2 * ROUNDS);
  let n = 0;
  for (let half = 0; half < 2; half++) {
    for (const [step, keys] of subkeys.entries()) {
      for (const [j, [to, from, a, b, c, d, last]] of (step % 2 === 0 ? fromX : fromZ).entries()) {
        const mixed = look(4, a) ^ look(5, b) ^ look(6, c) ^ look(7, d) ^ look(LAST_BOX[j]!, last);
        words.setUint32(4 * to, words.getUint32(4 * from) ^ mixed);
      }
      for (const [j, [a, b, c, d, last]] of keys.entries()) {
        out[n++] = look(4, a) ^ look(5, b) ^ look(6, c) ^ look(7, d) ^ look(4 + j, last);
      }
    }
  }
  return out;
}

export class Cast5 implements BlockCipher {
  readonly blockBytes = 8;
  readonly #keys: Uint32Array;
  readonly #s = sboxes();

  constructor(key: Uint8Array) {
    this.#keys = schedule(key);
  }

  encryptBlock(data: Uint8Array, at: number): void {
    const view = new DataView(data.buffer, data.byteOffset + at, 8);
    let left = view.getInt32(0);
    let right = view.getInt32(4);
    for (let i = 0; i < ROUNDS; i++) {
      const next = left ^ this.#round(right, i);
      left = right;
      right = next;
    }
    view.setInt32(0, right);
    view.setInt32(4, left);
  }

  decryptBlock(data: Uint8Array, at: number): void {
    const view = new DataView(data.buffer, data.byteOffset + at, 8);
    let left = view.getInt32(0);
    let right = view.getInt32(4);
    for (let i = ROUNDS - 1; i >= 0; i--) {
      const next = left ^ this.#round(right, i);
      left = right;
      right = next;
    }
    view.setInt32(0, right);
    view.setInt32(4, left);
  }

  /** The functions of types 1, 2 and 3 (section 2.2). */
  #round(d: number, i: number): number {
    const mask = this.#keys[i]!;
    const by = this.#keys[ROUNDS + i]! & 31;
    const type = i % 3;
    const sum = type === 0 ? mask + d : type === 1 ? mask ^ d : mask - d;
    const x = by === 0 ? sum : (sum << by) | ((sum | 0) >>> (32 - by));
    const [s1, s2, s3, s4] = this.#s;
    const [a, b] = [s1![x >>> 24]!, s2![(x >>> 16) & 0xff]!];
    const [c, e] = [s3![(x >>> 8) & 0xff]!, s4![x & 0xff]!];
    if (type === 0) return ((a ^ b) - c + e) | 0;
    if (type === 1) return ((a - b + c) | 0) ^ e;
    return ((((a + b) | 0) ^ c) - e) | 0;
  }
}
