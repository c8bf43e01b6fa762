// Goal: native helpers and their TypeScript twins are the same function. Method: known answers,
// then random input of awkward lengths and offsets through both.
import { expect, test } from 'vitest';
import { AesXts } from '../../src/lib/aes-xts.js';
import { crc32c } from '../../src/lib/crc32c.js';
import { isZeroBytes } from '../../src/lib/iov.js';
import { countPlain, equalCounts, Scan } from '../../src/lib/table-scan.js';
import { sectorCipher } from '../../src/block/crypto/sector-cipher.js';
import { nodeCrypto } from '../../src/host/node/crypto.js';
import { nodeHot } from '../../src/host/node/hot.js';
import { tryNative } from '../../src/host/node/native-binding.js';
import { tryNativeCbc, tryNativeXts } from '../../src/host/node/bulk-cipher.js';
import { seededRandom } from '../support/index.js';
import type { Random } from '../support/index.js';
import { withAddon } from './support.js';

const native = tryNative()!;
const hex = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, 'hex'));

/** A view of random length at a random offset. */
function window(random: Random, most: number): Uint8Array {
  const memory = random.bytes(most + 64);
  const at = random.int(0, 63);
  return memory.subarray(at, at + random.int(0, most));
}

withAddon('zero detection', () => {
  test('sees one bit anywhere', () => {
    const random = seededRandom();
    for (let i = 0; i < 300; i++) {
      const b = window(random, 5000).fill(0);
      expect([native.isZero(b), isZeroBytes(b), nodeHot.isZero(b)]).toEqual([true, true, true]);
      if (b.byteLength === 0) continue;
      b[random.int(0, b.byteLength - 1)] = 1 << random.int(0, 7);
      expect([native.isZero(b), isZeroBytes(b), nodeHot.isZero(b)]).toEqual([false, false, false]);
    }
  });
});

withAddon('CRC32C', () => {
  test('known answers of RFC 3720, B.4', () => {
    const cases: [Uint8Array, number][] = [
      [new Uint8Array(32), 0x8a9136aa],
      [new Uint8Array(32).fill(0xff), 0x62a8ab43],
      [new Uint8Array(32).map((_, i) => i), 0x46dd794e],
      [new TextEncoder().encode('123456789'), 0xe3069283],
    ];
    for (const [b, sum] of cases) expect([native.crc32c(b, 0), crc32c(b)]).toEqual([sum, sum]);
  });

  test('both agree, whole and continued', () => {
    const random = seededRandom();
    for (let i = 0; i < 200; i++) {
      const b = window(random, 3000);
      const whole = crc32c(b);
      const cut = random.int(0, b.byteLength);
      const begin = native.crc32c(b.subarray(0, cut), 0);
      expect(native.crc32c(b, 0)).toBe(whole);
      expect(native.crc32c(b.subarray(cut), begin)).toBe(whole);
      expect(nodeHot.crc32c(b.subarray(cut), begin)).toBe(whole);
    }
  });
});

withAddon('AES-XTS', () => {
  // IEEE 1619-2007, annex B: key1, key2, data unit number, plaintext, ciphertext.
  const vectors: [string, string, number, string, string][] = [
    [
      '00'.repeat(16),
      '00'.repeat(16),
      0,
      '00'.repeat(32),
      '917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e',
    ],
    [
      '11'.repeat(16),
      '22'.repeat(16),
      0x3333333333,
      '44'.repeat(32),
      'c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0',
    ],
  ];
  for (const [key1, key2, unit, plain, cipher] of vectors) {
    test(`IEEE 1619 vector ${cipher.slice(0, 8)}`, () => {
      const key = hex(key1 + key2);
      for (const tables of [false, true]) {
        const b = hex(plain);
        const schedule = native.xtsKey(key, tables);
        native.sectorCrypt(schedule, b, 32, unit, true);
        expect(Buffer.from(b).toString('hex')).toBe(cipher);
        native.sectorCrypt(schedule, b, 32, unit, false);
        expect(Buffer.from(b).toString('hex')).toBe(plain);
      }
      const b = hex(plain);
      new AesXts(key).encrypt(b, 32, unit);
      expect(Buffer.from(b).toString('hex')).toBe(cipher);
    });
  }

  for (const keyBytes of [32, 64]) {
    test(`instructions, tables, TypeScript and the pool agree: ${keyBytes} bytes`, async () => {
      const random = seededRandom();
      const key = random.bytes(keyBytes);
      const twin = new AesXts(key);
      const bulk = tryNativeXts(key)!;
      const schedules = [native.xtsKey(key, false), native.xtsKey(key, true)];
      for (const sector of [16, 48, 512, 4096]) {
        const plain = random.bytes(sector * random.int(1, 20));
        const first = random.int(0, 2 ** 40);
        const want = plain.slice();
        twin.encrypt(want, sector, first);
        for (const schedule of schedules) {
          const b = plain.slice();
          native.sectorCrypt(schedule, b, sector, first, true);
          expect(Buffer.compare(b, want)).toBe(0);
          native.sectorCrypt(schedule, b, sector, first, false);
          expect(Buffer.compare(b, plain)).toBe(0);
        }
        const b = plain.slice();
        await bulk.encrypt(b, sector, first);
        expect(Buffer.compare(b, want)).toBe(0);
        twin.decrypt(b, sector, first);
        expect(Buffer.compare(b, plain)).toBe(0);
      }
      // Large enough for the thread pool.
      const large = random.bytes(512 * 1024);
      const copy = large.slice();
      await bulk.encrypt(copy, 512, 7);
      const half = copy.slice(0, 65536);
      twin.decrypt(half, 512, 7);
      expect(Buffer.compare(half, large.subarray(0, 65536))).toBe(0);
      await bulk.decrypt(copy, 512, 7);
      expect(Buffer.compare(copy, large)).toBe(0);
    });
  }

  test('refuses keys and sectors that do not fit', () => {
    expect(() => new AesXts(new Uint8Array(48))).toThrow('32 or 64 bytes');
    expect(() => native.xtsKey(new Uint8Array(48), false)).toThrow('32 or 64 bytes');
    expect(tryNativeXts(new Uint8Array(48))).toBeUndefined();
    const key = new Uint8Array(32);
    const b = new Uint8Array(500);
    const whole = 'whole sectors of whole blocks';
    expect(() => native.sectorCrypt(native.xtsKey(key, false), b, 512, 0, true)).toThrow(whole);
    expect(() => new AesXts(key).encrypt(b, 500, 0)).toThrow(whole);
    expect(() => tryNativeXts(key)!.encrypt(b, 500, 0)).toThrow(whole);
  });
});

withAddon('AES-CBC', () => {
  const openssl = nodeCrypto();
  const ivs = ['plain', 'plain64', 'essiv'] as const;

  for (const keyBytes of [16, 24, 32]) {
    test.each(ivs)(`%s, ${keyBytes} bytes: as OpenSSL, sector by sector`, async (ivgen) => {
      const random = seededRandom();
      const key = random.bytes(keyBytes);
      const cipher = `aes-${8 * keyBytes}` as 'aes-128';
      const ivKey = ivgen === 'essiv' ? openssl.hash('sha256', [key]) : new Uint8Array(0);
      const wide = ivgen !== 'plain';
      const schedules = [false, true].map((tables) => native.cbcKey(key, wide, ivKey, tables));
      const bulk = tryNativeCbc(key, ivgen === 'essiv' ? { essiv: ivKey } : ivgen)!;
      for (const sectorBytes of [16, 48, 512, 4096]) {
        const spec = { cipher, mode: 'cbc', ivgen, ivgenHash: 'sha256', key, sectorBytes } as const;
        const slow = sectorCipher(openssl, spec);
        for (const sectors of [1, 7, 8, 9, random.int(10, 40)]) {
          const plain = random.bytes(sectorBytes * sectors);
          // Beyond 32 bits, too, where `plain` and `plain64` part.
          const first = random.pick([0, 2 ** 32 - 3, random.int(0, 2 ** 45)]);
          const want = plain.slice();
          await slow.encrypt(want, first);
          for (const schedule of schedules) {
            const b = plain.slice();
            native.sectorCrypt(schedule, b, sectorBytes, first, true);
            expect(Buffer.compare(b, want)).toBe(0);
            native.sectorCrypt(schedule, b, sectorBytes, first, false);
            expect(Buffer.compare(b, plain)).toBe(0);
          }
        }
      }
      // Large enough for the thread pool.
      const large = random.bytes(512 * 1024);
      const copy = large.slice();
      await bulk.encrypt(copy, 512, 7);
      const want = large.slice();
      const spec = {
        cipher,
        mode: 'cbc',
        ivgen,
        ivgenHash: 'sha256',
        key,
        sectorBytes: 512,
      } as const;
      await sectorCipher(openssl, spec).encrypt(want, 7);
      expect(Buffer.compare(copy, want)).toBe(0);
      await bulk.decrypt(copy, 512, 7);
      expect(Buffer.compare(copy, large)).toBe(0);
    });
  }

  test('refuses keys that do not fit', () => {
    const none = new Uint8Array(0);
    const wrong = '16, 24 or 32 bytes';
    expect(() => native.cbcKey(new Uint8Array(15), true, none, false)).toThrow(wrong);
    expect(() => native.cbcKey(new Uint8Array(16), true, new Uint8Array(20), false)).toThrow(wrong);
    expect(tryNativeCbc(new Uint8Array(15), 'plain')).toBeUndefined();
    expect(tryNativeCbc(new Uint8Array(16), { essiv: new Uint8Array(20) })).toBeUndefined();
  });
});

withAddon('scans of tables', () => {
  /** Entries of every kind, most of them plain and in order. */
  function table(random: Random, entries: number, clusterBits: number): Uint8Array {
    const bytes = new Uint8Array(entries * 8 + random.int(0, 7));
    const view = new DataView(bytes.buffer);
    let next = random.int(1, 300);
    const unit = 2 ** clusterBits;
    for (let i = 0; i < entries; i++) {
      if (random.chance(0.3)) continue;
      if (random.chance(0.05)) next = random.int(0, 400);
      const odd = random.chance(0.01) ? random.pick([1, 1 << 8, unit >>> 1]) : 0;
      const flags = random.chance(0.01) ? random.pick([0n, 3n, 1n]) : 2n;
      view.setBigUint64(i * 8, (flags << 62n) | (BigInt(next++) * BigInt(unit) + BigInt(odd)));
    }
    return bytes;
  }

  test('both count the same and end at the same entry', () => {
    const random = seededRandom();
    for (let round = 0; round < 400; round++) {
      const clusterBits = random.int(9, 21);
      const b = table(random, random.int(0, 300), clusterBits);
      const start = random.bytes(random.int(0, 400)).map((x) => (x < 250 ? x % 2 : x));
      const scan = new Float64Array(Scan.size);
      const max = random.pick([1, 2, 254]);
      scan.set([
        random.int(0, 20),
        clusterBits,
        max,
        random.int(0, 3),
        5,
        7,
        random.int(-1, 99),
        0,
      ]);
      const twins = [{ countPlain }, native, nodeHot].map((one) => {
        const [counts, state] = [start.slice(), scan.slice()];
        const from = Math.min(2, b.byteLength >>> 3);
        return { at: one.countPlain(b, from, counts, state), counts, state };
      });
      expect(twins[1], `round ${round}`).toEqual(twins[0]);
      expect(twins[2], `round ${round}`).toEqual(twins[0]);
    }
  });

  test('what a plain entry is', () => {
    const entry = (value: bigint): number => {
      const b = new Uint8Array(8);
      new DataView(b.buffer).setBigUint64(0, value);
      const scan = Float64Array.from([4, 16, 254, 0, 0, 0, -1, 0]);
      const counts = new Uint8Array(2);
      const at = native.countPlain(b, 0, counts, scan);
      return at === 0 ? -1 : counts[0]! + 2 * counts[1]!;
    };
    const copied = 1n << 63n;
    expect(entry(0n)).toBe(0);
    expect(entry(copied | 0x40000n)).toBe(1);
    expect(entry(copied | 0x50000n)).toBe(2);
    // Outside of the counts, no flag, no cluster, compressed, zero flag, reserved bits, too far.
    for (const value of [copied | 0x60000n, copied | 0x30000n, 0x40000n, copied]) {
      expect(entry(value)).toBe(-1);
    }
    for (const bit of [62n, 56n, 61n, 0n, 1n, 15n]) {
      expect(entry(copied | 0x40000n | (1n << bit))).toBe(-1);
    }
  });

  test('counts equal refcounts up to the first difference', () => {
    const random = seededRandom();
    for (let round = 0; round < 200; round++) {
      const counts = random.bytes(random.int(0, 500)).map((x) => (x < 200 ? 1 : x));
      const block = new Uint8Array(random.int(0, 1100));
      for (let i = 0; i < block.length >>> 1; i++) block[2 * i + 1] = counts[i] ?? 0;
      if (random.chance() && block.length > 0) block[random.int(0, block.length - 1)]! ^= 1;
      const wanted = equalCounts(block, counts);
      expect(native.equalCounts(block, counts)).toBe(wanted);
      expect(nodeHot.equalCounts(block, counts)).toBe(wanted);
    }
    expect(native.equalCounts(Uint8Array.of(0, 1, 0, 2, 1, 3), Uint8Array.of(1, 2, 3))).toBe(2);
  });
});
