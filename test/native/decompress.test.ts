// Goal: compressed files come out as they went in, in all forms that their tools write; damage and
// cuts are told, never passed on. Method: files made by gzip, xz, zstd and bzip2, read in pieces of
// awkward lengths.
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { ByteSource, Packing } from '../../src/host/node/decompress.js';
import { decompressed, packingOf } from '../../src/host/node/decompress.js';
import { Random, requires, runOk, seededRandom, tempDir } from '../support/index.js';

const tools: readonly Packing[] = ['gzip', 'xz', 'zstd', 'bzip2'];

/** Zeroes, text and noise. */
function content(): Uint8Array {
  const b = new Uint8Array(3_000_001);
  b.set(new Random(7).bytes(900_000), 700_000);
  for (let i = 2_000_000; i < 2_900_000; i++) b[i] = 65 + (i % 23);
  return b;
}

async function* inPieces(b: Uint8Array): ByteSource {
  const lengths = [1, 2, 3, 5, 997, 65_537];
  for (let at = 0, i = 0; at < b.byteLength; i++) {
    const bytes = lengths[i % lengths.length] ?? 1;
    yield await Promise.resolve(b.slice(at, at + bytes));
    at += bytes;
  }
}

async function digest(source: ByteSource): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of source) hash.update(piece);
  return hash.digest('hex');
}

async function pack(tool: Packing, b: Uint8Array, ...args: string[]): Promise<Uint8Array> {
  const path = join(tempDir(), 'content');
  writeFileSync(path, b);
  const quiet = tool === 'zstd' ? ['-q'] : [];
  return (await runOk(tool, ['-c', ...quiet, ...args, path])).bytes;
}

for (const tool of tools) {
  const args: Record<Packing, string[][]> = {
    gzip: [[], ['-1']],
    xz: [[], ['-T2', '--block-size=500k'], ['--check=crc32']],
    zstd: [[], ['--no-check'], ['-19'], ['--single-thread', '-1']],
    bzip2: [[], ['-1']],
  };
  requires(tool)(tool, () => {
    const b = content();

    it.each(args[tool])('is known and unpacked: %j %j', async (...options) => {
      const packed = await pack(tool, b, ...options);
      expect(packingOf(packed)).toBe(tool);
      const expected = createHash('sha256').update(b).digest('hex');
      expect(await digest(decompressed(tool, inPieces(packed)))).toBe(expected);
    });

    it('may be several files one behind the other', async () => {
      const small = b.subarray(1_000_000, 1_100_000);
      const packed = await pack(tool, small);
      const twice = Buffer.concat([packed, packed]);
      const expected = createHash('sha256').update(small).update(small).digest('hex');
      expect(await digest(decompressed(tool, inPieces(twice)))).toBe(expected);
    });

    it('tells a cut', async () => {
      const packed = await pack(tool, b.subarray(700_000, 1_700_000));
      for (const bytes of [packed.byteLength - 1, packed.byteLength >> 1, 12]) {
        await expect(digest(decompressed(tool, inPieces(packed.slice(0, bytes))))).rejects.toThrow(
          new RegExp(`${tool} data is (damaged|cut)`),
        );
      }
    });

    it('tells damage', async () => {
      const packed = new Uint8Array(await pack(tool, b.subarray(700_000, 1_700_000)));
      const at = packed.byteLength >> 1;
      packed[at] = (packed[at] ?? 0) ^ 0x10;
      await expect(digest(decompressed(tool, inPieces(packed)))).rejects.toThrow(
        new RegExp(`${tool} data is|checksum of the ${tool}`),
      );
    });
  });
}

requires('bzip2')('bzip2, by its parts', () => {
  const unpacked = async (packed: Uint8Array): Promise<Buffer> => {
    const pieces: Uint8Array[] = [];
    for await (const piece of decompressed('bzip2', inPieces(packed))) pieces.push(piece);
    return Buffer.concat(pieces);
  };

  it('reads runs of all lengths, long texts, nothing, and zeroes behind it', async () => {
    const random = seededRandom();
    const runs: Uint8Array[] = [];
    for (let i = 0; i < 3000; i++) {
      const bytes = random.chance(0.5) ? random.int(1, 6) : random.int(250, 520);
      runs.push(new Uint8Array(bytes).fill(random.int(0, 2)));
    }
    const parts = [Buffer.concat(runs), random.bytes(1_000_000), Buffer.from('x'), Buffer.alloc(0)];
    for (const part of parts) {
      const packed = await pack('bzip2', part, `-${random.int(1, 9)}`);
      expect(Buffer.compare(await unpacked(packed), part)).toBe(0);
      const padded = Buffer.concat([packed, Buffer.alloc(random.int(1, 1000))]);
      expect(Buffer.compare(await unpacked(padded), part)).toBe(0);
      await expect(unpacked(Buffer.concat([padded, Buffer.from('x')]))).rejects.toThrow('damaged');
    }
  });

  it('ends with data or an error whatever the bits are', { timeout: 60_000 }, async () => {
    const random = seededRandom();
    const text = Buffer.concat([random.bytes(3000), Buffer.alloc(100_000, 'abc')]);
    const packed = await pack('bzip2', text);
    let refused = 0;
    for (let i = 0; i < 300; i++) {
      const damaged = Uint8Array.from(packed);
      for (let n = random.int(1, 6); n > 0; n--) {
        const at = random.int(4, random.pick([60, damaged.length - 1]));
        damaged[at]! ^= 1 << random.int(0, 7);
      }
      try {
        expect(Buffer.compare(await unpacked(damaged), text)).toBe(0);
      } catch (e) {
        expect((e as Error).name).toBe('CompressionError');
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(200);
  });

  it('refuses a run without end, at once', async () => {
    // A block of one byte value with codes of two bits, then RUNA again and again, with no end.
    let bits = '';
    const put = (value: number, count: number): void => {
      bits += value.toString(2).padStart(count, '0');
    };
    for (const byte of [0x42, 0x5a, 0x68, 0x39, 0x31, 0x41, 0x59, 0x26, 0x53, 0x59]) put(byte, 8);
    put(0, 32 + 1 + 24);
    put(0x8000, 16);
    put(0x8000, 16);
    put(2, 3);
    put(1000, 15);
    bits += '0'.repeat(1000);
    for (let code = 0; code < 2; code++) bits += '00010' + '0'.repeat(3);
    bits += '0'.repeat(2 * 32 + 2) + '01'.repeat(100);
    const bytes = bits.match(/.{1,8}/gu) ?? [];
    const packed = Uint8Array.from(bytes, (byte) => parseInt(byte.padEnd(8, '0'), 2));
    await expect(unpacked(packed)).rejects.toThrow('bzip2 data is damaged');
  });
});

describe('files of other kinds', () => {
  it('are not taken for compressed', () => {
    const own = new Uint8Array(readFileSync(new URL(import.meta.url)).subarray(0, 16));
    expect(packingOf(own)).toBeUndefined();
    expect(packingOf(new Uint8Array(0))).toBeUndefined();
    expect(packingOf(Uint8Array.of(0x51, 0x46, 0x49, 0xfb))).toBeUndefined();
  });

  it('hand on errors of the file itself', async () => {
    const broken = async function* (): ByteSource {
      yield await Promise.resolve(Uint8Array.of(0x1f, 0x8b, 8));
      throw Object.assign(new Error('EIO: i/o error, read'), { syscall: 'read', code: 'EIO' });
    };
    for (const tool of tools) {
      await expect(digest(decompressed(tool, broken()))).rejects.toThrow('EIO');
    }
  });
});
