// Goal: a mirror's target holds all that the disk does when the job is ready and completes,
// whatever guests write meanwhile, and then is what they use. Method: jobs on simulated files that
// complete in random order, beside writers whose every byte is accounted for; failures, cancels.
import { describe, expect, it } from 'vitest';
import { Iov } from '../../src/index.js';
import type { Job } from '../../src/job/job.js';
import type { MirrorOptions } from '../../src/job/mirror.js';
import { startMirror } from '../../src/job/mirror.js';
import { failure, filled, readBytes, same, seededRandom, slowWrites } from '../support/index.js';
import type { Lab as Common, LabInit } from './support.js';
import { contentOf, makeLab } from './support.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const C = 64 * KiB;

interface Lab extends Common {
  mirror(options?: Partial<MirrorOptions>): Promise<Job>;
}

async function lab(init: LabInit = {}): Promise<Lab> {
  const common = await makeLab({ used: true, ...init });
  const { jobs, source, target } = common;
  const mirror = (options: Partial<MirrorOptions> = {}): Promise<Job> =>
    startMirror(jobs, { id: 'j', source, target, sync: 'full', ...options });
  return { ...common, mirror };
}

async function until(made: Lab, what: string, reached: () => boolean): Promise<void> {
  for (let i = 0; i < 5000 && !reached(); i++) await made.clock.advance(20);
  if (!reached()) throw new Error(`never ${what}; events: ${made.events.join(' ')}`);
}

const isOver = (job: Job) => (): boolean => job.status === 'null';

describe('a mirror', () => {
  it.each(['background', 'write-blocking'] as const)(
    'gets ready and its target takes the place of the disk (%s)',
    async (copyMode) => {
      const made = await lab({ bytes: MiB + 512 });
      const job = await made.mirror({ copyMode });
      await until(made, 'ready', () => job.isReady);
      await made.guest.write(5 * C + 5, filled(10, 7));
      expect(job.blockJobInfo()).toMatchObject({ 'actively-synced': copyMode !== 'background' });
      await job.complete();
      await until(made, 'over', isOver(job));
      expect(made.guest.node).toBe(made.target);
      made.old.fill(7, 5 * C + 5, 5 * C + 15);
      same(await contentOf(made, 'target'), made.old);
      same(await contentOf(made, 'source'), made.old);
      expect(made.events.join(' ')).toBe(
        'created running ready BLOCK_JOB_READY waiting pending BLOCK_JOB_COMPLETED concluded null',
      );
    },
  );

  it.each(['complete', 'cancel'] as const)(
    'a flush that fails at the end is answered as on-target-error says (%s)',
    async (way) => {
      const made = await lab();
      const job = await made.mirror({ onTargetError: 'stop' });
      await until(made, 'ready', () => job.isReady);
      // Data whose flush failed is lost: the file tells so from then on.
      made.files.inject({ op: 'flush', path: '/target', code: 'EIO', times: 1 });
      await made.guest.write(C, filled(10, 7));
      if (way === 'complete') await job.complete();
      else await job.cancelByUser(false);
      for (let round = 0; round < 2; round++) {
        await until(made, 'stopped', () => job.isUserPaused);
        expect(made.events.slice(-2)).toEqual(['BLOCK_JOB_ERROR', 'standby']);
        if (round === 0) job.resumeByUser();
      }
      await job.cancelByUser(true);
      await until(made, 'over', isOver(job));
      expect(made.guest.node).toBe(made.source);
      made.old.fill(7, C, C + 10);
      same(await contentOf(made, 'source'), made.old);
    },
  );

  it('has no more bytes in flight than its buffer holds', async () => {
    const made = await lab();
    const most = slowWrites(made.files, '/target');
    const job = await made.mirror({ granularity: C / 4, bufferBytes: C });
    await until(made, 'ready', () => job.isReady);
    expect(most).toEqual({ bytes: C, count: 1 });
    await job.complete();
    await until(made, 'over', isOver(job));
    same(await contentOf(made, 'target'), made.old);
  });

  it('knows of writes that begin at any moment of its start and end late', async () => {
    const made = await lab();
    const { guest, old, files } = made;
    const late: (() => void)[] = [];
    files.hold = (op, path) => {
      if (op !== 'write' || path !== '/source') return undefined;
      return new Promise((resolve) => late.push(resolve));
    };
    let starting = true;
    const start = made.mirror().finally(() => (starting = false));
    const writes: Promise<void>[] = [];
    // A drain waits for what has begun, so it is let end, last first, some time after.
    for (let i = 0; starting; i++) {
      const block = (i % 16) * C;
      if (i < 16) writes.push(guest.write(block, filled(C, 0x7f)));
      else if (i > 64) late.pop()?.();
      old.fill(0x7f, block, block + C);
      await made.clock.advance(1);
    }
    const job = await start;
    // What the job may copy by now it copies before the writes end.
    await made.clock.advance(500);
    files.hold = undefined;
    for (const end of late) end();
    await Promise.all(writes);
    await until(made, 'ready', () => job.isReady);
    await job.complete();
    await until(made, 'over', isOver(job));
    same(await contentOf(made, 'target'), old);
  });

  it('completes without taking its place when it is cancelled in the soft way', async () => {
    const made = await lab();
    const job = await made.mirror();
    await until(made, 'ready', () => job.isReady);
    await job.cancelByUser(false);
    await until(made, 'over', isOver(job));
    expect(made.guest.node).toBe(made.source);
    expect(made.events).toContain('BLOCK_JOB_COMPLETED');
    same(await contentOf(made, 'target'), made.old);
  });

  it('is gone when it is cancelled by force', async () => {
    const made = await lab();
    const job = await made.mirror({ speed: 4 * C });
    await job.cancelByUser(true);
    await until(made, 'over', isOver(job));
    expect(made.events.slice(-3)).toEqual(['BLOCK_JOB_CANCELLED', 'concluded', 'null']);
    expect(made.guest.node).toBe(made.source);
    expect([made.source.parents.size, made.target.parents.size]).toEqual([1, 0]);
  });

  it('copies only what is written from now on', async () => {
    const made = await lab();
    const before = await contentOf(made, 'target');
    const job = await made.mirror({ sync: 'none' });
    await until(made, 'ready', () => job.isReady);
    await made.guest.write(2 * C, filled(C, 7));
    await job.complete();
    await until(made, 'over', isOver(job));
    before.fill(7, 2 * C, 3 * C);
    same(await contentOf(made, 'target'), before);
  });

  it('tells what is wrong and changes nothing', async () => {
    const made = await lab();
    const texts = [
      [{ target: made.source }, "Can't mirror node into itself"],
      [{ id: '1' }, "Invalid job ID '1'"],
      [{ speed: -1 }, "Parameter 'speed' expects a non-negative value"],
      [{ granularity: 100 }, "Parameter 'granularity' expects a value in range [512B, 64MB]"],
      [{ granularity: 3000 }, "Parameter 'granularity' expects a power of 2"],
      [{ filterName: 'source' }, "Duplicate nodes with node-name='source'"],
    ] as const;
    for (const [options, text] of texts) {
      expect(await failure(made.mirror(options))).toBe(text);
      expect(made.guest.node).toBe(made.source);
      expect(made.source.parents.size).toBe(1);
      expect(made.source.opBlockers.size).toBe(0);
    }
  });
});

describe('beside writes', () => {
  it('jobs pause, fail, are cancelled, complete; each byte is accounted for', async () => {
    const random = seededRandom();
    const bytes = 2 * MiB + 512;
    const made = await lab({ random, bytes });
    const model = made.old.slice();
    let [from, to] = [made.source, made.target];
    for (let round = 0; round < 6; round++) {
      const fails = random.chance(0.3);
      if (fails) {
        const fault = { op: 'write', path: `/${to.name}`, code: 'EIO', times: 1 } as const;
        made.files.inject({ ...fault, skip: random.int(0, 5) });
      }
      const job = await made.mirror({
        id: `j${round}`,
        source: from,
        target: to,
        copyMode: random.pick(['background', 'write-blocking']),
        granularity: random.pick([512, 4096, C, MiB]),
        onTargetError: random.pick(['report', 'stop', 'ignore']),
      });
      let stop = false;
      const writer = async (start: number, end: number): Promise<void> => {
        for (let i = 0; !stop && i < 200; i++) {
          const offset = random.int(start, end - 1);
          const n = random.int(1, Math.min(end - offset, random.pick([100, 5000, 3 * C])));
          const data = random.bytes(n);
          if (random.chance(0.8)) await made.guest.write(offset, Iov.of(data));
          else await made.guest.writeZeroes(offset, data.fill(0).byteLength);
          model.set(data, offset);
        }
      };
      const writing = Promise.all([writer(0, MiB + 100), writer(MiB + 100, bytes)]);
      const way = random.pick(['complete', 'complete', 'soft', 'force']);
      if (way === 'force') await made.clock.advance(random.int(0, 30));
      else {
        await until(made, 'ready or over', () => {
          if (job.isUserPaused) job.resumeByUser();
          return job.isReady || isOver(job)();
        });
      }
      if (!isOver(job)()) {
        if (way === 'complete') await job.complete();
        else await job.cancelByUser(way === 'force');
      }
      await until(made, 'over', () => {
        if (job.isUserPaused) job.resumeByUser();
        return isOver(job)();
      });
      stop = true;
      await writing;
      made.files.faults.splice(0);
      same(await readBytes(made.guest, 0, bytes), model, `guest after round ${round} (${way})`);
      if (made.guest.node === to) [from, to] = [to, from];
      expect(made.guest.node).toBe(from);
    }
  });
});
