// Goal: growing the file ahead never cuts off what another write has put behind.
// Method: writes high up in a run of new clusters, then, before they complete, many low ones, for
// which the file is grown; all is read back by a second open of the real file.
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Iov } from '../../../src/index.js';
import { createImage, prepareCreate } from '../../../src/block/create.js';
import { readBytes, testGraph } from '../../support/graphs.js';
import { seededRandom, tempDir } from '../../support/index.js';
import type { Shape } from './support.js';
import { check, makeImage, openImage } from './support.js';

const KIB = 1024;
const MIB = 1024 * KIB;

describe('growth of the file', () => {
  it('keeps writes that are behind the length it grows to', async () => {
    const random = seededRandom();
    const filename = join(tempDir(), 'a.qcow2');
    const graph = testGraph();
    const values = { size: 256 * MIB, cluster_size: 2 * MIB };
    const how = { filename, format: 'qcow2', values };
    await createImage(graph, await prepareCreate(graph, how));
    const options = { driver: 'qcow2' };
    const disk = await graph.openBackend({ filename, options, flags: { writable: true } });
    const places = [0, 2020 * KIB, 4000 * KIB];
    const writes = places.map((at, i) =>
      disk.write(at, Iov.of(new Uint8Array(80 * KIB).fill(i + 1))),
    );
    for (let i = 3; i < 12; i++) {
      const at = i * 120 * KIB;
      places.push(at);
      // So that it comes in a later batch, but before the first writes complete.
      for (let k = random.int(20, 200); k > 0; k--) await Promise.resolve();
      writes.push(disk.write(at, Iov.of(new Uint8Array(80 * KIB).fill(i + 1))));
    }
    await Promise.all(writes);
    await disk.detach();
    const again = await graph.openBackend({ filename, options });
    for (const [i, offset] of places.entries()) {
      const got = await readBytes(again, offset, 80 * KIB);
      expect(
        got.every((byte) => byte === i + 1),
        `write ${i} at ${offset}`,
      ).toBe(true);
    }
  });

  it('writes zeroes ahead of small direct writes, never over what somebody was given', async () => {
    const random = seededRandom();
    const shape: Shape = {
      name: 'direct',
      create: '',
      size: 16 * MIB,
      clusterSize: 64 * KIB,
      alignment: 512,
      reorder: true,
    };
    const image = await makeImage(shape, random);
    let ahead = 0;
    image.files.onOp = (op, _path, _offset, bytes) => {
      if (op === 'write' && bytes === MIB) ahead++;
    };
    const disk = await openImage(image);
    const model = new Uint8Array(shape.size);
    for (let at = 0; at < 6 * MIB;) {
      // A stream with several requests in flight, and now and then a large write elsewhere.
      const writes: Promise<void>[] = [];
      for (let i = random.int(1, 8); i > 0; i--, at += 8 * KIB) {
        const bytes = random.bytes(8 * KIB);
        model.set(bytes, at);
        writes.push(disk.backend.write(at, Iov.of(bytes)));
      }
      if (random.chance(0.1)) {
        const far = random.int(100, 255) * 64 * KIB;
        const bytes = random.bytes(Math.min(300 * KIB, shape.size - far));
        model.set(bytes, far);
        writes.push(disk.backend.write(far, Iov.of(bytes)));
      }
      await Promise.all(writes);
    }
    image.files.onOp = undefined;
    expect(ahead).toBeGreaterThanOrEqual(4);
    await disk.backend.detach();
    await disk.graph.close();
    const again = await openImage(image);
    const got = await readBytes(again.backend, 0, shape.size);
    expect(Buffer.compare(got, model)).toBe(0);
    const found = await check(again.backend);
    expect([found.corruptions, found.leaks]).toEqual([0, 0]);
    await again.backend.detach();
    await again.graph.close();
  });
});
