// Goal: a power cut at any point of an amendment leaves an image that opens, has leaks at most,
// and holds what it held: each option, in each direction, also while the guest goes on writing.
// Method: a filled image (data, zeroes, compressed clusters, a snapshot, VM state) on simulated
// disks is amended; before each operation on a file the power is cut several times, each time with
// other sectors lost, torn and reordered. The judge opens, repairs leaks and compares every byte;
// qemu-img checks a tenth of the images. VDISK_CUTS sets the number of cuts, all seen by qemu-img.
import { describe, expect, it } from 'vitest';
import type { Backend } from '../../../src/index.js';
import type { Random } from '../../support/index.js';
import { seededRandom } from '../../support/index.js';
import { History } from './power-history.js';
import type { Cut } from './power-judge.js';
import { judge } from './power-judge.js';
import type { Shape, TestImage } from './support.js';
import { check, Iov, makeImage, openImage, Req } from './support.js';

const KiB = 1024;

type Values = Record<string, string | number | boolean>;

interface Course extends Omit<Shape, 'size' | 'clusterSize'> {
  readonly size?: number;
  readonly clusterSize?: number;
  /** Amendments that were made before. */
  readonly before?: readonly Values[];
  /** Amendments under which the power is cut. */
  readonly amend: readonly Values[];
  /** Before them a snapshot is made, when another one is not refused. */
  readonly snapshot?: boolean;
}

const luks = { encrypt: 'luks', create: 'cluster_size=4k' } as const;
const active = { 'encrypt.state': 'active', 'encrypt.new-secret': 's1' };
const eraseSecond = { 'encrypt.state': 'inactive', 'encrypt.old-secret': 's1' };
const eraseFirst = { 'encrypt.state': 'inactive', 'encrypt.old-secret': 's0' };
const dataFile = { dataFile: true, create: 'cluster_size=4k,data_file=/data' };
const rawDataFile = { dataFile: true, create: `${dataFile.create},data_file_raw=on` };
const down = { compat: '0.10' };
const up = { compat: '1.1' };
const old = { create: 'cluster_size=4k,compat=0.10', version: 2 } as const;
const small = { create: 'cluster_size=512', clusterSize: 512, size: 64 * KiB };
const extended = { create: 'cluster_size=16k,extended_l2=on', clusterSize: 16 * KiB };
const four = { create: 'cluster_size=4k' };
const backing = 100 * KiB;

const courses: readonly Course[] = [
  { ...four, name: 'compat down', amend: [down], snapshot: true },
  { ...four, name: 'compat down over a backing file', amend: [down], snapshot: true, backing },
  { ...small, name: 'compat down, small clusters', amend: [down], snapshot: true, backing },
  {
    name: 'compat down from lazy refcounts',
    create: 'cluster_size=4k,lazy_refcounts=on',
    amend: [down],
  },
  {
    name: 'compat and width down at once',
    create: 'cluster_size=4k,refcount_bits=64,lazy_refcounts=on',
    amend: [{ ...down, refcount_bits: 16, lazy_refcounts: false }],
    backing,
  },
  { ...old, name: 'compat up', amend: [up], snapshot: true },
  {
    ...old,
    name: 'compat up with all that needs it, over a backing file',
    amend: [{ ...up, refcount_bits: 32, lazy_refcounts: true, size: 200 * KiB }],
    backing,
  },
  { ...four, name: 'refcounts wider', amend: [{ refcount_bits: 64 }], snapshot: true },
  { ...four, name: 'refcounts narrower', amend: [{ refcount_bits: 4 }], snapshot: true },
  { ...four, name: 'refcounts of one bit', amend: [{ refcount_bits: 1 }] },
  {
    ...small,
    name: 'refcounts up and down, small clusters',
    amend: [{ refcount_bits: 64 }, { refcount_bits: 2 }, { refcount_bits: 16 }],
    snapshot: true,
  },
  {
    name: 'refcounts wider, lazily counted',
    create: 'cluster_size=4k,lazy_refcounts=on,refcount_bits=1',
    amend: [{ refcount_bits: 8 }],
  },
  { ...extended, name: 'refcounts of extended L2', amend: [{ refcount_bits: 64 }], backing },
  { ...four, name: 'lazy refcounts', amend: [{ lazy_refcounts: true }], snapshot: true },
  {
    name: 'no lazy refcounts',
    create: 'cluster_size=4k,lazy_refcounts=on',
    amend: [{ lazy_refcounts: false }],
    backing,
  },
  { ...four, name: 'size up and down', amend: [{ size: 300 * KiB }, { size: 70 * KiB }] },
  {
    ...four,
    name: 'size up and down over a backing file, with a snapshot',
    amend: [{ size: 80 * KiB }, { size: 200 * KiB }],
    backing,
    snapshot: true,
  },
  {
    ...extended,
    name: 'size of extended L2 over a backing file',
    amend: [{ size: 130_560 }, { size: 500 * KiB }],
    backing,
  },
  { ...old, name: 'size of version 2', amend: [{ size: 300 * KiB }, { size: 90 * KiB }] },
  { ...dataFile, name: 'size with a data file', amend: [{ size: 90 * KiB }, { size: 300 * KiB }] },
  { ...rawDataFile, name: 'data file not raw any more', amend: [{ data_file_raw: false }] },
  {
    ...rawDataFile,
    name: 'refcounts beside a data file',
    amend: [{ refcount_bits: 1, lazy_refcounts: true }],
  },
  { ...luks, name: 'a key more', amend: [active], snapshot: true },
  { ...luks, name: 'a key less', before: [active], amend: [eraseSecond] },
  { ...luks, name: 'the first key goes', before: [active], amend: [eraseFirst], key: 's1' },
  { ...luks, name: 'refcounts and lazy bit of LUKS', amend: [{ refcount_bits: 8 }] },
];

const facts = { dateSec: 1, dateNsec: 2, vmStateSize: 3000, vmClockNsec: 0n, icount: 0n };

/** Writes, flushes and durably is what the history says. */
async function fill(disk: Backend, image: TestImage, history: History): Promise<void> {
  const { clusterSize, dataFile: external, encrypt, version } = image.shape;
  const random = { next: 1 };
  const write = async (offset: number, bytes: number, flags = 0): Promise<void> => {
    const data = new Uint8Array(bytes).fill(random.next++);
    await disk.write(offset, Iov.of(data), flags);
    history.done(history.begin(offset, bytes, data));
  };
  const zero = async (offset: number, bytes: number): Promise<void> => {
    await disk.writeZeroes(offset, bytes, random.next++ % 2 === 0 ? Req.mayUnmap : 0);
    history.done(history.begin(offset, bytes));
  };
  await write(0, 9 * KiB);
  await write(30 * KiB, 700);
  const from = Math.ceil((40 * KiB) / clusterSize) * clusterSize;
  const packs = external !== true && encrypt === undefined;
  if (packs && !(version === 2 && image.shape.backing !== undefined)) {
    await zero(from, clusterSize);
    await disk.discard(from, clusterSize);
    await write(from, clusterSize, Req.compressed);
  }
  await write(61 * KiB, 2 * KiB);
  await zero(0, clusterSize);
  await zero(2 * clusterSize, 3 * clusterSize);
  await disk.flush();
  history.settle(history.now);
}

async function takeSnapshot(disk: Backend, history: History): Promise<void> {
  await disk.node.instance.snapshots!.create({ ...facts, name: 's' });
  history.snapshots.set('s', history.now.slice());
  const data = new Uint8Array(5 * KiB).fill(99);
  await disk.write(8 * KiB, Iov.of(data));
  await disk.writeZeroes(20 * KiB, 9 * KiB, 0);
  history.done(history.begin(8 * KiB, data.length, data));
  history.done(history.begin(20 * KiB, 9 * KiB));
  await disk.flush();
  history.settle(history.now);
}

/** What may be seen from now on when the size changes. */
function expectSize(history: History, image: TestImage, disk: Backend, bytes: number): Uint8Array {
  const next = new Uint8Array(bytes);
  next.set(history.now.subarray(0, bytes));
  history.sizes.add(bytes);
  const cut = disk.size - bytes;
  if (cut > 0) {
    history.begin(bytes, cut);
    const below = image.base.slice(bytes, disk.size);
    if (below.length > 0) history.begin(bytes, below.length, below);
  }
  return next;
}

async function amend(
  disk: Backend,
  image: TestImage,
  history: History,
  values: Values,
): Promise<void> {
  const { size } = values;
  const next =
    typeof size === 'number' ? expectSize(history, image, disk, size) : history.now.slice();
  await disk.node.instance.amend!(values, { force: true });
  if (size !== undefined) history.settle(next);
}

/** Writes of a guest that goes on; sizes must not change meanwhile. */
async function guest(disk: Backend, history: History, random: Random): Promise<void> {
  for (let i = 0; i < 6; i++) {
    const data = random.bytes(random.int(1, 6 * KiB));
    const offset = (i * 10 + 1) * KiB;
    const change = history.begin(offset, data.length, data);
    await disk.write(offset, Iov.of(data)).then(
      () => {
        history.done(change);
      },
      () => undefined,
    );
  }
}

interface Attempt {
  readonly course: Course;
  readonly shape: Shape;
  readonly random: Random;
  /** The guest writes while the image is amended. */
  readonly busy: boolean;
}

/** One run of a course; the images that power cuts before each of its operations leave. */
async function cutsOf({ course, shape, random, busy }: Attempt): Promise<Cut[]> {
  const image = await makeImage(shape, random);
  const content = new Uint8Array(shape.size);
  content.set(image.base.subarray(0, shape.size));
  const history = new History(content);
  const { backend: first, graph: firstGraph } = await openImage({
    ...image,
    shape: { ...shape, key: 's0' },
  });
  await fill(first, image, history);
  for (const values of course.before ?? []) {
    await first.node.instance.amend!(values, { force: true });
  }
  if (course.snapshot === true) await takeSnapshot(first, history);
  await first.detach();
  await firstGraph.close();
  for (const path of [...image.files.disks.keys()]) {
    image.files.put(path, image.files.bytesOf(path));
  }
  const { backend, graph } = await openImage(image);
  const cuts: Cut[] = [];
  const take = (): void => {
    cuts.push({
      image: { ...image, files: image.files.afterPowerCut(random) },
      history: history.clone(),
    });
  };
  image.files.onOp = (op) => {
    if (op === 'read' || op === 'extent' || op === 'open') return;
    for (let i = 0; i < CUTS_AT_A_POINT; i++) take();
  };
  const writes = busy ? guest(backend, history, random) : Promise.resolve();
  for (const values of course.amend) await amend(backend, image, history, values);
  await writes;
  image.files.onOp = undefined;
  expect((await check(backend)).lines).toEqual([]);
  for (let i = 0; i < CUTS_AT_A_POINT; i++) take();
  await backend.detach();
  await graph.close();
  return cuts;
}

/** Each with other sectors lost. */
const CUTS_AT_A_POINT = 3;
const asked = process.env['VDISK_CUTS'];
const isLong = asked !== undefined;
/** Keys take long to be derived, three times for each image. */
const wantedOf = (shape: Shape): number => Number(asked ?? (shape.encrypt === 'luks' ? 10 : 60));

describe('power cuts while amending', () => {
  it.each(courses)('$name', { timeout: 600_000 }, async (course) => {
    const random = seededRandom();
    const shape: Shape = { size: 128 * KiB, clusterSize: 4 * KiB, ...course };
    const busy = !course.amend.some((values) => 'size' in values);
    const wanted = wantedOf(shape);
    for (let made = 0; made < wanted;) {
      const cuts = await cutsOf({
        course,
        shape: { ...shape, reorder: random.chance() },
        random,
        busy: busy && random.chance(),
      });
      // All points of a short course; a choice of those of a long one.
      const step = Math.max(1, cuts.length / wanted);
      for (let at = random.float() * step; at < cuts.length; at += step) {
        const cut = cuts[Math.floor(at)]!;
        await judge(cut, random, isLong || made % 10 === 0);
        made++;
      }
    }
  });
});
