/** The jobs that there are, by their IDs. */
import { BlockError } from '../block/errors.js';
import type { Clock } from '../host/host.js';
import { Mutex } from '../lib/mutex.js';
import type { JobHost, JobInit } from './job.js';
import { checkSpeed, Job } from './job.js';

export interface JobListInit {
  readonly clock: Clock;
  /** Receives events: `JOB_STATUS_CHANGE`, `BLOCK_JOB_COMPLETED`, …; `data` as in QMP. */
  readonly emit?: (name: string, data: Readonly<Record<string, unknown>>) => void;
  /** Runs what ends a job when nobody else changes the graph. Default: one after another. */
  readonly exclusive?: <T>(work: () => Promise<T>) => Promise<T>;
}

export class JobList implements JobHost {
  readonly clock: Clock;
  readonly #emit: NonNullable<JobListInit['emit']>;
  readonly #exclusive: NonNullable<JobListInit['exclusive']>;
  readonly #jobs = new Map<string, Job>();
  readonly #lock = new Mutex();
  /** Lists of jobs that clients do not see; they close with this one. */
  readonly inner = new Set<JobList>();
  /** The owner holds everything still: who ends need not ask. */
  #closing = false;

  constructor(init: JobListInit) {
    this.clock = init.clock;
    this.#emit = init.emit ?? ((): void => undefined);
    this.#exclusive = init.exclusive ?? ((work) => work());
  }

  /** All jobs, the newest first. */
  get all(): Job[] {
    return [...this.#jobs.values()].reverse();
  }

  tryFind(id: string): Job | undefined {
    return this.#jobs.get(id);
  }

  /** Throws BlockError with QEMU's text when no job can have this ID. */
  checkId(id: string): void {
    if (!/^[A-Za-z][A-Za-z0-9\-._]*$/.test(id)) {
      throw new BlockError('EINVAL', `Invalid job ID '${id}'`);
    }
    if (this.#jobs.has(id)) throw new BlockError('EEXIST', `Job ID '${id}' already in use`);
  }

  /**
   * A new job, which {@link Job.start} begins or {@link Job.discard} takes away again. Throws
   * BlockError when the ID or the speed is wrong.
   */
  async create(init: JobInit): Promise<Job> {
    this.checkId(init.id);
    const job = new Job(this, init);
    this.#jobs.set(init.id, job);
    try {
      checkSpeed(init.block?.speed ?? 0);
    } catch (e) {
      await job.discard();
      throw e;
    }
    return job;
  }

  /** Cancels all jobs and waits until they are gone. Nothing else may be under way. */
  async close(): Promise<void> {
    this.#closing = true;
    for (const list of this.inner) await list.close();
    for (const job of this.all) await job.drainBegin();
    for (;;) {
      const job = this.all.find((each) => each.status !== 'concluded');
      if (job === undefined) break;
      if (job.status !== 'null') await job.cancel(true);
      await job.concluded;
    }
    for (const job of this.all) job.dismiss();
  }

  emit(name: string, data: Readonly<Record<string, unknown>>): void {
    this.#emit(name, data);
  }

  exclusive<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closing) return this.#lock.run(work);
    return this.#exclusive(() => this.#lock.run(work));
  }

  remove(job: Job): void {
    this.#jobs.delete(job.id);
  }
}
