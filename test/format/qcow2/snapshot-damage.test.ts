// Goal: a snapshot whose entry lies is deleted, applied and repaired as far as that does no harm:
// nothing is given back that its L1 table does not own, the header stays whole.
// Method: entries of the snapshot table of an image in simulated files are poked by hand; what is
// told (QEMU's words), what the file holds and what `check` finds afterwards are compared.
import { describe, expect, it } from 'vitest';
import { messageOf } from '../../../src/block/errors.js';
import { Random } from '../../support/index.js';
import type { TestImage } from './support.js';
import { check, imagePath, Iov, makeImage, openImage } from './support.js';

const KiB = 1024;
const facts = { dateSec: 1, dateNsec: 0, vmStateSize: 0, vmClockNsec: 0n, icount: 0n };
/** Offsets in an entry of the table. */
const L1_OFFSET = 0;
const L1_SIZE = 8;
const ID_SIZE = 12;
const NAME_SIZE = 14;

type Poke = (view: DataView, entry: number) => void;

/** An image with data, the snapshots `one` and `two`, and a poked entry of `one`. */
async function damaged(poke: Poke): Promise<TestImage> {
  const shape = { name: '', create: 'cluster_size=4k', size: 1024 * KiB, clusterSize: 4 * KiB };
  const image = await makeImage(shape, new Random(1));
  const { backend, graph } = await openImage(image);
  for (const [i, name] of ['one', 'two'].entries()) {
    await backend.write(i * 32 * KiB, Iov.of(new Uint8Array(64 * KiB).fill(i + 1)));
    await backend.node.instance.snapshots!.create({ ...facts, name });
  }
  await backend.write(128 * KiB, Iov.of(new Uint8Array(8 * KiB).fill(3)));
  await backend.detach();
  await graph.close();
  const bytes = image.files.bytesOf(imagePath);
  const view = new DataView(bytes.buffer);
  poke(view, Number(view.getBigUint64(64)));
  image.files.put(imagePath, bytes);
  return image;
}

/** What `fn` is told ('' when it goes well), and what is found afterwards. */
async function after(
  image: TestImage,
  fn: (snapshots: {
    delete(id: string | undefined, name: string): Promise<void>;
    apply(key: string): Promise<void>;
  }) => Promise<void>,
): Promise<{ told: string; names: string[]; corruptions: number; leaks: number }> {
  const { backend, graph } = await openImage(image);
  const told = await fn(backend.node.instance.snapshots!).then(() => '', messageOf);
  await backend.detach();
  await graph.close();
  const next = await openImage(image, {}, { writable: false });
  const names = await next.backend.node.instance.snapshots!.list();
  const { corruptions, leaks } = await check(next.backend);
  const data = new Uint8Array(4 * KiB);
  await next.backend.read(32 * KiB, Iov.of(data));
  expect(data).toEqual(new Uint8Array(4 * KiB).fill(2));
  await next.backend.detach();
  await next.graph.close();
  return { told, names: names.map((s) => s.name), corruptions, leaks };
}

const lies: readonly (readonly [string, Poke])[] = [
  ['the header for an L1 table', (view, at) => view.setBigUint64(at + L1_OFFSET, 0n)],
  ['an L1 table of 1000 entries', (view, at) => view.setUint32(at + L1_SIZE, 1000)],
  ['an L1 table of 2^22 entries', (view, at) => view.setUint32(at + L1_SIZE, 2 ** 22)],
];

describe.each(lies)('a snapshot with %s', (_, poke) => {
  it('goes when it is deleted, and its clusters leak', async () => {
    const image = await damaged(poke);
    const { leaks, ...found } = await after(image, (s) => s.delete(undefined, 'one'));
    expect(leaks).toBeGreaterThan(0);
    expect(found).toEqual({
      told: 'Failed to free the cluster and L1 table: File too large',
      names: ['two'],
      corruptions: 0,
    });
  });

  it('is not applied, and nothing changes', async () => {
    const image = await damaged(poke);
    const before = image.files.bytesOf(imagePath);
    const { told, names } = await after(image, (s) => s.apply('one'));
    expect(told).toBe('Failed to load snapshot: File too large');
    expect(names).toEqual(['one', 'two']);
    expect(Buffer.compare(before, image.files.bytesOf(imagePath))).toBe(0);
  });
});

describe.each([ID_SIZE, NAME_SIZE])('a size of 65535 at %i of an entry', (field) => {
  it('is repaired by a table elsewhere', async () => {
    const image = await damaged((view, at) => view.setUint16(at + field, 0xffff));
    const { backend, graph } = await openImage(image, {}, { check: true });
    const result = await backend.node.instance.check!({
      fixLeaks: true,
      fixErrors: true,
      report: () => undefined,
    });
    // The region that the old size claims was counted once more.
    expect(result).toMatchObject({ corruptions: 1, checkErrors: 0 });
    await backend.detach();
    await graph.close();
    const next = await openImage(image);
    expect(await check(next.backend)).toMatchObject({ corruptions: 0, leaks: 0 });
    await next.backend.detach();
    await next.graph.close();
  });
});
