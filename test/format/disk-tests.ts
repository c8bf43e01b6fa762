// The tests that a format which maps blocks has to pass: random work against a model, power cuts,
// and faults of the file.
import { describe, expect, it } from 'vitest';
import type { Backend } from '../../src/index.js';
import { Iov } from '../../src/index.js';
import type { Random } from '../support/index.js';
import { seededRandom } from '../support/index.js';
import type { Shape, TestImage } from './disk-work.js';
import { compare, DiskWork, History, makeImage, openImage } from './disk-work.js';

/** What `check` may say after a power cut, besides nothing. */
export interface Judge {
  isHarmless(line: string): boolean;
}

async function checkLines(disk: Backend): Promise<string[]> {
  const lines: string[] = [];
  const options = { fixLeaks: false, fixErrors: false };
  await disk.node.instance.check?.({ ...options, report: (line) => lines.push(line) });
  return lines;
}

/** Opens what is left, looks at everything, and goes on from there. */
async function judge(image: TestImage, history: History, random: Random, j: Judge): Promise<void> {
  const next = await openImage(image);
  const bad = (await checkLines(next.backend)).find((line) => !j.isHarmless(line));
  if (bad !== undefined) throw new Error(`check: ${bad}`);
  await history.judge(next.backend, image.shape.unit);
  const now = new History(new Uint8Array(next.backend.size));
  await next.backend.read(0, Iov.of(now.now));
  await new DiskWork(next.backend, image, now, random).run(6);
  await next.close();
  const reader = await openImage(image, false);
  await compare(reader.backend, now);
  await reader.close();
}

async function model(shape: Shape, random: Random, rounds: number): Promise<void> {
  const image = await makeImage(shape, random);
  const history = new History(image.content);
  for (let i = 0; i < rounds; i++) {
    const disk = await openImage(image);
    const work = new DiskWork(disk.backend, image, history, random);
    await work.run(60);
    expect(work.hasFailed).toBe(false);
    await compare(disk.backend, history);
    await disk.close();
  }
  const reader = await openImage(image, false);
  await compare(reader.backend, history);
  expect(await checkLines(reader.backend)).toEqual([]);
  await reader.close();
}

async function cut(shape: Shape, random: Random, wanted: number, j: Judge): Promise<number> {
  const image = await makeImage(shape, random);
  const history = new History(image.content);
  const disk = await openImage(image);
  const cuts: { image: TestImage; history: History }[] = [];
  let next = random.int(1, 20);
  image.files.onOp = (op) => {
    if (op === 'read' || op === 'extent' || --next > 0 || cuts.length >= wanted) return;
    next = random.int(1, 20);
    const files = image.files.afterPowerCut(random);
    cuts.push({ image: { ...image, files }, history: history.clone() });
  };
  await new DiskWork(disk.backend, image, history, random).run(14 * wanted);
  await disk.close();
  image.files.onOp = undefined;
  for (const each of cuts) await judge(each.image, each.history, random, j);
  return cuts.length;
}

async function fault(shape: Shape, random: Random, nth: number, j: Judge): Promise<boolean> {
  const image = await makeImage(shape, random);
  const history = new History(image.content);
  const disk = await openImage(image);
  image.files.inject({
    op: random.pick(['write', 'write', 'write', 'flush', 'truncate', 'zero']),
    code: random.pick(['EIO', 'ENOSPC']),
    skip: nth,
    times: random.pick([1, 1, 2, 1000]),
  });
  const work = new DiskWork(disk.backend, image, history, random);
  await work.run(40);
  // A flush that is acknowledged covers all that was, whatever failed before.
  await work.flush();
  await disk.backend.detach().catch(() => undefined);
  await disk.graph.close().catch(() => undefined);
  image.files.faults.length = 0;
  await judge(image, history, random, j);
  return work.hasFailed;
}

/** Cuts and faults for each shape; VDISK_CUTS sets another number for long runs. */
const wanted = Number(process.env['VDISK_CUTS'] ?? 12);
const CUTS_OF_A_RUN = 6;

export function diskTests(shapes: readonly Shape[], j: Judge): void {
  const each = shapes.flatMap((shape) =>
    [false, true].map((reorder) => {
      const name = `${shape.name}, requests ${reorder ? 'in random order' : 'in order'}`;
      return { ...shape, reorder, name };
    }),
  );

  describe('random work with many requests in flight, reopened between, equals a model', () => {
    it.each(each)('$name', { timeout: 120_000 }, async (shape) => {
      await model(shape, seededRandom(), 6);
    });
  });

  describe('what was flushed outlives a power cut', () => {
    it.each(each)('$name', { timeout: 120_000 }, async (shape) => {
      const random = seededRandom();
      for (let made = 0; made < wanted;) made += await cut(shape, random, CUTS_OF_A_RUN, j);
    });
  });

  let told = 0;
  describe('faults of the file are told, and the image goes on', () => {
    it.each(each)('$name', { timeout: 120_000 }, async (shape) => {
      const random = seededRandom();
      for (let i = 0; i < wanted / 2; i++) {
        if (await fault(shape, random, random.int(0, 30), j)) told++;
      }
    });
    it('were told their callers', () => {
      expect(told).toBeGreaterThan(each.length / 2);
    });
  });
}
