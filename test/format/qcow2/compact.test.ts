// Goal: compacting leaves content, snapshots and bitmaps as they were, a clean image without a hole
// that could be filled, and after a power cut at any point an image that has at most leaks.
// Method: random images (seeds printed) with stored zeroes; every byte is compared; at many points
// the power is cut, with sectors and lengths lost, torn and reordered; qemu-img checks some, too.
import { describe, expect, it } from 'vitest';
import { DirtyBitmap } from '../../../src/block/dirty-bitmap.js';
import type { Backend } from '../../../src/index.js';
import { compact } from '../../../src/index.js';
import { failure, seededRandom } from '../../support/index.js';
import type { Random } from '../../support/index.js';
import { History } from './power-history.js';
import type { Cut } from './power-judge.js';
import { judge } from './power-judge.js';
import { RandomDisk } from './random-disk.js';
import type { OpenImage, Shape, TestImage } from './support.js';
import { check, imagePath, Iov, makeImage, openImage } from './support.js';

const KiB = 1024;
const MiB = 1024 * KiB;

const shapes: readonly Shape[] = [
  { name: '64k clusters', create: '', size: 3 * MiB, clusterSize: 64 * KiB },
  {
    name: '512-byte clusters, 64-bit refcounts',
    create: 'cluster_size=512,refcount_bits=64',
    size: 200 * KiB,
    clusterSize: 512,
  },
  {
    name: '4k clusters over a backing file',
    create: 'cluster_size=4k',
    size: 600 * KiB,
    clusterSize: 4 * KiB,
    backing: 300 * KiB,
  },
  {
    name: 'version 2',
    create: 'cluster_size=1k,compat=0.10',
    size: 300 * KiB,
    clusterSize: KiB,
    version: 2,
  },
  {
    name: 'version 2 over a backing file',
    create: 'cluster_size=4k,compat=0.10',
    size: 512 * KiB,
    clusterSize: 4 * KiB,
    version: 2,
    backing: 512 * KiB,
  },
  {
    name: 'extended L2 entries over a backing file',
    create: 'cluster_size=16k,extended_l2=on',
    size: MiB,
    clusterSize: 16 * KiB,
    backing: 700 * KiB,
  },
  {
    name: 'extended L2 entries',
    create: 'cluster_size=16k,extended_l2=on',
    size: 700 * KiB,
    clusterSize: 16 * KiB,
  },
  {
    name: 'a data file',
    create: 'data_file=/data',
    size: 3 * MiB,
    clusterSize: 64 * KiB,
    dataFile: true,
    snapshots: 'none',
  },
  {
    name: 'a data file, extended L2 entries over a backing file',
    create: 'extended_l2=on,data_file=/data',
    size: 3 * MiB,
    clusterSize: 64 * KiB,
    dataFile: true,
    snapshots: 'none',
    backing: 2 * MiB,
  },
  {
    name: 'a data file that reads as raw',
    create: 'data_file=/data,data_file_raw=on',
    size: 3 * MiB,
    clusterSize: 64 * KiB,
    dataFile: true,
    snapshots: 'none',
  },
  {
    name: 'an encrypted data file',
    create: 'data_file=/data',
    size: 512 * KiB,
    clusterSize: 64 * KiB,
    dataFile: true,
    snapshots: 'none',
    encrypt: 'luks',
  },
  {
    name: '2-bit refcounts',
    create: 'cluster_size=1k,refcount_bits=2',
    snapshots: 2,
    size: 200 * KiB,
    clusterSize: KiB,
  },
  {
    name: 'lazy refcounts',
    create: 'cluster_size=4k,lazy_refcounts=on',
    size: 512 * KiB,
    clusterSize: 4 * KiB,
  },
];

/** A bitmap that records what comes after it. */
function addBitmap(backend: Backend): void {
  const { node } = backend;
  const init = { granularity: 4096, bytes: node.size, enabled: true, persistent: true };
  node.dirtyBitmaps.set('b', new DirtyBitmap({ ...init, name: 'b' }));
}

/** Its bits; undefined: it is lost. */
function bitsOf(backend: Backend): string | undefined {
  const bitmap = backend.node.dirtyBitmaps.get('b');
  if (bitmap === undefined || bitmap.inconsistent) return undefined;
  return Buffer.from(bitmap.raw()).toString('hex');
}

interface Made {
  readonly disk: RandomDisk;
  readonly bits: string | undefined;
}

/** A closed image after random work, with zeroes stored here and there. */
async function makeWorn(shape: Shape, random: Random): Promise<Made> {
  const disk = await RandomDisk.make(shape, random);
  const { clusterSize } = shape;
  await disk.run(40, 4);
  if (shape.version !== 2) addBitmap(disk.backend);
  for (let i = 0; i < 5; i++) {
    await disk.run(25, 4);
    for (let n = random.int(0, 3); n > 0; n--) {
      const clusters = Math.floor(disk.model.bytes.length / clusterSize);
      const at = random.int(0, clusters - 1) * clusterSize;
      const bytes = Math.min(clusterSize * random.int(1, 4), disk.model.bytes.length - at);
      await disk.backend.discard(at, bytes);
      await disk.backend.write(at, Iov.alloc(bytes));
      disk.model.zero(at, bytes);
    }
    if (shape.snapshots !== 'none' && random.chance(0.4)) await disk.snapshot();
  }
  const bits = bitsOf(disk.backend);
  await disk.backend.close();
  await disk.open.graph.close();
  return { disk, bits };
}

async function compactOnce(image: TestImage): Promise<{ moved: number; zeroed: number }> {
  const { backend, graph } = await openImage(image, {}, { keepsContent: true });
  try {
    return await compact(backend);
  } finally {
    await backend.close();
    await graph.close();
  }
}

/** Compares all with the model; the image is clean. */
async function verify({ disk, bits }: Made): Promise<void> {
  disk.open = await openImage(disk.image, {}, { writable: false });
  await disk.verify('after compacting');
  expect(bitsOf(disk.backend)).toBe(bits);
  const history = new History(disk.model.bytes);
  for (const [name, content] of disk.saved) history.snapshots.set(name, content);
  await history.judgeSnapshots(disk.backend);
  await disk.backend.close();
  await disk.open.graph.close();
}

/** Bytes of the data file that are stored, in pages of 64 KiB; 0 without one. */
function storedIn({ files, shape }: TestImage): number {
  if (shape.dataFile !== true) return 0;
  return files.disks.get('/data')!.current.allocatedBytes;
}

const lengthOf = ({ files }: TestImage): number => files.bytesOf(imagePath).length;

describe('compacting', () => {
  it.each(shapes)('$name: keeps all that the guest and others see', async (shape) => {
    const random = seededRandom();
    let shorter = 0;
    for (let round = 0; round < 3 || (shorter === 0 && round < 30); round++) {
      const made = await makeWorn(shape, random);
      const { image } = made.disk;
      const before = lengthOf(image);
      const dataBefore = storedIn(image);
      await compactOnce(image);
      await verify(made);
      const after = lengthOf(image);
      if (shape.dataFile !== true) expect(after).toBeLessThanOrEqual(before);
      const dataAfter = storedIn(image);
      shorter += before - after + dataBefore - dataAfter;
      const again = await compactOnce(image);
      expect(again.moved).toBe(0);
      // Parts of a page that are zeroes do not become a hole in simulated files.
      if (!shape.create.includes('raw')) expect(again.zeroed).toBe(0);
      expect(lengthOf(image)).toBe(after);
      await verify(made);
    }
    expect(shorter).toBeGreaterThan(0);
  });

  it('fills all holes of an image without compressed data', async () => {
    const random = seededRandom();
    const shape = { name: '', create: 'cluster_size=4k', size: 8 * MiB, clusterSize: 4 * KiB };
    const image = await makeImage(shape, random);
    const { backend, graph } = await openImage(image);
    await backend.write(0, Iov.of(random.bytes(8 * MiB)));
    for (let i = 0; i < 2048; i += random.int(1, 3)) await backend.discard(i * 4096, 4096);
    await backend.close();
    await graph.close();
    await compactOnce(image);
    const next = await openImage(image);
    const result = await next.backend.node.instance.check!({
      fixErrors: false,
      fixLeaks: false,
      report: () => undefined,
    });
    await next.backend.close();
    await next.graph.close();
    // Header, refcount table and block, L1 table, four L2 tables.
    expect(lengthOf(image) / 4096).toBe(result.allocatedClusters! + 8);
  });

  it('refuses bitmaps in use, and damage, and changes nothing', async () => {
    const random = seededRandom();
    const shape = { name: '', create: '', size: MiB, clusterSize: 64 * KiB };
    const plain = await makeImage(shape, random);
    const open = await openImage(plain);
    addBitmap(open.backend);
    expect(await failure(compact(open.backend))).toBe(
      'Cannot compact an image whose bitmaps are in use',
    );
    await open.backend.write(0, Iov.of(random.bytes(MiB)));
    await open.backend.close();
    await open.graph.close();
    const bytes = plain.files.bytesOf(imagePath).slice();
    // An L2 entry points to a cluster whose refcount is 0.
    const view = new DataView(bytes.buffer);
    const l2 = Number(view.getBigUint64(Number(view.getBigUint64(40))) & 0x00ff_ffff_ffff_fe00n);
    view.setUint32(l2 + 4, view.getUint32(l2 + 4) + 64 * KiB * 100);
    plain.files.put(imagePath, bytes);
    expect(await failure(compactOnce(plain))).toMatch(
      /^Cannot compact the image: it has \d errors$/,
    );
    expect(Buffer.compare(plain.files.bytesOf(imagePath), bytes)).toBe(0);
  });
});

/** What is stored of the first 64 KiB of a disk: a letter for each of 32 parts. */
async function parts({ backend }: OpenImage): Promise<string> {
  let text = '';
  for (let at = 0; at < 64 * KiB; at += 2 * KiB) {
    const { data, zero } = await backend.node.blockStatus(at, 2 * KiB);
    text += zero ? 'z' : data ? 'd' : '-';
  }
  return text;
}

describe('subclusters', () => {
  const shape = {
    name: '',
    create: 'extended_l2=on',
    size: 128 * KiB,
    clusterSize: 64 * KiB,
    backing: 128 * KiB,
  };

  it('of zeroes are not stored any more, and the file has a hole there', async () => {
    const random = seededRandom();
    const image = await makeImage({ ...shape, create: 'extended_l2=on,data_file=/data' }, random);
    const open = await openImage(image);
    await open.backend.write(0, Iov.of(random.bytes(40 * KiB)));
    await open.backend.write(2 * KiB, Iov.alloc(6 * KiB));
    await open.backend.write(20 * KiB, Iov.alloc(8 * KiB + 512));
    const before = new Uint8Array(128 * KiB);
    await open.backend.read(0, Iov.of(before));
    expect(await parts(open)).toBe('d'.repeat(32).replace(/.{12}$/, '-'.repeat(12)));
    expect((await compact(open.backend)).zeroed).toBe(14 * KiB);
    expect(await parts(open)).toBe('dzzzddddddzzzzdddddd------------');
    const after = new Uint8Array(128 * KiB);
    await open.backend.read(0, Iov.of(after));
    expect(Buffer.compare(after, before)).toBe(0);
    await open.backend.close();
    await open.graph.close();
  });

  it('that are all zero or from the backing file leave no cluster behind', async () => {
    const random = seededRandom();
    const image = await makeImage(shape, random);
    const open = await openImage(image);
    await open.backend.write(0, Iov.alloc(2 * KiB));
    await open.backend.write(8 * KiB, Iov.alloc(2 * KiB));
    expect((await compact(open.backend)).zeroed).toBe(4 * KiB);
    expect(await parts(open)).toBe(`z---z${'-'.repeat(27)}`);
    expect((await check(open.backend)).leaks).toBe(0);
    await open.backend.close();
    await open.graph.close();
    // Header, refcount table and block, L1 and L2 table.
    expect(image.files.bytesOf(imagePath).length).toBe(5 * 64 * KiB);
  });
});

it('a data file that reads as raw keeps its bytes, and entries stay', async () => {
  const random = seededRandom();
  const create = 'data_file=/data,data_file_raw=on';
  const shape = { name: '', create, size: MiB, clusterSize: 64 * KiB, dataFile: true };
  const image = await makeImage(shape, random);
  const open = await openImage(image);
  await open.backend.write(0, Iov.of(random.bytes(MiB)));
  await open.backend.write(128 * KiB, Iov.alloc(256 * KiB));
  await open.backend.flush();
  const before = image.files.bytesOf('/data').slice();
  const status = await open.backend.node.blockStatus(0, MiB, false);
  expect((await compact(open.backend)).zeroed).toBe(256 * KiB);
  expect(await open.backend.node.blockStatus(0, MiB, false)).toEqual(status);
  expect(Buffer.compare(image.files.bytesOf('/data'), before)).toBe(0);
  expect(image.files.disks.get('/data')!.current.allocatedBytes).toBe(768 * KiB);
  await open.backend.close();
  await open.graph.close();
});

/** Compacts, and takes what power cuts at random points would leave. */
async function cutsOf(made: Made, random: Random): Promise<Cut[]> {
  const { image, model, saved } = made.disk;
  for (const path of [...image.files.disks.keys()]) {
    image.files.put(path, image.files.bytesOf(path));
  }
  const history = new History(model.bytes);
  for (const [name, content] of saved) history.snapshots.set(name, content);
  const cuts: Cut[] = [];
  let next = random.int(1, 3);
  image.files.onOp = (op) => {
    if (op === 'read' || op === 'extent' || --next > 0) return;
    next = random.int(1, 3);
    cuts.push({ image: { ...image, files: image.files.afterPowerCut(random) }, history });
  };
  await compactOnce(image);
  image.files.onOp = undefined;
  return cuts;
}

let judged = 0;

describe('power cuts while compacting', () => {
  const orders = (shape: Shape) =>
    shape.encrypt === undefined ? [shape, { ...shape, reorder: true }] : [shape];
  it.each(shapes.flatMap(orders))(
    '$name, reorder: $reorder',
    { timeout: 120_000 },
    async (shape) => {
      const random = seededRandom();
      for (let cuts = 0; cuts < 20;) {
        const made = await makeWorn(shape, random);
        for (const cut of await cutsOf(made, random)) {
          cuts++;
          const reader = await openImage(cut.image, {}, { writable: false });
          expect(bitsOf(reader.backend)).toBe(made.bits);
          await reader.backend.close();
          await reader.graph.close();
          await judge(cut, random);
          judged++;
        }
      }
    },
  );

  it('were 300 at least', () => {
    expect(judged).toBeGreaterThanOrEqual(300);
  });
});

describe('faults while compacting', () => {
  it.each(shapes)('$name: at most leaks, and the content stays', async (shape) => {
    const random = seededRandom();
    const made = await makeWorn(shape, random);
    const { image, model, saved } = made.disk;
    const history = new History(model.bytes);
    for (const [name, content] of saved) history.snapshots.set(name, content);
    const paths = [...image.files.disks.keys()];
    const worn = paths.map((path) => image.files.bytesOf(path).slice());
    let failed = 0;
    for (let round = 0; failed < 4 && round < 40; round++) {
      paths.forEach((path, i) => {
        image.files.put(path, worn[i]!.slice());
      });
      const { backend, graph } = await openImage(image, {}, { keepsContent: true });
      image.files.inject({
        op: random.pick(['write', 'write', 'flush', 'truncate', 'zero', 'punch', 'read']),
        code: random.pick(['EIO', 'ENOSPC']),
        skip: random.int(0, 12),
        times: random.pick([1, 1000]),
      });
      const outcome = await compact(backend).then(
        () => 'done',
        (e: unknown) => String(e),
      );
      if (outcome !== 'done') failed++;
      await backend.detach().catch(() => undefined);
      await graph.close().catch(() => undefined);
      image.files.faults.length = 0;
      if (outcome !== 'done') await judge({ image, history }, random);
    }
    expect(failed).toBeGreaterThan(0);
  });
});

it('an interrupted run ends at once, without a leak, and a second one goes on', async () => {
  const random = seededRandom();
  const made = await makeWorn(shapes[2]!, random);
  const { image } = made.disk;
  for (let pieces = 1; pieces < 200; pieces += random.int(1, 12)) {
    const { backend, graph } = await openImage(image, {}, { keepsContent: true });
    const controller = new AbortController();
    let left = pieces;
    const run = compact(backend, {
      signal: controller.signal,
      onProgress: () => {
        if (--left === 0) controller.abort();
      },
    });
    const error = await failure(run.then(() => Promise.reject(new Error('done'))));
    await backend.close();
    await graph.close();
    await verify(made);
    if (error === 'done') return;
    expect(error).toBe('Operation canceled');
  }
});
