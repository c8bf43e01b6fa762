// Mutated images of any format: each is opened, read, checked and written to. Whatever the bytes
// are, the answers are data or a named error, soon, with bounded memory, and a reader changes
// nothing.
import { describe } from 'vitest';
import { createImage, prepareCreate } from '../../src/block/create.js';
import type { HostCrypto } from '../../src/host/crypto.js';
import { nodeCrypto } from '../../src/host/node/crypto.js';
import type { Host } from '../../src/host/host.js';
import type { Backend, NodeOptions, OpenFlags } from '../../src/index.js';
import { Iov, Req } from '../../src/index.js';
import { FakeFiles, fakeHost, Random, testGraph } from '../support/index.js';
import { fuzzSeeds } from './seeds.js';

const KiB = 1024;
/** Longest file that a broken image may ask for. */
const MAX_FILE = 64 * 1024 * KiB;
/** File operations for one image; more would be work without bounds. */
const MAX_OPERATIONS = 100_000;

export interface FuzzShape {
  readonly format: string;
  /** Creation options as in `-o`. */
  readonly create: string;
  readonly size: number;
  /** Where numbers that matter stand in the image's file: [first, last] in bytes. */
  readonly places: readonly (readonly [number, number])[];
  /** The file is text for the most part. */
  readonly text?: boolean;
  /** Options of the node besides the driver and the file. */
  readonly open?: NodeOptions;
  /** Files beside the image, as they are made. */
  readonly prepare?: (files: FakeFiles) => Promise<void>;
}

const path = '/f/disk';

/** Passwords are derived in few rounds, however many an image asks for. */
const crypto: HostCrypto = {
  ...nodeCrypto(),
  pbkdf2: (hash, password, salt, rounds, bytes) =>
    nodeCrypto().pbkdf2(hash, password, salt, Math.min(rounds, 1000), bytes),
};

const host = (files: FakeFiles): Host => ({
  ...fakeHost({ files }),
  loadCrypto: async () => crypto,
});

/** What any secret is. */
export const fuzzSecret = new TextEncoder().encode('a passphrase');

async function withImage(
  files: FakeFiles,
  shape: FuzzShape,
  flags: Partial<OpenFlags>,
  fn: (disk: Backend) => Promise<void>,
): Promise<void> {
  const graph = testGraph({ host: host(files), secret: async () => fuzzSecret });
  try {
    const file = { driver: 'file', filename: path };
    const disk = await graph.openBackend({
      options: { driver: shape.format, file, ...shape.open },
      flags: { unmap: true, ...flags },
    });
    try {
      await fn(disk);
    } finally {
      await disk.detach();
    }
  } finally {
    await graph.close();
  }
}

const made = new Map<FuzzShape, Promise<FakeFiles>>();

function soundImage(shape: FuzzShape): Promise<FakeFiles> {
  let found = made.get(shape);
  if (found === undefined) made.set(shape, (found = makeSound(shape)));
  return found;
}

async function makeSound(shape: FuzzShape): Promise<FakeFiles> {
  const files = new FakeFiles();
  if (shape.prepare !== undefined) {
    await shape.prepare(files);
    return files;
  }
  const graph = testGraph({ host: fakeHost({ files }) });
  const optionTexts = shape.create === '' ? [] : [shape.create];
  const request = { filename: path, format: shape.format, size: shape.size, optionTexts };
  await createImage(graph, await prepareCreate(graph, request));
  await graph.close();
  const random = new Random(7);
  await withImage(files, shape, { writable: true }, async (disk) => {
    const flags = disk.node.instance.write === undefined ? Req.compressed : 0;
    for (let i = 0; i < 3; i++) {
      const at = 64 * KiB * Math.floor((i * shape.size) / 3 / (64 * KiB));
      await calmly(() => disk.write(at, Iov.of(random.bytes(64 * KiB)), flags));
    }
  });
  return files;
}

const numbers: readonly bigint[] = [
  0n,
  1n,
  2n,
  3n,
  4n,
  511n,
  512n,
  513n,
  1n << 20n,
  (1n << 31n) - 1n,
  1n << 31n,
  (1n << 32n) - 1n,
  1n << 40n,
  (1n << 53n) - 1n,
  1n << 53n,
  (1n << 63n) - 1n,
  1n << 63n,
  (1n << 64n) - 1n,
];

function mutate(source: Uint8Array, { places }: FuzzShape, random: Random): Uint8Array {
  let bytes = source.slice();
  if (bytes.length < 16) return random.bytes(random.int(0, 600));
  const view = new DataView(bytes.buffer);
  const somewhere = (): number => {
    const last = bytes.length - 8;
    if (random.chance(0.15)) return random.int(0, last);
    const [from, to] = random.pick(places);
    return Math.min(last, random.int(from, to));
  };
  const count = random.int(1, 6);
  for (let i = 0; i < count; i++) {
    const at = somewhere();
    switch (random.int(0, 6)) {
      case 0:
        bytes[at] = random.int(0, 255);
        break;
      case 1:
        bytes[at]! ^= 1 << random.int(0, 7);
        break;
      case 2:
        view.setUint32(at & ~3, Number(random.pick(numbers) & 0xffff_ffffn), true);
        break;
      case 3:
        view.setBigUint64(at & ~3, random.pick(numbers), true);
        break;
      case 4:
        view.setUint32(at & ~3, random.int(0, 300), true);
        break;
      case 5:
        bytes.copyWithin(at & ~3, somewhere() & ~3, (somewhere() & ~3) + random.int(4, 600));
        break;
      default:
        bytes[at] = bytes[somewhere()]!;
    }
  }
  if (random.chance(0.05)) bytes = bytes.slice(0, random.int(0, bytes.length));
  return bytes;
}

const named = new Set(['BlockError', 'HostError', 'OptionError']);

async function calmly(fn: () => Promise<unknown>): Promise<void> {
  try {
    await fn();
  } catch (e) {
    if (!(e instanceof Error) || !named.has(e.name)) throw e;
    if (e.message.includes('\n') || e.message.length > 2000) {
      throw new Error(`not one line: ${e.message}`, { cause: e });
    }
  }
}

async function asReader(disk: Backend, random: Random): Promise<void> {
  const { size, node } = disk;
  await calmly(async () => node.instance.info?.());
  const last = Math.max(0, size - 1);
  for (const at of [0, Math.floor(size / 3), size - 4 * KiB, random.int(0, last)]) {
    const bytes = Math.min(70 * KiB, size - at);
    if (at < 0 || bytes <= 0) continue;
    await calmly(() => disk.read(at, Iov.alloc(bytes)));
    await calmly(() => node.blockStatus(at, bytes));
  }
}

async function asWriter(disk: Backend, random: Random): Promise<void> {
  const at = 512 * random.int(0, 400);
  await calmly(() => disk.write(at, Iov.of(random.bytes(9000))));
  await calmly(() => disk.writeZeroes(at, 80 * KiB, Req.mayUnmap));
  await calmly(() => disk.discard(0, 64 * KiB));
  await calmly(() => disk.flush());
  await calmly(() => disk.write(0, Iov.of(random.bytes(30 * KiB))));
  await calmly(() => disk.read(0, Iov.alloc(30 * KiB)));
}

async function asChecker(disk: Backend): Promise<void> {
  const options = { fixLeaks: false, fixErrors: false, report: () => undefined };
  await calmly(async () => disk.node.instance.check?.(options));
}

/** One mutated image. Throws when vdisk breaks its promises on it. */
async function fuzzOne(shapes: readonly FuzzShape[], seed: number): Promise<void> {
  const random = new Random(seed);
  const shape = random.pick(shapes);
  const sound = await soundImage(shape);
  const mutated = mutate(sound.bytesOf(path), shape, random);
  const fresh = (): FakeFiles => {
    const files = new FakeFiles({ maxBytes: MAX_FILE });
    for (const other of sound.disks.keys()) files.put(other, sound.bytesOf(other));
    files.put(path, mutated);
    return files;
  };
  const read = fresh();
  await calmly(() => withImage(read, shape, {}, (disk) => asReader(disk, random)));
  for (const each of read.disks.keys()) {
    const before = each === path ? mutated : sound.bytesOf(each);
    if (Buffer.compare(read.bytesOf(each), before) !== 0) {
      throw new Error(`a reader changed ${each}`);
    }
  }
  const written = fresh();
  await calmly(() => withImage(written, shape, { writable: true }, (d) => asWriter(d, random)));
  const checked = fresh();
  await calmly(() => withImage(checked, shape, { check: true }, asChecker));
  for (const files of [read, written, checked]) {
    let operations = 0;
    for (const n of files.counts.values()) operations += n;
    if (operations > MAX_OPERATIONS) throw new Error(`${operations} file operations`);
  }
}

/** Declares the tests of a format; `npm run fuzz -- NAME` goes on with other seeds. */
export function fuzzTests(
  name: string,
  shapes: readonly FuzzShape[],
  count = { each: 50, tests: 6 },
): void {
  describe(`mutated ${name} images`, () => {
    fuzzSeeds(name, { ...count, fuzz: (seed) => fuzzOne(shapes, seed) });
  });
}
