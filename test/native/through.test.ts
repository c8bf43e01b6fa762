// Goal: what only passes through is looked at and copied as if it were read and written. Method:
// random files against a model; each end of file, error and cold range that the kernel can show.
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import type { HostFile } from '../../src/host/file.js';
import { nodeFiles, tryNativeEngine } from '../../src/host/node/files.js';
import { failureCode, seededRandom, tempDir } from '../support/index.js';
import { openFile, withAddon } from './support.js';

const KIB = 1024;

/** Data with runs of zeroes of all lengths. */
function content(random: ReturnType<typeof seededRandom>, bytes: number): Uint8Array {
  const out = random.bytes(bytes);
  for (let i = random.int(3, 9); i > 0; i--) {
    const from = random.int(0, bytes - 1);
    const unit = random.pick([1, 512, 4 * KIB, 64 * KIB]);
    const start = from - (from % unit);
    out.fill(0, start, Math.min(bytes, start + random.int(1, 300) * KIB));
  }
  return out;
}

const readOnly = { writable: false, direct: false, engine: 'auto' } as const;

withAddon('looking for zeroes in a file', () => {
  test('agrees with looking at each byte, at any offset, skew, block size and end', async () => {
    const random = seededRandom();
    const path = join(tempDir(), 'a');
    for (let round = 0; round < 60; round++) {
      const bytes = random.int(1, 900 * KIB);
      const model = content(random, bytes);
      writeFileSync(path, model);
      const file = await nodeFiles.open(path, readOnly);
      const block = random.pick([512, 4 * KIB, 32 * KIB, 64 * KIB, 512 * KIB]);
      const skew = random.pick([0, random.int(0, block - 1)]);
      const offset = random.int(0, bytes);
      const length = random.int(1, 700 * KIB);
      const blocks = Math.ceil((skew + length) / block);
      const zero = new Uint8Array(blocks + 1).fill(9);
      expect(await file.tryFindZeroes!(offset, length, block, skew, zero)).toBe(true);
      const wanted = new Array<number>(blocks).fill(1);
      for (let i = 0; i < length; i++) {
        if ((model[offset + i] ?? 0) !== 0) wanted[Math.floor((skew + i) / block)] = 0;
      }
      expect([...zero]).toEqual([...wanted, 9]);
      await file.close();
    }
  });

  test('is refused where it would have to wait, with O_DIRECT, and after the end', async () => {
    const path = join(tempDir(), 'a');
    writeFileSync(path, new Uint8Array(256 * KIB).fill(1));
    const file = await openFile(path, 'auto', { keep: true });
    const zero = new Uint8Array(64);
    await file.dropCache();
    // A file system in memory has no cache to drop.
    if (file.isCached?.(0, 256 * KIB) === false) {
      expect(await file.tryFindZeroes!(0, 256 * KIB, 4 * KIB, 0, zero)).toBe(false);
    }
    await file.setDirect(true);
    expect(await file.tryFindZeroes!(0, 4 * KIB, 4 * KIB, 0, zero)).toBe(false);
    await file.setDirect(false);
    await file.close();
    expect(await file.tryFindZeroes!(0, 4 * KIB, 4 * KIB, 0, zero)).toBe(false);
  });
});

withAddon('writing what stands in another file', () => {
  const engine = tryNativeEngine()!;
  afterEach(() => {
    engine.setTamper(undefined);
  });

  async function files(model: Uint8Array): Promise<[HostFile, HostFile, string]> {
    const folder = tempDir();
    writeFileSync(join(folder, 'from'), model);
    const to = join(folder, 'to');
    return [await nodeFiles.open(join(folder, 'from'), readOnly), await openFile(to, 'auto'), to];
  }

  test('gives the same bytes at any offset and length, zeroes behind the end', async () => {
    const random = seededRandom();
    const model = content(random, 800 * KIB + 37);
    const [from, to, path] = await files(model);
    const wanted = new Uint8Array(2048 * KIB);
    for (let round = 0; round < 40; round++) {
      const offset = random.int(0, model.length);
      const bytes = random.int(1, 600 * KIB);
      const at = random.int(0, 1400 * KIB);
      await to.tryWriteFrom!({ file: from, offset, bytes }, at, 0);
      wanted.fill(0, at, at + bytes);
      wanted.set(model.subarray(offset, Math.min(model.length, offset + bytes)), at);
    }
    const got = readFileSync(path);
    expect(Buffer.compare(got, wanted.subarray(0, got.length))).toBe(0);
    expect(wanted.subarray(got.length).every((x) => x === 0)).toBe(true);
    await Promise.all([from.close(), to.close()]);
  });

  test('leaves out blocks of zeroes, and nothing else', async () => {
    const random = seededRandom();
    for (const block of [512, 4 * KIB, 64 * KIB]) {
      const model = content(random, 1000 * KIB);
      // In the middle, away from its neighbours.
      model.fill(0, 256 * KIB, 512 * KIB);
      const [from, to, path] = await files(model);
      const run = { file: from, offset: 0, bytes: model.length };
      const shift = random.pick([0, 512, 100 * KIB]);
      await to.tryWriteFrom!(run, shift, block);
      const got = readFileSync(path);
      const wanted = Buffer.concat([new Uint8Array(shift), model]);
      expect(Buffer.compare(got, wanted.subarray(0, got.length))).toBe(0);
      expect(wanted.subarray(got.length).every((x) => x === 0)).toBe(true);
      expect(statSync(path).blocks * 512).toBeLessThan(model.length + shift - 100 * KIB);
      await Promise.all([from.close(), to.close()]);
    }
  });

  test('tells what the kernel says of reading and of writing', async () => {
    const [from, to] = await files(new Uint8Array(64 * KIB).fill(1));
    const run = { file: from, offset: 0, bytes: 64 * KIB };
    const full = await nodeFiles.open('/dev/full', { ...readOnly, writable: true });
    expect(await failureCode(full.tryWriteFrom!(run, 0, 0)!)).toBe('ENOSPC');
    await full.close();
    const folder = await nodeFiles.open(tempDir(), readOnly).catch(() => undefined);
    if (folder !== undefined) {
      expect(await failureCode(to.tryWriteFrom!({ ...run, file: folder }, 0, 0)!)).toBe('EISDIR');
      await folder.close();
    }
    // Not writable; closed.
    expect(await failureCode(from.tryWriteFrom!({ ...run, file: to }, 0, 0)!)).toBe('EBADF');
    await to.close();
    expect(await failureCode(to.tryWriteFrom!(run, 0, 0)!)).toBe('EBADF');
    await from.close();
  });

  test('is refused with O_DIRECT on either side, and for files of another kind', async () => {
    const [from, to] = await files(new Uint8Array(64 * KIB).fill(1));
    const run = { file: from, offset: 0, bytes: 64 * KIB };
    await from.setDirect(true);
    expect(to.tryWriteFrom!(run, 0, 0)).toBeUndefined();
    await from.setDirect(false);
    await to.setDirect(true);
    expect(to.tryWriteFrom!(run, 0, 0)).toBeUndefined();
    await to.setDirect(false);
    const plain = await nodeFiles.open(from.path, { ...readOnly, engine: 'node-fs' });
    expect(to.tryWriteFrom!({ ...run, file: plain }, 0, 0)).toBeUndefined();
    await Promise.all([plain.close(), from.close(), to.close()]);
  });

  test('both files stay open until it has ended', async () => {
    const [from, to, path] = await files(new Uint8Array(900 * KIB).fill(5));
    const done = to.tryWriteFrom!({ file: from, offset: 0, bytes: 900 * KIB }, 0, 0);
    await Promise.all([from.close(), to.close()]);
    await done;
    expect(readFileSync(path).every((x) => x === 5)).toBe(true);
    expect(statSync(path).size).toBe(900 * KIB);
  });
});
