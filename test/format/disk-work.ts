// Random work on images of formats that map blocks (VDI, VMDK), with a history of what was asked
// for; see qcow2/power-history.ts for what a disk may hold after a power cut.
import { createImage, prepareCreate } from '../../src/block/create.js';
import type { Backend, BlockGraph, NodeOptions } from '../../src/index.js';
import { Iov, Req } from '../../src/index.js';
import type { Random } from '../support/index.js';
import { FakeFiles, fakeHost, testGraph } from '../support/index.js';
import type { Change } from './qcow2/power-history.js';
import { History } from './qcow2/power-history.js';
import { randomRange } from './qcow2/support.js';

/** How an image is made. */
export interface Shape {
  readonly name: string;
  readonly format: string;
  /** Creation options as in `-o`. */
  readonly create: string;
  /** Virtual size, and bytes of what the format maps at once. */
  readonly size: number;
  readonly unit: number;
  /** Length of a backing image of the same format, with random content in some places. */
  readonly backing?: number;
  readonly alignment?: 512 | 4096;
  readonly reorder?: boolean;
  /** Stale bytes behind the end of the image's file, as a power cut leaves them. */
  readonly stale?: number;
  readonly runtime?: NodeOptions;
}

export const imagePath = '/i/disk';
const basePath = '/i/base';

export interface TestImage {
  readonly files: FakeFiles;
  readonly shape: Shape;
  /** What the disk holds at first. */
  readonly content: Uint8Array;
}

async function make(
  files: FakeFiles,
  shape: Shape,
  filename: string,
  size: number,
  backing?: string,
): Promise<void> {
  const graph = testGraph({ host: fakeHost({ files }) });
  const request = {
    filename,
    format: shape.format,
    size,
    optionTexts: shape.create === '' ? [] : [shape.create],
    backingFile: backing,
    backingFormat: backing === undefined ? undefined : shape.format,
  };
  await createImage(graph, await prepareCreate(graph, request));
  await graph.close();
}

/** Makes an image; everything that was written for it is durable. */
export async function makeImage(shape: Shape, random: Random): Promise<TestImage> {
  const files = new FakeFiles({
    seed: random.uint32(),
    reorder: shape.reorder ?? false,
    directAlignment: shape.alignment ?? 1,
  });
  const content = new Uint8Array(shape.size);
  if (shape.backing !== undefined) {
    await make(files, shape, basePath, shape.backing);
    const base = await open(files, shape, basePath);
    for (let i = 0; i < 6; i++) {
      const [offset, bytes] = randomRange(random, shape.backing, shape.unit);
      const data = random.bytes(bytes);
      await base.backend.write(offset, Iov.of(data));
      if (offset < shape.size) content.set(data.subarray(0, shape.size - offset), offset);
    }
    await base.close();
  }
  const backing = shape.backing === undefined ? undefined : basePath;
  await make(files, shape, imagePath, shape.size, backing);
  for (const path of [...files.disks.keys()]) {
    const bytes = files.bytesOf(path);
    const stale = path === imagePath ? (shape.stale ?? 0) : 0;
    const longer = new Uint8Array(bytes.length + stale);
    longer.set(bytes);
    random.fill(longer.subarray(bytes.length));
    files.put(path, longer);
  }
  return { files, shape, content };
}

export interface OpenDisk {
  readonly graph: BlockGraph;
  readonly backend: Backend;
  close(): Promise<void>;
}

async function open(
  files: FakeFiles,
  shape: Shape,
  filename: string,
  writable = true,
): Promise<OpenDisk> {
  const graph = testGraph({ host: fakeHost({ files }) });
  const direct = (shape.alignment ?? 1) > 1;
  const backend = await graph.openBackend({
    options: { driver: shape.format, file: { driver: 'file', filename }, ...shape.runtime },
    flags: { writable, unmap: true, cache: { writeback: true, direct, noFlush: false } },
  });
  const close = async (): Promise<void> => {
    await backend.detach();
    await graph.close();
  };
  return { graph, backend, close };
}

export function openImage({ files, shape }: TestImage, writable = true): Promise<OpenDisk> {
  return open(files, shape, imagePath, writable);
}

const kinds = ['write', 'write', 'write', 'write', 'zero', 'discard', 'flush'] as const;
/** Requests in flight. */
const DEPTH = 8;

/** Requests of all kinds, several at once and none of them overlapping. */
export class DiskWork {
  readonly #disk: Backend;
  readonly #image: TestImage;
  readonly #history: History;
  readonly #random: Random;
  /** Some request failed: what the disk holds there is not known exactly. */
  hasFailed = false;

  constructor(disk: Backend, image: TestImage, history: History, random: Random) {
    this.#disk = disk;
    this.#image = image;
    this.#history = history;
    this.#random = random;
  }

  /** Up to `count` operations, until the power goes. */
  async run(count: number): Promise<void> {
    const running = new Set<Promise<void>>();
    let busy: Change[] = [];
    for (let i = 0; i < count && !this.#image.files.isOff; i++) {
      const kind = this.#random.pick(kinds);
      if (kind === 'flush') {
        await this.flush();
        continue;
      }
      const [offset, bytes] = this.#range();
      if (busy.some((b) => b.offset < offset + bytes && offset < b.offset + b.bytes)) continue;
      const [change, request] = this.#start(kind, offset, bytes);
      busy.push(change);
      const p: Promise<void> = request
        .then(
          () => {
            this.#history.done(change);
          },
          () => {
            this.hasFailed = true;
          },
        )
        .finally(() => {
          running.delete(p);
          busy = busy.filter((b) => b !== change);
        });
      running.add(p);
      while (running.size >= DEPTH) await Promise.race(running);
    }
    await Promise.all(running);
  }

  /** Mostly a few sectors, close to a border of what is mapped at once, now and then several. */
  #range(): [number, number] {
    const { size, unit } = this.#image.shape;
    if (this.#random.chance(0.15)) return randomRange(this.#random, size, unit);
    const near = unit * this.#random.int(0, Math.floor(size / unit));
    const offset = Math.min(
      Math.max(0, near + 512 * this.#random.int(-24, 24) + this.#random.pick([0, 0, 7])),
      size - 1,
    );
    const bytes = this.#random.int(1, this.#random.pick([512, 4096, 9000, 30_000]));
    return [offset, Math.min(bytes, size - offset)];
  }

  async flush(): Promise<void> {
    const done = this.#history.complete();
    await this.#disk.flush().then(
      () => {
        this.#history.flushed(done);
      },
      () => undefined,
    );
  }

  #start(kind: 'write' | 'zero' | 'discard', offset: number, bytes: number) {
    const history = this.#history;
    if (kind === 'write') {
      const data = this.#random.bytes(bytes);
      const change = history.begin(offset, bytes, data);
      return [change, this.#disk.write(offset, Iov.of(data))] as const;
    }
    const change = history.begin(offset, bytes);
    const flags = this.#random.chance() ? Req.mayUnmap : 0;
    // A discard may change nothing: zeroes are what is expected after it.
    const zeroed = (): Promise<void> => this.#disk.writeZeroes(offset, bytes, flags);
    if (kind === 'zero') return [change, zeroed()] as const;
    return [change, this.#disk.discard(offset, bytes).then(zeroed)] as const;
  }
}

/** Throws unless the disk holds what its history says, exactly. */
export async function compare(disk: Backend, history: History): Promise<void> {
  const got = new Uint8Array(disk.size);
  await disk.read(0, Iov.of(got));
  if (Buffer.compare(got, history.now) === 0) return;
  const at = got.findIndex((b, i) => b !== history.now[i]);
  throw new Error(`byte ${String(at)} is ${String(got[at])}, was ${String(history.now[at])}`);
}

export { History };
