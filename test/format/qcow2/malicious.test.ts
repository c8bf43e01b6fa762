// Goal: tables that loop, overlap or lie do no harm: reads end, writes do not reach metadata, check
// ends, and the header stays whole. Method: images whose tables are poked by hand, in simulated
// files; the number of file operations is bounded, and the bytes are compared.
import { describe, expect, it } from 'vitest';
import type { Backend } from '../../../src/index.js';
import { failureCode, Random } from '../../support/index.js';
import type { TestImage } from './support.js';
import { imagePath, Iov, makeImage, openImage } from './support.js';

const KiB = 1024;
const CLUSTER = 64 * KiB;
const COPIED = 1n << 63n;

/** Places in a fresh image whose first cluster was written, as create and the allocator make it. */
interface Places {
  readonly l1: number;
  readonly l2: number;
  readonly data: number;
  readonly reftable: number;
  readonly refblock: number;
  readonly snapshots: number;
}

/** A fresh image with one data cluster and a snapshot, changed by `poke`. */
async function broken(
  poke: (set: (at: number, value: bigint) => void, places: Places) => void,
): Promise<TestImage> {
  const shape = { name: '', create: '', size: 1024 * KiB, clusterSize: CLUSTER };
  const image = await makeImage(shape, new Random(1));
  const open = await openImage(image);
  const facts = { dateSec: 1, dateNsec: 0, vmStateSize: 0, vmClockNsec: 0n, icount: 0n };
  await open.backend.node.instance.snapshots!.create({ ...facts, name: 'empty' });
  await open.backend.write(0, Iov.of(new Uint8Array(CLUSTER).fill(7)));
  await open.backend.detach();
  await open.graph.close();
  const bytes = image.files.bytesOf(imagePath);
  const view = new DataView(bytes.buffer);
  const u64 = (at: number): number => Number(view.getBigUint64(at) & 0x00ff_ffff_ffff_fe00n);
  const l1 = u64(40);
  const l2 = u64(l1);
  const reftable = u64(48);
  const places = { l1, l2, data: u64(l2), reftable, refblock: u64(reftable), snapshots: u64(64) };
  poke((at, value) => {
    view.setBigUint64(at, value);
  }, places);
  image.files.put(imagePath, bytes);
  return image;
}

/** Runs `fn` on the image; the file's first cluster is the same afterwards but for the features. */
async function harmless(
  image: TestImage,
  writable: boolean,
  fn: (disk: Backend) => Promise<void>,
): Promise<void> {
  const before = image.files.bytesOf(imagePath).slice(0, CLUSTER);
  const open = await openImage(image, {}, { writable });
  try {
    await fn(open.backend);
  } finally {
    await open.backend.detach();
    await open.graph.close();
  }
  const after = image.files.bytesOf(imagePath).slice(0, CLUSTER);
  // Incompatible features: the corrupt bit may have come.
  after.set(before.subarray(72, 80), 72);
  expect(Buffer.compare(before, after)).toBe(0);
  expect([...image.files.counts.values()].reduce((a, b) => a + b, 0)).toBeLessThan(2000);
}

const buffer = (): Iov => Iov.of(new Uint8Array(CLUSTER).fill(1));

describe('malicious tables', () => {
  it('data in place of the header is not written', async () => {
    const image = await broken((set, { l2 }) => {
      set(l2, COPIED | 0x200n);
      set(l2 + 8, COPIED);
    });
    await harmless(image, true, async (disk) => {
      expect(await failureCode(disk.write(0, buffer()))).toBe('EIO');
    });
  });

  for (const target of ['l1', 'l2', 'reftable', 'refblock'] as const) {
    it(`data in place of the ${target} is not written`, async () => {
      const image = await broken((set, places) => {
        set(places.l2, COPIED | BigInt(places[target]));
      });
      await harmless(image, true, async (disk) => {
        expect(await failureCode(disk.write(0, buffer()))).toBe('EIO');
        // Nothing works any more, and the next writer is refused.
        expect(await failureCode(disk.write(CLUSTER, buffer()))).toBe('ENOMEDIUM');
      });
      expect(await failureCode(openImage(image))).toBe('EACCES');
    });
  }

  it('an L1 entry that names the L1 table does not loop', async () => {
    const image = await broken((set, { l1 }) => {
      set(l1, COPIED | BigInt(l1));
    });
    await harmless(image, false, async (disk) => {
      await disk.read(0, Iov.alloc(1024 * KiB)).catch(() => undefined);
    });
    await harmless(image, true, async (disk) => {
      await disk.write(0, buffer()).catch(() => undefined);
    });
  });

  it('a refcount block that is the table itself is found and repaired', async () => {
    const image = await broken((set, { reftable }) => {
      set(reftable, BigInt(reftable));
    });
    const open = await openImage(image, {}, { check: true });
    const check = (fixErrors: boolean) =>
      open.backend.node.instance.check!({
        fixLeaks: fixErrors,
        fixErrors,
        report: () => undefined,
      });
    expect((await check(false)).corruptions).toBeGreaterThan(0);
    await check(true);
    const after = await check(false);
    expect([after.corruptions, after.leaks]).toEqual([0, 0]);
    await open.backend.detach();
    await open.graph.close();
  });

  it('data is mapped and read where the refcounts cannot be', async () => {
    const image = await broken((set, { reftable }) => {
      set(reftable, 0x1200n);
    });
    await harmless(image, false, async (disk) => {
      const status = await disk.node.blockStatus(0, CLUSTER);
      expect(status).toMatchObject({ bytes: CLUSTER, data: true, allocated: true });
      const out = new Uint8Array(CLUSTER);
      await disk.read(0, Iov.of(out));
      expect(out.every((b) => b === 7)).toBe(true);
    });
  });

  it('free clusters that are in use are not given out', async () => {
    // All refcounts are 0: the allocator would begin with the header.
    const image = await broken((set, { refblock }) => {
      for (let at = 0; at < 512; at += 8) set(refblock + at, 0n);
    });
    await harmless(image, true, async (disk) => {
      expect(await failureCode(disk.write(512 * KiB, buffer()))).toBe('EIO');
    });
  });

  it('a snapshot whose L1 table is the active one is read without harm', async () => {
    const image = await broken((set, { l1, snapshots }) => {
      // l1_table_offset is the first field of the first snapshot.
      set(snapshots, BigInt(l1));
    });
    await harmless(image, false, async (disk) => {
      await disk.node.instance.snapshots!.loadTemporary(undefined, 'empty');
      await disk.read(0, Iov.alloc(CLUSTER));
    });
  });
});

describe('snapshots that lie', () => {
  const facts = { dateSec: 1, dateNsec: 0, vmStateSize: 0, vmClockNsec: 0n, icount: 0n, name: 'b' };

  it('an L1 table of 32 GiB is met by whatever is written behind its beginning', async () => {
    const image = await broken((set, { snapshots }) => {
      set(snapshots + 8, 0xffff_ffff_0001_0005n);
    });
    const open = await openImage(image);
    expect(await failureCode(open.backend.node.instance.snapshots!.create(facts))).toBe('EIO');
    await open.backend.close().catch(() => undefined);
    await open.graph.close();
  });

  it('none is applied while the active state reaches what is not counted', async () => {
    const image = await broken((set, { l2 }) => {
      // Compressed data behind the end of the file.
      set(l2 + 8, (1n << 62n) | (512n * 1024n * 1024n));
    });
    const open = await openImage(image);
    const before = image.files.bytesOf(imagePath).slice(0, CLUSTER);
    const { snapshots } = open.backend.node.instance;
    const [first] = await snapshots!.list();
    expect(await failureCode(snapshots!.apply(first!.id))).toBe('EINVAL');
    expect(Buffer.compare(image.files.bytesOf(imagePath).slice(0, CLUSTER), before)).toBe(0);
    await open.backend.close().catch(() => undefined);
    await open.graph.close();
  });
});
