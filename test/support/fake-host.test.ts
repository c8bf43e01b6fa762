// Goal: the simulated disk keeps its fault model. Method: small histories, all outcomes counted.
import { describe, expect, it } from 'vitest';
import { Iov } from '../../src/lib/iov.js';
import type { HostFile } from '../../src/host/file.js';
import { FakeClock, FakeFiles, Random, seededRandom } from './index.js';

const how = { writable: true, direct: false, engine: 'auto' } as const;
const sector = (value: number): Iov => Iov.of(new Uint8Array(512).fill(value));

async function fresh(files: FakeFiles, bytes = 4096): Promise<HostFile> {
  files.put('/d', bytes);
  return files.open('/d', how);
}

describe('power cuts', () => {
  it('keep what was flushed and nothing that never was written', async () => {
    const random = seededRandom();
    for (let i = 0; i < 200; i++) {
      const files = new FakeFiles();
      const file = await fresh(files);
      await file.write(0, sector(1));
      await file.flush();
      await file.write(512, sector(2));
      const after = files.afterPowerCut(random).bytesOf('/d');
      expect(after[0]).toBe(1);
      expect([0, 2]).toContain(after[512]);
      expect(after[1024]).toBe(0);
    }
  });

  it('tear, drop and reorder by the sector: each state of a sector comes up', async () => {
    const random = seededRandom();
    const files = new FakeFiles();
    const file = await fresh(files);
    const two = (value: number): Iov => Iov.of(new Uint8Array(1024).fill(value));
    await file.write(0, two(1));
    await file.write(0, two(2));
    const seen = new Set<string>();
    for (let i = 0; i < 2000; i++) {
      const after = files.afterPowerCut(random).bytesOf('/d');
      expect(new Set(after.subarray(0, 512)).size).toBe(1);
      seen.add(`${after[0]}${after[512]}`);
    }
    expect([...seen].sort()).toEqual(['00', '01', '02', '10', '11', '12', '20', '21', '22']);
  });

  it('a write that was not complete when the flush was called is not covered', async () => {
    const files = new FakeFiles({ reorder: true, seed: 3 });
    const file = await fresh(files);
    const flush = file.flush();
    const write = file.write(0, sector(1));
    await Promise.all([flush, write]);
    expect(files.afterPowerCut(new Random(1), 'none').bytesOf('/d')[0]).toBe(0);
  });

  it('may shorten a file that grew, to any length that it had', async () => {
    const random = seededRandom();
    const files = new FakeFiles();
    const file = await fresh(files, 512);
    await file.write(512, sector(1));
    await file.write(1024, sector(2));
    const lengths = new Set<number>();
    for (let i = 0; i < 500; i++) lengths.add(files.afterPowerCut(random).bytesOf('/d').length);
    expect([...lengths].sort((a, b) => a - b)).toEqual([512, 1024, 1536]);
  });

  it('happen after the given number of changes; everything fails from then on', async () => {
    const files = new FakeFiles();
    const file = await fresh(files);
    files.cutAfter(1);
    await file.write(0, sector(1));
    await expect(file.write(512, sector(2))).rejects.toMatchObject({ code: 'EIO' });
    await expect(file.read(0, sector(0))).rejects.toMatchObject({ code: 'EIO' });
    await expect(file.flush()).rejects.toMatchObject({ code: 'EIO' });
    expect(files.isOff).toBe(true);
    expect(files.afterPowerCut(new Random(1), 'all').bytesOf('/d')[512]).toBe(0);
  });

  it('lose or keep a big zero range around later writes', async () => {
    const files = new FakeFiles();
    files.put('/d', new Uint8Array(8 << 20).fill(7));
    const file = await files.open('/d', how);
    await file.zeroRange(0, 8 << 20);
    await file.write(1 << 20, sector(9));
    const outcomes = new Set<string>();
    const random = seededRandom();
    for (let i = 0; i < 100; i++) {
      const after = files.afterPowerCut(random).bytesOf('/d');
      outcomes.add(`${after[0]} ${after[1 << 20]}`);
    }
    expect([...outcomes].sort()).toEqual(['0 0', '0 7', '0 9', '7 0', '7 7', '7 9']);
  });
});

describe('faults', () => {
  it('hit the operation they name, after a delay, so many times', async () => {
    const files = new FakeFiles();
    const file = await fresh(files);
    files.inject({ op: 'write', code: 'EIO', offset: 512, bytes: 512, skip: 1, times: 1 });
    await file.write(0, sector(1));
    await file.write(512, sector(1));
    await expect(file.write(256, sector(2))).rejects.toMatchObject({ code: 'EIO' });
    await file.write(512, sector(3));
    expect(files.bytesOf('/d')[512]).toBe(3);
  });

  it('leave half a write behind, and end at the size of the disk', async () => {
    const files = new FakeFiles({ maxBytes: 5000 });
    const file = await fresh(files);
    files.inject({ op: 'write', code: 'EIO', partial: 100, times: 1 });
    await expect(file.write(0, sector(1))).rejects.toMatchObject({ code: 'EIO' });
    expect(files.bytesOf('/d').subarray(98, 102)).toEqual(new Uint8Array([1, 1, 0, 0]));
    const long = Iov.of(new Uint8Array(1024).fill(2));
    await expect(file.write(4096, long)).rejects.toMatchObject({ code: 'ENOSPC' });
    expect(files.bytesOf('/d').length).toBe(5000);
  });
});

describe('locks', () => {
  it('are shared or exclusive between open files, and go with close', async () => {
    const files = new FakeFiles();
    const a = await fresh(files);
    const b = await files.open('/d', how);
    const shared = { offset: 100, bytes: 2, type: 'shared' } as const;
    const exclusive = { offset: 101, bytes: 1, type: 'exclusive' } as const;
    expect(await a.tryLock(shared)).toBe(true);
    expect(await b.tryLock(shared)).toBe(true);
    expect(await b.testLock(exclusive)).toBe(false);
    await a.close();
    expect(await b.tryLock(exclusive)).toBe(true);
    expect(await (await files.open('/d', how)).tryLock(shared)).toBe(false);
  });
});

describe('clock', () => {
  it('runs timers in order, and those that they set', async () => {
    const clock = new FakeClock();
    const seen: string[] = [];
    clock.after(20, () => seen.push(`b${clock.now()}`));
    clock.after(10, () => {
      seen.push(`a${clock.now()}`);
      clock.after(5, () => seen.push(`c${clock.now()}`));
    });
    const cancel = clock.after(12, () => seen.push('never'));
    cancel();
    await clock.advance(30);
    expect(seen).toEqual(['a10', 'c15', 'b20']);
    expect(clock.now()).toBe(30);
  });
});
