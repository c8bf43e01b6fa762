// Goal: the progress of `amend -o compat=0.10` counts entries of L1 tables, those of snapshots and
// empty ones too, as QEMU's does. Method: an image whose L1 table has 8 entries, half of them
// empty.
import { expect, it } from 'vitest';
import { seededRandom } from '../../support/index.js';
import { Iov, makeImage, openImage } from './support.js';

const COVERED = 64 * 512;
const shape = { name: '', create: 'cluster_size=512', size: 8 * COVERED, clusterSize: 512 };
const facts = { dateSec: 1, dateNsec: 2, vmStateSize: 0, vmClockNsec: 0n, icount: 0n };

for (const [name, tables] of [
  ['without a snapshot', 1],
  ['with a snapshot', 2],
] as const) {
  it(name, async () => {
    const { backend, graph } = await openImage(await makeImage(shape, seededRandom()));
    for (const i of [0, 2, 4, 6]) {
      await backend.write(i * COVERED, Iov.of(new Uint8Array(512).fill(1)));
    }
    const { instance } = backend.node;
    if (tables === 2) await instance.snapshots!.create({ ...facts, name: 's' });
    const told: string[] = [];
    const onProgress = (done: number, total: number): void => {
      told.push(`${done}/${total}`);
    };
    await instance.amend!({ compat: '0.10' }, { onProgress, force: false });
    const total = 8 * tables;
    expect(told).toEqual(Array.from({ length: total + 1 }, (_, i) => `${i}/${total}`));
    await backend.detach();
    await graph.close();
  });
}
