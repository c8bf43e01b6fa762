// Goal: VM state never shows as data of the disk. Method: state comes to stand behind the end of
// the disk in each way there is, the disk grows over it, and is read and checked.
import { expect, it } from 'vitest';
import type { Preallocation } from '../../../src/index.js';
import { Random } from '../../support/index.js';
import type { OpenImage } from './support.js';
import { check, Iov, makeImage, openImage } from './support.js';

const KiB = 1024;
const SIZE = 128 * KiB;
const facts = { dateSec: 1, dateNsec: 2, vmClockNsec: 0n, icount: 0n, name: 's' };

const ways: Record<string, (image: OpenImage, state: Uint8Array) => Promise<void>> = {
  'a snapshot that was applied': async ({ backend }, state) => {
    const { instance } = backend.node;
    await instance.writeVmState?.(0, Iov.of(state));
    await instance.snapshots?.create({ ...facts, vmStateSize: state.length });
    await instance.snapshots?.apply('s');
  },
  'a program that died as it saved it': async ({ backend }, state) => {
    await backend.node.instance.writeVmState?.(0, Iov.of(state));
  },
};

it.each(Object.keys(ways).flatMap((way) => ['off', 'metadata'].map((prealloc) => [way, prealloc])))(
  'state of %s is not in a disk that grew over it (preallocation %s)',
  async (way = '', prealloc = '') => {
    const random = new Random(1);
    const shape = { name: '', create: 'cluster_size=512', size: SIZE, clusterSize: 512 };
    const made = await makeImage(shape, random);
    const image = await openImage(made);
    const state = random.bytes(70_000);
    await ways[way]?.(image, state);
    await image.backend.truncate(3 * SIZE, { prealloc: prealloc as Preallocation });
    const grown = Iov.alloc(2 * SIZE);
    await image.backend.read(SIZE, grown);
    expect(grown.isZero()).toBe(true);
    await image.backend.flush();
    expect(await check(image.backend)).toMatchObject({ corruptions: 0, leaks: 0 });
    const area = await image.backend.node.instance.snapshots
      ?.openState(undefined, 's')
      .catch(() => undefined);
    if (area !== undefined) {
      const kept = new Uint8Array(state.length);
      await area(0, Iov.of(kept));
      expect(kept).toEqual(state);
    }
    await image.graph.close();
  },
);
