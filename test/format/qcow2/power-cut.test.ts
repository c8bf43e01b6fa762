// Goal: after a power cut at any point the image opens, has at most leaks (or, with lazy refcounts,
// is repaired by the open), holds all that a flush acknowledged, and shows in no place anything
// that was never written there.
// Method: random operations with many in flight on simulated disks, power cut after a random number
// of file operations, sectors and lengths lost, torn and reordered from the seed; every byte
// compared with what it may be: its value at the last acknowledged flush, or one written since.
import { describe, expect, it } from 'vitest';
import type { Backend } from '../../../src/index.js';
import type { Random } from '../../support/index.js';
import { seededRandom } from '../../support/index.js';
import type { Shape, TestImage } from './support.js';
import { check, Iov, makeImage, openImage, randomRange, Req } from './support.js';

const KiB = 1024;
const MiB = 1024 * KiB;

/** Something that was asked for since the last acknowledged flush. */
interface Change {
  readonly offset: number;
  readonly bytes: number;
  /** Absent: zeroes. */
  readonly data?: Uint8Array;
  isDone: boolean;
}

/** What each byte may be. */
class History {
  readonly stable: Uint8Array;
  changes: Change[] = [];

  constructor(image: TestImage) {
    this.stable = new Uint8Array(image.shape.size);
    this.stable.set(image.base.subarray(0, image.shape.size));
  }

  begin(offset: number, bytes: number, data?: Uint8Array): Change {
    const change: Change = {
      offset,
      bytes,
      isDone: false,
      ...(data === undefined ? {} : { data }),
    };
    this.changes.push(change);
    return change;
  }

  /** A flush that began when `done` were complete was acknowledged. */
  flushed(done: ReadonlySet<Change>): void {
    for (const c of this.changes) {
      if (!done.has(c)) continue;
      if (c.data === undefined) this.stable.fill(0, c.offset, c.offset + c.bytes);
      else this.stable.set(c.data, c.offset);
    }
    this.changes = this.changes.filter((c) => !done.has(c));
  }

  /** Index of a byte that is none of what it may be; -1 when there is none. */
  firstWrong(actual: Uint8Array): number {
    const fits = new Uint8Array(actual.length);
    for (let i = 0; i < actual.length; i++) fits[i] = actual[i] === this.stable[i] ? 1 : 0;
    for (const { offset, bytes, data } of this.changes) {
      for (let i = offset; i < offset + bytes; i++) {
        if (actual[i] === (data === undefined ? 0 : data[i - offset])) fits[i] = 1;
      }
    }
    return fits.indexOf(0);
  }
}

const kinds = ['write', 'write', 'write', 'zero', 'discard', 'compress', 'flush'] as const;

/** Runs operations until the power goes. */
async function useUntilCut(
  backend: Backend,
  image: TestImage,
  history: History,
  random: Random,
): Promise<void> {
  const { clusterSize } = image.shape;
  const running = new Set<Promise<void>>();
  let busy: Change[] = [];
  for (let i = 0; i < 400 && !image.files.isOff; i++) {
    const kind = random.pick(kinds);
    if (kind === 'flush') {
      const done = new Set(history.changes.filter((c) => c.isDone));
      await backend.flush().then(
        () => history.flushed(done),
        () => undefined,
      );
      continue;
    }
    const [offset, bytes] = randomRange(random, image.shape.size, clusterSize);
    if (busy.some((b) => b.offset < offset + bytes && offset < b.offset + b.bytes)) continue;
    const [change, request] = start(kind, backend, image, history, random, offset, bytes);
    if (change === undefined) continue;
    busy.push(change);
    const p: Promise<void> = request
      .then(
        () => {
          change.isDone = true;
        },
        () => undefined,
      )
      .finally(() => {
        running.delete(p);
        busy = busy.filter((b) => b !== change);
      });
    running.add(p);
    while (running.size >= 8) await Promise.race(running);
  }
  await Promise.all(running);
}

function start(
  kind: Exclude<(typeof kinds)[number], 'flush'>,
  backend: Backend,
  image: TestImage,
  history: History,
  random: Random,
  offset: number,
  bytes: number,
): [Change, Promise<void>] | [undefined, Promise<void>] {
  const { clusterSize, dataFile, version, backing } = image.shape;
  const none = Promise.resolve();
  if (kind === 'write') {
    const data = random.bytes(bytes);
    return [history.begin(offset, bytes, data), backend.write(offset, Iov.of(data))];
  }
  if (kind === 'zero') {
    const flags = random.chance() ? Req.mayUnmap : 0;
    return [history.begin(offset, bytes), backend.writeZeroes(offset, bytes, flags)];
  }
  if (version === 2 && backing !== undefined) return [undefined, none];
  const from = Math.ceil(offset / clusterSize) * clusterSize;
  const whole = Math.floor((offset + bytes) / clusterSize) * clusterSize - from;
  if (whole <= 0) return [undefined, none];
  if (kind === 'discard') return [history.begin(from, whole), backend.discard(from, whole)];
  if (dataFile === true) return [undefined, none];
  const data = random.bytes(whole);
  data.fill(random.int(1, 255), 0, Math.floor(whole * 0.7));
  // In between it reads as zeroes.
  history.begin(from, whole);
  const change = history.begin(from, whole, data);
  const request = backend
    .discard(from, whole)
    .then(() => backend.write(from, Iov.of(data), Req.compressed));
  return [change, request];
}

async function cutOnce(shape: Shape, random: Random): Promise<void> {
  const image = await makeImage(shape, random);
  // Creation does not flush; the image was made long before the machine that now fails.
  for (const path of [...image.files.disks.keys()]) {
    image.files.put(path, image.files.bytesOf(path));
  }
  const history = new History(image);
  const options = shape.open === undefined ? {} : random.pick(shape.open);
  const { backend, graph } = await openImage(image, options);
  image.files.cutAfter(random.int(1, 300));
  await useUntilCut(backend, image, history, random);
  image.files.cutAfter(0);
  await backend.detach().catch(() => undefined);
  await graph.close().catch(() => undefined);

  const after: TestImage = { ...image, files: image.files.afterPowerCut(random) };
  const next = await openImage(after, options);
  const found = await check(next.backend);
  if (found.corruptions > 0) throw new Error(`corrupt:\n${found.lines.slice(0, 8).join('\n')}`);
  const actual = new Uint8Array(shape.size);
  await next.backend.read(0, Iov.of(actual));
  const wrong = history.firstWrong(actual);
  if (wrong >= 0) {
    const at = `byte ${wrong}, cluster ${Math.floor(wrong / shape.clusterSize)}`;
    throw new Error(`${at} is ${actual[wrong]}, was flushed as ${history.stable[wrong]}`);
  }
  // It goes on from there.
  const data = random.bytes(5000);
  await next.backend.write(1000, Iov.of(data));
  await next.backend.detach();
  await next.graph.close();
}

const tiny = { 'l2-cache-size': 1024, 'l2-cache-entry-size': 512 };
const shapes: readonly Shape[] = [
  { name: '64k clusters', create: '', size: 3 * MiB, clusterSize: 64 * KiB },
  {
    name: '512-byte clusters, tiny caches',
    create: 'cluster_size=512,refcount_bits=64',
    size: 128 * KiB,
    clusterSize: 512,
    open: [{}, tiny],
  },
  {
    name: '4k clusters over a backing file',
    create: 'cluster_size=4k',
    size: 512 * KiB,
    clusterSize: 4 * KiB,
    backing: 300 * KiB,
  },
  {
    name: 'version 2 over a backing file, O_DIRECT',
    create: 'cluster_size=4k,compat=0.10',
    size: 512 * KiB,
    clusterSize: 4 * KiB,
    version: 2,
    backing: 512 * KiB,
    alignment: 512,
  },
  {
    name: 'extended L2 entries over a backing file',
    create: 'cluster_size=16k,extended_l2=on',
    size: 1 * MiB,
    clusterSize: 16 * KiB,
    backing: 700 * KiB,
    open: [{}, { 'discard-no-unref': true }],
  },
  {
    name: 'lazy refcounts',
    create: 'cluster_size=4k,lazy_refcounts=on',
    size: 512 * KiB,
    clusterSize: 4 * KiB,
    open: [{}, tiny],
  },
  {
    name: 'lazy refcounts over a backing file',
    create: 'cluster_size=4k,lazy_refcounts=on',
    size: 512 * KiB,
    clusterSize: 4 * KiB,
    backing: 512 * KiB,
  },
  {
    name: 'external data file',
    create: 'cluster_size=4k,data_file=/data',
    size: 512 * KiB,
    clusterSize: 4 * KiB,
    dataFile: true,
  },
];

/** Cuts for each shape; VDISK_CUTS sets another number for long runs. */
const cuts = Number(process.env['VDISK_CUTS'] ?? 25);

describe('power cuts', () => {
  for (const shape of shapes) {
    for (const reorder of [false, true]) {
      const order = reorder ? 'in random order' : 'in order';
      it(`${shape.name}, requests ${order}`, async () => {
        const random = seededRandom();
        for (let i = 0; i < cuts; i++) await cutOnce({ ...shape, reorder }, random);
        expect(random.seed).toBe(random.seed >>> 0);
      });
    }
  }
});
