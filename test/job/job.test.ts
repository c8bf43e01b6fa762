// Goal: jobs go through their states as QEMU's do. Method: works made for the purpose on a clock
// that stands still; states, errors and events are compared with what QEMU 10 was seen to do.
import { describe, expect, it } from 'vitest';
import { BlockError } from '../../src/block/errors.js';
import { JobList } from '../../src/job/job-list.js';
import type { Job, JobControl, JobInit, JobWork } from '../../src/job/job.js';
import { accepts, jobStatuses, jobVerbs, mayFollow } from '../../src/job/states.js';
import { JobTransaction } from '../../src/job/transaction.js';
import { FakeClock } from '../support/index.js';
import { settle } from '../support/fake-clock.js';

class Bench {
  readonly clock = new FakeClock();
  readonly events: string[] = [];
  readonly jobs = new JobList({
    clock: this.clock,
    emit: (name, data) => {
      this.events.push(name === 'JOB_STATUS_CHANGE' ? String(data['status']) : name);
    },
  });

  job(work: Partial<JobWork>, init: Partial<JobInit> = {}): Promise<Job> {
    const whole: JobWork = { type: 'stream', run: () => Promise.resolve(), ...work };
    return this.jobs.create({ id: 'j', work: whole, block: { speed: 0 }, ...init });
  }

  took(): string {
    return this.events.splice(0).join(' ');
  }
}

/** Works for `seconds`, a pause point each. */
const slow =
  (seconds: number) =>
  async (job: JobControl): Promise<void> => {
    job.progress.total = seconds;
    for (; job.progress.done < seconds; job.progress.done++) await job.sleep(1000);
  };

describe('states', () => {
  it('each verb is taken in the states in which QEMU takes it', () => {
    const table = jobVerbs.map((verb) => {
      return jobStatuses.map((status) => (accepts(status, verb) ? '1' : '0')).join('');
    });
    // undefined created running paused ready standby waiting pending aborting concluded null
    expect(table).toEqual([
      '01111111000',
      '01111100000',
      '01111100000',
      '01111100000',
      '00001100000',
      '00000000010',
      '00000001000',
      '01111100000',
    ]);
  });

  it('each state follows on those that QEMU lets it follow on', () => {
    const table = jobStatuses.map((from) => {
      return jobStatuses.map((to) => (mayFollow(from, to) ? '1' : '0')).join('');
    });
    expect(table).toEqual([
      '01000000001',
      '00100000101',
      '00011010100',
      '00100000000',
      '00000110100',
      '00001000000',
      '00000001100',
      '00000000110',
      '00000000110',
      '00000000001',
      '00000000000',
    ]);
  });
});

describe('one job', () => {
  it('completes and is forgotten', async () => {
    const bench = new Bench();
    const steps: string[] = [];
    const note = (step: string) => (): void => void steps.push(step);
    const job = await bench.job({
      run: slow(2),
      prepare: async () => void steps.push('prepare'),
      commit: note('commit'),
      abort: note('abort'),
      clean: note('clean'),
    });
    job.start();
    await bench.clock.advance(2000);
    await job.concluded;
    expect(steps).toEqual(['prepare', 'commit', 'clean']);
    expect(bench.took()).toBe('created running waiting pending BLOCK_JOB_COMPLETED concluded null');
    expect(bench.jobs.all).toEqual([]);
  });

  it('waits to be finalized and dismissed when it is to', async () => {
    const bench = new Bench();
    const job = await bench.job({}, { autoFinalize: false, autoDismiss: false });
    await job.startNow();
    expect(bench.took()).toBe('created running waiting pending BLOCK_JOB_PENDING');
    expect(() => {
      job.dismiss();
    }).toThrow("Job 'j' in state 'pending' cannot accept command verb 'dismiss'");
    await job.finalize();
    expect(bench.took()).toBe('BLOCK_JOB_COMPLETED concluded');
    await expect(job.finalize()).rejects.toThrow("Job 'j' in state 'concluded' cannot accept");
    await expect(job.cancelByUser(true)).rejects.toThrow("command verb 'cancel'");
    job.dismiss();
    expect(bench.took()).toBe('null');
  });

  it('fails with the error of its work', async () => {
    const bench = new Bench();
    let aborted = false;
    const job = await bench.job(
      {
        run: () => Promise.reject(new BlockError('EIO')),
        abort: () => {
          aborted = true;
        },
      },
      { autoDismiss: false },
    );
    await job.startNow();
    expect(aborted).toBe(true);
    expect(bench.took()).toBe('created running aborting BLOCK_JOB_COMPLETED concluded');
    expect(job.jobInfo()).toMatchObject({ error: 'Input/output error', status: 'concluded' });
  });

  it('fails when it cannot be prepared', async () => {
    const bench = new Bench();
    const steps: string[] = [];
    const job = await bench.job({
      prepare: () => Promise.reject(new BlockError('ENOSPC')),
      commit: () => void steps.push('commit'),
      abort: () => void steps.push('abort'),
    });
    await job.startNow();
    expect(steps).toEqual(['abort']);
    expect(bench.took()).toContain('waiting pending aborting BLOCK_JOB_COMPLETED concluded null');
  });

  it('is paused and resumed by a client, once each', async () => {
    const bench = new Bench();
    const job = await bench.job({ run: slow(2) });
    job.start();
    await settle();
    job.pauseByUser();
    expect(bench.took()).toBe('created running paused');
    expect(() => {
      job.pauseByUser();
    }).toThrow('Job is already paused');
    await bench.clock.advance(5000);
    expect(job.progress.done).toBe(0);
    job.resumeByUser();
    expect(bench.took()).toBe('running');
    expect(() => {
      job.resumeByUser();
    }).toThrow("Can't resume a job that was not paused");
    await bench.clock.advance(2000);
    await job.concluded;
  });

  it('stays paused while a section is drained, and for a client beyond that', async () => {
    const bench = new Bench();
    const job = await bench.job({ run: slow(2) });
    job.start();
    await settle();
    await job.drainBegin();
    expect(bench.took()).toBe('created running paused');
    job.pauseByUser();
    job.drainEnd();
    expect(job.status).toBe('paused');
    await job.drainBegin();
    job.resumeByUser();
    expect(job.status).toBe('paused');
    job.drainEnd();
    expect(job.status).toBe('running');
    await job.cancel(true);
    await job.concluded;
  });

  it('is waited for by a drained section until it is at a pause point', async () => {
    const bench = new Bench();
    let answer: () => void = () => undefined;
    const job = await bench.job({
      run: async (control) => {
        await new Promise<void>((resolve) => {
          answer = resolve;
        });
        await control.pausePoint();
      },
    });
    job.start();
    let drained = false;
    const drain = job.drainBegin().then(() => {
      drained = true;
    });
    await settle();
    expect(drained).toBe(false);
    answer();
    await drain;
    expect(job.status).toBe('paused');
    job.drainEnd();
    await job.concluded;
    expect(bench.took()).toContain('BLOCK_JOB_COMPLETED');
  });

  it.each([
    ['while it sleeps', 0, 'created running aborting BLOCK_JOB_CANCELLED concluded null'],
    ['while it is paused', 1, 'created running paused running aborting BLOCK_JOB_CANCELLED'],
    ['while it is drained', 2, 'created running paused running aborting BLOCK_JOB_CANCELLED'],
  ])('is cancelled %s', async (_, how, events) => {
    const bench = new Bench();
    const job = await bench.job({ run: slow(5) });
    job.start();
    await settle();
    if (how === 1) job.pauseByUser();
    if (how === 2) await job.drainBegin();
    await job.cancelByUser(true);
    await job.concluded;
    expect(bench.took()).toContain(events);
    expect(job.errorText).toBe('Operation canceled');
  });

  it('is cancelled before it starts, and while it is pending', async () => {
    const bench = new Bench();
    await (await bench.job({})).cancelByUser(true);
    expect(bench.took()).toBe('created aborting concluded null');
    const job = await bench.job({}, { autoFinalize: false });
    await job.startNow();
    await job.cancelByUser(true);
    expect(bench.took()).toContain('BLOCK_JOB_PENDING aborting BLOCK_JOB_CANCELLED concluded null');
  });

  it('keeps to its speed, and to a new one at once', async () => {
    const bench = new Bench();
    const job = await bench.job(
      {
        run: async (control) => {
          for (; control.progress.done < 100; control.progress.done++) await control.throttle(1000);
        },
      },
      { block: { speed: 1000 } },
    );
    job.start();
    await bench.clock.advance(10_000);
    expect(job.progress.done).toBeGreaterThanOrEqual(9);
    expect(job.progress.done).toBeLessThanOrEqual(11);
    job.setSpeed(10_000);
    await bench.clock.advance(2000);
    expect(job.progress.done).toBeGreaterThanOrEqual(29);
    expect(job.progress.done).toBeLessThanOrEqual(32);
    expect(() => {
      job.setSpeed(-1);
    }).toThrow("Parameter 'speed' expects a non-negative value");
    job.setSpeed(0);
    await job.concluded;
    expect(bench.took()).toContain('BLOCK_JOB_COMPLETED');
  });

  it.each([
    ['report', 'EIO', 'BLOCK_JOB_ERROR aborting BLOCK_JOB_COMPLETED'],
    ['ignore', 'EIO', 'BLOCK_JOB_ERROR waiting pending BLOCK_JOB_COMPLETED'],
    ['stop', 'EIO', 'BLOCK_JOB_ERROR paused'],
    ['enospc', 'EIO', 'BLOCK_JOB_ERROR aborting BLOCK_JOB_COMPLETED'],
    ['enospc', 'ENOSPC', 'BLOCK_JOB_ERROR paused'],
    ['auto', 'ENOSPC', 'BLOCK_JOB_ERROR paused'],
  ] as const)('on-error=%s does its own with %s', async (policy, code, events) => {
    const bench = new Bench();
    let failures = 1;
    const job = await bench.job(
      {
        run: async (control) => {
          for (;;) {
            if (failures-- <= 0) return;
            if ((await control.ioFailed('read', new BlockError(code))) === 'ignore') return;
          }
        },
      },
      { block: { speed: 0, onError: { read: policy, write: 'report' } } },
    );
    job.start();
    await settle();
    expect(bench.took()).toContain(events);
    if (job.status !== 'paused') return;
    expect(job.ioStatus).toBe(code === 'ENOSPC' ? 'nospace' : 'failed');
    job.resumeByUser();
    expect(job.ioStatus).toBe('ok');
    await job.concluded;
    expect(bench.took()).toContain('BLOCK_JOB_COMPLETED');
  });

  it('that is ready completes when told, and softly when cancelled', async () => {
    for (const how of ['complete', 'cancel'] as const) {
      const bench = new Bench();
      let pivot = false;
      const job = await bench.job({
        type: 'mirror',
        run: async (control) => {
          control.ready();
          while (!pivot && !control.isCancelRequested) await control.idle();
        },
        cancel: (force) => force,
        complete: () => {
          pivot = true;
        },
      });
      job.start();
      await settle();
      job.pauseByUser();
      job.resumeByUser();
      expect(bench.took()).toBe('created running ready BLOCK_JOB_READY standby ready');
      if (how === 'complete') await job.complete();
      else await job.cancelByUser(false);
      await job.concluded;
      expect(pivot).toBe(how === 'complete');
      expect(bench.took()).toBe('waiting pending BLOCK_JOB_COMPLETED concluded null');
    }
  });

  it('has an ID that no other has', async () => {
    const bench = new Bench();
    await expect(bench.job({}, { id: '1j' })).rejects.toThrow("Invalid job ID '1j'");
    await expect(bench.job({}, { id: '' })).rejects.toThrow("Invalid job ID ''");
    await bench.job({});
    await expect(bench.job({})).rejects.toThrow("Job ID 'j' already in use");
    bench.took();
    await expect(bench.job({}, { id: 'k', block: { speed: -1 } })).rejects.toThrow('non-negative');
    expect(bench.took()).toBe('created null');
  });
});

describe('jobs of one transaction', () => {
  it('take effect together', async () => {
    const bench = new Bench();
    const transaction = new JobTransaction();
    const a = await bench.job({ run: slow(1) }, { id: 'a', transaction });
    const b = await bench.job({ run: slow(3) }, { id: 'b', transaction });
    a.start();
    b.start();
    await bench.clock.advance(1000);
    expect([a.status, b.status]).toEqual(['waiting', 'running']);
    await bench.clock.advance(2000);
    await Promise.all([a.concluded, b.concluded]);
    expect(a.error ?? b.error).toBeUndefined();
  });

  it('are cancelled when one fails or is cancelled', async () => {
    for (const how of ['fails', 'is cancelled'] as const) {
      const bench = new Bench();
      const transaction = new JobTransaction();
      const init = { transaction, autoDismiss: false };
      const a = await bench.job({ run: slow(1) }, { id: 'a', ...init });
      const b = await bench.job({ run: slow(9) }, { id: 'b', ...init });
      const bad = async (control: JobControl): Promise<void> => {
        await control.sleep(2000);
        throw new BlockError('EIO');
      };
      const c = await bench.job({ run: bad }, { id: 'c', ...init });
      for (const job of [a, b, c]) job.start();
      await bench.clock.advance(1500);
      if (how === 'is cancelled') await c.cancelByUser(true);
      else await bench.clock.advance(1000);
      await Promise.all([a, b, c].map((job) => job.concluded));
      const canceled = 'Operation canceled';
      const own = how === 'fails' ? 'Input/output error' : canceled;
      expect([a, b, c].map((job) => job.errorText)).toEqual([canceled, canceled, own]);
    }
  });

  it('end with the list that they are in', async () => {
    const bench = new Bench();
    const a = await bench.job({ run: slow(1) }, { id: 'a' });
    const b = await bench.job({}, { id: 'b', autoDismiss: false, autoFinalize: false });
    a.start();
    await b.startNow();
    await bench.jobs.close();
    expect(bench.jobs.all).toEqual([]);
    expect(bench.took()).toContain('BLOCK_JOB_CANCELLED');
  });
});
