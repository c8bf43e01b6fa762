// Goal: after a power cut at any point the image opens, has at most leaks, which `check -r leaks`
// clears (or, with lazy refcounts, is repaired by the open), holds all that a flush acknowledged,
// has its snapshots as they were, and shows in no place anything that was never written there.
// Method: random work with many requests in flight, snapshots, resizes and amendments on simulated
// disks; at many points the power is cut, with sectors and lengths lost, torn and reordered from
// the seed; every byte is compared with what it may be. qemu-img checks some of the images, too.
import { describe, expect, it } from 'vitest';
import type { Random } from '../../support/index.js';
import { seededRandom } from '../../support/index.js';
import { History } from './power-history.js';
import type { Cut } from './power-judge.js';
import { judge } from './power-judge.js';
import { PowerWork } from './power-work.js';
import type { Shape } from './support.js';
import { makeImage, openImage } from './support.js';

const KiB = 1024;
const MiB = 1024 * KiB;

/** Cuts at points of one and the same work. */
const CUTS_OF_A_RUN = 16;

/** Works on an image until the power goes for good; returns cuts at random points before. */
async function work(shape: Shape, random: Random, wanted: number): Promise<Cut[]> {
  const image = await makeImage(shape, random);
  // The image was made long before the machine that now fails.
  for (const path of [...image.files.disks.keys()]) {
    image.files.put(path, image.files.bytesOf(path));
  }
  const content = new Uint8Array(shape.size);
  content.set(image.base.subarray(0, shape.size));
  const history = new History(content);
  const options = shape.open === undefined ? {} : random.pick(shape.open);
  const { backend, graph } = await openImage(image, options);
  const cuts: Cut[] = [];
  const take = (): void => {
    cuts.push({
      image: { ...image, files: image.files.afterPowerCut(random) },
      history: history.clone(),
    });
  };
  let next = random.int(1, 40);
  image.files.onOp = (op) => {
    if (op === 'read' || op === 'extent' || --next > 0 || cuts.length >= wanted) return;
    next = random.int(1, 40);
    take();
  };
  image.files.cutAfter(random.int(20 * wanted, 30 * wanted));
  await new PowerWork(backend, image, history, random).run(100 * wanted);
  image.files.onOp = undefined;
  image.files.cutAfter(0);
  await backend.detach().catch(() => undefined);
  await graph.close().catch(() => undefined);
  take();
  return cuts;
}

const tiny = { 'l2-cache-size': 1024, 'l2-cache-entry-size': 512 };
const shapes: readonly Shape[] = [
  { name: '64k clusters', create: '', size: 2 * MiB, clusterSize: 64 * KiB },
  {
    name: '64k clusters, O_DIRECT: zeroes are written ahead',
    create: '',
    size: 2 * MiB,
    clusterSize: 64 * KiB,
    alignment: 512,
  },
  {
    name: '512-byte clusters, tiny caches',
    create: 'cluster_size=512,refcount_bits=64',
    size: 128 * KiB,
    clusterSize: 512,
    open: [{}, tiny],
  },
  {
    name: '4k clusters over a backing file',
    create: 'cluster_size=4k',
    size: 512 * KiB,
    clusterSize: 4 * KiB,
    backing: 300 * KiB,
  },
  {
    name: 'version 2 over a backing file, O_DIRECT',
    create: 'cluster_size=4k,compat=0.10',
    size: 512 * KiB,
    clusterSize: 4 * KiB,
    version: 2,
    backing: 512 * KiB,
    alignment: 512,
  },
  {
    name: 'extended L2 entries over a backing file',
    create: 'cluster_size=16k,extended_l2=on',
    size: 1 * MiB,
    clusterSize: 16 * KiB,
    backing: 700 * KiB,
    open: [{}, { 'discard-no-unref': true }],
  },
  {
    name: 'lazy refcounts',
    create: 'cluster_size=4k,lazy_refcounts=on',
    size: 512 * KiB,
    clusterSize: 4 * KiB,
    open: [{}, tiny],
  },
  {
    name: 'lazy refcounts over a backing file',
    create: 'cluster_size=4k,lazy_refcounts=on',
    size: 512 * KiB,
    clusterSize: 4 * KiB,
    backing: 512 * KiB,
  },
  {
    name: 'external data file',
    create: 'cluster_size=4k,data_file=/data',
    size: 512 * KiB,
    clusterSize: 4 * KiB,
    dataFile: true,
  },
  {
    name: '2-bit refcounts',
    create: 'cluster_size=1k,refcount_bits=2',
    snapshots: 2,
    size: 200 * KiB,
    clusterSize: KiB,
  },
];
let total = 0;

/** Cuts for each shape and order of requests; VDISK_CUTS sets another number for long runs. */
const cuts = Number(process.env['VDISK_CUTS'] ?? 0);

describe('power cuts', () => {
  for (const shape of shapes) {
    for (const reorder of [false, true]) {
      const order = reorder ? 'in random order' : 'in order';
      it(`${shape.name}, requests ${order}`, { timeout: 240_000 }, async () => {
        const random = seededRandom();
        const wanted = cuts > 0 ? cuts : shape.clusterSize > 16 * KiB ? 32 : 128;
        for (let made = 0; made < wanted;) {
          const found = await work({ ...shape, reorder }, random, CUTS_OF_A_RUN - 1);
          for (const cut of found) await judge(cut, random);
          made += found.length;
          total += found.length;
        }
        expect(random.seed).toBe(random.seed >>> 0);
      });
    }
  }

  it('were 2,000 at least', () => {
    if (cuts === 0) expect(total).toBeGreaterThanOrEqual(2000);
  });
});
