// Goal: copy-on-read copies what is below, once, gives the right bytes, and loses no write.
// Method: an overlay over a patterned image; reads and disjoint writes run together at random.
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Backend } from '../../src/index.js';
import { Iov, Req } from '../../src/index.js';
import { createImage, prepareCreate } from '../../src/block/create.js';
import { readBytes, testGraph } from '../support/graphs.js';
import { seededRandom, tempDir } from '../support/index.js';

const SIZE = 1 << 20;

/** An overlay of 64 KiB clusters over an image in which byte i is i/512, with copy-on-read. */
async function overlay(): Promise<{ disk: Backend; content: Uint8Array }> {
  const folder = tempDir();
  const graph = testGraph();
  const base = join(folder, 'base');
  const top = join(folder, 'top');
  const content = new Uint8Array(SIZE).map((_, i) => (i >> 9) & 0xff);
  const values = { size: SIZE };
  for (const filename of [base, top]) {
    const backing = filename === top ? { backingFile: base, backingFormat: 'qcow2' } : {};
    await createImage(
      graph,
      await prepareCreate(graph, { filename, format: 'qcow2', values, ...backing }),
    );
  }
  const flags = { writable: true };
  const below = await graph.openBackend({ filename: base, options: { driver: 'qcow2' }, flags });
  await below.write(0, Iov.of(content));
  await below.detach();
  const disk = await graph.openBackend({ filename: top, options: { driver: 'qcow2' }, flags });
  disk.node.copyOnReadUsers++;
  return { disk, content };
}

async function allocated(disk: Backend): Promise<number> {
  let sum = 0;
  for (let at = 0; at < SIZE;) {
    const run = await disk.blockStatus(at, SIZE - at, false);
    if (run.allocated) sum += run.bytes;
    at += run.bytes;
  }
  return sum;
}

describe('copy-on-read', () => {
  it('copies the clusters that a read touches, and only those', async () => {
    const { disk, content } = await overlay();
    const got = await readBytes(disk, 65_000, 1000);
    expect(Buffer.from(got).equals(content.subarray(65_000, 66_000))).toBe(true);
    expect(await allocated(disk)).toBe(2 * 65_536);
    await disk.read(0, Iov.of(new Uint8Array(SIZE)), Req.copyOnRead | Req.prefetch);
    expect(await allocated(disk)).toBe(SIZE);
  });

  it('loses no write that runs beside it', async () => {
    const random = seededRandom();
    const { disk, content } = await overlay();
    const sectors = Array.from({ length: SIZE / 512 }, (_, i) => i);
    const work: Promise<void>[] = [];
    for (let i = 0; i < 300; i++) {
      if (random.chance()) {
        const [sector = 0] = sectors.splice(random.int(0, sectors.length - 1), 1);
        content.fill(i, sector * 512, sector * 512 + 512);
        const zero = random.chance(0.2);
        if (zero) content.fill(0, sector * 512, sector * 512 + 512);
        work.push(
          zero
            ? disk.writeZeroes(sector * 512, 512)
            : disk.write(sector * 512, Iov.of(new Uint8Array(512).fill(i))),
        );
      } else {
        const offset = random.int(0, SIZE - 1);
        const bytes = random.int(1, Math.min(100_000, SIZE - offset));
        work.push(disk.read(offset, Iov.of(new Uint8Array(bytes))));
      }
      if (random.chance(0.3)) await new Promise((resolve) => setImmediate(resolve));
    }
    await Promise.all(work);
    const got = await readBytes(disk, 0, SIZE);
    expect(Buffer.from(got).equals(content)).toBe(true);
  });
});
