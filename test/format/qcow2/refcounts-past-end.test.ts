// Goal: refcounts of clusters behind the end of the file, which a power cut leaves when the file
// had not grown yet, are no leaks once they were repaired, and a repair of leaks never changes a
// cluster that is more than a refcount block. Method: refcounts and table entries of an image in
// simulated files are poked by hand.
import { describe, expect, it } from 'vitest';
import { messageOf } from '../../../src/block/errors.js';
import { Random } from '../../support/index.js';
import type { TestImage } from './support.js';
import { check, imagePath, Iov, makeImage, openImage } from './support.js';

const KiB = 1024;
const CLUSTER = 4 * KiB;
const PER_BLOCK = CLUSTER / 2;

/** Where the image's refcount table is, and the block of its first entry. */
interface Tables {
  readonly view: DataView;
  readonly table: number;
  readonly block: number;
  readonly end: number;
}

/** An image with 64 KiB of data, poked. */
async function poked(poke: (tables: Tables) => void): Promise<TestImage> {
  const shape = {
    name: '',
    create: 'cluster_size=4k',
    size: 32 * 1024 * KiB,
    clusterSize: CLUSTER,
  };
  const image = await makeImage(shape, new Random(1));
  const { backend, graph } = await openImage(image);
  await backend.write(0, Iov.of(new Uint8Array(64 * KiB).fill(5)));
  await backend.detach();
  await graph.close();
  const bytes = image.files.bytesOf(imagePath);
  const view = new DataView(bytes.buffer);
  const table = Number(view.getBigUint64(48));
  const block = Number(view.getBigUint64(table));
  poke({ view, table, block, end: bytes.length / CLUSTER });
  image.files.put(imagePath, bytes);
  return image;
}

/** Repairs leaks, then lets the file grow by 16 MiB; what `check` finds before and after. */
async function repaired(image: TestImage): Promise<{ before: object; after: object }> {
  const { backend, graph } = await openImage(image);
  const before = await check(backend);
  const how = { fixLeaks: true, fixErrors: false, report: (): undefined => undefined };
  await backend.node.instance.check?.(how);
  await backend.detach();
  await graph.close();
  const next = await openImage(image);
  await next.backend.write(64 * KiB, Iov.of(new Uint8Array(16 * 1024 * KiB).fill(6)));
  const data = new Uint8Array(64 * KiB);
  await next.backend.read(0, Iov.of(data));
  expect(data).toEqual(new Uint8Array(64 * KiB).fill(5));
  await next.backend.flush();
  const after = await check(next.backend);
  await next.backend.detach();
  await next.graph.close();
  return { before, after };
}

const clean = { corruptions: 0, leaks: 0, lines: [] };

describe('refcounts behind the end of the file', () => {
  it('are seen by no check and gone after a repair', async () => {
    const image = await poked(({ view, block, end }) => {
      for (const cluster of [end, end + 3, PER_BLOCK - 1]) view.setUint16(block + cluster * 2, 1);
    });
    expect(await repaired(image)).toEqual({ before: clean, after: clean });
  });

  it.each([false, true])('are left alone in a block that is data (all: %s)', async (fixErrors) => {
    const image = await poked(({ view, table, block }) => {
      const l1 = Number(view.getBigUint64(40));
      const l2 = Number(view.getBigUint64(l1) & 0x00ff_ffff_ffff_fe00n);
      const data = view.getBigUint64(l2) & 0x00ff_ffff_ffff_fe00n;
      view.setBigUint64(table + 8, data);
      expect(data).not.toBe(BigInt(block));
    });
    const { backend, graph } = await openImage(image);
    const how = { fixLeaks: true, fixErrors, report: (): undefined => undefined };
    const told = await backend.node.instance.check?.(how).then(() => 'repaired', messageOf);
    expect(told).toBe(fixErrors ? 'repaired' : 'Input/output error');
    await backend.detach();
    await graph.close();
    const next = await openImage(image, {}, { writable: false });
    const bytes = new Uint8Array(64 * KiB);
    await next.backend.read(0, Iov.of(bytes));
    expect(bytes).toEqual(new Uint8Array(64 * KiB).fill(5));
    await next.backend.detach();
    await next.graph.close();
  });
});
