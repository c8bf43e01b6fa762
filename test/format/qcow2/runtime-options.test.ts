// Goal: each runtime option does what it says. Method: images in simulated files; what is punched,
// read and written in the file is counted, tables are poked so that a write would hit metadata.
import { describe, expect, it } from 'vitest';
import type { Backend, NodeOptions } from '../../../src/index.js';
import { DirtyBitmap } from '../../../src/block/dirty-bitmap.js';
import { FakeClock, failureCode, fakeHost, Random, testGraph } from '../../support/index.js';
import type { TestImage } from './support.js';
import { check, imagePath, Iov, makeImage, openImage } from './support.js';

const KiB = 1024;
const CLUSTER = 64 * KiB;
const COPIED = 1n << 63n;
const DIRTY = 1n;
const CORRUPT = 2n;
const facts = { dateSec: 1, dateNsec: 0, vmStateSize: 0, vmClockNsec: 0n, icount: 0n };

const bytesOf = (n: number, value: number): Iov => Iov.of(new Uint8Array(n).fill(value));

function view(image: TestImage): DataView {
  const bytes = image.files.bytesOf(imagePath);
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

const incompatible = (image: TestImage): bigint => view(image).getBigUint64(72);

async function using<T>(
  image: TestImage,
  options: NodeOptions,
  work: (disk: Backend) => Promise<T>,
  unmap = true,
): Promise<T> {
  const { backend, graph } = await openImage(image, options, { unmap });
  try {
    return await work(backend);
  } finally {
    await backend.detach();
    await graph.close();
  }
}

async function newImage(create = '', size = 1024 * KiB, clusterSize = CLUSTER): Promise<TestImage> {
  return makeImage({ name: '', create, size, clusterSize }, new Random(1));
}

/** Bytes that are punched in the file while `work` runs. */
async function punched(image: TestImage, work: () => Promise<void>): Promise<number> {
  let n = 0;
  image.files.onOp = (op, _path, _offset, bytes) => {
    if (op === 'punch') n += bytes;
  };
  await work();
  image.files.onOp = undefined;
  return n;
}

describe('discards', () => {
  const discard = async (options: NodeOptions, unmap: boolean): Promise<number> => {
    const image = await newImage();
    await using(image, {}, (disk) => disk.write(0, bytesOf(4 * CLUSTER, 1)));
    return punched(image, () =>
      using(image, options, (disk) => disk.discard(0, 2 * CLUSTER), unmap),
    );
  };

  it('pass-discard-request: on, off, and as discard=unmap says', async () => {
    expect(await discard({ 'pass-discard-request': true }, true)).toBe(2 * CLUSTER);
    expect(await discard({ 'pass-discard-request': false }, true)).toBe(0);
    expect(await discard({}, true)).toBe(2 * CLUSTER);
  });

  it('pass-discard-snapshot: what a deleted snapshot alone held', async () => {
    const deletion = async (options: NodeOptions): Promise<number> => {
      const image = await newImage();
      await using(image, {}, async (disk) => {
        await disk.write(0, bytesOf(4 * CLUSTER, 1));
        await disk.node.instance.snapshots!.create({ ...facts, name: 's' });
        await disk.write(0, bytesOf(4 * CLUSTER, 2));
      });
      return punched(image, () =>
        using(image, options, (disk) => disk.node.instance.snapshots!.delete('1', 's')),
      );
    };
    expect(await deletion({})).toBeGreaterThanOrEqual(4 * CLUSTER);
    expect(await deletion({ 'pass-discard-snapshot': false })).toBeLessThan(4 * CLUSTER);
  });

  it('pass-discard-other: tables that were given up', async () => {
    const growth = async (options: NodeOptions): Promise<number> => {
      // An L1 table of one cluster maps 2 MiB, so that it has to move.
      const image = await newImage('cluster_size=512', 1024 * KiB, 512);
      return punched(image, () =>
        using(image, options, (disk) => disk.truncate(16 * 1024 * KiB, { exact: true })),
      );
    };
    expect(await growth({ 'pass-discard-other': true })).toBeGreaterThanOrEqual(512);
    expect(await growth({ 'pass-discard-other': false })).toBe(0);
    expect(await growth({})).toBe(0);
  });

  it('discard-no-unref: the clusters stay, and are written again in place', async () => {
    const places = async (options: NodeOptions): Promise<[bigint, bigint]> => {
      const image = await newImage();
      await using(image, {}, (disk) => disk.write(0, bytesOf(CLUSTER, 1)));
      const v = view(image);
      const l2 = Number(v.getBigUint64(Number(v.getBigUint64(40))) & ~COPIED);
      await using(image, options, (disk) => disk.discard(0, CLUSTER));
      return [v.getBigUint64(l2), view(image).getBigUint64(l2)];
    };
    const [before, kept] = await places({ 'discard-no-unref': true });
    expect(kept).toBe(before | 1n);
    const [, given] = await places({});
    expect(given & ~1n).toBe(0n);
  });
});

describe('lazy refcounts', () => {
  it.each([
    ['lazy_refcounts=on', {}, true],
    ['', { 'lazy-refcounts': true }, true],
    ['lazy_refcounts=on', { 'lazy-refcounts': false }, false],
    ['', {}, false],
  ] as const)('created with "%s", opened with %o: dirty is %s', async (create, options, lazy) => {
    const image = await newImage(create);
    const { backend, graph } = await openImage(image, options);
    await backend.write(0, bytesOf(CLUSTER, 1));
    await backend.flush();
    expect(incompatible(image) & DIRTY).toBe(lazy ? DIRTY : 0n);
    const crashed: TestImage = { ...image, files: image.files.afterPowerCut(new Random(2)) };
    await backend.detach();
    await graph.close();
    expect(incompatible(image) & DIRTY).toBe(0n);
    // The next writer repairs what the crash left.
    expect(incompatible(crashed) & DIRTY).toBe(lazy ? DIRTY : 0n);
    const found = await using(crashed, {}, (disk) => check(disk));
    expect([found.corruptions, found.leaks]).toEqual([0, 0]);
    expect(incompatible(crashed) & DIRTY).toBe(0n);
  });
});

describe('caches', () => {
  /** Bytes read from the file by reads of one sector in each of many L2 tables, twice. */
  const readBack = async (options: NodeOptions): Promise<number> => {
    const clusterSize = 4 * KiB;
    const coverage = (clusterSize / 8) * clusterSize;
    const image = await newImage('cluster_size=4k', 16 * coverage, clusterSize);
    await using(image, {}, async (disk) => {
      for (let i = 0; i < 16; i++) await disk.write(i * coverage, bytesOf(512, i + 1));
    });
    return using(image, options, async (disk) => {
      let read = 0;
      image.files.onOp = (op, _path, _offset, bytes) => {
        if (op === 'read') read += bytes;
      };
      for (let i = 0; i < 32; i++) await disk.read((i % 16) * coverage, Iov.alloc(512));
      image.files.onOp = undefined;
      return read - 32 * 512;
    });
  };

  it('l2-cache-size: too small a cache reads tables again', async () => {
    expect(await readBack({})).toBe(16 * 4 * KiB);
    expect(await readBack({ 'l2-cache-size': 8 * KiB })).toBe(32 * 4 * KiB);
    expect(await readBack({ 'cache-size': 24 * KiB, 'refcount-cache-size': 16 * KiB })).toBe(
      32 * 4 * KiB,
    );
  });

  it('l2-cache-entry-size: so much of a table is read', async () => {
    expect(await readBack({ 'l2-cache-entry-size': 512 })).toBe(16 * 512);
    expect(await readBack({ 'l2-cache-entry-size': 2 * KiB })).toBe(16 * 2 * KiB);
  });
});

describe('cache-clean-interval', () => {
  it('drops tables that nobody used for so many seconds, and 0 never', async () => {
    const image = await newImage();
    await using(image, {}, (disk) => disk.write(0, bytesOf(CLUSTER, 1)));
    const clock = new FakeClock();
    const graph = testGraph({ host: fakeHost({ files: image.files, clock }) });
    const file = { driver: 'file', filename: imagePath };
    const readsAfter = async (seconds: number, interval: number): Promise<number> => {
      const options = { driver: 'qcow2', file, 'cache-clean-interval': interval };
      const disk = await graph.openBackend({ options, flags: { writable: true } });
      await disk.read(0, Iov.alloc(512));
      await clock.advance(seconds * 1000);
      let tables = 0;
      image.files.onOp = (op, _path, _offset, bytes) => {
        if (op === 'read' && bytes > 512) tables++;
      };
      await disk.read(0, Iov.alloc(512));
      image.files.onOp = undefined;
      await disk.detach();
      return tables;
    };
    // Used in the first interval, not in the second.
    expect(await readsAfter(9, 10)).toBe(0);
    expect(await readsAfter(11, 10)).toBe(0);
    expect(await readsAfter(21, 10)).toBe(1);
    expect(await readsAfter(10_000, 0)).toBe(0);
    expect(clock.pending).toBe(0);
    await graph.close();
  });
});

describe('overlap checks', () => {
  /** Where things are in an image with a snapshot, a bitmap-free one. */
  interface Places {
    readonly header: number;
    readonly directory: number;
    readonly l1: number;
    readonly l2: number;
    readonly reftable: number;
    readonly refblock: number;
    readonly snapshots: number;
    readonly inactiveL1: number;
    readonly inactiveL2: number;
  }

  /** The structure is named by the mapping of the first cluster, which is then written. */
  async function writeInto(
    at: (p: Places) => number,
    options: NodeOptions,
    bitmap = false,
  ): Promise<string> {
    const image = await newImage();
    await using(image, {}, async (disk) => {
      await disk.write(0, bytesOf(CLUSTER, 7));
      await disk.node.instance.snapshots!.create({ ...facts, name: 's' });
      await disk.write(0, bytesOf(CLUSTER, 8));
    });
    if (bitmap) {
      await using(image, {}, (disk) => {
        const init = { name: 'b', granularity: CLUSTER, enabled: true, persistent: true };
        const dirty = new DirtyBitmap({ ...init, bytes: disk.size });
        disk.node.dirtyBitmaps.set('b', dirty);
        return Promise.resolve();
      });
    }
    const v = view(image);
    const u64 = (offset: number): number => Number(v.getBigUint64(offset) & 0x00ff_ffff_ffff_fe00n);
    const l1 = u64(40);
    const reftable = u64(48);
    const snapshots = u64(64);
    const inactiveL1 = u64(snapshots);
    const places = {
      header: 0,
      directory: bitmap ? directoryOffset(v) : 0,
      l1,
      l2: u64(l1),
      reftable,
      refblock: u64(reftable),
      snapshots,
      inactiveL1,
      inactiveL2: u64(inactiveL1),
    };
    v.setBigUint64(places.l2, COPIED | BigInt(at(places)));
    image.files.put(imagePath, new Uint8Array(v.buffer));
    const write = (disk: Backend): Promise<string> =>
      disk.write(0, bytesOf(CLUSTER, 1)).then(
        () => 'written',
        (e: unknown) => failureCode(Promise.reject(e as Error)),
      );
    const { backend, graph } = await openImage(image, options);
    const got = await write(backend);
    if (got !== 'written') {
      // It is over for this node, and marked on disk.
      expect(incompatible(image) & CORRUPT).toBe(CORRUPT);
      expect(await failureCode(backend.write(512 * KiB, bytesOf(512, 1)))).toBe('ENOMEDIUM');
    }
    await backend.detach().catch(() => undefined);
    await graph.close().catch(() => undefined);
    return got;
  }

  const structures: readonly [string, (p: Places) => number, string][] = [
    ['active-l1', (p) => p.l1, 'constant'],
    ['active-l2', (p) => p.l2, 'cached'],
    ['refcount-table', (p) => p.reftable, 'constant'],
    ['refcount-block', (p) => p.refblock, 'cached'],
    ['snapshot-table', (p) => p.snapshots, 'constant'],
    ['inactive-l1', (p) => p.inactiveL1, 'cached'],
    ['inactive-l2', (p) => p.inactiveL2, 'all'],
  ];

  /** `offset` of the extension with the magic 0x23852875. */
  function directoryOffset(v: DataView): number {
    let at = v.getUint32(100);
    while (v.getUint32(at) !== 0x2385_2875) at += 8 + Math.ceil(v.getUint32(at + 4) / 8) * 8;
    return Number(v.getBigUint64(at + 24));
  }

  it('bitmap-directory is guarded by its flag and by all modes but none', async () => {
    const at = (p: Places): number => p.directory;
    for (const mode of order) {
      const want = mode === 'none' ? 'written' : 'EIO';
      expect(await writeInto(at, { 'overlap-check': mode }, true), mode).toBe(want);
    }
    const alone = { template: 'none', 'bitmap-directory': true };
    expect(await writeInto(at, { 'overlap-check': alone }, true)).toBe('EIO');
    const without = { template: 'all', 'bitmap-directory': false };
    expect(await writeInto(at, { 'overlap-check': without }, true)).toBe('written');
  });

  const order = ['none', 'constant', 'cached', 'all'];

  it.each(structures)(
    '%s is guarded by its flag and by the modes that hold it',
    async (n, at, m) => {
      for (const mode of order) {
        const want = order.indexOf(mode) >= order.indexOf(m) ? 'EIO' : 'written';
        expect(await writeInto(at, { 'overlap-check': mode }), mode).toBe(want);
      }
      const alone = { template: 'none', [n]: true };
      expect(await writeInto(at, { 'overlap-check': alone }), 'alone').toBe('EIO');
      const without = { template: 'all', [n]: false };
      expect(await writeInto(at, { 'overlap-check': without }), 'without').toBe('written');
    },
  );
});
