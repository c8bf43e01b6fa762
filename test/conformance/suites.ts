/**
 * The conformance suites: what every driver has to do. Each suite is a list of checks over a
 * function that makes a new disk; `conformance.test.ts` runs them.
 */
import { expect } from 'vitest';
import { Iov, nodeStatus, Perm, Req } from '../../src/index.js';
import { Random } from '../support/random.js';
import { failure, failureCode, filled, readBytes, same } from '../support/graphs.js';
import { randomOperations } from './random-operations.js';
import type { Disk, Setting, SuiteName } from './subject.js';

export type Make = (setting?: Partial<Setting>) => Promise<Disk>;
export type Check = (make: Make, seed: () => number) => Promise<void>;
export type Suite = Readonly<Record<string, Check>>;

const KiB = 1024;
const MiB = 1024 * KiB;

const readWrite: Suite = {
  'reads zeroes from a new image where it says so': async (make) => {
    const { backend } = await make();
    if (!(await backend.node.instance.hasZeroInit?.())) return;
    same(await readBytes(backend, 0, 4096), new Uint8Array(4096));
    const end = backend.size - 4096;
    same(await readBytes(backend, end, 4096), new Uint8Array(4096));
  },
  'reads what was written, and its surroundings unchanged': async (make, seed) => {
    const random = new Random(seed());
    const { backend } = await make();
    for (const offset of [0, 1, 511, 65535, MiB - 1000, backend.size - 3000]) {
      await backend.writeZeroes(0, backend.size);
      const data = random.bytes(3000);
      await backend.write(offset, Iov.of(data));
      same(await readBytes(backend, offset, 3000), data);
      if (offset > 0) expect((await readBytes(backend, offset - 1, 1))[0]).toBe(0);
      const end = offset + 3000;
      if (end < backend.size) expect((await readBytes(backend, end, 1))[0]).toBe(0);
    }
  },
  'a later write wins, in whole and in part': async (make) => {
    const { backend } = await make();
    await backend.writeZeroes(0, 200 * KiB);
    await backend.write(100, filled(70 * KiB, 1));
    await backend.write(200, filled(100, 2));
    await backend.write(250, filled(70 * KiB, 3));
    const got = await readBytes(backend, 99, 72 * KiB);
    expect([got[0], got[1], got[100], got[101], got[150]]).toEqual([0, 1, 1, 2, 2]);
    expect([got[151], got[150 + 70 * KiB], got[151 + 70 * KiB]]).toEqual([3, 3, 0]);
  },
  'serves many requests at once': async (make, seed) => {
    const random = new Random(seed());
    const { backend } = await make({ seed: random.uint32() });
    const pieces = Array.from({ length: 64 }, () => random.bytes(8 * KiB));
    await Promise.all(pieces.map((p, i) => backend.write(i * 16 * KiB + 4 * KiB, Iov.of(p))));
    const got = await Promise.all(
      pieces.map((_, i) => readBytes(backend, i * 16 * KiB + 4 * KiB, 8 * KiB)),
    );
    got.forEach((g, i) => same(g, pieces[i]!));
  },
};

const vectors: Suite = {
  'pieces of any length make one request': async (make, seed) => {
    const random = new Random(seed());
    const { backend } = await make();
    const data = random.bytes(20_000);
    const out: Uint8Array[] = [];
    const pieces: Uint8Array[] = [];
    for (let at = 0; at < data.length;) {
      const n = Math.min(random.pick([1, 2, 511, 512, 513, 4096]), data.length - at);
      pieces.push(data.subarray(at, at + n));
      out.push(new Uint8Array(n));
      at += n;
    }
    await backend.write(777, Iov.from(pieces));
    same(await readBytes(backend, 777, data.length), data);
    await backend.read(777, Iov.from(out));
    same(Iov.from(out).flatten(), data);
  },
  'more pieces than a system call takes': async (make) => {
    const { backend } = await make();
    const pieces = Array.from({ length: 3000 }, (_, i) => new Uint8Array(3).fill(i % 251));
    await backend.write(512, Iov.from(pieces));
    same(await readBytes(backend, 512, 9000), Iov.from(pieces).flatten());
  },
};

const unaligned: Suite = {
  'writes within blocks keep the rest of the blocks': async (make, seed) => {
    const random = new Random(seed());
    for (const alignment of [512, 4096] as const) {
      const { backend } = await make({ alignment });
      const model = random.bytes(64 * KiB);
      await backend.write(0, Iov.of(model));
      for (let i = 0; i < 60; i++) {
        const offset = random.int(0, 60 * KiB);
        const data = random.bytes(random.pick([1, 100, 512, 1000, 4096, 4097]));
        const n = Math.min(data.length, model.length - offset);
        model.set(data.subarray(0, n), offset);
        await backend.write(offset, Iov.of(data.subarray(0, n)));
      }
      same(await readBytes(backend, 0, 64 * KiB), model);
    }
  },
  'parts of one block, written at once, all arrive': async (make, seed) => {
    const random = new Random(seed());
    for (const alignment of [512, 4096] as const) {
      const { backend } = await make({ alignment, seed: random.uint32() });
      const model = random.bytes(4 * 4096);
      const writes: Promise<void>[] = [];
      for (let at = 0; at < model.length;) {
        const n = Math.min(random.int(1, 700), model.length - at);
        writes.push(backend.write(at, Iov.of(model.subarray(at, at + n))));
        at += n;
      }
      await Promise.all(writes);
      same(await readBytes(backend, 0, model.length), model);
    }
  },
  'zero writes within blocks keep the rest': async (make) => {
    const { backend } = await make({ alignment: 4096 });
    await backend.write(0, filled(32 * KiB, 9));
    await backend.writeZeroes(1000, 20_000);
    const expected = new Uint8Array(32 * KiB).fill(9).fill(0, 1000, 21_000);
    same(await readBytes(backend, 0, 32 * KiB), expected);
  },
};

const zeroes: Suite = {
  'a zero write reads as zeroes, with and without unmapping': async (make) => {
    const { backend } = await make();
    for (const flags of [0, Req.mayUnmap, Req.fua]) {
      await backend.write(0, filled(300 * KiB, 5));
      await backend.writeZeroes(1000, 200 * KiB, flags);
      const expected = new Uint8Array(300 * KiB).fill(5).fill(0, 1000, 1000 + 200 * KiB);
      same(await readBytes(backend, 0, 300 * KiB), expected);
    }
  },
  'data may be written over zeroes again': async (make) => {
    const { backend } = await make();
    await backend.write(0, filled(128 * KiB, 5));
    await backend.writeZeroes(0, 128 * KiB, Req.mayUnmap);
    await backend.write(64 * KiB + 1, filled(10, 6));
    const expected = new Uint8Array(128 * KiB).fill(6, 64 * KiB + 1, 64 * KiB + 11);
    same(await readBytes(backend, 0, 128 * KiB), expected);
  },
  'noFallback zeroes cheaply or fails with ENOTSUP': async (make) => {
    const { backend } = await make();
    await backend.write(0, filled(128 * KiB, 5));
    const code = await backend.writeZeroes(0, 128 * KiB, Req.noFallback).then(
      () => 'done',
      (e: unknown) => failureCode(Promise.reject(e as Error)),
    );
    expect(['done', 'ENOTSUP']).toContain(code);
    const left = code === 'done' ? 0 : 5;
    same(await readBytes(backend, 0, 128 * KiB), new Uint8Array(128 * KiB).fill(left));
  },
  'detect-zeroes stores the same': async (make) => {
    const { backend } = await make();
    backend.node.detectZeroes = 'unmap';
    await backend.write(0, filled(128 * KiB, 5));
    await backend.write(500, filled(100 * KiB, 0));
    const expected = new Uint8Array(128 * KiB).fill(5).fill(0, 500, 500 + 100 * KiB);
    same(await readBytes(backend, 0, 128 * KiB), expected);
  },
};

const discard: Suite = {
  'touches nothing around it': async (make) => {
    const { backend } = await make();
    await backend.write(0, filled(512 * KiB, 5));
    await backend.discard(1000, 300 * KiB);
    same(await readBytes(backend, 0, 1000), await expectedAround(backend, 1000));
    const after = 1000 + 300 * KiB;
    const got = await readBytes(backend, after, 1000);
    if (got[0] !== 0) same(got, new Uint8Array(1000).fill(5));
  },
  'the range can be written again': async (make) => {
    const { backend } = await make();
    await backend.discard(0, backend.size);
    await backend.write(4096, filled(100, 7));
    const got = await readBytes(backend, 4096, 100);
    if (got[0] !== 0) same(got, new Uint8Array(100).fill(7));
  },
};

/** Bytes before a discarded range: 5 as written, or 0 where a driver keeps nothing at all. */
async function expectedAround(disk: Disk['backend'], bytes: number): Promise<Uint8Array> {
  const first = await readBytes(disk, 0, 1);
  return new Uint8Array(bytes).fill(first[0] === 0 ? 0 : 5);
}

const resize: Suite = {
  'grows with zeroes and keeps the data': async (make) => {
    const { backend } = await make();
    const old = backend.size;
    await backend.write(old - 1000, filled(1000, 5));
    await backend.truncate(old + MiB, { zeroFill: true });
    expect(backend.size).toBe(old + MiB);
    same(await readBytes(backend, old - 1000, 1000), new Uint8Array(1000).fill(5));
    same(await readBytes(backend, old, MiB), new Uint8Array(MiB));
    await backend.write(old + MiB - 512, filled(512, 6));
    same(await readBytes(backend, old + MiB - 512, 512), new Uint8Array(512).fill(6));
  },
  'forgets what it cuts off': async (make) => {
    const { backend } = await make();
    const old = backend.size;
    await backend.write(0, filled(old, 5));
    await backend.truncate(MiB + 512);
    expect(backend.size).toBe(MiB + 512);
    await backend.truncate(old, { zeroFill: true });
    same(await readBytes(backend, 0, MiB + 512), new Uint8Array(MiB + 512).fill(5));
    const rest = old - MiB - 512;
    same(await readBytes(backend, MiB + 512, rest), new Uint8Array(rest));
  },
  'tells whoever uses it': async (make) => {
    const { backend } = await make();
    const lengths: number[] = [];
    backend.onResize = () => lengths.push(backend.size);
    await backend.truncate(4 * MiB);
    expect(lengths).toEqual([4 * MiB]);
  },
};

const flush: Suite = {
  'what was flushed survives a power cut': async (make) => {
    const disk = await make();
    await disk.backend.write(1000, filled(100 * KiB, 5));
    await disk.backend.flush();
    const next = await afterCut(disk);
    same(await readBytes(next, 1000, 100 * KiB), new Uint8Array(100 * KiB).fill(5));
  },
  'so does a write with FUA, and every write with the write cache off': async (make) => {
    const disk = await make();
    await disk.backend.write(1000, filled(1000, 5), Req.fua);
    disk.backend.writeCache = false;
    await disk.backend.write(3000, filled(1000, 6));
    await disk.backend.writeZeroes(1000, 500);
    const next = await afterCut(disk);
    same(await readBytes(next, 1000, 500), new Uint8Array(500));
    same(await readBytes(next, 1500, 500), new Uint8Array(500).fill(5));
    same(await readBytes(next, 3000, 1000), new Uint8Array(1000).fill(6));
  },
  'a failed flush is told': async (make) => {
    const disk = await make();
    await disk.backend.write(0, filled(512, 1));
    disk.files.inject({ op: 'flush', code: 'EIO' });
    expect(await failureCode(disk.backend.flush())).toBe('EIO');
    disk.files.faults.length = 0;
  },
};

/** The disk as a restart finds it when all that was not flushed is lost. */
async function afterCut(disk: Disk): Promise<Disk['backend']> {
  const before = new Map(disk.files.disks);
  const after = disk.files.afterPowerCut(undefined, 'none');
  // The old instance still closes, on disks of its own.
  const next = await disk.again();
  await next.backend.detach();
  disk.files.disks.clear();
  for (const [path, content] of after.disks) disk.files.disks.set(path, content);
  expect(before.size).toBe(after.disks.size);
  return (await next.again()).backend;
}

const reopen: Suite = {
  'finds the data and the length again': async (make, seed) => {
    const data = new Random(seed()).bytes(200 * KiB);
    const disk = await make();
    const { size } = disk.backend;
    await disk.backend.write(12345, Iov.of(data));
    const next = await disk.again();
    expect(next.backend.size).toBe(size);
    same(await readBytes(next.backend, 12345, data.length), data);
    expect((await readBytes(next.backend, 0, 12345)).length).toBe(12345);
  },
  'read-only reads the same and changes no byte of the storage': async (make) => {
    const disk = await make();
    await disk.backend.write(5000, filled(5000, 5));
    const next = await disk.again({});
    const before = [...next.files.disks.keys()].map((path) => next.files.bytesOf(path));
    same(await readBytes(next.backend, 5000, 5000), new Uint8Array(5000).fill(5));
    expect(await failureCode(next.backend.write(0, filled(512, 1)))).toBe('EPERM');
    await next.backend.detach();
    const after = [...next.files.disks.keys()].map((path) => next.files.bytesOf(path));
    after.forEach((a, i) => same(a, before[i]!));
  },
};

const permissions: Suite = {
  'a second writer is refused when the first does not share': async (make) => {
    const { graph, backend } = await make();
    const reference = backend.node.name;
    await graph.changePerms(backend.root!, { perm: Perm.write, shared: Perm.consistentRead });
    const second = graph.openBackend({ reference }, { perm: Perm.write, shared: Perm.all });
    expect(await failure(second)).toContain(`Permission conflict on node '${reference}'`);
    const reader = await graph.openBackend(
      { reference },
      { perm: Perm.consistentRead, shared: Perm.all },
    );
    await reader.detach();
  },
  'every name of the graph is free again at the end': async (make) => {
    const { graph, backend } = await make();
    expect(graph.nodes.size).toBeGreaterThan(0);
    await backend.detach();
    expect([...graph.nodes.keys()]).toEqual([]);
  },
};

const closeWaits: Suite = {
  'requests in flight end before the node closes': async (make, seed) => {
    const { backend, files } = await make({ seed: seed() });
    let ended = 0;
    const requests = Array.from({ length: 20 }, (_, i) =>
      backend.write(i * 5000, filled(5000, i + 1)).then(() => ended++),
    );
    requests.push(backend.flush().then(() => ended++));
    await backend.detach();
    expect(ended).toBe(21);
    await Promise.all(requests);
    const changes = files.changes;
    await new Promise((resolve) => setImmediate(resolve));
    expect(files.changes).toBe(changes);
  },
  'drain holds new requests back until it ends': async (make) => {
    const { backend } = await make();
    await backend.drainBegin();
    let done = false;
    const write = backend.write(0, filled(512, 1)).then(() => {
      done = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(done).toBe(false);
    backend.drainEnd();
    await write;
  },
};

const bounds: Suite = {
  'requests past the end fail and change nothing': async (make) => {
    const { backend, files } = await make();
    const { size } = backend;
    const past = [size, size - 511, size + MiB];
    for (const offset of past) {
      expect(await failureCode(backend.read(offset, filled(512, 0)))).toBe('EIO');
      expect(await failureCode(backend.write(offset, filled(512, 1)))).toBe('EIO');
      expect(await failureCode(backend.writeZeroes(offset, 512))).toBe('EIO');
      expect(await failureCode(backend.discard(offset, 512))).toBe('EIO');
    }
    expect(await failureCode(backend.read(-512, filled(512, 0)))).toBe('EIO');
    expect(backend.size).toBe(size);
    expect(files.counts.get('write') ?? 0).toBe(files.counts.get('write') ?? 0);
  },
  'requests up to the end are served, empty ones everywhere': async (make) => {
    const { backend } = await make();
    await backend.write(backend.size - 512, filled(512, 1));
    await readBytes(backend, backend.size - 512, 512);
    await backend.write(backend.size, filled(0, 0));
    await readBytes(backend, backend.size, 0);
    await backend.writeZeroes(0, 0);
    await backend.discard(0, 0);
  },
  'status covers the disk in runs and ends at its end': async (make) => {
    const { backend } = await make();
    await backend.write(MiB, filled(1000, 5));
    let at = 0;
    while (at < backend.size) {
      const run = await nodeStatus(backend.node, at, backend.size - at, true);
      expect(run.bytes).toBeGreaterThan(0);
      expect(at + run.bytes).toBeLessThanOrEqual(backend.size);
      if (run.zero) {
        const got = await readBytes(backend, at, run.bytes);
        expect(got.every((b) => b === 0)).toBe(true);
      }
      expect(run.eof).toBe(at + run.bytes === backend.size);
      at += run.bytes;
    }
    expect((await nodeStatus(backend.node, at, 512, true)).bytes).toBe(0);
  },
};

const random: Suite = {
  'agrees with a model over random operations': async (make, seed) => {
    const start = seed();
    for (const alignment of [1, 4096] as const) {
      const disk = await make({ alignment, seed: start });
      await randomOperations(disk, new Random(start), { rounds: 60, atOnce: 12 });
    }
  },
};

export const suites: Readonly<Record<SuiteName, Suite>> = {
  'read-write': readWrite,
  vectors,
  unaligned,
  zeroes,
  discard,
  resize,
  flush,
  reopen,
  permissions,
  'close-waits': closeWaits,
  bounds,
  random,
};
