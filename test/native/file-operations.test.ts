// Goal: what a file can do besides reading and writing, on a file system, and on a block device.
// Method: each call against the real thing, its effect seen by other means where there are any.
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { HostFile } from '../../src/host/file.js';
import { nodeFiles, tryNativeEngine } from '../../src/host/node/files.js';
import { Iov } from '../../src/lib/iov.js';
import { failureCode, tempDir } from '../support/index.js';
import { asRoot, openFile, sh, withAddon } from './support.js';

const KIB = 1024;
const MIB = 1024 * 1024;

const filledWith = (bytes: number, value: number): Iov => Iov.of(new Uint8Array(bytes).fill(value));

async function readAll(file: HostFile, at: number, bytes: number): Promise<Uint8Array> {
  const b = nodeFiles.alignedBuffer?.(bytes) ?? new Uint8Array(bytes);
  const n = await file.read(at, Iov.of(b));
  return b.subarray(0, n);
}

withAddon('a regular file', () => {
  test('punchHole frees blocks that then read as zeroes', async () => {
    const path = join(tempDir(), 'a');
    const file = await openFile(path, 'auto');
    await file.write(0, filledWith(MIB, 7));
    await file.flush();
    const before = await file.allocatedBytes();
    await file.punchHole(256 * KIB, 512 * KIB);
    expect(await file.allocatedBytes()).toBe(before - 512 * KIB);
    expect(await file.size()).toBe(MIB);
    const now = readFileSync(path);
    expect(now.subarray(256 * KIB, 768 * KIB).every((x) => x === 0)).toBe(true);
    expect(now[256 * KIB - 1]).toBe(7);
    expect(now[768 * KIB]).toBe(7);
    await file.close();
  });

  test('zeroRange keeps the blocks, and extends', async () => {
    const path = join(tempDir(), 'a');
    const file = await openFile(path, 'auto');
    await file.write(0, filledWith(64 * KIB, 7));
    await file.zeroRange(32 * KIB, 96 * KIB);
    expect(await file.size()).toBe(128 * KIB);
    expect(await file.allocatedBytes()).toBeGreaterThanOrEqual(128 * KIB);
    const now = readFileSync(path);
    expect(now.subarray(32 * KIB).every((x) => x === 0)).toBe(true);
    expect(now[32 * KIB - 1]).toBe(7);
    await file.zeroRange(0, 0);
    await file.close();
  });

  test.each(['io_uring', 'native'] as const)(
    'the first write into allocated blocks past the page cache: %s',
    async (name) => {
      const path = join(tempDir(), 'a');
      const file = await openFile(path, name, { direct: true });
      await file.allocate(0, MIB);
      const engine = tryNativeEngine()!;
      const counted = async (work: () => Promise<unknown>): Promise<readonly number[]> => {
        const before = engine.stats();
        await work();
        return engine.stats().map((count, i) => count - before[i]!);
      };
      const data = nodeFiles.alignedBuffer!(64 * KIB).fill(7);
      // The device may just have been slow: then the pool does it, as it does two at once.
      const [, inline = 0, ring, aio, pool = 0] = await counted(() => file.write(0, Iov.of(data)));
      expect([inline + pool, ring, aio]).toEqual([1, 0, 0]);
      const two = await counted(() =>
        Promise.all([file.write(64 * KIB, Iov.of(data)), file.write(128 * KIB, Iov.of(data))]),
      );
      expect(two.slice(1, 5)).toEqual([0, 0, 0, 2]);
      // Not the first any more.
      const [, again, , , byPool] = await counted(() => file.write(0, Iov.of(data)));
      expect([again, byPool]).toEqual([0, 0]);
      await file.close();
      const now = readFileSync(path);
      expect(now.subarray(0, 192 * KIB).every((x) => x === 7)).toBe(true);
      expect(now.subarray(192 * KIB).every((x) => x === 0)).toBe(true);
    },
  );

  test('allocate reserves blocks and extends', async () => {
    const path = join(tempDir(), 'a');
    const file = await openFile(path, 'auto');
    await file.allocate(0, MIB);
    expect(statSync(path).size).toBe(MIB);
    expect(await file.allocatedBytes()).toBeGreaterThanOrEqual(MIB);
    await file.close();
  });

  test('extentAt tells data from holes up to the end', async () => {
    const file = await openFile(join(tempDir(), 'a'), 'auto');
    await file.write(64 * KIB, filledWith(64 * KIB, 1));
    await file.truncate(256 * KIB);
    await file.flush();
    expect(await file.extentAt(0)).toEqual({ data: false, bytes: 64 * KIB });
    expect(await file.extentAt(64 * KIB)).toEqual({ data: true, bytes: 64 * KIB });
    expect(await file.extentAt(100 * KIB)).toEqual({ data: true, bytes: 28 * KIB });
    expect(await file.extentAt(128 * KIB)).toEqual({ data: false, bytes: 128 * KIB });
    expect(await file.extentAt(256 * KIB)).toBeUndefined();
    expect(await file.extentAt(999 * KIB)).toBeUndefined();
    await file.close();
  });

  test('copyFrom copies within the kernel, also past the end of the target', async () => {
    const folder = tempDir();
    const from = await openFile(join(folder, 'from'), 'auto');
    const to = await openFile(join(folder, 'to'), 'threads');
    const data = new Uint8Array(300_000).map((_, i) => i * 31);
    await from.write(0, Iov.of(data));
    expect(await to.copyFrom(from, 1000, 5000, 200_000)).toBe(200_000);
    const now = readFileSync(join(folder, 'to'));
    expect(Buffer.compare(now.subarray(5000), data.subarray(1000, 201_000))).toBe(0);
    expect(await to.copyFrom(from, 299_000, 0, 5000)).toBe(1000);
    const script = await openFile(join(folder, 'other'), 'node-fs');
    expect(await failureCode(to.copyFrom(script, 0, 0, 10))).toBe('ENOTSUP');
    await Promise.all([from.close(), to.close(), script.close()]);
  });

  test('setDirect turns O_DIRECT on and off; dropCache empties the page cache', async () => {
    const path = join(tempDir(), 'a');
    const file = await openFile(path, 'auto');
    await file.write(0, filledWith(MIB, 3));
    expect(await file.cachedBytes?.()).toBe(MIB);
    await file.dropCache();
    expect(await file.cachedBytes?.()).toBe(0);
    await file.setDirect(true);
    expect(file.limits.requestAlignment).toBeGreaterThanOrEqual(512);
    expect((await readAll(file, 0, MIB)).every((x) => x === 3)).toBe(true);
    expect(await file.cachedBytes?.()).toBe(0);
    await file.setDirect(false);
    expect(file.limits.requestAlignment).toBe(1);
    await readAll(file, 0, 4 * KIB);
    expect(await file.cachedBytes?.()).toBeGreaterThan(0);
    await file.close();
  });

  test('open-file-description locks conflict between opens, not within one', async () => {
    const path = join(tempDir(), 'a');
    const a = await openFile(path, 'auto');
    const b = await openFile(path, 'auto', { keep: true });
    const lock = { offset: 100, bytes: 1, type: 'shared' } as const;
    expect(await a.tryLock(lock)).toBe(true);
    expect(await b.tryLock(lock)).toBe(true);
    expect(await b.testLock({ ...lock, type: 'exclusive' })).toBe(false);
    expect(await b.tryLock({ ...lock, type: 'exclusive' })).toBe(false);
    expect(await b.tryLock({ offset: 101, bytes: 1, type: 'exclusive' })).toBe(true);
    expect(await a.tryLock({ ...lock, type: 'unlock' })).toBe(true);
    expect(await b.testLock({ ...lock, type: 'exclusive' })).toBe(true);
    await b.close();
    expect(await a.tryLock({ offset: 101, bytes: 1, type: 'exclusive' })).toBe(true);
    await a.close();
  });

  test('names an error of the system', async () => {
    const folder = tempDir();
    const path = join(folder, 'a');
    writeFileSync(path, 'x');
    const open = (name: string, create?: 'exclusive'): Promise<HostFile> =>
      nodeFiles.open(name, {
        writable: true,
        direct: false,
        engine: 'auto',
        ...(create === undefined ? {} : { create }),
      });
    expect(await failureCode(open(join(folder, 'none')))).toBe('ENOENT');
    expect(await failureCode(open(folder))).toBe('EISDIR');
    expect(await failureCode(open(path, 'exclusive'))).toBe('EEXIST');
    const file = await nodeFiles.open(path, { writable: false, direct: false, engine: 'auto' });
    await expect(file.write(0, filledWith(1, 1))).rejects.toThrow('Bad file descriptor');
    await file.close();
    for (const call of [
      file.flush(),
      file.size(),
      file.read(0, filledWith(1, 0)),
      file.extentAt(0),
    ]) {
      expect(await failureCode(call)).toBe('EBADF');
    }
    await file.close();
  });
});

describe('names and paths', () => {
  test('are joined as image headers mean them', () => {
    expect(nodeFiles.join('/a/b', 'c')).toBe('/a/b/c');
    expect(nodeFiles.join('/a/b', '/c')).toBe('/c');
    expect(nodeFiles.join('/a', 'nbd://host/x')).toBe('nbd://host/x');
    expect(nodeFiles.join('', 'c')).toBe('c');
    expect(nodeFiles.join('/', 'c')).toBe('/c');
    expect(nodeFiles.join('/a', './b:c')).toBe('/a/./b:c');
    expect([nodeFiles.dirname('/a/b'), nodeFiles.dirname('/a'), nodeFiles.dirname('a')]).toEqual([
      '/a',
      '/',
      '',
    ]);
  });
});

asRoot('losetup', 'mount')('a file system without ZERO_RANGE (tmpfs)', () => {
  let folder = '';
  beforeAll(() => {
    folder = tempDir({ keep: true });
    sh('mount', '-t', 'tmpfs', '-o', 'size=4m', 'vdisk-test', folder);
  });
  afterAll(() => {
    sh('umount', folder);
  });

  test('zeroRange punches and allocates again', async () => {
    const file = await openFile(join(folder, 'a'), 'auto');
    await file.write(0, filledWith(256 * KIB, 9));
    await file.zeroRange(64 * KIB, 64 * KIB);
    const now = readFileSync(join(folder, 'a'));
    expect(now.subarray(64 * KIB, 128 * KIB).every((x) => x === 0)).toBe(true);
    expect(now[64 * KIB - 1]).toBe(9);
    expect(await file.allocatedBytes()).toBe(256 * KIB);
    await file.close();
  });
});

asRoot('losetup')('a block device (loop)', () => {
  let folder = '';
  let device = '';
  beforeAll(() => {
    folder = tempDir({ keep: true });
    sh('truncate', '-s', '8M', join(folder, 'backing'));
    device = sh('losetup', '--find', '--show', join(folder, 'backing'));
  });
  afterAll(() => {
    if (device !== '') sh('losetup', '--detach', device);
    sh('rm', '-r', folder);
  });

  for (const engine of ['io_uring', 'native', 'threads', 'node-fs'] as const) {
    test(`tells its size and sectors, reads and writes by ${engine}`, async () => {
      const file = await openFile(device, engine, { direct: true, keep: true });
      expect(file.kind).toBe('block');
      expect(await file.size()).toBe(8 * MIB);
      expect((await nodeFiles.stat(device)).size).toBe(8 * MIB);
      expect(file.limits.requestAlignment).toBe(512);
      await file.write(4096, filledWith(8192, engine.length));
      expect((await readAll(file, 4096, 8192)).every((x) => x === engine.length)).toBe(true);
      await file.close();
    });
  }

  test('zeroRange, punchHole and discard act on the device', async () => {
    const file = await openFile(device, 'auto', { direct: true, keep: true });
    expect(file.limits.discardAlignment).toBeGreaterThanOrEqual(512);
    await file.write(0, filledWith(MIB, 5));
    await file.zeroRange(0, 64 * KIB);
    await file.punchHole(128 * KIB, 64 * KIB);
    await file.discard?.(256 * KIB, 64 * KIB);
    const now = await readAll(file, 0, MIB);
    const zero = (at: number): boolean => now.subarray(at, at + 64 * KIB).every((x) => x === 0);
    expect([zero(0), zero(64 * KIB), zero(128 * KIB), zero(256 * KIB)]).toEqual([
      true,
      false,
      true,
      true,
    ]);
    expect(await failureCode(file.zeroRange(1, 512))).toBe('ENOTSUP');
    await file.close();
  });
});
