// Goal: whatever guests do at once, a qcow2 image holds what they wrote and stays consistent.
// Method: random operations with many in flight, on images of all shapes in simulated files whose
// requests complete in random order, compared with a model byte by byte; `check` after each round.
import { describe, expect, it } from 'vitest';
import { seededRandom } from '../../support/index.js';
import { RandomDisk } from './random-disk.js';
import type { Shape } from './support.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const tiny = { 'l2-cache-size': 1024, 'l2-cache-entry-size': 512 };

const shapes: readonly Shape[] = [
  { name: '64k clusters', create: '', size: 8 * MiB, clusterSize: 64 * KiB },
  {
    name: '512-byte clusters, tiny caches, 64-bit refcounts',
    create: 'cluster_size=512,refcount_bits=64',
    size: 256 * KiB + 512,
    clusterSize: 512,
    open: [tiny, {}],
  },
  {
    name: '4k clusters over a shorter backing file, O_DIRECT',
    create: 'cluster_size=4k',
    size: 1 * MiB,
    clusterSize: 4 * KiB,
    backing: 600 * KiB + 100,
    alignment: 512,
    open: [{}, tiny],
  },
  {
    name: '16k clusters, version 2, backing file',
    create: 'cluster_size=16k,compat=0.10',
    size: 2 * MiB,
    clusterSize: 16 * KiB,
    version: 2,
    backing: 4 * MiB,
  },
  {
    name: '16k clusters, version 2',
    create: 'cluster_size=16k,compat=0.10',
    size: 2 * MiB + 1536,
    clusterSize: 16 * KiB,
    version: 2,
  },
  {
    name: 'extended L2 entries over a backing file',
    create: 'cluster_size=32k,extended_l2=on',
    size: 4 * MiB + 512,
    clusterSize: 32 * KiB,
    backing: 3 * MiB,
    open: [{}, tiny, { 'discard-no-unref': true }],
  },
  {
    name: 'extended L2 entries, O_DIRECT of 4k',
    create: 'cluster_size=128k,extended_l2=on',
    size: 8 * MiB,
    clusterSize: 128 * KiB,
    alignment: 4096,
  },
  {
    name: 'lazy refcounts, 1-bit refcounts',
    create: 'cluster_size=8k,lazy_refcounts=on,refcount_bits=1',
    snapshots: 'none',
    size: 2 * MiB,
    clusterSize: 8 * KiB,
    open: [{}, { 'lazy-refcounts': false }],
  },
  {
    name: 'zstd, overlap checks of all kinds, discard-no-unref',
    create: 'cluster_size=4k,compression_type=zstd',
    size: 1 * MiB,
    clusterSize: 4 * KiB,
    open: [{ 'overlap-check': 'all' }, { 'discard-no-unref': true }, { 'overlap-check': 'none' }],
  },
  {
    name: 'external data file',
    create: 'cluster_size=8k,data_file=/data',
    snapshots: 'none',
    size: 2 * MiB + 512,
    clusterSize: 8 * KiB,
    dataFile: true,
  },
  {
    name: 'raw external data file with extended L2 entries',
    create: 'cluster_size=16k,extended_l2=on,data_file=/data,data_file_raw=on',
    snapshots: 'none',
    size: 2 * MiB,
    clusterSize: 16 * KiB,
    dataFile: true,
  },
  {
    name: '2-bit refcounts',
    create: 'cluster_size=4k,refcount_bits=2',
    snapshots: 2,
    size: 1 * MiB,
    clusterSize: 4 * KiB,
  },
  { name: '2M clusters', create: 'cluster_size=2M', size: 16 * MiB, clusterSize: 2 * MiB },
];

async function exercise(disk: RandomDisk, rounds: number, ops: number): Promise<void> {
  const { random } = disk;
  for (let i = 0; i < rounds; i++) {
    await disk.run(ops, random.pick([1, 4, 16, 48]));
    await disk.verify(`round ${i}`);
    if (random.chance(0.4)) await disk.resize();
    if (random.chance(0.7)) await disk.snapshot();
    if (random.chance(0.4)) await disk.reopen();
  }
  await disk.reopen();
  await disk.verify('at the end');
  await disk.verifySnapshots();
}

/** Operations that ran in all tests. */
let total = 0;

describe('random operations against a model', () => {
  for (const shape of shapes) {
    for (const reorder of [false, true]) {
      const order = reorder ? 'completed in random order' : 'completed at once';
      it(`${shape.name}, ${order}`, async () => {
        const disk = await RandomDisk.make({ ...shape, reorder }, seededRandom());
        await exercise(disk, shape.clusterSize > MiB ? 3 : 8, 120);
        expect(disk.count).toBeGreaterThan(30);
        total += disk.count;
        expect(disk.open.warnings).toEqual([]);
      });
    }
  }

  it('were 10,000 at least', () => {
    expect(total).toBeGreaterThan(10_000);
  });
});
