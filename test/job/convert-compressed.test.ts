// Goal: a compressed conversion keeps every byte, wherever the source's runs begin and end.
// Method: random runs of data, zeroes and nothing in images over each other; converted, read back.
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Backend, BlockGraph } from '../../src/index.js';
import { Iov } from '../../src/index.js';
import { createImage, prepareCreate } from '../../src/block/create.js';
import { convert } from '../../src/job/convert.js';
import { readBytes, testGraph } from '../support/graphs.js';
import type { Random } from '../support/index.js';
import { seededRandom, tempDir } from '../support/index.js';

/** Data, zeroes and discards at unaligned places. */
async function scribble(disk: Backend, random: Random): Promise<void> {
  for (let i = 0; i < 12; i++) {
    const unit = random.pick([1, 512, 4096]);
    const bytes = Math.min(random.int(1, 60) * unit, disk.size);
    const offset = random.int(0, Math.floor((disk.size - bytes) / unit)) * unit;
    if (random.chance(0.2)) await disk.writeZeroes(offset, bytes);
    else await disk.write(offset, Iov.of(new Uint8Array(bytes).fill(random.int(1, 255))));
  }
}

async function source(graph: BlockGraph, path: string, bytes: number): Promise<Backend> {
  const values = { size: bytes, cluster_size: 4096 };
  const how = { filename: path, format: 'qcow2', values };
  await createImage(graph, await prepareCreate(graph, how));
  return graph.openBackend({
    filename: path,
    options: { driver: 'qcow2' },
    flags: { writable: true },
  });
}

describe('compressed conversion', () => {
  it.each(['4k', '64k', '2M'])('to clusters of %s keeps every byte', async (cluster) => {
    const random = seededRandom();
    const folder = tempDir();
    const graph = testGraph();
    // Several sources whose borders lie inside a cluster of the target.
    const sources: Backend[] = [];
    const wanted: Uint8Array[] = [];
    for (let i = 0; i < random.int(1, 3); i++) {
      const disk = await source(graph, join(folder, `s${i}`), random.int(1, 6000) * 512);
      await scribble(disk, random);
      sources.push(disk);
      wanted.push(await readBytes(disk, 0, disk.size));
    }
    const filename = join(folder, 'target');
    const optionTexts = [`cluster_size=${cluster}`];
    const minSparse = random.pick([0, 512, 4096, 65536]);
    await convert({
      graph,
      sources,
      target: { filename, format: 'qcow2', optionTexts },
      compress: true,
      minSparse,
      outOfOrder: random.chance(),
    });
    const target = await graph.openBackend({ filename, options: { driver: 'qcow2' } });
    const got = await readBytes(target, 0, target.size);
    expect(Buffer.concat(wanted).equals(got)).toBe(true);
  });
});
