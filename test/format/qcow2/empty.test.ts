// Goal: an emptied image shows its backing file, is as short as a new one and can be worked on; a
// power cut at any point leaves one that opens, is clean or is repaired by the open, and shows in
// each place what it held or the backing file. Method: images with random content in simulated
// files, emptied once whole, then with the power cut after each operation.
import { describe, expect, it } from 'vitest';
import type { Random } from '../../support/index.js';
import { FakeFiles, seededRandom } from '../../support/index.js';
import type { Shape, TestImage } from './support.js';
import { check, imagePath, Iov, makeImage, openImage } from './support.js';

const KiB = 1024;

const shapes: readonly Shape[] = [
  { name: '64k clusters', create: '', size: 1024 * KiB, clusterSize: 64 * KiB, backing: 700_000 },
  {
    name: 'an L1 table of some clusters',
    create: 'cluster_size=512',
    size: 4096 * KiB,
    clusterSize: 512,
    backing: 4096 * KiB,
  },
  {
    name: 'extended L2 entries, lazy refcounts',
    create: 'cluster_size=16k,extended_l2=on,lazy_refcounts=on',
    size: 512 * KiB,
    clusterSize: 16 * KiB,
    backing: 400 * KiB,
  },
  {
    name: 'version 2',
    create: 'cluster_size=4k,compat=0.10',
    size: 512 * KiB,
    clusterSize: 4 * KiB,
    version: 2,
    backing: 512 * KiB,
  },
];

async function content(image: TestImage, name: string): Promise<Uint8Array> {
  const { backend, graph } = await openImage(image, {}, { writable: false });
  const bytes = new Uint8Array(backend.size);
  await backend.read(0, Iov.of(bytes)).catch((e: unknown) => {
    throw new Error(`${name}: ${String(e)}`);
  });
  await backend.detach();
  await graph.close();
  return bytes;
}

/** An image whose clusters are scattered, some written, some not. */
async function filled(shape: Shape, random: Random): Promise<TestImage> {
  const image = await makeImage(shape, random);
  const { backend, graph } = await openImage(image);
  for (let i = 0; i < 60; i++) {
    const bytes = random.int(1, 3 * shape.clusterSize);
    const at = random.int(0, shape.size - bytes);
    await backend.write(at, Iov.of(random.bytes(bytes)));
  }
  await backend.detach();
  await graph.close();
  // It was made long before the machine that now fails.
  for (const path of [...image.files.disks.keys()]) {
    image.files.put(path, image.files.bytesOf(path));
  }
  return image;
}

async function empty(image: TestImage): Promise<void> {
  const { backend, graph } = await openImage(image);
  try {
    await backend.node.instance.makeEmpty!();
    await backend.flush();
  } finally {
    await backend.detach().catch(() => undefined);
    await graph.close().catch(() => undefined);
  }
}

function copyOf(image: TestImage, random: Random): TestImage {
  const files = new FakeFiles({ seed: random.uint32() });
  for (const path of image.files.disks.keys()) files.put(path, image.files.bytesOf(path));
  return { ...image, files };
}

describe('makeEmpty', () => {
  for (const shape of shapes) {
    it(`${shape.name}: shows the backing file, and the file is short`, async () => {
      const random = seededRandom();
      const fresh = await makeImage(shape, random);
      const image = await filled(shape, random);
      await empty(image);
      const shown = new Uint8Array(shape.size);
      shown.set(image.base.subarray(0, shape.size));
      expect(Buffer.from(await content(image, 'emptied')).equals(shown)).toBe(true);
      if (shape.version !== 2) {
        const wanted = fresh.files.bytesOf(imagePath).length;
        expect(image.files.bytesOf(imagePath).length).toBeLessThan(wanted + shape.clusterSize);
      }
      const { backend, graph } = await openImage(image);
      const data = random.bytes(shape.clusterSize);
      await backend.write(100, Iov.of(data));
      expect(await check(backend)).toMatchObject({ corruptions: 0, leaks: 0 });
      await backend.detach();
      await graph.close();
      shown.set(data, 100);
      expect(Buffer.from(await content(image, 'written')).equals(shown)).toBe(true);
    });

    it(`${shape.name}: power cuts`, { timeout: 120_000 }, async () => {
      const random = seededRandom();
      const before = await filled(shape, random);
      const held = await content(before, 'before');
      for (let n = 0; ; n++) {
        const image = copyOf(before, random);
        image.files.cutAfter(n);
        await empty(image).catch(() => undefined);
        const isDone = !image.files.isOff;
        const next: TestImage = { ...image, files: image.files.afterPowerCut(random) };
        const { backend, graph } = await openImage(next);
        const found = await check(backend);
        expect(found.corruptions, `after ${n} operations: ${found.lines.join('\n')}`).toBe(0);
        await backend.detach();
        await graph.close();
        const shown = await content(next, `after ${n} operations`);
        const wrong = shown.findIndex((b, i) => b !== held[i] && b !== (before.base[i] ?? 0));
        expect(wrong, `after ${n} operations`).toBe(-1);
        if (isDone) break;
      }
    });
  }
});
