// Goal: what a disk held when copy-before-write was put in stays readable, whatever is written
// meanwhile. Method: writes and reads beside each other on simulated files that complete in random
// order, checked against a copy of the old content; options, permissions and texts as with QEMU 10.
import { describe, expect, it } from 'vitest';
import type { Backend, BlockGraph, NodeOptions } from '../../src/index.js';
import { createImage, Iov, Perm, prepareCreate } from '../../src/index.js';
import { addBitmap } from '../../src/block/bitmaps.js';
import {
  failure,
  failureCode,
  FakeClock,
  FakeFiles,
  fakeHost,
  filled,
  Random,
  readBytes,
  same,
  seededRandom,
  settle,
  testGraph,
} from '../support/index.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const C = 64 * KiB;

interface Lab {
  readonly graph: BlockGraph;
  readonly files: FakeFiles;
  readonly clock: FakeClock;
  readonly warnings: string[];
  readonly guest: Backend;
  readonly snapshot: Backend;
  readonly old: Uint8Array;
}

/** Guests do not change lengths. */
const guestPerms = { perm: Perm.consistentRead | Perm.write, shared: Perm.all };

const raw = (filename: string, name: string): NodeOptions => ({
  driver: 'raw',
  'node-name': name,
  file: { driver: 'file', filename },
});

async function lab(own: NodeOptions = {}, random = new Random(1), bytes = MiB): Promise<Lab> {
  const files = new FakeFiles({ seed: random.uint32(), reorder: true });
  const clock = new FakeClock();
  const old = random.bytes(bytes);
  files.put('/source', old);
  files.put('/target', bytes);
  const warnings: string[] = [];
  const graph = testGraph({
    host: fakeHost({ files, clock }),
    onWarning: (m) => warnings.push(m),
  });
  const flags = { writable: true, unmap: true };
  await graph.open({ options: raw('/source', 'source'), flags });
  await graph.open({ options: raw('/target', 'target'), flags });
  const options = { driver: 'copy-before-write', 'node-name': 'cbw', file: 'source', ...own };
  await graph.open({ options: { target: 'target', ...options }, flags });
  const guest = await graph.openBackend({ reference: 'cbw', flags }, guestPerms);
  const access = { driver: 'snapshot-access', file: 'cbw' };
  const snapshot = await graph.openBackend({ options: access, flags }, guestPerms);
  return { graph, files, clock, warnings, guest, snapshot, old };
}

describe('copy-before-write', () => {
  it('copies whole clusters before the first write, once', async () => {
    const { guest, snapshot, old, files } = await lab();
    await guest.write(C + 100, filled(10, 7));
    await guest.write(C + 200, filled(10, 8));
    const target = files.bytesOf('/target');
    same(target.subarray(C, 2 * C), old.subarray(C, 2 * C));
    same(target.subarray(0, C), new Uint8Array(C));
    same(await readBytes(snapshot, 0, MiB), old);
    expect((await readBytes(guest, C + 100, 1))[0]).toBe(7);
    expect((await readBytes(guest, C + 200, 1))[0]).toBe(8);
  });

  it('zero writes and discards copy, too', async () => {
    const { guest, snapshot, old } = await lab();
    await guest.writeZeroes(5 * C, C);
    await guest.discard(6 * C, 2 * C);
    same(await readBytes(snapshot, 0, MiB), old);
  });

  it('a length that ends inside a cluster', async () => {
    const { guest, snapshot, old } = await lab({}, new Random(1), C + 512);
    await guest.write(C, filled(512, 1));
    same(await readBytes(snapshot, 0, C + 512), old);
  });

  it('nothing can be written to a snapshot, and reading needs a filter that keeps it', async () => {
    const { snapshot, graph } = await lab();
    expect(await failureCode(snapshot.write(0, filled(512, 1)))).toBe('ENOTSUP');
    expect(await failureCode(snapshot.writeZeroes(0, 512))).toBe('ENOTSUP');
    const other = await graph.openBackend({
      options: { driver: 'snapshot-access', file: 'target' },
    });
    expect(await failureCode(readBytes(other, 0, 512))).toBe('ENOTSUP');
  });

  it('with a bitmap only what it names is kept, the rest cannot be read', async () => {
    const random = new Random(2);
    const files = new FakeFiles({ seed: 1 });
    const old = random.bytes(MiB);
    files.put('/source', old);
    files.put('/target', MiB);
    const graph = testGraph({ host: fakeHost({ files }) });
    const flags = { writable: true, unmap: true };
    const source = await graph.open({ options: raw('/source', 'source'), flags });
    await graph.open({ options: raw('/target', 'target'), flags });
    const init = { granularity: 32 * KiB, persistent: false, enabled: true };
    const bitmap = await addBitmap(source, 'b', init);
    bitmap.set(3 * C + 40 * KiB, 1);
    const options = { driver: 'copy-before-write', 'node-name': 'cbw', file: 'source' };
    const named = { ...options, target: 'target', bitmap: { node: 'source', name: 'b' } };
    await graph.open({ options: named, flags });
    const guest = await graph.openBackend({ reference: 'cbw', flags }, guestPerms);
    const access = { driver: 'snapshot-access', file: 'cbw' };
    const snapshot = await graph.openBackend({ options: access, flags }, guestPerms);
    await guest.write(0, filled(MiB, 9));
    same(await readBytes(snapshot, 3 * C, C), old.subarray(3 * C, 4 * C));
    expect(await failureCode(readBytes(snapshot, 2 * C, C))).toBe('EACCES');
    expect(await failureCode(readBytes(snapshot, 3 * C, C + 1))).toBe('EACCES');
    same(files.bytesOf('/target').subarray(2 * C, 3 * C), new Uint8Array(C));
  });

  it('what is discarded in the snapshot is neither copied nor readable any more', async () => {
    const { guest, snapshot, files, old } = await lab();
    await guest.write(0, filled(C, 1));
    await snapshot.discard(100, 3 * C);
    await guest.write(C, filled(C, 1));
    same(files.bytesOf('/target').subarray(C, 2 * C), new Uint8Array(C));
    same(await readBytes(snapshot, 0, C), old.subarray(0, C));
    expect(await failureCode(readBytes(snapshot, C, 1))).toBe('EACCES');
    same(await readBytes(snapshot, 3 * C, C), old.subarray(3 * C, 4 * C));
  });

  it('the unaligned clusters of a target that says how large they are', async () => {
    const { warnings, guest, files, old } = await lab({ 'min-cluster-size': 128 * KiB });
    expect(warnings).toEqual([
      "The target block device doesn't provide information about the block size and it doesn't " +
        'have a backing file. The (default) block size of 131072 bytes is used. If the actual ' +
        'block size of the target exceeds this value, the backup may be unusable',
    ]);
    await guest.write(C, filled(1, 1));
    same(files.bytesOf('/target').subarray(0, 2 * C), old.subarray(0, 2 * C));
    const wrong = lab({ 'min-cluster-size': 3000 });
    const text = 'Cannot create block-copy-state: min-cluster-size needs to be a power of 2';
    expect(await failure(wrong)).toBe(text);
    const bitmap = lab({ bitmap: { node: 'source', name: 'b' } });
    expect(await failure(bitmap)).toBe("Dirty bitmap 'b' not found");
    const node = lab({ bitmap: { node: 'x', name: 'b' } });
    expect(await failure(node)).toBe("Cannot find device='x' nor node-name='x'");
  });

  it('nobody else writes to the file, and nobody changes the length of the target', async () => {
    const { graph } = await lab();
    const flags = { writable: true };
    const text = await failure(graph.openBackend({ reference: 'source', flags }));
    expect(text).toMatch(/^Permission conflict on node 'source': permissions 'write, resize'/);
    const other = graph.openBackend({ reference: 'target', flags });
    expect(await failure(other)).toMatch(/^Permission conflict on node 'target': .*'resize'/);
  });
});

describe('a target that stands on the source', () => {
  async function disks(): Promise<BlockGraph> {
    const files = new FakeFiles({ seed: 1 });
    files.put('/source', MiB);
    const graph = testGraph({ host: fakeHost({ files }) });
    const flags = { writable: true, unmap: true };
    await graph.open({ options: raw('/source', 'source'), flags });
    const image = { filename: '/target', format: 'qcow2', size: MiB };
    await createImage(graph, await prepareCreate(graph, image));
    const file = { driver: 'file', filename: '/target' };
    const target = { driver: 'qcow2', 'node-name': 'target', file, backing: 'source' };
    await graph.open({ options: target, flags });
    return graph;
  }
  const filter = { driver: 'copy-before-write', file: 'source', target: 'target' };
  const flags = { writable: true, unmap: true };

  it('has its reads noted for as long as the last filter is there', async () => {
    const graph = await disks();
    const target = graph.tryNode('target');
    const cbw = await graph.open({ options: { ...filter, 'node-name': 'cbw' }, flags });
    expect(target?.readWatch).toBeDefined();
    await graph.release(cbw);
    expect(target?.readWatch).toBeUndefined();
  });

  it('and not after a filter that could not be opened', async () => {
    const graph = await disks();
    const init = { granularity: 32 * KiB, persistent: false, enabled: true };
    const other = { driver: 'null-co', 'node-name': 'other', size: 2 * MiB };
    await addBitmap(await graph.open({ options: other, flags }), 'b', init);
    const options = { ...filter, bitmap: { node: 'other', name: 'b' } };
    expect(await failure(graph.open({ options, flags }))).toMatch(/can't be merged/);
    expect(graph.tryNode('target')).toHaveProperty('readWatch', undefined);
  });
});

describe('a copy that fails', () => {
  const broken = { op: 'write', path: '/target', times: 2, code: 'EIO' } as const;

  it('fails the write of the guest, which can be repeated', async () => {
    const { guest, snapshot, files, old } = await lab();
    files.inject({ ...broken });
    expect(await failureCode(guest.write(C, filled(512, 1)))).toBe('EIO');
    same(await readBytes(guest, 0, MiB), old);
    await guest.write(C, filled(512, 1));
    same(await readBytes(snapshot, 0, MiB), old);
  });

  it('or breaks the snapshot and leaves the guest alone', async () => {
    const { guest, snapshot, files } = await lab({ 'on-cbw-error': 'break-snapshot' });
    files.inject({ ...broken });
    await guest.write(C, filled(512, 1));
    expect((await readBytes(guest, C, 1))[0]).toBe(1);
    expect(await failureCode(readBytes(snapshot, 0, 1))).toBe('EACCES');
    await guest.write(3 * C, filled(512, 1));
  });

  it('takes too long', async () => {
    const target = {
      driver: 'blkdebug',
      'node-name': 'slow',
      image: 'target',
    };
    const { guest, graph, clock, snapshot, old } = await lab({ 'cbw-timeout': 5, target });
    const stops = graph.tryNode('slow')!.instance.breakpoints!;
    stops.set('pwritev', 'held');
    const write = failureCode(guest.write(C, filled(512, 1)));
    await settle();
    expect(stops.isSuspended('held')).toBe(true);
    await clock.advance(4999);
    await clock.advance(1);
    expect(await write).toBe('ETIMEDOUT');
    stops.resume('held');
    await settle();
    await guest.write(C, filled(512, 1));
    same(await readBytes(snapshot, 0, MiB), old);
    await guest.detach();
  });
});

describe('beside writes', () => {
  it('the snapshot reads as the disk was, at any time and after all', async () => {
    const random = seededRandom();
    const bytes = 2 * MiB + 512;
    const own = random.chance() ? { 'min-cluster-size': 128 * KiB } : {};
    const { guest, snapshot, old } = await lab(own, random, bytes);
    const model = old.slice();
    const writer = async (from: number, to: number): Promise<void> => {
      for (let i = 0; i < 60; i++) {
        const offset = random.int(from, to - 1);
        const n = random.int(1, Math.min(to - offset, random.pick([100, 5000, 3 * C])));
        const data = random.bytes(n);
        if (random.chance(0.8)) await guest.write(offset, Iov.of(data));
        else {
          data.fill(0);
          await guest.writeZeroes(offset, n);
        }
        model.set(data, offset);
      }
    };
    const reader = async (): Promise<void> => {
      for (let i = 0; i < 60; i++) {
        const offset = random.int(0, bytes - 1);
        const n = random.int(1, Math.min(bytes - offset, 4 * C));
        const got = await readBytes(snapshot, offset, n);
        same(got, old.subarray(offset, offset + n), `snapshot at ${offset}`);
      }
    };
    const third = Math.floor(bytes / 3);
    const parts = [0, third, 2 * third, bytes];
    // Writers have parts of the disk of their own, which share clusters.
    const writers = parts.slice(1).map((end, i) => writer(parts[i] ?? 0, end));
    await Promise.all([...writers, reader(), reader(), reader()]);
    same(await readBytes(guest, 0, bytes), model, 'guest');
    same(await readBytes(snapshot, 0, bytes), old, 'snapshot');
  });
});
