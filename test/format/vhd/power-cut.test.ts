// Goal: after a power cut at any point a VHD or VHDX opens (its log is replayed), holds all that a
// flush acknowledged, shows nothing that was never written there, and can be gone on with; QEMU's
// tools read the same. And when a write, a flush or a growth of the file fails, the caller is told
// and the same holds. Method: random work with many requests in flight on simulated disks, which
// lose, tear and reorder sectors and lengths from a printed seed.
import { describe, expect, it } from 'vitest';
import type { FakeFiles, Random } from '../../support/index.js';
import { seededRandom } from '../../support/index.js';
import { History } from '../qcow2/power-history.js';
import type { Shape } from './support.js';
import { closeImage, KiB, makeFiles, MiB, openImage, path } from './support.js';
import { judge, Work } from './work.js';

const shapes: readonly Shape[] = [
  { name: 'VHD, blocks of 4 KiB', format: 'vpc', size: 256 * KiB, blockSize: 4 * KiB },
  { name: 'VHD, blocks of 512 bytes', format: 'vpc', size: 40 * KiB, blockSize: 512 },
  {
    name: 'VHD, blocks of 16 KiB, O_DIRECT',
    format: 'vpc',
    size: 512 * KiB,
    blockSize: 16 * KiB,
    alignment: 512,
  },
  { name: 'VHD as vdisk makes it', format: 'vpc', size: 5 * MiB, create: 'force_size=on' },
  { name: 'VHDX, blocks of 1 MiB', format: 'vhdx', size: 5 * MiB, create: 'block_size=1M' },
  {
    name: 'VHDX, blocks not present, O_DIRECT',
    format: 'vhdx',
    size: 5 * MiB + 512,
    create: 'block_size=1M,block_state_zero=off',
    alignment: 4096,
  },
  { name: 'VHDX, fixed', format: 'vhdx', size: 3 * MiB, create: 'block_size=1M,subformat=fixed' },
];

/** Cuts at points of one work. */
const CUTS_OF_A_RUN = 8;
const asked = Number(process.env['VDISK_CUTS'] ?? 0);

function wantedOf(shape: Shape): number {
  if (asked > 0) return asked;
  return shape.blockSize === undefined ? 12 : 40;
}

function longestOf(shape: Shape): number {
  return Math.max(3 * (shape.blockSize ?? 100 * KiB), 4096);
}

interface Cut {
  readonly files: FakeFiles;
  readonly history: History;
}

async function cutsOf(shape: Shape, random: Random): Promise<Cut[]> {
  const files = await makeFiles(shape, random);
  const open = await openImage(files, shape.format);
  const history = new History(new Uint8Array(open.disk.size));
  const cuts: Cut[] = [];
  const take = (): void => {
    cuts.push({ files: files.afterPowerCut(random), history: history.clone() });
  };
  let next = random.int(1, 12);
  files.onOp = (op) => {
    if (op === 'read' || op === 'extent' || --next > 0 || cuts.length >= CUTS_OF_A_RUN) return;
    next = random.int(1, 20);
    take();
  };
  files.cutAfter(random.int(10, 250));
  await new Work(open.disk, files, history, random).run(200, longestOf(shape));
  if (random.chance(0.3)) await open.disk.detach().catch(() => undefined);
  files.onOp = undefined;
  files.cutAfter(0);
  await closeImage(open);
  take();
  return cuts;
}

describe('power cuts', () => {
  for (const shape of shapes) {
    for (const reorder of [false, true]) {
      const order = reorder ? 'in random order' : 'in order';
      it(`${shape.name}, requests ${order}`, { timeout: 240_000 }, async () => {
        const random = seededRandom();
        let made = 0;
        while (made < wantedOf(shape)) {
          const found = await cutsOf({ ...shape, reorder }, random);
          for (const { files, history } of found) await judge(files, history, shape, random);
          made += found.length;
        }
        expect(made).toBeGreaterThanOrEqual(wantedOf(shape));
      });
    }
  }
});

let told = 0;

describe('faults of the file', () => {
  for (const shape of shapes) {
    it(`are told, and leave an image: ${shape.name}`, { timeout: 240_000 }, async () => {
      const random = seededRandom();
      for (let round = 0; round < 12; round++) {
        const files = await makeFiles({ ...shape, reorder: random.chance() }, random);
        const open = await openImage(files, shape.format);
        const history = new History(new Uint8Array(open.disk.size));
        files.inject({
          op: random.pick(['write', 'write', 'flush', 'truncate', 'zero', 'punch']),
          code: random.pick(['EIO', 'ENOSPC']),
          path,
          skip: random.int(0, 40),
          times: random.pick([1, 1, 2, 1000]),
        });
        const work = new Work(open.disk, files, history, random);
        await work.run(60, longestOf(shape));
        if (work.hasFailed) told++;
        // A flush that is acknowledged covers all that was, whatever failed before.
        await work.flush();
        await closeImage(open);
        files.faults.length = 0;
        await judge(files, history, shape, random);
      }
    });
  }

  it('were some', () => {
    expect(told).toBeGreaterThan(10);
  });
});
