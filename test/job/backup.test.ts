// Goal: a backup holds the disk as it was when the job began, whatever guests write meanwhile, and
// bitmaps tell afterwards what it does not hold. Method: jobs on simulated files that complete in
// random order, beside writers whose every byte is accounted for; failures, cancels and power cuts.
import { describe, expect, it } from 'vitest';
import { addBitmap } from '../../src/block/bitmaps.js';
import type { DirtyBitmap } from '../../src/block/dirty-bitmap.js';
import type { BlockNode } from '../../src/block/node.js';
import type { NodeOptions } from '../../src/index.js';
import { Iov } from '../../src/index.js';
import type { BackupOptions } from '../../src/job/backup.js';
import { createBackup } from '../../src/job/backup.js';
import type { Job } from '../../src/job/job.js';
import { JobTransaction } from '../../src/job/transaction.js';
import type { Random } from '../support/index.js';
import {
  failure,
  fakeHost,
  filled,
  readBytes,
  same,
  seededRandom,
  settle,
  slowWrites,
  testGraph,
} from '../support/index.js';
import type { Lab as Common, LabInit } from './support.js';
import { contentOf, flags, guestPerms, makeLab } from './support.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const C = 64 * KiB;
const file = (filename: string): NodeOptions => ({ driver: 'file', filename });

interface Lab extends Common {
  backup(options?: Partial<BackupOptions>): Promise<Job>;
}

async function lab(init: LabInit = {}): Promise<Lab> {
  const common = await makeLab(init);
  const { jobs, source, target } = common;
  const backup = (options: Partial<BackupOptions> = {}): Promise<Job> =>
    createBackup(jobs, { id: 'j', source, target, sync: 'full', ...options });
  return { ...common, backup };
}

/** Lets time pass until the job is over. */
async function end(made: Lab, job: Job): Promise<void> {
  let isOver = false;
  void job.concluded.then(() => {
    isOver = true;
  });
  for (let i = 0; i < 5000 && !isOver; i++) await made.clock.advance(20);
  if (!isOver) throw new Error(`job '${job.id}' does not end`);
}

async function bitmapOf(made: Lab, granularity = C): Promise<DirtyBitmap> {
  return addBitmap(made.source, 'b', { granularity, persistent: false, enabled: true });
}

/** Clusters that a bitmap names. */
function named(bitmap: DirtyBitmap): number[] {
  const out: number[] = [];
  for (let at = 0; at < bitmap.length; at += C) if (bitmap.has(at)) out.push(at / C);
  return out;
}

describe('what is copied', () => {
  it('all of the disk, as it was', async () => {
    const made = await lab({ bytes: MiB + 512 });
    const job = await made.backup();
    job.start();
    await made.guest.write(MiB - 512, filled(1024, 1));
    await end(made, job);
    same(await contentOf(made), made.old);
    expect(made.events.join(' ')).toBe(
      'created running waiting pending BLOCK_JOB_COMPLETED concluded null',
    );
    expect(job.progress).toEqual({ done: MiB + 512, total: MiB + 512 });
    expect([...made.graph.nodes.keys()].filter((name) => name.startsWith('#'))).toHaveLength(2);
    expect(made.guest.node).toBe(made.source);
  });

  it.each([1, 2])('with %i copies in flight', async (maxWorkers) => {
    const made = await lab({ bytes: 4 * MiB });
    const most = slowWrites(made.files, '/target');
    const job = await made.backup({ maxWorkers, maxChunk: C });
    job.start();
    await end(made, job);
    expect(most).toEqual({ bytes: maxWorkers * C, count: maxWorkers });
    same(await contentOf(made), made.old);
  });

  it('only what guests overwrite, until it is cancelled', async () => {
    const made = await lab();
    const job = await made.backup({ sync: 'none' });
    job.start();
    await made.guest.write(C + 5, filled(10, 1));
    await settle();
    expect(job.jobInfo()).toMatchObject({ 'current-progress': C, 'total-progress': MiB });
    await job.cancelByUser(false);
    await end(made, job);
    const expected = new Uint8Array(MiB);
    expected.set(made.old.subarray(C, 2 * C), C);
    same(await contentOf(made), expected);
    expect(made.events.join(' ')).toBe(
      'created running aborting BLOCK_JOB_CANCELLED concluded null',
    );
  });

  it('compressed', async () => {
    const made = await lab({ format: 'qcow2' });
    await made.guest.write(0, filled(MiB, 3));
    const job = await made.backup({ compress: true });
    job.start();
    await end(made, job);
    same(await contentOf(made), new Uint8Array(MiB).fill(3));
    const run = await made.target.blockStatus(0, C);
    expect(run.compressed).toBe(true);
  });

  it('what is wrong is told and changes nothing', async () => {
    const made = await lab();
    const { source } = made;
    const texts = [
      [{ target: source }, 'Source and target cannot be the same'],
      [{ id: '1' }, "Invalid job ID '1'"],
      [{ speed: -1 }, "Parameter 'speed' expects a non-negative value"],
      [{ maxChunk: 1000 }, 'Required max-chunk (1000) is less than backup cluster size (65536)'],
      [{ filterName: 'source' }, "Could not create node: Duplicate nodes with node-name='source'"],
    ] as const;
    for (const [options, text] of texts) {
      expect(await failure(made.backup(options))).toBe(text);
      expect(made.guest.node).toBe(source);
      expect(source.parents.size).toBe(1);
      expect(source.opBlockers.size).toBe(0);
    }
  });
});

describe('bitmaps', () => {
  it('a backup of what a bitmap names leaves in it what was written meanwhile', async () => {
    const made = await lab();
    const bitmap = await bitmapOf(made);
    await made.guest.write(2 * C, filled(10, 1));
    await made.guest.write(5 * C, filled(10, 1));
    const job = await made.backup({ sync: 'bitmap', bitmap });
    expect([bitmap.busy, bitmap.isRecording, named(bitmap)]).toEqual([true, true, [2, 5]]);
    await made.guest.write(9 * C, filled(10, 2));
    await made.guest.write(5 * C, filled(10, 2));
    expect(named(bitmap)).toEqual([2, 5]);
    job.start();
    await end(made, job);
    expect([bitmap.busy, bitmap.isRecording, named(bitmap)]).toEqual([false, true, [5, 9]]);
    const expected = new Uint8Array(MiB);
    for (const c of [2, 5]) {
      expected.set(made.old.subarray(c * C, (c + 1) * C), c * C);
      expected.fill(1, c * C, c * C + 10);
    }
    same(await contentOf(made), expected);
  });

  it.each([
    ['on-success', [1, 3, 7]],
    ['never', [1, 3, 7]],
    // Cluster 1 got to the target.
    ['always', [3, 7]],
  ] as const)('a failure with bitmap mode %s', async (bitmapSync, left) => {
    const made = await lab();
    const bitmap = await bitmapOf(made);
    bitmap.set(C, 1);
    bitmap.set(3 * C, 1);
    made.files.inject({ op: 'write', path: '/target', offset: 3 * C, bytes: C, code: 'EIO' });
    const job = await made.backup({ sync: 'bitmap', bitmap, bitmapSync });
    await made.guest.write(7 * C, filled(1, 1));
    job.start();
    await end(made, job);
    expect(job.errorText).toBe('Input/output error');
    expect([bitmap.busy, named(bitmap)]).toEqual([false, left]);
    expect(made.events).toContain('BLOCK_JOB_ERROR');
  });

  it('mode never gives all back on success, too', async () => {
    const made = await lab();
    const bitmap = await bitmapOf(made);
    bitmap.set(C, 1);
    const job = await made.backup({ sync: 'bitmap', bitmap, bitmapSync: 'never' });
    await made.guest.write(7 * C, filled(1, 1));
    job.start();
    await end(made, job);
    expect(named(bitmap)).toEqual([1, 7]);
  });
});

describe('errors', () => {
  const broken = { op: 'write', path: '/target', code: 'ENOSPC', times: 2 } as const;

  it('stop the job until a client resumes it', async () => {
    const made = await lab();
    made.files.inject({ ...broken });
    const job = await made.backup({ onTargetError: 'enospc' });
    job.start();
    while (job.status !== 'paused') await settle();
    expect(job.blockJobInfo()).toMatchObject({ 'io-status': 'nospace', paused: true });
    await made.guest.write(0, filled(MiB, 1));
    job.resumeByUser();
    await end(made, job);
    same(await contentOf(made), made.old);
  });

  it('are ignored by trying again', async () => {
    const made = await lab();
    made.files.inject({ ...broken, op: 'read', path: '/source', times: 4 });
    const job = await made.backup({ onSourceError: 'ignore' });
    job.start();
    await end(made, job);
    expect(job.errorText).toBe(undefined);
    same(await contentOf(made), made.old);
  });
});

describe('a group', () => {
  it('gives all bitmaps back when one job fails', async () => {
    const made = await lab();
    const { graph } = made;
    const bitmap = await bitmapOf(made);
    bitmap.set(0, MiB);
    const memory = (name: string): Promise<BlockNode> =>
      graph.open({ options: { driver: 'memory', size: MiB, 'node-name': name }, flags });
    const source = await memory('s2');
    const image = { driver: 'memory', size: MiB };
    const bad: NodeOptions = {
      driver: 'blkdebug',
      'node-name': 't2',
      image,
      'inject-error': [{ event: 'pwritev', errno: 5 }],
    };
    const target = await graph.open({ options: bad, flags });
    await (await graph.openBackend({ reference: 's2', flags }, guestPerms)).write(0, filled(C, 1));
    const transaction = new JobTransaction();
    const first = await made.backup({ sync: 'bitmap', bitmap, transaction });
    const second = await made.backup({ id: 'k', source, target, transaction });
    first.start();
    second.start();
    await end(made, first);
    await end(made, second);
    expect(second.errorText).toBe('Input/output error');
    expect(first.errorText).toBe('Operation canceled');
    expect([bitmap.busy, bitmap.dirtyBytes]).toEqual([false, MiB]);
  });
});

/** Writes at random until `stop` is true; the model has what was written. */
function writers(made: Lab, random: Random, model: Uint8Array, stop: () => boolean) {
  const write = async (from: number, to: number): Promise<void> => {
    while (!stop()) {
      const offset = random.int(from, to - 1);
      const n = random.int(1, Math.min(to - offset, random.pick([100, 5000, 3 * C])));
      const data = random.bytes(n);
      if (random.chance(0.8)) await made.guest.write(offset, Iov.of(data));
      else {
        data.fill(0);
        await made.guest.writeZeroes(offset, n);
      }
      model.set(data, offset);
      if (random.chance(0.1)) await made.guest.flush();
    }
  };
  const half = Math.floor(model.length / 2) + 100;
  return Promise.all([write(0, half), write(half, model.length)]);
}

describe('beside writes', () => {
  it('jobs start, pause, fail, are cancelled, complete; each byte is accounted for', async () => {
    const random = seededRandom();
    const bytes = 2 * MiB + 512;
    const made = await lab({ format: random.pick(['raw', 'qcow2']), random, bytes });
    const bitmap = await bitmapOf(made, random.pick([32 * KiB, C, 128 * KiB]));
    const model = made.old.slice();
    // Full backups once, then increments: each leaves the target as the disk was at its start.
    let base: Uint8Array | undefined;
    for (let round = 0; round < 6; round++) {
      const sync = base === undefined ? 'full' : 'bitmap';
      const fails = random.chance(0.3);
      if (fails) {
        const skip = random.int(0, 5);
        made.files.inject({ op: 'write', path: '/target', code: 'EIO', skip, times: 4 });
      }
      const job = await made.backup({
        id: `j${round}`,
        sync,
        bitmap,
        bitmapSync: 'on-success',
        autoFinalize: random.chance(),
        onTargetError: random.pick(['report', 'stop', 'ignore']),
      });
      const before = model.slice();
      job.start();
      let ended = false;
      void job.concluded.then(() => (ended = true));
      const writing = writers(made, random, model, () => ended).catch((e: unknown) => {
        // A copy before a write may meet the fault.
        if (!fails) throw e;
      });
      const cancelled = random.chance(0.2);
      if (cancelled) {
        for (let i = random.int(0, 5); i > 0; i--) await settle();
        if (!ended) await job.cancel(true);
      } else {
        if (random.chance()) {
          job.pauseByUser();
          await settle();
          job.resumeByUser();
        }
        while (!ended) {
          await made.clock.advance(50);
          if (job.status === 'pending' && !job.autoFinalize) await job.finalize();
          if (job.isUserPaused && job.ioStatus !== 'ok') job.resumeByUser();
        }
      }
      await end(made, job);
      await writing;
      made.files.faults.splice(0);
      // A guest's write that failed has changed what it was to change, or has not.
      const now = await readBytes(made.guest, 0, bytes);
      if (!fails) same(now, model, `guest after round ${round}`);
      model.set(now);
      if (job.errorText === undefined) {
        base = before;
        same(await contentOf(made), before, `target after round ${round}`);
      }
      expect(bitmap.busy).toBe(false);
      expect(made.guest.node).toBe(made.source);
      // Whatever differs from the last good backup is in the bitmap.
      if (base === undefined) continue;
      for (let at = 0; at < bytes; at += 4096) {
        const end = Math.min(at + 4096, bytes);
        if (Buffer.compare(now.subarray(at, end), base.subarray(at, end)) === 0) continue;
        expect(bitmap.has(at), `${at} in round ${round}`).toBe(true);
      }
    }
  });
});

describe('a power cut', () => {
  it('in the middle leaves a qcow2 target that opens and holds nothing wrong', async () => {
    const random = seededRandom();
    for (let round = 0; round < 4; round++) {
      const made = await lab({ format: 'qcow2', random, bytes: 4 * MiB });
      const job = await made.backup();
      made.files.cutAfter(random.int(1, 90));
      job.start();
      const model = made.old.slice();
      const writing = writers(made, random, model, () => made.files.isOff).catch(() => undefined);
      for (let i = 0; i < 400 && !made.files.isOff && job.status === 'running'; i++) {
        await settle();
      }
      const wasComplete = job.status === 'null' && job.errorText === undefined;
      if (!made.files.isOff) made.files.cutAfter(0);
      const files = made.files.afterPowerCut(random);
      void writing;
      const graph = testGraph({ host: fakeHost({ files }) });
      const disk = await graph.openBackend({
        options: { driver: 'qcow2', file: file('/target') },
        flags,
      });
      const result = await disk.node.instance.check?.({
        fixLeaks: true,
        fixErrors: false,
        report: () => undefined,
      });
      expect(result?.corruptions).toBe(0);
      const got = await readBytes(disk, 0, 4 * MiB);
      for (let at = 0; at < 4 * MiB; at += C) {
        const old = made.old.subarray(at, at + C);
        const now = got.subarray(at, at + C);
        const isCopied = Buffer.compare(now, old) === 0;
        // Data of a cluster may be durable in part when the table already names it.
        if (!isCopied && wasComplete) throw new Error(`cluster ${at / C} was lost`);
      }
    }
  });
});
