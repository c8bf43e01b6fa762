// Mutated VHD and VHDX images: each is opened, read, checked and written to. Whatever the bytes
// are, the answers are data or a named error, soon, and a reader changes nothing.
import { createImage, prepareCreate } from '../../src/block/create.js';
import { seal } from '../../src/format/vhdx/header.js';
import { checksumOf } from '../../src/format/vpc/footer.js';
import type { Backend, OpenFlags } from '../../src/index.js';
import { Iov, Req } from '../../src/index.js';
import { crc32c } from '../../src/lib/crc32c.js';
import { buildVhd, KiB, MiB } from '../format/vhd/support.js';
import { FakeFiles, fakeHost, Random, testGraph } from '../support/index.js';

const path = '/image';
const MAX_FILE = 256 * MiB;
/** File operations for one image; more would be work without bounds. */
const MAX_OPERATIONS = 100_000;

type Format = 'vpc' | 'vhdx';
const kinds = ['vpc', 'vpc-child', 'vpc-fixed', 'vhdx', 'vhdx-log', 'vhdx-fixed'] as const;
type Kind = (typeof kinds)[number];

const formatOf = (kind: Kind): Format => (kind.startsWith('vpc') ? 'vpc' : 'vhdx');

async function withImage(
  files: FakeFiles,
  format: Format,
  flags: Partial<OpenFlags>,
  fn: (disk: Backend) => Promise<void>,
): Promise<void> {
  const graph = testGraph({ host: fakeHost({ files }), onWarning: () => undefined });
  try {
    const options = { driver: format, backing: null, file: { driver: 'file', filename: path } };
    const disk = await graph.openBackend({ options, flags: { unmap: true, ...flags } });
    try {
      await fn(disk);
    } finally {
      await disk.detach();
    }
  } finally {
    await graph.close();
  }
}

const made = new Map<Kind, Promise<Uint8Array>>();

function soundImage(kind: Kind): Promise<Uint8Array> {
  let found = made.get(kind);
  if (found === undefined) made.set(kind, (found = makeSound(kind)));
  return found;
}

async function makeSound(kind: Kind): Promise<Uint8Array> {
  const random = new Random(7);
  if (kind === 'vpc' || kind === 'vpc-child') {
    const block = (): { bitmap: Uint8Array; data: Uint8Array } => ({
      bitmap: random.bytes(512),
      data: random.bytes(16 * KiB),
    });
    const blocks = new Map([0, 3, 4, 9].map((index) => [index, block()]));
    const type = kind === 'vpc' ? 3 : 4;
    const locators = [{ code: 0x5732_7275, path: random.bytes(40) }];
    return buildVhd({ size: 200 * KiB, blockSize: 16 * KiB, type, blocks, locators });
  }
  const files = new FakeFiles();
  const graph = testGraph({ host: fakeHost({ files }) });
  const format = formatOf(kind);
  const text = kind === 'vpc-fixed' ? 'subformat=fixed' : 'block_size=1M';
  const optionTexts = [kind === 'vhdx-fixed' ? `${text},subformat=fixed` : text];
  await createImage(
    graph,
    await prepareCreate(graph, { filename: path, format, size: 3 * MiB, optionTexts }),
  );
  await graph.close();
  let bytes = files.bytesOf(path);
  await withImage(files, format, { writable: true }, async (disk) => {
    await disk.write(100, Iov.of(random.bytes(20 * KiB)));
    await disk.flush();
    await disk.write(2 * MiB, Iov.of(random.bytes(20 * KiB)));
    await disk.flush();
    bytes = files.bytesOf(path);
  });
  // Not closed: the header names the log, and entries are in it.
  return kind === 'vhdx-log' ? bytes : files.bytesOf(path);
}

const values = [
  0n,
  1n,
  6n,
  7n,
  0x200n,
  0x1000n,
  0x10_0000n,
  0x10_0006n,
  0x7fff_ffffn,
  0xffff_ffffn,
  1n << 40n,
  1n << 53n,
  1n << 63n,
  (1n << 64n) - 1n,
] as const;

/** Where structures are. */
function places(kind: Kind, bytes: Uint8Array): readonly (readonly [number, number])[] {
  if (formatOf(kind) === 'vpc') {
    return [
      [0, 100],
      [512, 64],
      [512 + 64, 512 + 200],
      [1536, 64],
      [bytes.length - 512, 100],
    ];
  }
  return [
    [64 * KiB, 80],
    [128 * KiB, 80],
    [192 * KiB, 80],
    [MiB, 128],
    [MiB + 4 * KiB, 4 * KiB],
    [MiB + 8 * KiB, 128],
    [MiB + 16 * KiB, 128],
    [2 * MiB, 64],
    [3 * MiB, 200],
    [3 * MiB + 64 * KiB, 40],
  ];
}

function mutate(sound: Uint8Array, kind: Kind, random: Random): Uint8Array {
  const bytes = sound.slice();
  const view = new DataView(bytes.buffer);
  const littleEndian = formatOf(kind) === 'vhdx';
  for (let n = random.int(1, 5); n > 0; n--) {
    const [from, length] = random.pick(places(kind, bytes));
    const at = Math.min(bytes.length - 8, from + random.int(0, length - 1));
    switch (random.int(0, 4)) {
      case 0:
        bytes[at] = random.int(0, 255);
        break;
      case 1:
        bytes[at] = bytes[at]! ^ (1 << random.int(0, 7));
        break;
      case 2:
        view.setUint32(at & ~3, Number(random.pick(values) & 0xffff_ffffn), littleEndian);
        break;
      case 3:
        view.setBigUint64(at & ~7, random.pick(values), littleEndian);
        break;
      default: {
        const [other] = random.pick(places(kind, bytes));
        bytes.copyWithin(at & ~7, other, other + random.pick([8, 32, 512]));
      }
    }
  }
  if (random.chance(0.8)) repair(bytes, kind);
  return random.chance(0.1) ? bytes.slice(0, random.int(0, bytes.length)) : bytes;
}

/** Checksums are right again, so that what is behind them is looked at. */
function repair(bytes: Uint8Array, kind: Kind): void {
  const view = new DataView(bytes.buffer);
  if (formatOf(kind) === 'vpc') {
    for (const at of [0, bytes.length - 512]) {
      view.setUint32(at + 64, checksumOf(bytes.subarray(at, at + 512), 64));
    }
    return;
  }
  for (const at of [64, 128]) seal(bytes.subarray(at * KiB, (at + 4) * KiB), crc32c);
  for (const at of [192, 256]) seal(bytes.subarray(at * KiB, (at + 64) * KiB), crc32c);
  for (let at = MiB; at < MiB + 64 * KiB; at += 4 * KiB) {
    const length = view.getUint32(at + 8, true);
    const fits = length > 0 && length % 4096 === 0 && length <= 64 * KiB;
    if (view.getUint32(at, true) === 0x6567_6f6c && fits) {
      seal(bytes.subarray(at, at + length), crc32c);
    }
  }
}

/** Errors that say what is wrong; everything else is a fault of vdisk. */
const named = new Set(['BlockError', 'HostError', 'OptionError']);

async function calmly(fn: () => Promise<unknown>): Promise<void> {
  try {
    await fn();
  } catch (e) {
    if (!(e instanceof Error) || !named.has(e.name)) throw e;
    if (e.message.length > 1000) throw new Error(`a long message: ${e.message}`, { cause: e });
  }
}

async function readAround(disk: Backend, random: Random): Promise<void> {
  const { size } = disk;
  for (const at of [0, 30 * KiB, 2 * MiB, size - 4 * KiB, random.int(0, Math.max(0, size - 1))]) {
    const bytes = Math.min(40 * KiB, size - at);
    if (at < 0 || bytes <= 0) continue;
    await calmly(() => disk.read(at, Iov.alloc(bytes)));
    await calmly(() => disk.node.blockStatus(at, bytes));
  }
  const report = (): void => undefined;
  await calmly(async () =>
    disk.node.instance.check?.({ fixErrors: false, fixLeaks: false, report }),
  );
}

async function asWriter(disk: Backend, random: Random): Promise<void> {
  const at = 512 * random.int(0, 390);
  const steps: (() => Promise<unknown>)[] = [
    () => disk.write(at, Iov.of(random.bytes(9000))),
    () => disk.writeZeroes(at, 20 * KiB, Req.mayUnmap),
    () => disk.discard(0, 64 * KiB),
    () => disk.flush(),
    () => disk.write(0, Iov.of(random.bytes(30 * KiB))),
    () => disk.flush(),
  ];
  for (const step of steps) await calmly(step);
  await readAround(disk, random);
}

/** One mutated image. Throws when vdisk breaks its promises on it. */
export async function fuzzVhd(seed: number): Promise<void> {
  const random = new Random(seed);
  const kind = random.pick(kinds);
  const format = formatOf(kind);
  const bytes = mutate(await soundImage(kind), kind, random);
  const fresh = (): FakeFiles => {
    const files = new FakeFiles({ maxBytes: MAX_FILE });
    files.put(path, bytes.slice());
    return files;
  };
  const read = fresh();
  await calmly(() => withImage(read, format, {}, (disk) => readAround(disk, random)));
  await calmly(() => withImage(read, format, { check: true }, (disk) => readAround(disk, random)));
  if (Buffer.compare(read.bytesOf(path), bytes) !== 0) throw new Error('a reader changed the file');
  const written = fresh();
  const flags = { writable: true };
  await calmly(() => withImage(written, format, flags, (disk) => asWriter(disk, random)));
  for (const files of [read, written]) {
    let operations = 0;
    for (const count of files.counts.values()) operations += count;
    if (operations > MAX_OPERATIONS) throw new Error(`${operations} file operations`);
  }
}
