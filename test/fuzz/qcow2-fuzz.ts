// Mutated qcow2 images: each is opened, read, checked, repaired and written to. Whatever the bytes
// are, the answers are data or a named error, soon, and a reader changes nothing.
import { createImage, prepareCreate } from '../../src/block/create.js';
import type { Backend, NodeOptions, OpenFlags } from '../../src/index.js';
import { Iov, Req } from '../../src/index.js';
import { FakeFiles, fakeHost, Random, testGraph } from '../support/index.js';

const KiB = 1024;
const path = '/a.qcow2';
const SIZE = 256 * KiB;
/** Longest file that a broken image may ask for. */
const MAX_FILE = 256 * 1024 * KiB;
/** File operations for one image; more would be work without bounds. */
const MAX_OPERATIONS = 200_000;

const shapes = [
  'cluster_size=512',
  'cluster_size=4k',
  'cluster_size=4k,compat=0.10',
  'cluster_size=16k,extended_l2=on',
  'cluster_size=4k,refcount_bits=1',
  'cluster_size=1k,refcount_bits=64,lazy_refcounts=on',
  'cluster_size=4k,compression_type=zstd',
] as const;

const made = new Map<string, Promise<Uint8Array>>();

async function withImage<T>(
  files: FakeFiles,
  options: NodeOptions,
  flags: Partial<OpenFlags>,
  fn: (disk: Backend) => Promise<T>,
): Promise<T> {
  const graph = testGraph({ host: fakeHost({ files }) });
  try {
    const disk = await graph.openBackend({
      options: {
        driver: 'qcow2',
        backing: null,
        file: { driver: 'file', filename: path },
        ...options,
      },
      flags: { unmap: true, ...flags },
    });
    try {
      return await fn(disk);
    } finally {
      await disk.detach();
    }
  } finally {
    await graph.close();
  }
}

/** A sound image with data, zeroes, compressed clusters and snapshots. */
function soundImage(options: string): Promise<Uint8Array> {
  let found = made.get(options);
  if (found === undefined) made.set(options, (found = makeSound(options)));
  return found;
}

async function makeSound(options: string): Promise<Uint8Array> {
  const files = new FakeFiles();
  const graph = testGraph({ host: fakeHost({ files }) });
  const request = { filename: path, format: 'qcow2', size: SIZE, optionTexts: [options] };
  const parts = { backingFile: undefined, backingFormat: undefined };
  await createImage(graph, await prepareCreate(graph, { ...request, ...parts }));
  await graph.close();
  const random = new Random(7);
  await withImage(files, {}, { writable: true }, async (disk) => {
    for (let i = 0; i < 3; i++) {
      await disk.write(i * 40 * KiB, Iov.of(random.bytes(20 * KiB)));
      await disk.writeZeroes(i * 40 * KiB + 24 * KiB, 8 * KiB, Req.mayUnmap);
      await disk.write(192 * KiB + i * 16 * KiB, Iov.of(new Uint8Array(16 * KiB)), Req.compressed);
      if (options.includes('refcount_bits=1')) continue;
      const facts = { dateSec: i, dateNsec: 0, vmStateSize: 0, vmClockNsec: 0n, icount: 0n };
      await disk.node.instance.snapshots!.create({ ...facts, name: `snapshot ${i}` });
    }
  });
  return files.bytesOf(path);
}

const interesting = [
  0n,
  1n,
  0x200n,
  0x1000n,
  0x7fff_ffffn,
  0xffff_ffffn,
  1n << 32n,
  1n << 55n,
  1n << 62n,
  1n << 63n,
  0x7fff_ffff_ffff_ffffn,
  0xffff_ffff_ffff_ffffn,
] as const;

/** Changes some bytes; most of them where tables are. */
function mutate(sound: Uint8Array, random: Random): Uint8Array {
  let bytes = sound.slice();
  const view = new DataView(bytes.buffer);
  const cluster = 2 ** view.getUint32(20);
  const count = random.int(1, 6);
  for (let i = 0; i < count; i++) {
    const at = somewhere(bytes, cluster, random);
    switch (random.int(0, 6)) {
      case 0:
        bytes[at] = random.int(0, 255);
        break;
      case 1:
        bytes[at] = bytes[at]! ^ (1 << random.int(0, 7));
        break;
      case 2:
        view.setUint32(at & ~3, Number(random.pick(interesting) & 0xffff_ffffn));
        break;
      case 3:
        view.setBigUint64(at & ~7, random.pick(interesting));
        break;
      case 4: {
        // An offset of something else: loops and overlaps.
        const flags = random.pick([0n, 0n, 1n << 63n, 1n << 62n, 1n]);
        const to = BigInt(cluster * random.int(0, Math.floor(bytes.length / cluster) + 2));
        view.setBigUint64(at & ~7, to | flags);
        break;
      }
      case 5:
        bytes.copyWithin(at & ~7, somewhere(bytes, cluster, random) & ~7, bytes.length);
        break;
      default:
        bytes.copyWithin(at - (at % cluster), somewhere(bytes, cluster, random), at + cluster);
    }
  }
  if (random.chance(0.05)) bytes = bytes.slice(0, random.int(0, bytes.length));
  return bytes;
}

/** A place to change: the header, the tables that it names, or any. */
function somewhere(bytes: Uint8Array, cluster: number, random: Random): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const last = bytes.length - 8;
  const table = (field: number): number => Number(view.getBigUint64(field) % BigInt(last));
  switch (random.int(0, 7)) {
    case 0:
      return random.int(0, 111);
    case 1:
      return random.int(72, Math.min(cluster - 1, 600));
    case 2:
      return Math.min(last, table(40) + random.int(0, 63));
    case 3:
      return Math.min(last, table(48) + random.int(0, 31));
    case 4:
      return Math.min(last, table(64) + random.int(0, 200));
    case 5: {
      const l2 = Number(view.getBigUint64(table(40)) & 0x00ff_ffff_ffff_fe00n);
      return Math.min(last, (l2 % last) + random.int(0, Math.min(cluster, 512) - 1));
    }
    default:
      return random.int(0, last);
  }
}

/** Errors that say what is wrong; everything else is a fault of vdisk. */
const named = new Set(['BlockError', 'HostError', 'OptionError']);

async function calmly(fn: () => Promise<unknown>): Promise<void> {
  try {
    await fn();
  } catch (e) {
    if (!(e instanceof Error) || !named.has(e.name)) throw e;
  }
}

async function readAround(disk: Backend, random: Random): Promise<void> {
  const { size } = disk;
  for (const at of [0, 40 * KiB, 190 * KiB, size - 4 * KiB, random.int(0, Math.max(0, size - 1))]) {
    const bytes = Math.min(40 * KiB, size - at);
    if (at < 0 || bytes <= 0) continue;
    await calmly(() => disk.read(at, Iov.alloc(bytes)));
    await calmly(() => disk.node.blockStatus(at, bytes));
  }
}

async function asReader(files: FakeFiles, random: Random): Promise<void> {
  await withImage(files, {}, { writable: false }, async (disk) => {
    const { instance } = disk.node;
    await calmly(async () => instance.info?.());
    await readAround(disk, random);
    for (const { id } of ((await instance.snapshots?.list()) ?? []).slice(0, 4)) {
      await calmly(async () => instance.snapshots?.loadTemporary(id, undefined));
      await readAround(disk, random);
    }
  });
}

async function asWriter(files: FakeFiles, random: Random): Promise<void> {
  const options = random.pick<NodeOptions>([{}, { 'overlap-check': 'all' }]);
  await withImage(files, options, { writable: true }, async (disk) => {
    const { snapshots } = disk.node.instance;
    const at = 512 * random.int(0, 400);
    const facts = { dateSec: 1, dateNsec: 0, vmStateSize: 0, vmClockNsec: 0n, icount: 0n };
    const first = (await snapshots?.list())?.[0];
    const steps: (() => Promise<unknown>)[] = [
      () => disk.write(at, Iov.of(random.bytes(9000))),
      () => disk.writeZeroes(at, 20 * KiB, Req.mayUnmap),
      () => disk.discard(0, 64 * KiB),
      async () => snapshots?.create({ ...facts, name: 'new' }),
      async () => (first === undefined ? undefined : snapshots?.apply(first.id)),
      async () => (first === undefined ? undefined : snapshots?.delete(first.id, undefined)),
      () => disk.truncate(random.pick([SIZE / 2, SIZE * 2])),
      () => disk.write(0, Iov.of(random.bytes(30 * KiB))),
      async () => disk.node.instance.amend?.({ refcount_bits: 32 }, { force: false }),
      () => disk.flush(),
    ];
    for (const step of steps) await calmly(step);
  });
}

/** `check`, its repairs, and a check afterwards. */
async function asChecker(files: FakeFiles): Promise<void> {
  for (const [fixLeaks, fixErrors] of [
    [false, false],
    [true, false],
    [true, true],
    [false, false],
  ] as const) {
    const flags = { writable: fixLeaks, check: true };
    await calmly(() =>
      withImage(files, {}, flags, async (disk) => {
        await disk.node.instance.check?.({ fixLeaks, fixErrors, report: () => undefined });
      }),
    );
  }
}

/** One mutated image. Throws when vdisk breaks its promises on it. */
export async function fuzzQcow2(seed: number): Promise<void> {
  const random = new Random(seed);
  const bytes = mutate(await soundImage(random.pick(shapes)), random);
  const fresh = (): FakeFiles => {
    const files = new FakeFiles({ maxBytes: MAX_FILE });
    files.put(path, bytes.slice());
    return files;
  };
  const read = fresh();
  await calmly(() => asReader(read, random));
  if (Buffer.compare(read.bytesOf(path), bytes) !== 0) throw new Error('a reader changed the file');
  const written = fresh();
  await calmly(() => asWriter(written, random));
  const checked = fresh();
  await asChecker(checked);
  for (const files of [read, written, checked]) {
    let operations = 0;
    for (const count of files.counts.values()) operations += count;
    if (operations > MAX_OPERATIONS) throw new Error(`${operations} file operations`);
  }
}
