// Goal: which event starts a series of failing requests decides what is stored and what closing
// says, as with QEMU. Method: the table holds what qemu-io 10 prints for `write 0 128k` into an
// image with 1 KiB clusters over blkdebug (both caches, or none, could not be flushed).
import { describe, expect, it } from 'vitest';
import { seededRandom } from '../../support/index.js';
import { check, Iov, imagePath, makeImage, openImage } from './support.js';

const KiB = 1024;
const both = [
  'Failed to flush the L2 table cache: Input/output error',
  'Failed to flush the refcount block cache: Input/output error',
];

interface Case {
  readonly event: string;
  readonly told: readonly string[];
  /** A write that maps something before the events count. */
  readonly before?: boolean;
}

const cases: readonly Case[] = [
  { event: 'l1_update', told: both },
  { event: 'l2_update', told: both, before: true },
  { event: 'l2_alloc_write', told: both },
  { event: 'write_aio', told: both },
  { event: 'refblock_load', told: both },
  { event: 'refblock_alloc', told: both },
  { event: 'refblock_update_part', told: both },
  { event: 'cluster_alloc', told: [] },
];

const shape = {
  name: '1k clusters',
  create: 'cluster_size=1k',
  size: 2 ** 30,
  clusterSize: KiB,
};

describe('errors that go on after', () => {
  for (const once of [false, true]) {
    for (const { event, told, before } of cases) {
      it(`${event}${once ? ', one error' : ''}`, async () => {
        const image = await makeImage(shape, seededRandom());
        if (before === true) {
          const { backend, graph } = await openImage(image);
          await backend.write(0, Iov.of(new Uint8Array(512)));
          await backend.detach();
          await graph.close();
        }
        const rule = { event, errno: 5, once };
        const file = { driver: 'file', filename: imagePath };
        const { backend, graph, warnings } = await openImage(image, {
          file: { driver: 'blkdebug', image: file, 'inject-error': [rule] },
        });
        backend.writeCache = false;
        const data = Iov.of(new Uint8Array(128 * KiB).fill(1));
        await expect(backend.write(0, data)).rejects.toMatchObject({ code: 'EIO' });
        await backend.detach();
        await graph.close();
        expect(warnings).toEqual(once ? [] : told);
        const judge = await openImage(image);
        expect((await check(judge.backend)).corruptions).toBe(0);
        await judge.backend.detach();
        await judge.graph.close();
      });
    }
  }
});
