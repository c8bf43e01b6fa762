// Goal: when a write, a flush or a growth of the file fails, the caller is told, and the image is
// clean or has leaks only; what was acknowledged is there, and work can go on after a single fault.
// Method: random work on simulated files in which the n-th such operation fails with EIO or ENOSPC,
// once, a few times, or from then on; then the image is opened without faults and looked at.
import { expect, it, describe } from 'vitest';
import type { Random } from '../../support/index.js';
import { seededRandom } from '../../support/index.js';
import { History } from './power-history.js';
import { judge } from './power-judge.js';
import { PowerWork } from './power-work.js';
import type { Shape } from './support.js';
import { imagePath, makeImage, openImage } from './support.js';

const KiB = 1024;

const shapes: readonly Shape[] = [
  { name: '4k clusters', create: 'cluster_size=4k', size: 256 * KiB, clusterSize: 4 * KiB },
  {
    name: '512-byte clusters',
    create: 'cluster_size=512,refcount_bits=32',
    size: 64 * KiB,
    clusterSize: 512,
  },
  {
    name: 'over a backing file',
    create: 'cluster_size=4k',
    size: 256 * KiB,
    clusterSize: 4 * KiB,
    backing: 200 * KiB,
  },
  {
    name: 'extended L2 entries',
    create: 'cluster_size=16k,extended_l2=on',
    size: 512 * KiB,
    clusterSize: 16 * KiB,
    backing: 300 * KiB,
  },
  {
    name: 'lazy refcounts',
    create: 'cluster_size=4k,lazy_refcounts=on',
    size: 256 * KiB,
    clusterSize: 4 * KiB,
  },
];

/** Faults for each shape and kind of operation; VDISK_FAULTS sets another number. */
const rounds = Number(process.env['VDISK_FAULTS'] ?? 24);
let told = 0;

async function failOnce(shape: Shape, random: Random, nth: number): Promise<void> {
  const image = await makeImage(shape, random);
  const content = new Uint8Array(shape.size);
  content.set(image.base.subarray(0, shape.size));
  const history = new History(content);
  const { backend, graph } = await openImage(image);
  const times = random.pick([1, 1, 2, 1000]);
  image.files.inject({
    op: random.pick(['write', 'write', 'write', 'flush', 'truncate', 'zero', 'punch']),
    code: random.pick(['EIO', 'ENOSPC']),
    path: imagePath,
    skip: nth,
    times,
  });
  const work = new PowerWork(backend, image, history, random, true);
  await work.run(80);
  if (work.hasFailed) told++;
  // A flush that is acknowledged covers all that was, whatever failed before.
  await work.flush();
  await backend.detach().catch(() => undefined);
  await graph.close().catch(() => undefined);
  image.files.faults.length = 0;
  await judge({ image, history }, random);
}

describe('faults of the file', () => {
  for (const shape of shapes) {
    for (const reorder of [false, true]) {
      const order = reorder ? 'in random order' : 'in order';
      it(`${shape.name}, requests ${order}`, { timeout: 240_000 }, async () => {
        const random = seededRandom();
        for (let i = 0; i < rounds; i++) {
          await failOnce({ ...shape, reorder }, random, random.int(0, 4 * rounds));
        }
        expect(random.seed).toBe(random.seed >>> 0);
      });
    }
  }

  it('told their callers', () => {
    expect(told).toBeGreaterThan(20);
  });
});
