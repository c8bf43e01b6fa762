// Goal: a conversion with a journal goes on after power cuts and its target equals the source; it
// is refused when source, options or target are others. Method: conversions between simulated files
// whose power is cut at random operations (seeds printed), resumed until they are through.
import { describe, expect, it } from 'vitest';
import type { ConvertOptions } from '../../src/index.js';
import { convert, Iov } from '../../src/index.js';
import { failure, fakeHost, FakeFiles, seededRandom, testGraph } from '../support/index.js';
import type { Random } from '../support/index.js';

const KiB = 1024;
const BYTES = 6 * 1024 * KiB;

/** Data, zeroes and holes. */
function content(random: Random): Uint8Array {
  const bytes = random.bytes(BYTES);
  for (let i = 0; i < 12; i++) {
    const at = random.int(0, BYTES - 1);
    bytes.fill(0, at, at + random.int(1, 800 * KiB));
  }
  return bytes;
}

interface Case {
  readonly name: string;
  readonly format: string;
  readonly texts: readonly string[];
  readonly more?: Partial<ConvertOptions>;
}

const cases: readonly Case[] = [
  { name: 'raw', format: 'raw', texts: [] },
  { name: 'qcow2', format: 'qcow2', texts: ['cluster_size=4k'] },
  {
    name: 'qcow2 with lazy refcounts',
    format: 'qcow2',
    texts: ['cluster_size=8k,lazy_refcounts=on'],
  },
  {
    name: 'compressed qcow2',
    format: 'qcow2',
    texts: ['cluster_size=8k'],
    more: { compress: true },
  },
  { name: 'all of it', format: 'raw', texts: [], more: { minSparse: 0 } },
];

async function attempt(files: FakeFiles, { format, texts, more }: Case): Promise<void> {
  const graph = testGraph({ host: fakeHost({ files }) });
  try {
    const source = await graph.openBackend({ filename: '/source', options: { driver: 'raw' } });
    try {
      await convert({
        graph,
        sources: [source],
        target: {
          filename: '/target',
          format,
          optionTexts: texts,
          cache: { writeback: true, direct: false, noFlush: false },
        },
        journal: '/target.resume',
        checkpointBytes: 1,
        parallel: 3,
        ...more,
      });
    } finally {
      await source.close();
    }
  } finally {
    await graph.close();
  }
}

/** All of the target; it is clean. */
async function result(files: FakeFiles, format: string): Promise<Uint8Array> {
  const graph = testGraph({ host: fakeHost({ files }) });
  const target = await graph.openBackend({ filename: '/target', options: { driver: format } });
  const out = new Uint8Array(target.size);
  await target.read(0, Iov.of(out));
  const how = { fixLeaks: false, fixErrors: false, report: () => undefined };
  const found = await target.node.instance.check?.(how);
  expect([found?.corruptions ?? 0, found?.leaks ?? 0]).toEqual([0, 0]);
  await target.close();
  await graph.close();
  return out;
}

describe('a conversion with a journal', () => {
  it.each(cases)('$name: goes on after power cuts', { timeout: 60_000 }, async (each) => {
    const random = seededRandom();
    let cuts = 0;
    let resumed = 0;
    for (let round = 0; round < 4; round++) {
      const bytes = content(random);
      let files = new FakeFiles({ seed: random.uint32(), reorder: random.chance() });
      files.put('/source', bytes);
      for (let tries = 0; ; tries++) {
        expect(tries).toBeLessThan(60);
        // The first try never comes to its end, the second one late enough to have a journal.
        files.cutAfter(tries === 0 ? random.int(3, 6) : random.int(8, 12 + 12 * tries));
        let isThrough = false;
        await attempt(files, each).then(
          () => {
            // Closing tells no errors: what was cut there leaves a dirty image.
            isThrough = !files.isOff;
          },
          (e: unknown) => {
            // Not the power, but the conversion.
            if (!files.isOff) throw e;
          },
        );
        files.cutAfter(0);
        if (isThrough) break;
        cuts++;
        files = files.afterPowerCut(random);
        if (files.disks.has('/target.resume')) resumed++;
      }
      expect(files.disks.has('/target.resume')).toBe(false);
      expect(Buffer.compare(await result(files, each.format), bytes)).toBe(0);
    }
    expect(cuts).toBeGreaterThanOrEqual(4);
    expect(resumed).toBeGreaterThan(0);
  });

  it('is refused when source, options or target are others, and changes nothing', async () => {
    const random = seededRandom();
    const [plain, qcow2] = [cases[0]!, cases[1]!];
    const files = new FakeFiles({ seed: random.uint32() });
    files.put('/source', content(random));
    files.cutAfter(12);
    await failure(attempt(files, plain));
    const next = files.afterPowerCut(random);
    expect(next.disks.has('/target.resume')).toBe(true);
    const before = next.bytesOf('/target').slice();
    const why = (text: string): string => `Cannot resume the conversion: ${text}`;
    expect(await failure(attempt(next, { ...plain, more: { minSparse: 8192 } }))).toBe(
      why('it was begun with other options'),
    );
    expect(await failure(attempt(next, qcow2))).toBe(why('it was begun with other options'));
    const source = next.bytesOf('/source');
    next.put('/source', source.slice(512));
    expect(await failure(attempt(next, plain))).toBe(why('it was begun with other options'));
    next.put('/source', source);
    expect(Buffer.compare(next.bytesOf('/target'), before)).toBe(0);
    await attempt(next, plain);
    expect(Buffer.compare(await result(next, 'raw'), source)).toBe(0);
  });

  it('overwrites no file that is not a journal, and begins anew on an empty one', async () => {
    const random = seededRandom();
    const files = new FakeFiles({ seed: random.uint32() });
    files.put('/source', content(random));
    for (const at of [0, 64 * KiB]) {
      const foreign = new Uint8Array(at + 9000);
      foreign.set(new TextEncoder().encode('notes of mine'), at);
      files.put('/target.resume', foreign);
      expect(await failure(attempt(files, cases[0]!))).toBe(
        "'/target.resume' is not the journal of a conversion",
      );
      expect(Buffer.compare(files.bytesOf('/target.resume'), foreign)).toBe(0);
      expect(files.disks.has('/target')).toBe(false);
    }
    // A first record that did not reach the disk, and one that was torn.
    const torn = new Uint8Array(64 * KiB + 512);
    torn.set([0x76, 0x72, 0x6a, 0x31, 0, 0, 3, 0, 1, 2, 3, 4], 64 * KiB);
    for (const journal of [new Uint8Array(0), new Uint8Array(70_000), torn]) {
      files.put('/target.resume', journal);
      await attempt(files, cases[0]!);
      expect(Buffer.compare(await result(files, 'raw'), files.bytesOf('/source'))).toBe(0);
      expect(files.disks.has('/target.resume')).toBe(false);
    }
  });
});
