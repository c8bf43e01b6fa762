// Goal: data that stands in a cached file on both sides goes from file to file, and nobody can tell
// but by the time it takes. Method: conversions of random images in simulated files, with that way
// and without it, whole and with faults of each kind on it; the content is compared.
import { describe, expect, it } from 'vitest';
import { convert, createImage, Iov, prepareCreate } from '../../src/index.js';
import type { FakeFiles } from '../support/index.js';
import { failure, fakeHost, readBytes, seededRandom, testGraph } from '../support/index.js';
import { FakeFiles as Files } from '../support/index.js';

const KIB = 1024;
const MIB = 1024 * KIB;
type Rand = ReturnType<typeof seededRandom>;

function content(random: Rand, bytes: number): Uint8Array {
  const out = random.bytes(bytes);
  for (let i = 0; i < 30; i++) {
    const at = random.int(0, bytes / 512 - 1) * 512;
    out.fill(0, at, at + random.pick([512, 4096, 65536, 300 * KIB]));
  }
  // A cluster that is zero at its beginning only.
  out.fill(0, 640 * KIB, 641 * KIB);
  out[641 * KIB] = 1;
  return out;
}

interface Way {
  readonly format: string;
  readonly options?: string;
  readonly source?: string;
  readonly minSparse?: number;
  readonly outOfOrder?: boolean;
  /** Nothing goes that way: clusters are there already, or data lies elsewhere. */
  readonly never?: boolean;
}

const ways: Way[] = [
  { format: 'raw' },
  { format: 'raw', minSparse: 64 * KIB },
  { format: 'raw', minSparse: 0 },
  { format: 'raw', source: 'qcow2', outOfOrder: true },
  { format: 'qcow2' },
  { format: 'qcow2', source: 'qcow2' },
  { format: 'qcow2', minSparse: 0 },
  { format: 'qcow2', options: 'cluster_size=4k' },
  { format: 'qcow2', options: 'cluster_size=2M', outOfOrder: true },
  { format: 'qcow2', options: 'extended_l2=on' },
  { format: 'qcow2', options: 'preallocation=metadata' },
  { format: 'qcow2', options: 'data_file=/data,data_file_raw=on' },
  { format: 'vpc', options: 'force_size=on' },
  { format: 'vpc', options: 'force_size=on', source: 'vpc', outOfOrder: true },
  { format: 'raw', source: 'vpc' },
  { format: 'vhdx' },
  { format: 'vhdx', options: 'block_size=1M', source: 'vhdx', minSparse: 64 * KIB },
  { format: 'raw', source: 'vhdx' },
  { format: 'raw', source: 'vdi' },
];
const nameOf = (way: Way): string => JSON.stringify(way);

/** Converts `source` in `files` that way, and reads the target through a graph of its own. */
async function run(files: FakeFiles, way: Way): Promise<Uint8Array> {
  const graph = testGraph({ host: fakeHost({ files }) });
  const { format, options, minSparse, outOfOrder = false } = way;
  const source = await graph.openBackend({
    filename: '/source',
    options: { driver: way.source ?? 'raw' },
  });
  try {
    await convert({
      graph,
      sources: [source],
      target: { filename: '/target', format, optionTexts: options === undefined ? [] : [options] },
      outOfOrder,
      ...(minSparse === undefined ? {} : { minSparse }),
    });
  } finally {
    await source.close();
  }
  const target = await graph.openBackend({ filename: '/target', options: { driver: format } });
  const bytes = await readBytes(target, 0, target.size);
  await target.close();
  await graph.close();
  return bytes;
}

async function prepare(files: FakeFiles, way: Way, bytes: Uint8Array): Promise<void> {
  if (way.source === undefined) {
    files.put('/source', bytes);
    return;
  }
  const graph = testGraph({ host: fakeHost({ files }) });
  const optionTexts = way.source === 'vpc' ? ['force_size=on'] : [];
  const request = { filename: '/source', format: way.source, size: bytes.length, optionTexts };
  await createImage(graph, await prepareCreate(graph, request));
  const options = { driver: way.source };
  const image = await graph.openBackend({
    filename: '/source',
    options,
    flags: { writable: true },
  });
  await image.write(0, Iov.of(bytes));
  await image.close();
  await graph.close();
}

const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

describe('conversions from file to file', () => {
  for (const way of ways) {
    it(`give the same content as the plain way: ${nameOf(way)}`, async () => {
      const random = seededRandom();
      const bytes = content(random, 9 * MIB + 1536);
      const results: [FakeFiles, Uint8Array][] = [];
      for (const without of [[], ['pass']] as const) {
        const files = new Files({ without: [...without] });
        await prepare(files, way, bytes);
        results.push([files, await run(files, way)]);
      }
      const [[passed, got], [, plain]] = results as [
        [FakeFiles, Uint8Array],
        [FakeFiles, Uint8Array],
      ];
      expect(same(got, bytes)).toBe(true);
      expect(same(plain, bytes)).toBe(true);
      expect((passed.counts.get('pass') ?? 0) > 0).toBe(way.never !== true);
    });

    it(`survive what fails on that way: ${nameOf(way)}`, async () => {
      const random = seededRandom();
      const bytes = content(random, 9 * MIB);
      for (const code of ['EIO', 'ENOSPC', 'EBADF']) {
        const files = new Files({ seed: random.uint32(), reorder: random.chance(0.5) });
        await prepare(files, way, bytes);
        files.faults.push({ op: 'pass', code, skip: random.int(0, 2), times: random.int(1, 3) });
        expect(same(await run(files, way), bytes)).toBe(true);
      }
    });
  }

  it.each([{ format: 'raw' }, { format: 'qcow2', outOfOrder: true }])(
    'go on in parts where long pieces fail: $format',
    async (way) => {
      const random = seededRandom();
      const bytes = content(random, 37 * MIB);
      // The first that reads a place is the look for zeroes, as if it were not cached.
      for (const op of ['read', 'pass'] as const) {
        const files = new Files({ seed: random.uint32(), reorder: true });
        files.put('/source', bytes);
        const offset = random.int(0, bytes.length - 1);
        const where = op === 'read' ? { path: '/source', offset, bytes: 1 } : {};
        files.faults.push({ op, code: 'EIO', times: 1, ...where });
        expect(same(await run(files, way), bytes)).toBe(true);
        expect(files.faults).toEqual([]);
      }
    },
  );

  it.each(['vpc', 'vhdx'])('leave blocks of zeroes without a place: %s', async (format) => {
    const random = seededRandom();
    const bytes = new Uint8Array(64 * MIB);
    bytes.fill(1, 17 * MIB + 4096, 17 * MIB + 8192);
    const lengths: number[] = [];
    for (const without of [[], ['pass']] as const) {
      const files = new Files({ seed: random.uint32(), without: [...without] });
      files.put('/source', bytes);
      expect(same((await run(files, { format })).subarray(0, bytes.length), bytes)).toBe(true);
      lengths.push(files.bytesOf('/target').length);
    }
    expect(lengths[0]).toBe(lengths[1]);
    expect(lengths[0]).toBeLessThan(17 * MIB);
  });

  it('tell the error of the plain way, with its place, when both fail', async () => {
    const random = seededRandom();
    const files = new Files();
    files.put('/source', random.bytes(2 * MIB));
    files.faults.push({ op: 'read', path: '/source', code: 'EIO', offset: 65536, bytes: 512 });
    expect(await failure(run(files, { format: 'qcow2' }))).toMatch(
      /^error while reading at byte 0: Input\/output error$/u,
    );
    const full = new Files({ maxBytes: MIB });
    full.put('/source', random.bytes(2 * MIB));
    expect(await failure(run(full, { format: 'qcow2' }))).toMatch(
      /^error while writing at byte \d+: No space left on device$/u,
    );
  });
});
