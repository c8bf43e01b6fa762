// Goal: an extended L2 entry that contradicts itself anywhere is found by a write that would change
// it, told in QEMU's words, and nothing is written over it. Method: bits are set in the bitmap of
// an entry in a simulated file.
import { expect, it } from 'vitest';
import { seededRandom } from '../../support/index.js';
import { imagePath, Iov, makeImage, openImage } from './support.js';

const KiB = 1024;
const shape = { name: '', create: 'extended_l2=on', size: 1024 * KiB, clusterSize: 64 * KiB };
const L2 = 0x4_0000;

for (const [name, zeroes, allocated] of [
  ['zero and allocated', 1 << 5, 1 << 5],
  ['allocated without a place', 0, 1 << 7],
] as const) {
  it(name, async () => {
    const image = await makeImage(shape, seededRandom());
    const first = await openImage(image);
    await first.backend.write(0, Iov.of(new Uint8Array(512).fill(1)));
    await first.backend.detach();
    await first.graph.close();
    const bytes = image.files.bytesOf(imagePath);
    const view = new DataView(bytes.buffer);
    view.setUint32(L2 + 16 + 8, zeroes);
    view.setUint32(L2 + 16 + 12, allocated);
    image.files.put(imagePath, bytes);
    const { backend, graph, warnings } = await openImage(image);
    const data = Iov.of(new Uint8Array(192 * KiB).fill(2));
    await expect(backend.write(0, data)).rejects.toMatchObject({ code: 'EIO' });
    await backend.detach();
    await graph.close();
    expect(warnings).toEqual([
      'qcow2: Marking image as corrupt: Invalid cluster entry found (L2 offset: 0x40000, ' +
        'L2 index: 0x1); further corruption events will be suppressed',
    ]);
    const after = new DataView(image.files.bytesOf(imagePath).buffer);
    expect(after.getUint32(L2 + 16 + 12)).toBe(allocated);
  });
}
