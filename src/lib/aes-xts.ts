/**
 * XTS-AES (IEEE 1619) over AES (FIPS 197) in plain TypeScript: for hosts without it, and
 * the twin that the native code is tested against. Whole blocks only, no ciphertext
 * stealing. Its timing depends on the data.
 */

interface Tables {
  readonly sbox: Uint8Array;
  readonly inverse: Uint8Array;
  /** MixColumns of a substituted byte as the first of its column, and the inverse's. */
  readonly te: Uint32Array;
  readonly td: Uint32Array;
}

const twice = (x: number): number => ((x << 1) ^ ((x >> 7) * 0x1b)) & 0xff;

function times(a: number, b: number): number {
  let r = 0;
  for (let x = a, y = b; y !== 0; y >>= 1, x = twice(x)) if ((y & 1) !== 0) r ^= x;
  return r;
}

const column = (a: number, b: number, c: number, d: number): number =>
  (a | (b << 8) | (c << 16) | (d << 24)) >>> 0;

const rotate = (x: number, n: number): number => (x << n) | (x >>> (32 - n));

let tablesOnce: Tables | undefined;

function tables(): Tables {
  if (tablesOnce !== undefined) return tablesOnce;
  const sbox = new Uint8Array(256);
  const inverse = new Uint8Array(256);
  // 3 generates the field's multiplicative group: 3^i * 3^(255 - i) = 1.
  const power = new Uint8Array(256);
  for (let i = 0, x = 1; i < 256; i++, x ^= twice(x)) power[i] = x;
  const reciprocal = new Uint8Array(256);
  for (let i = 0; i < 255; i++) reciprocal[power[i]!] = power[(255 - i) % 255]!;
  for (let i = 0; i < 256; i++) {
    const s = reciprocal[i]!;
    let v = s ^ 0x63;
    for (let k = 1; k < 5; k++) v ^= ((s << k) | (s >> (8 - k))) & 0xff;
    sbox[i] = v;
    inverse[v] = i;
  }
  const te = new Uint32Array(256);
  const td = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    const s = sbox[i]!;
    const v = inverse[i]!;
    te[i] = column(twice(s), s, s, twice(s) ^ s);
    td[i] = column(times(v, 14), times(v, 9), times(v, 13), times(v, 11));
  }
  return (tablesOnce = { sbox, inverse, te, td });
}

/** The key schedule for both directions (FIPS 197, 5.2 and 5.3.5). */
class AesKey {
  readonly encryption: Uint32Array;
  readonly decryption: Uint32Array;
  readonly rounds: number;

  constructor(key: Uint8Array) {
    const { sbox, td } = tables();
    const words = key.length / 4;
    this.rounds = words + 6;
    const total = 4 * (this.rounds + 1);
    const e = new Uint32Array(total);
    const sub = (w: number): number =>
      column(sbox[w & 255]!, sbox[(w >> 8) & 255]!, sbox[(w >> 16) & 255]!, sbox[w >>> 24]!);
    for (let i = 0; i < words; i++) {
      e[i] = column(key[4 * i]!, key[4 * i + 1]!, key[4 * i + 2]!, key[4 * i + 3]!);
    }
    for (let i = words, rcon = 1; i < total; i++) {
      let w = e[i - 1]!;
      if (i % words === 0) {
        w = sub(rotate(w, 24)) ^ rcon;
        rcon = twice(rcon);
      } else if (words > 6 && i % words === 4) {
        w = sub(w);
      }
      e[i] = e[i - words]! ^ w;
    }
    const d = new Uint32Array(total);
    const unmix = (w: number): number =>
      td[sbox[w & 255]!]! ^
      rotate(td[sbox[(w >> 8) & 255]!]!, 8) ^
      rotate(td[sbox[(w >> 16) & 255]!]!, 16) ^
      rotate(td[sbox[w >>> 24]!]!, 24);
    for (let i = 0; i < total; i++) {
      const w = e[4 * (this.rounds - (i >> 2)) + (i & 3)]!;
      d[i] = i < 4 || i >= total - 4 ? w : unmix(w);
    }
    this.encryption = e;
    this.decryption = d;
  }

  /** One block, four words in place. */
  crypt(s: Uint32Array, encrypt: boolean): void {
    const { sbox, inverse, te, td } = tables();
    const [rk, t, last] = encrypt ? [this.encryption, te, sbox] : [this.decryption, td, inverse];
    // ShiftRows moves a row left by its number, its inverse right.
    const step = encrypt ? 1 : 3;
    const n = new Uint32Array(4);
    for (let c = 0; c < 4; c++) s[c] = s[c]! ^ rk[c]!;
    for (let r = 1; r < this.rounds; r++) {
      for (let c = 0; c < 4; c++) {
        n[c] =
          t[s[c]! & 255]! ^
          rotate(t[(s[(c + step) & 3]! >> 8) & 255]!, 8) ^
          rotate(t[(s[(c + 2) & 3]! >> 16) & 255]!, 16) ^
          rotate(t[s[(c + 3 * step) & 3]! >>> 24]!, 24) ^
          rk[4 * r + c]!;
      }
      s.set(n);
    }
    for (let c = 0; c < 4; c++) {
      n[c] =
        column(
          last[s[c]! & 255]!,
          last[(s[(c + step) & 3]! >> 8) & 255]!,
          last[(s[(c + 2) & 3]! >> 16) & 255]!,
          last[s[(c + 3 * step) & 3]! >>> 24]!,
        ) ^ rk[4 * this.rounds + c]!;
    }
    s.set(n);
  }
}

/** A tweakable cipher for disk sectors. */
export class AesXts {
  readonly #data: AesKey;
  readonly #tweak: AesKey;

  /** `key`: 32 bytes (AES-128) or 64 (AES-256), the data key first. */
  constructor(key: Uint8Array) {
    if (key.byteLength !== 32 && key.byteLength !== 64) {
      throw new RangeError(`XTS: a key has 32 or 64 bytes, not ${key.byteLength}`);
    }
    const half = key.byteLength / 2;
    this.#data = new AesKey(key.subarray(0, half));
    this.#tweak = new AesKey(key.subarray(half));
  }

  /** In place; `firstSector` numbers the first of the sectors in `b`. */
  encrypt(b: Uint8Array, sectorBytes: number, firstSector: number): void {
    this.#crypt(b, sectorBytes, firstSector, true);
  }

  decrypt(b: Uint8Array, sectorBytes: number, firstSector: number): void {
    this.#crypt(b, sectorBytes, firstSector, false);
  }

  #crypt(b: Uint8Array, sectorBytes: number, firstSector: number, encrypt: boolean): void {
    if (sectorBytes <= 0 || sectorBytes % 16 !== 0 || b.byteLength % sectorBytes !== 0) {
      throw new RangeError('XTS: whole sectors of whole blocks only');
    }
    const view = new DataView(b.buffer, b.byteOffset, b.byteLength);
    const t = new Uint32Array(4);
    const s = new Uint32Array(4);
    for (let at = 0, sector = firstSector; at < b.byteLength; at += sectorBytes, sector++) {
      t.set([sector >>> 0, Math.floor(sector / 2 ** 32), 0, 0]);
      this.#tweak.crypt(t, true);
      for (let k = at; k < at + sectorBytes; k += 16) {
        for (let c = 0; c < 4; c++) s[c] = view.getUint32(k + 4 * c, true) ^ t[c]!;
        this.#data.crypt(s, encrypt);
        for (let c = 0; c < 4; c++) view.setUint32(k + 4 * c, s[c]! ^ t[c]!, true);
        // Times x in GF(2^128), little-endian (IEEE 1619, 5.2).
        const carry = (t[3]! >>> 31) * 0x87;
        for (let c = 3; c > 0; c--) t[c] = (t[c]! << 1) | (t[c - 1]! >>> 31);
        t[0] = (t[0]! << 1) ^ carry;
      }
    }
  }
}
