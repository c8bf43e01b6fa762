// Images of a given shape in simulated files, and a disk model to compare them with.
import { createImage, prepareCreate } from '../../../src/block/create.js';
import type { Backend, BlockGraph, NodeOptions, OpenFlags } from '../../../src/index.js';
import { Iov, Req } from '../../../src/index.js';
import { FakeFiles, fakeHost, testGraph } from '../../support/index.js';
import type { Random } from '../../support/index.js';

/** How an image is made and opened. */
export interface Shape {
  readonly name: string;
  /** Creation options as in `-o`. */
  readonly create: string;
  /** Virtual size in bytes. */
  readonly size: number;
  readonly clusterSize: number;
  readonly version?: 2;
  /** Length of a raw backing file with random content. */
  readonly backing?: number;
  readonly dataFile?: boolean;
  /** Runtime options; one of them is taken at each open. */
  readonly open?: readonly NodeOptions[];
  /** O_DIRECT with this alignment. */
  readonly alignment?: number;
  /** How many snapshots can share a cluster; 'none': they are refused. */
  readonly snapshots?: number | 'none';
  /** Requests to files complete in random order. */
  readonly reorder?: boolean;
  /** Encrypted with the password of the secret `s0`. */
  readonly encrypt?: 'luks' | 'aes';
  /** Secret with which it is opened; by default the one it was made with. */
  readonly key?: keyof typeof secrets;
}

export const imagePath = '/t.qcow2';
const basePath = '/base';
/** Passwords by the ids of their secrets. */
export const secrets = { s0: 'first', s1: 'second' } as const;

/** A graph over the image's files that knows the secrets; passwords get the fewest rounds. */
function imageGraph(files: FakeFiles, onWarning?: (message: string) => void): BlockGraph {
  let ms = 0;
  const clock = { now: () => (ms += 1e6), after: () => () => undefined };
  return testGraph({
    host: { ...fakeHost({ files }), clock },
    secret: (id) =>
      Promise.resolve(new TextEncoder().encode(id === 's1' ? secrets.s1 : secrets.s0)),
    ...(onWarning === undefined ? {} : { onWarning }),
  });
}

/** An image with its files. */
export interface TestImage {
  readonly files: FakeFiles;
  readonly shape: Shape;
  readonly base: Uint8Array;
}

/** Creates an empty image of a shape, over a backing file with random content where it has one. */
export async function makeImage(shape: Shape, random: Random): Promise<TestImage> {
  const files = new FakeFiles({
    seed: random.uint32(),
    reorder: shape.reorder ?? false,
    directAlignment: shape.alignment ?? 1,
  });
  const base = shape.backing === undefined ? new Uint8Array(0) : random.bytes(shape.backing);
  if (shape.backing !== undefined) files.put(basePath, base);
  const graph = imageGraph(files);
  const keys =
    shape.encrypt === undefined ? [] : [`encrypt.format=${shape.encrypt},encrypt.key-secret=s0`];
  if (shape.encrypt === 'luks') keys.push('encrypt.iter-time=10');
  const request = {
    filename: imagePath,
    format: 'qcow2',
    size: shape.size,
    optionTexts: [...(shape.create === '' ? [] : [shape.create]), ...keys],
    backingFile: shape.backing === undefined ? undefined : basePath,
    backingFormat: shape.backing === undefined ? undefined : 'raw',
  };
  await createImage(graph, await prepareCreate(graph, request));
  await graph.close();
  return { files, shape, base };
}

export interface OpenImage {
  readonly graph: BlockGraph;
  readonly backend: Backend;
  readonly warnings: string[];
}

/** Opens the image for writing. */
export async function openImage(
  image: TestImage,
  options: NodeOptions = {},
  flags: Partial<OpenFlags> = {},
): Promise<OpenImage> {
  const warnings: string[] = [];
  const graph = imageGraph(image.files, (message) => warnings.push(message));
  const { encrypt, key = 's0' } = image.shape;
  const keys = encrypt === undefined ? {} : { 'encrypt.key-secret': key };
  const direct = (image.shape.alignment ?? 1) > 1;
  const backend = await graph.openBackend({
    options: {
      driver: 'qcow2',
      file: { driver: 'file', filename: imagePath },
      ...keys,
      ...options,
    },
    flags: {
      writable: true,
      unmap: true,
      cache: { writeback: true, direct, noFlush: false },
      ...flags,
    },
  });
  return { graph, backend, warnings };
}

/** `check` without repairs. */
export async function check(backend: Backend): Promise<{
  corruptions: number;
  leaks: number;
  lines: string[];
}> {
  const lines: string[] = [];
  const instance = backend.node.instance;
  if (instance.check === undefined) throw new Error('no check');
  const result = await instance.check({
    fixErrors: false,
    fixLeaks: false,
    report: (line) => lines.push(line),
  });
  return { corruptions: result.corruptions + result.checkErrors, leaks: result.leaks, lines };
}

/** What the disk should hold. */
export class Model {
  bytes: Uint8Array;
  readonly shape: Shape;

  constructor(image: TestImage) {
    this.shape = image.shape;
    this.bytes = new Uint8Array(image.shape.size);
    this.bytes.set(image.base.subarray(0, image.shape.size));
  }

  resize(size: number): void {
    const next = new Uint8Array(size);
    next.set(this.bytes.subarray(0, size));
    this.bytes = next;
  }

  zero(offset: number, bytes: number): void {
    this.bytes.fill(0, offset, offset + bytes);
  }

  /** Whole clusters become zero; the last one may be short. */
  discard(offset: number, bytes: number): void {
    if (this.shape.version === 2 && this.shape.backing !== undefined) return;
    const c = this.shape.clusterSize;
    const from = Math.ceil(offset / c) * c;
    const end = offset + bytes;
    const to = end === this.bytes.length ? end : end - (end % c);
    if (from < to) this.zero(from, to - from);
  }
}

/** Index of the first difference, -1 when there is none. Fast where there is none. */
export function difference(a: Uint8Array, b: Uint8Array): number {
  const x = Buffer.from(a.buffer, a.byteOffset, a.byteLength);
  const y = Buffer.from(b.buffer, b.byteOffset, b.byteLength);
  if (x.equals(y)) return -1;
  for (let i = 0; i < Math.max(a.length, b.length); i++) if (a[i] !== b[i]) return i;
  return -1;
}

/** Reads all of a disk and compares it; throws with the first difference. */
export async function compareAll(backend: Backend, model: Model, what: string): Promise<void> {
  const out = new Uint8Array(model.bytes.length);
  const step = 1024 * 1024;
  for (let at = 0; at < out.length; at += step) {
    await backend.read(at, Iov.of(out.subarray(at, Math.min(out.length, at + step))));
  }
  const at = difference(out, model.bytes);
  if (at < 0) return;
  const c = model.shape.clusterSize;
  throw new Error(
    `${what}: byte ${at} (cluster ${Math.floor(at / c)}, ${at % c} in it) is ${out[at]}, ` +
      `expected ${model.bytes[at]}`,
  );
}

/** A range of the disk; mostly small, sometimes aligned to clusters, sometimes long. */
export function randomRange(random: Random, size: number, clusterSize: number): [number, number] {
  const kind = random.int(0, 9);
  let offset = random.int(0, size - 1);
  let bytes = random.int(1, 3 * clusterSize);
  if (kind < 3) {
    offset -= offset % clusterSize;
    bytes = clusterSize * random.int(1, 4);
  } else if (kind < 6) {
    offset -= offset % 512;
    bytes = 512 * random.int(1, 24);
  } else if (kind === 6) bytes = random.int(1, Math.min(size, 40 * clusterSize));
  return [offset, Math.min(bytes, size - offset)];
}

export { Iov, Req };
