// Goal: every engine moves the same bytes. Method: random reads, writes (vectored, any alignment,
// many at once), flushes and truncations against a model in memory; at the end the file is read
// back with node:fs.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Iov } from '../../src/lib/iov.js';
import type { HostFile } from '../../src/host/file.js';
import { nodeFiles } from '../../src/host/node/files.js';
import { seededRandom, tempDir } from '../support/index.js';
import type { Random } from '../support/index.js';
import { engines, openFile, withAddon } from './support.js';

const MOST_BYTES = 3 * 1024 * 1024;
const ROUNDS = 40;

/** Memory of a request: aligned or not, in one piece or many. */
function makeIov(random: Random, bytes: number, unit: number): Iov {
  const memory = random.chance() ? new Uint8Array(bytes) : nodeFiles.alignedBuffer?.(bytes);
  const whole = memory ?? new Uint8Array(bytes);
  if (bytes === 0 || random.chance(0.5)) return Iov.of(whole);
  const bufs: Uint8Array[] = [];
  for (let at = 0; at < bytes;) {
    const most = random.chance(0.1) ? unit : Math.max(unit, Math.floor(bytes / 3));
    const n = Math.min(bytes - at, Math.max(unit, Math.floor(random.int(1, most) / unit) * unit));
    bufs.push(whole.subarray(at, at + n));
    at += n;
  }
  return Iov.from(bufs);
}

/** One request against file and model; ranges of one round do not overlap. */
async function request(
  random: Random,
  file: HostFile,
  model: Uint8Array,
  size: number,
  at: number,
  bytes: number,
): Promise<void> {
  const unit = file.limits.requestAlignment;
  const iov = makeIov(random, bytes, unit);
  if (random.chance()) {
    random.fill(iov.bufs[0] ?? new Uint8Array(0));
    const wanted = iov.flatten().slice();
    model.set(wanted, at);
    await file.write(at, iov);
    return;
  }
  iov.fill(0xee);
  const wanted = model.slice(at, Math.min(size, at + bytes));
  const got = await file.read(at, iov);
  expect(got).toBe(wanted.byteLength);
  expect(Buffer.compare(iov.flatten().subarray(0, got), wanted), `read at ${at}`).toBe(0);
}

async function exercise(random: Random, file: HostFile, path: string): Promise<void> {
  const unit = file.limits.requestAlignment;
  const units = Math.floor(MOST_BYTES / unit);
  const model = new Uint8Array(MOST_BYTES);
  let size = 0;
  for (let round = 0; round < ROUNDS; round++) {
    if (random.chance(0.2)) {
      const next = random.int(0, units) * unit;
      model.fill(0, Math.min(size, next));
      await file.truncate((size = next));
    }
    const all: Promise<void>[] = [];
    for (let at = random.int(0, 64), n = 0; n < 200 && at < units; n++) {
      const most = random.chance(0.05) ? 400_000 : 9000;
      const count = Math.min(units - at, Math.max(1, Math.floor(random.int(0, most) / unit)));
      // Past the end only reads: what a write there makes of the size depends on the order.
      const inside = (at + count) * unit <= size;
      const bytes = count * unit;
      if (inside || n > 0) {
        if (inside) all.push(request(random, file, model, size, at * unit, bytes));
      } else {
        const memory = makeIov(random, bytes, unit);
        random.fill(memory.bufs[0]!);
        model.set(memory.flatten(), at * unit);
        await file.write(at * unit, memory);
        size = (at + count) * unit;
      }
      at += count + random.int(0, Math.max(1, Math.floor(4000 / unit)));
    }
    if (random.chance(0.2)) all.push(file.flush());
    await Promise.all(all);
    expect(await file.size()).toBe(size);
  }
  await file.close();
  expect(Buffer.compare(readFileSync(path), model.subarray(0, size))).toBe(0);
}

withAddon('every engine moves the same bytes as the model', () => {
  for (const engine of engines) {
    for (const direct of [false, true]) {
      if (engine === 'native' && !direct) continue;
      test(`${engine}, ${direct ? 'O_DIRECT' : 'page cache'}`, async () => {
        const random = seededRandom();
        const path = join(tempDir(), 'a.raw');
        await exercise(random, await openFile(path, engine, { direct }), path);
      });
    }
  }

  test('io_uring, at most three requests a batch', async () => {
    const random = seededRandom();
    const path = join(tempDir(), 'a.raw');
    const file = await openFile(path, 'io_uring', { direct: true, maxBatch: 3 });
    await exercise(random, file, path);
  });
});
