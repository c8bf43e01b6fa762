// Goal: native helpers and their TypeScript twins are the same function. Method: known answers,
// then random input of awkward lengths and offsets through both.
import { expect, test } from 'vitest';
import { AesXts } from '../../src/lib/aes-xts.js';
import { crc32c } from '../../src/lib/crc32c.js';
import { isZeroBytes } from '../../src/lib/iov.js';
import { nodeHot } from '../../src/host/node/hot.js';
import { tryNative } from '../../src/host/node/native-binding.js';
import { tryNativeXts } from '../../src/host/node/xts.js';
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
        native.xtsCrypt(schedule, b, 32, unit, true);
        expect(Buffer.from(b).toString('hex')).toBe(cipher);
        native.xtsCrypt(schedule, b, 32, unit, false);
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
          native.xtsCrypt(schedule, b, sector, first, true);
          expect(Buffer.compare(b, want)).toBe(0);
          native.xtsCrypt(schedule, b, sector, first, false);
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
    expect(() => native.xtsCrypt(native.xtsKey(key, false), b, 512, 0, true)).toThrow(whole);
    expect(() => new AesXts(key).encrypt(b, 500, 0)).toThrow(whole);
    expect(() => tryNativeXts(key)!.encrypt(b, 500, 0)).toThrow(whole);
  });
});
