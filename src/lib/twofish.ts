/**
 * Twofish: B. Schneier et al., "Twofish: A 128-Bit Block Cipher" (1998). Blocks of 16 bytes, keys
 * of 16, 24 or 32; words little-endian. The key-dependent S-boxes are multiplied out with the MDS
 * matrix once for each key ("full keying").
 */
import type { BlockCipher } from './block-cipher.js';

const ROUNDS = 16;
/** Primitive polynomials of the MDS and of the RS code. */
const MDS_POLYNOMIAL = 0x169;
const RS_POLYNOMIAL = 0x14d;

/** Columns of the MDS matrix, and the RS matrix by rows. */
const MDS = [
  [0x01, 0x5b, 0xef, 0xef],
  [0xef, 0xef, 0x5b, 0x01],
  [0x5b, 0xef, 0x01, 0xef],
  [0x5b, 0x01, 0xef, 0x5b],
] as const;
const RS = [
  [0x01, 0xa4, 0x55, 0x87, 0x5a, 0x58, 0xdb, 0x9e],
  [0xa4, 0x56, 0x82, 0xf3, 0x1e, 0xc6, 0x68, 0xe5],
  [0x02, 0xa1, 0xfc, 0xc1, 0x47, 0xae, 0x3d, 0x19],
  [0xa4, 0x55, 0x87, 0x5a, 0x58, 0xdb, 0x9e, 0x03],
] as const;

/** The fixed 4-bit permutations t0 to t3 of q0 and q1. */
const NIBBLES = [
  ['817D6F320B59ECA4', 'ECB81235F4A6709D', 'BA5E6D90C8F32471', 'D7F4126E9B3085CA'],
  ['28BDF76E31940AC5', '1E2B4C376DA5F908', '4C75169A0ED82B3F', 'B951C3DE647F208A'],
] as const;

function permutation(which: 0 | 1): Uint8Array {
  const [t0, t1, t2, t3] = NIBBLES[which].map((text) => Array.from(text, (c) => parseInt(c, 16)));
  const half = (x: number): number => ((x >> 1) | (x << 3)) & 15;
  return Uint8Array.from({ length: 256 }, (_, x) => {
    let a = x >> 4;
    let b = x & 15;
    for (const [first, second] of [
      [t0!, t1!],
      [t2!, t3!],
    ] as const) {
      const sum = a ^ b;
      const other = (a ^ half(b) ^ (8 * a)) & 15;
      a = first[sum]!;
      b = second[other]!;
    }
    return 16 * b + a;
  });
}

/** The permutations q0 and q1; made when they are first used. */
let permutations: readonly [Uint8Array, Uint8Array] | undefined;

function q(): readonly [Uint8Array, Uint8Array] {
  return (permutations ??= [permutation(0), permutation(1)]);
}

/** The permutations before the key words 3, 2, 1 and 0 and after them, for each byte of a word. */
const ORDER = [
  [1, 1, 0, 0, 1],
  [0, 1, 1, 0, 0],
  [0, 0, 0, 1, 1],
  [1, 0, 1, 1, 0],
] as const;

function multiply(a: number, b: number, polynomial: number): number {
  let sum = 0;
  let x = a;
  for (let y = b; y > 0; y >>= 1) {
    if ((y & 1) !== 0) sum ^= x;
    x <<= 1;
    if ((x & 0x100) !== 0) x ^= polynomial;
  }
  return sum;
}

/** Byte `column` of a word through the permutations, keyed with the words of `key`, last first. */
function substitute(x: number, column: number, key: readonly number[]): number {
  const order = ORDER[column]!;
  const tables = q();
  let y = x;
  for (let i = key.length - 1; i >= 0; i--) {
    y = tables[order[3 - i]!][y]! ^ ((key[i]! >>> (8 * column)) & 0xff);
  }
  return tables[order[4]][y]!;
}

/** The contribution of an S-box output in `column` to the word behind the MDS matrix. */
function spread(y: number, column: number): number {
  let word = 0;
  for (let row = 0; row < 4; row++) {
    word |= multiply(y, MDS[column]![row]!, MDS_POLYNOMIAL) << (8 * row);
  }
  return word >>> 0;
}

function h(x: number, key: readonly number[]): number {
  let word = 0;
  for (let c = 0; c < 4; c++) word ^= spread(substitute((x >>> (8 * c)) & 0xff, c, key), c);
  return word;
}

function rotl(x: number, n: number): number {
  return (x << n) | (x >>> (32 - n));
}

function rotr(x: number, n: number): number {
  return (x >>> n) | (x << (32 - n));
}

export class Twofish implements BlockCipher {
  readonly blockBytes = 16;
  /** Eight for whitening, two for each round. */
  readonly #subkeys = new Int32Array(8 + 2 * ROUNDS);
  readonly #tables: readonly Uint32Array[];

  constructor(key: Uint8Array) {
    const view = new DataView(key.buffer, key.byteOffset, key.byteLength);
    const even: number[] = [];
    const odd: number[] = [];
    const sbox: number[] = [];
    for (let i = 0; i < key.byteLength / 8; i++) {
      even.push(view.getUint32(8 * i, true));
      odd.push(view.getUint32(8 * i + 4, true));
      let word = 0;
      for (let row = 0; row < 4; row++) {
        let sum = 0;
        for (let c = 0; c < 8; c++) sum ^= multiply(RS[row]![c]!, key[8 * i + c]!, RS_POLYNOMIAL);
        word |= sum << (8 * row);
      }
      sbox.unshift(word >>> 0);
    }
    for (let i = 0; i < this.#subkeys.length / 2; i++) {
      const a = h(2 * i * 0x0101_0101, even);
      const b = rotl(h((2 * i + 1) * 0x0101_0101, odd), 8);
      this.#subkeys[2 * i] = a + b;
      this.#subkeys[2 * i + 1] = rotl((a + 2 * b) | 0, 9);
    }
    this.#tables = [0, 1, 2, 3].map((c) =>
      Uint32Array.from({ length: 256 }, (_, x) => spread(substitute(x, c, sbox), c)),
    );
  }

  #g(x: number): number {
    const [t0, t1, t2, t3] = this.#tables;
    return t0![x & 0xff]! ^ t1![(x >>> 8) & 0xff]! ^ t2![(x >>> 16) & 0xff]! ^ t3![x >>> 24]!;
  }

  encryptBlock(data: Uint8Array, at: number): void {
    const k = this.#subkeys;
    const view = new DataView(data.buffer, data.byteOffset + at, 16);
    let a = view.getInt32(0, true) ^ k[0]!;
    let b = view.getInt32(4, true) ^ k[1]!;
    let c = view.getInt32(8, true) ^ k[2]!;
    let d = view.getInt32(12, true) ^ k[3]!;
    for (let r = 0; r < ROUNDS; r++) {
      const t0 = this.#g(a);
      const t1 = this.#g(rotl(b, 8));
      const e = rotr(c ^ (t0 + t1 + k[8 + 2 * r]!), 1);
      const f = rotl(d, 1) ^ (t0 + 2 * t1 + k[9 + 2 * r]!);
      c = a;
      d = b;
      a = e;
      b = f;
    }
    view.setInt32(0, c ^ k[4]!, true);
    view.setInt32(4, d ^ k[5]!, true);
    view.setInt32(8, a ^ k[6]!, true);
    view.setInt32(12, b ^ k[7]!, true);
  }

  decryptBlock(data: Uint8Array, at: number): void {
    const k = this.#subkeys;
    const view = new DataView(data.buffer, data.byteOffset + at, 16);
    let c = view.getInt32(0, true) ^ k[4]!;
    let d = view.getInt32(4, true) ^ k[5]!;
    let a = view.getInt32(8, true) ^ k[6]!;
    let b = view.getInt32(12, true) ^ k[7]!;
    for (let r = ROUNDS - 1; r >= 0; r--) {
      const t0 = this.#g(c);
      const t1 = this.#g(rotl(d, 8));
      const e = rotl(a, 1) ^ (t0 + t1 + k[8 + 2 * r]!);
      const f = rotr(b ^ (t0 + 2 * t1 + k[9 + 2 * r]!), 1);
      a = c;
      b = d;
      c = e;
      d = f;
    }
    view.setInt32(0, a ^ k[0]!, true);
    view.setInt32(4, b ^ k[1]!, true);
    view.setInt32(8, c ^ k[2]!, true);
    view.setInt32(12, d ^ k[3]!, true);
  }
}
