// Goal: each compression library that a host may have gives the same bytes and refuses the same
// streams. Method: round trips, streams from other encoders, damage, and frames that lie.
import * as zlib from 'node:zlib';
import { expect, test } from 'vitest';
import { CompressionError } from '../../src/host/compression.js';
import { nodeCompression } from '../../src/host/node/compression.js';
import { tryNativeZlib } from '../../src/host/node/native-codec.js';
import { nodeZlib } from '../../src/host/node/node-zlib.js';
import { decodeZstd, zstdLibraries } from '../../src/host/node/zstd.js';
import type { Zstd } from '../../src/host/node/zstd.js';
import { parseZstdFrame } from '../../src/host/zstd-frame.js';
import { seededRandom } from '../support/index.js';
import type { Random } from '../support/index.js';

const CLUSTER = 65536;
const QCOW2 = { windowBits: 12, memLevel: 9, level: -1 };

/** A cluster of words from a small list: compresses to about a third. */
function cluster(random: Random, bytes = CLUSTER): Uint8Array {
  const words = Array.from({ length: 200 }, () => random.bytes(random.int(2, 12)));
  const out = new Uint8Array(bytes);
  for (let at = 0; at < bytes;) {
    const word = random.pick(words).subarray(0, bytes - at);
    out.set(word, at);
    at += word.byteLength;
  }
  return out;
}

/** The stream with bytes after it that do not belong to it. */
function followed(stream: Uint8Array, random: Random): Uint8Array {
  const out = random.bytes(stream.byteLength + random.int(0, 511));
  out.set(stream);
  return out;
}

const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

for (const [name, library] of Object.entries({ addon: tryNativeZlib(), 'node:zlib': nodeZlib })) {
  const zlibTest = library === undefined ? test.skip : test;
  const codec = library ?? nodeZlib;

  zlibTest(`zlib (${name}): round trips, whatever follows the stream`, async () => {
    const random = seededRandom();
    for (let i = 0; i < 20; i++) {
      const data = cluster(random, random.int(1, CLUSTER));
      const packed = await codec.deflateRaw(data, data.byteLength + 100, QCOW2);
      const out = new Uint8Array(data.byteLength);
      await codec.inflate(followed(packed!, random), out, -12);
      expect(same(out, data)).toBe(true);
      expect(same(zlib.inflateRawSync(packed!, { windowBits: 12 }), data)).toBe(true);
    }
  });

  zlibTest(`zlib (${name}): the limit is strict`, async () => {
    const random = seededRandom();
    const data = cluster(random);
    const packed = (await codec.deflateRaw(data, CLUSTER, QCOW2))!;
    const bytes = packed.byteLength;
    expect((await codec.deflateRaw(data, bytes + 1, QCOW2))?.byteLength).toBe(bytes);
    expect(await codec.deflateRaw(data, bytes, QCOW2)).toBeUndefined();
    expect(await codec.deflateRaw(random.bytes(CLUSTER), CLUSTER, QCOW2)).toBeUndefined();
    expect(await codec.deflateRaw(data, 0, QCOW2)).toBeUndefined();
    expect(await codec.deflateRaw(data, 1, QCOW2)).toBeUndefined();
  });

  zlibTest(`zlib (${name}): the first bytes of a longer stream, never fewer`, async () => {
    const random = seededRandom();
    const data = cluster(random);
    const packed = (await codec.deflateRaw(data, CLUSTER, QCOW2))!;
    const some = new Uint8Array(1000);
    await codec.inflate(packed, some, -12);
    expect(same(some, data.subarray(0, 1000))).toBe(true);
    const more = new Uint8Array(CLUSTER + 1);
    await expect(codec.inflate(packed, more, -12)).rejects.toThrow(CompressionError);
    const out = new Uint8Array(CLUSTER);
    const cut = packed.subarray(0, packed.byteLength >> 1);
    await expect(codec.inflate(cut, out, -12)).rejects.toThrow(CompressionError);
    const damaged = new Uint8Array(packed.byteLength).fill(0xff);
    await expect(codec.inflate(damaged, out, -12)).rejects.toThrow(CompressionError);
  });

  zlibTest(`zlib (${name}): a zlib stream ends where the output does`, async () => {
    const random = seededRandom();
    const data = cluster(random);
    const packed = zlib.deflateSync(data);
    const whole = new Uint8Array(CLUSTER);
    await codec.inflate(followed(packed, random), whole, 15);
    expect(same(whole, data)).toBe(true);
    const refused = (stream: Uint8Array, bytes: number) =>
      expect(codec.inflate(stream, new Uint8Array(bytes), 15)).rejects.toThrow(CompressionError);
    await refused(packed, CLUSTER - 1);
    await refused(packed, CLUSTER + 1);
    await refused(packed.subarray(0, packed.byteLength - 1), CLUSTER);
    const wrongSum = Uint8Array.from(packed);
    wrongSum[wrongSum.length - 1]! ^= 1;
    await refused(wrongSum, CLUSTER);
    await refused(zlib.deflateSync(new Uint8Array(64 * 1024 * 1024)), CLUSTER);
  });

  zlibTest(`zlib (${name}): settings and windows one after another`, async () => {
    const random = seededRandom();
    const data = cluster(random);
    const out = new Uint8Array(CLUSTER);
    for (const options of [QCOW2, { windowBits: 15, memLevel: 8, level: 1 }, QCOW2]) {
      const packed = (await codec.deflateRaw(data, CLUSTER, options))!;
      await codec.inflate(packed, out.fill(0), -options.windowBits);
      expect(same(out, data)).toBe(true);
      await codec.inflate(zlib.deflateSync(data), out.fill(0), 15);
      expect(same(out, data)).toBe(true);
    }
  });
}

test('the port inflates zlib streams and nothing into nothing', async () => {
  const random = seededRandom();
  const data = cluster(random);
  const out = new Uint8Array(CLUSTER);
  await nodeCompression.inflate(zlib.deflateSync(data), out);
  expect(same(out, data)).toBe(true);
  await nodeCompression.inflateRaw(new Uint8Array(0), new Uint8Array(0), 12);
  expect(nodeCompression.parallelism).toBeGreaterThan(0);
});

const libraries: [string, Zstd | undefined][] = await Promise.all(
  Object.entries(zstdLibraries).map(async ([name, load]) => [name, await load()] as const),
).then((list) => list.map(([name, library]) => [name, library]));

/** A frame without content size, made of RLE blocks of one byte value: RFC 8878, 3.1.1. */
function rleFrame(blocks: readonly (readonly [bytes: number, value: number])[]): Uint8Array {
  const out = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
  blocks.forEach(([bytes, value], i) => {
    const header = (i === blocks.length - 1 ? 1 : 0) | (1 << 1) | (bytes << 3);
    out.push(header & 255, (header >> 8) & 255, header >> 16, value);
  });
  return Uint8Array.from(out);
}

const skippable = Uint8Array.from([0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
const join = (...parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));

for (const [name, library] of libraries) {
  const zstdTest = library === undefined ? test.skip : test;
  const zstd = library!;

  zstdTest(`zstd (${name}): round trips with every other library`, async () => {
    const random = seededRandom();
    for (const [, other] of libraries) {
      if (other === undefined) continue;
      for (const bytes of [CLUSTER, random.int(1, CLUSTER), 2 * 1024 * 1024]) {
        const data = cluster(random, bytes);
        const packed = (await other.compress(data, bytes + 1000))!;
        const out = new Uint8Array(bytes);
        await decodeZstd(zstd, followed(packed, random), out);
        expect(same(out, data)).toBe(true);
        expect(await other.compress(data, packed.byteLength)).toBeUndefined();
      }
    }
  });

  zstdTest(`zstd (${name}): several frames, skippable ones, no content size`, async () => {
    const random = seededRandom();
    const data = cluster(random);
    const half = (await zstd.compress(data.subarray(0, 30_000), CLUSTER))!;
    const rest = (await zstd.compress(data.subarray(30_000), CLUSTER))!;
    const out = new Uint8Array(CLUSTER);
    await decodeZstd(zstd, followed(join(skippable, half, skippable, rest), random), out);
    expect(same(out, data)).toBe(true);
    await decodeZstd(
      zstd,
      followed(
        rleFrame([
          [60_000, 7],
          [5536, 9],
        ]),
        random,
      ),
      out,
    );
    expect([out[0], out[59_999], out[60_000], out[CLUSTER - 1]]).toEqual([7, 7, 9, 9]);
  });

  zstdTest(`zstd (${name}): bombs, cuts and damage are refused`, async () => {
    const random = seededRandom();
    const out = new Uint8Array(CLUSTER);
    const refused = async (frame: Uint8Array): Promise<void> => {
      await expect(decodeZstd(zstd, frame, out)).rejects.toThrow(CompressionError);
    };
    await refused(rleFrame(Array.from({ length: 5000 }, () => [131_072, 0] as const)));
    const zeroes = new Uint8Array(32 * 1024 * 1024);
    for (const [, other] of libraries) {
      const bomb = await other?.compress(zeroes, zeroes.byteLength);
      if (bomb !== undefined) await refused(bomb);
    }
    const packed = (await zstd.compress(cluster(random), CLUSTER))!;
    await refused(packed.subarray(0, packed.byteLength - 1));
    await refused(packed.subarray(0, 7));
    await refused(join(skippable, Uint8Array.of(0x53, 0x2a)));
    await refused(random.bytes(1000));
    await refused(new Uint8Array(0));
    // One byte too many, one too few.
    await refused((await zstd.compress(new Uint8Array(CLUSTER + 1), CLUSTER))!);
    await refused((await zstd.compress(new Uint8Array(CLUSTER - 1), CLUSTER))!);
    for (let i = 0; i < 30; i++) {
      const damaged = packed.slice();
      const at = random.int(0, damaged.byteLength - 1);
      damaged[at] = damaged[at]! ^ (1 << random.int(0, 7));
      // Without a checksum damage may go unseen; what matters is that nothing else happens.
      await decodeZstd(zstd, damaged, out).catch((error: unknown) => {
        expect(error).toBeInstanceOf(CompressionError);
      });
    }
  });
}

test('frame headers that break the rules are refused before any decoder runs', () => {
  const frame = (...bytes: number[]): Uint8Array =>
    Uint8Array.from([0x28, 0xb5, 0x2f, 0xfd, ...bytes]);
  expect(() => parseZstdFrame(frame(0x08, 0x58))).toThrow('reserved bit');
  expect(() => parseZstdFrame(frame(0x01, 0x58, 5))).toThrow('dictionary');
  expect(() => parseZstdFrame(frame(0x00, 0x58, 0x07, 0, 0))).toThrow('reserved block type');
  expect(() => parseZstdFrame(frame(0x00, 0x00, 0x03, 0x40, 0, 1))).toThrow('too large');
  expect(() => parseZstdFrame(frame(0x00))).toThrow('cut short');
  const parsed = parseZstdFrame(
    rleFrame([
      [100, 1],
      [200, 2],
    ]),
  );
  expect(parsed).toMatchObject({ contentBytes: undefined, leastBytes: 300, mostBytes: 300 });
  expect(parseZstdFrame(frame(0x60, 0x00, 0x01, 1, 0, 0)).contentBytes).toBe(512);
});
