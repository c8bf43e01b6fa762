/**
 * Random requests, many in flight at once, against an array that says what must be there.
 *
 * Requests of one round touch disjoint bytes (often within one block or cluster, so that
 * read-modify-write cycles meet); after each round everything that it touched is compared, and
 * now and then the whole disk, the block status included.
 */
import { expect } from 'vitest';
import { Iov, nodeStatus, Req } from '../../src/index.js';
import type { Random } from '../support/random.js';
import type { Disk } from './subject.js';

interface Options {
  readonly rounds: number;
  /** Most requests of a round. */
  readonly atOnce: number;
  /** Reopen the disk now and then; off for what ends with its node. */
  readonly reopen?: boolean;
}

/** Runs; throws at the first difference. Returns the disk as it is then (it may be reopened). */
export async function randomOperations(
  disk: Disk,
  random: Random,
  options: Options,
): Promise<Disk> {
  const model = new Uint8Array(disk.backend.size);
  let now = disk;
  if (!(await disk.backend.node.instance.hasZeroInit?.())) {
    await disk.backend.writeZeroes(0, disk.backend.size);
  }
  for (let round = 0; round < options.rounds; round++) {
    await oneRound(now, random, model, options.atOnce);
    if (random.chance(0.1)) await now.backend.flush();
    if (options.reopen === true && random.chance(0.05)) now = await now.again();
    if (random.chance(0.1)) await compareAll(now, model);
  }
  await compareAll(now, model);
  return now;
}

interface Range {
  readonly offset: number;
  readonly bytes: number;
}

/** Disjoint ranges, many of them close together. */
function ranges(random: Random, size: number, most: number): Range[] {
  const out: Range[] = [];
  const near = random.int(0, size - 1);
  const n = random.int(1, most);
  for (let i = 0; i < n; i++) {
    const base = random.chance(0.7) ? near + random.int(-20_000, 20_000) : random.int(0, size);
    const offset = Math.min(Math.max(0, random.chance(0.3) ? base - (base % 512) : base), size - 1);
    const longest = random.pick([1, 100, 512, 4096, 10_000, 70_000, 300_000]);
    const bytes = Math.min(random.int(1, longest), size - offset);
    if (out.every((r) => offset >= r.offset + r.bytes || r.offset >= offset + bytes)) {
      out.push({ offset, bytes });
    }
  }
  return out;
}

async function oneRound(
  { backend }: Disk,
  random: Random,
  model: Uint8Array,
  atOnce: number,
): Promise<void> {
  const touched = ranges(random, model.length, atOnce);
  const discarded: Range[] = [];
  const requests = touched.map((range) => {
    const { offset, bytes } = range;
    const choice = random.int(0, 9);
    if (choice < 5) {
      const data = random.chance(0.2) ? new Uint8Array(bytes) : random.bytes(bytes);
      model.set(data, offset);
      return backend.write(offset, split(data, random), random.chance(0.1) ? Req.fua : 0);
    }
    if (choice < 7) {
      model.fill(0, offset, offset + bytes);
      return backend.writeZeroes(offset, bytes, random.chance() ? Req.mayUnmap : 0);
    }
    if (choice < 8) {
      discarded.push(range);
      return backend.discard(offset, bytes);
    }
    const expected = model.slice(offset, offset + bytes);
    const got = new Uint8Array(bytes);
    return backend.read(offset, split(got, random)).then(() => {
      assertSame(got, expected, offset, 'read beside other requests');
    });
  });
  await Promise.all(requests);
  for (const range of discarded) await takeDiscarded(backend, model, range);
  for (const { offset, bytes } of touched) {
    const got = new Uint8Array(bytes);
    await backend.read(offset, Iov.of(got));
    assertSame(got, model.subarray(offset, offset + bytes), offset, 'after the round');
  }
}

function split(data: Uint8Array, random: Random): Iov {
  if (random.chance()) return Iov.of(data);
  const at = random.int(0, data.length);
  return Iov.from([data.subarray(0, at), data.subarray(at)]);
}

/** Discarded bytes are what they were, or zero. */
async function takeDiscarded(
  backend: Disk['backend'],
  model: Uint8Array,
  { offset, bytes }: Range,
): Promise<void> {
  const got = new Uint8Array(bytes);
  await backend.read(offset, Iov.of(got));
  for (let i = 0; i < bytes; i++) {
    if (got[i] !== 0 && got[i] !== model[offset + i]) {
      throw new Error(`byte ${offset + i} is ${got[i]} after a discard, was ${model[offset + i]}`);
    }
  }
  model.set(got, offset);
}

/** Compares the whole disk, and what its block status promises. */
export async function compareAll({ backend }: Disk, model: Uint8Array): Promise<void> {
  expect(backend.size).toBe(model.length);
  const got = new Uint8Array(model.length);
  await backend.read(0, Iov.of(got));
  assertSame(got, model, 0, 'whole disk');
  let at = 0;
  while (at < model.length) {
    const run = await nodeStatus(backend.node, at, model.length - at, true);
    if (run.bytes <= 0) throw new Error(`status of 0 bytes at ${at}`);
    if (run.zero) {
      const end = Math.min(at + run.bytes, model.length);
      const bad = model.subarray(at, end).findIndex((b) => b !== 0);
      if (bad >= 0)
        throw new Error(`status says zero at ${at}+${run.bytes}, not so at ${at + bad}`);
    }
    at += run.bytes;
  }
}

function assertSame(got: Uint8Array, want: Uint8Array, offset: number, when: string): void {
  if (Buffer.compare(got, want) === 0) return;
  const i = got.findIndex((b, k) => b !== want[k]);
  const n = got.reduce((count, b, k) => count + (b === want[k] ? 0 : 1), 0);
  throw new Error(
    `${when}: ${n} bytes differ, the first at ${offset + i}: ${got[i]}, expected ${want[i]}`,
  );
}
