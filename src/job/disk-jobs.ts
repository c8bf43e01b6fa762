/**
 * Jobs as typed calls, for programs that have a graph and no monitor.
 *
 * ```ts
 * const jobs = new DiskJobs(graph);
 * const mirror = await jobs.mirror({ source, target, sync: 'full' });
 * for await (const { done, total, secondsLeft } of mirror.untilReady()) console.log(done, total);
 * await mirror.complete();
 * ```
 */
import { BlockError } from '../block/errors.js';
import type { BlockGraph } from '../block/graph.js';
import type { BlockNode } from '../block/node.js';
import { skipFilters } from '../block/status.js';
import type { Clock } from '../host/host.js';
import type { BackupOptions } from './backup.js';
import { createBackup } from './backup.js';
import type { StreamOptions } from './block-stream.js';
import { startStream } from './block-stream.js';
import { startActiveCommit } from './commit-active.js';
import { startCommit } from './commit-job.js';
import type { CommitJobOptions } from './commit-job.js';
import type { Job } from './job.js';
import { JobList } from './job-list.js';
import type { MirrorOptions } from './mirror.js';
import { startMirror } from './mirror.js';
import type { Progress } from './operation.js';
import { ProgressMeter } from './operation.js';
import type { JobStatus, JobType } from './states.js';
import { JobTransaction } from './transaction.js';

/** How far a job is; counts are bytes. */
export interface JobState extends Progress {
  readonly status: JobStatus;
  /** What has yet to be copied, as far as known now: of a mirror, what is dirty. */
  readonly left: number;
}

/** How often whoever iterates is told, though nothing but the progress has changed. */
const TELL_MS = 200;

/** A job that was started; await `result`, or iterate over its states first. */
export class DiskJob implements AsyncIterable<JobState> {
  /** Resolves when the job has succeeded; rejects with why it has not (ECANCELED: cancelled). */
  readonly result: Promise<void>;
  readonly #job: Job;
  readonly #clock: Clock;
  readonly #meter: ProgressMeter;
  #ended = false;
  #waiting: (() => void)[] = [];

  constructor(job: Job, clock: Clock) {
    this.#job = job;
    this.#clock = clock;
    this.#meter = new ProgressMeter(clock);
    this.result = job.concluded.then(() => {
      this.#ended = true;
      this.news();
      const { error } = job;
      if (error === undefined) return;
      throw error instanceof Error ? error : new BlockError('EIO', job.errorText);
    });
    // Who only iterates hears of the failure there.
    this.result.catch(() => undefined);
  }

  get id(): string {
    return this.#job.id;
  }

  get type(): JobType {
    return this.#job.type;
  }

  get state(): JobState {
    const { progress, status, work } = this.#job;
    this.#meter.done = progress.done;
    this.#meter.total = progress.total;
    const left = work.leftBytes?.() ?? Math.max(0, progress.total - progress.done);
    return { ...this.#meter.progress(), status, left };
  }

  /** Source and target are equal, and stay so, until the job is completed or cancelled. */
  get isReady(): boolean {
    return this.#job.isReady;
  }

  /** Throws BlockError where the job's state does not allow it, as do the others. */
  pause(): void {
    this.#job.pauseByUser();
  }

  resume(): void {
    this.#job.resumeByUser();
  }

  /** Bytes a second; 0: no limit. */
  set speed(bytesPerSecond: number) {
    this.#job.setSpeed(bytesPerSecond);
  }

  get speed(): number {
    return this.#job.speed;
  }

  /** From now on the guests' writes go to both disks before they end (mirror). */
  async writeToBoth(): Promise<void> {
    await this.#job.change({ 'copy-mode': 'write-blocking' });
  }

  /** A ready job takes effect: what is written to becomes the disk. Resolves when it has. */
  async complete(): Promise<void> {
    await this.#job.complete();
    await this.result;
  }

  /** A job that was not to finalize by itself, and its transaction, take effect. */
  async finalize(): Promise<void> {
    await this.#job.finalize();
    await this.result;
  }

  /**
   * Ends a ready job as it is, the target being a copy of this moment; any other, and with `force`
   * this one too, without a result. Resolves when it has ended, however.
   */
  async cancel(force = false): Promise<void> {
    await this.#job.cancelByUser(force);
    await this.#job.concluded;
  }

  /** The state at each change and several times a second; throws the job's error at its end. */
  [Symbol.asyncIterator](): AsyncIterator<JobState> {
    return this.#states(false);
  }

  /** As iterating over the job, until it is ready or over. */
  untilReady(): AsyncIterable<JobState> {
    return { [Symbol.asyncIterator]: () => this.#states(true) };
  }

  async *#states(untilReady: boolean): AsyncIterator<JobState> {
    while (!this.#ended) {
      yield this.state;
      if (untilReady && this.isReady) return;
      await this.#change();
    }
    yield this.state;
    await this.result;
  }

  /** Something has changed: whoever iterates looks. */
  news(): void {
    for (const go of this.#waiting.splice(0)) go();
  }

  async #change(): Promise<void> {
    if (this.#ended) return;
    let cancel = (): void => undefined;
    await new Promise<void>((resolve) => {
      this.#waiting.push(resolve);
      cancel = this.#clock.after(TELL_MS, resolve);
    });
    cancel();
  }
}

/** An ID where the caller needs none. */
type Named<T extends { readonly id: string }> = Omit<T, 'id'> & { readonly id?: string };

/** The commit's ends; without `top`, or with that of the disk, guests go on with `base`. */
export type DiskCommit = Named<Omit<CommitJobOptions, 'top'>> & { readonly top?: BlockNode };

export class DiskJobs {
  readonly #graph: BlockGraph;
  readonly #list: JobList;
  readonly #jobs = new Map<string, DiskJob>();
  #next = 1;

  constructor(graph: BlockGraph) {
    this.#graph = graph;
    this.#list = new JobList({
      clock: graph.host.clock,
      emit: (_, data) => {
        this.#jobs.get(String(data['id'] ?? data['device']))?.news();
      },
    });
  }

  /** Copies a disk to another, which takes its place when the job is completed. */
  mirror(options: Named<MirrorOptions>): Promise<DiskJob> {
    return this.#run(startMirror(this.#list, this.#named(options)));
  }

  /** Copies a disk as it is now. */
  async backup(options: Named<BackupOptions>): Promise<DiskJob> {
    const job = await createBackup(this.#list, this.#named(options));
    job.start();
    return this.#run(job);
  }

  /** As {@link backup}, of one moment: all succeed, or none. */
  async backups(all: readonly Named<BackupOptions>[]): Promise<DiskJob[]> {
    const transaction = new JobTransaction();
    const made: Job[] = [];
    try {
      for (const options of all) {
        made.push(await createBackup(this.#list, this.#named({ ...options, transaction })));
      }
    } catch (e) {
      for (const job of made) await job.cancel(true);
      throw e;
    }
    for (const job of made) job.start();
    return Promise.all(made.map((job) => this.#run(job)));
  }

  /** Copies what backing files hold up into an image, which then does without them. */
  stream(options: Named<StreamOptions>): Promise<DiskJob> {
    return this.#run(startStream(this.#graph, this.#list, this.#named(options)));
  }

  /** Writes what images hold into one below; that of the disk itself gets ready. */
  commit(options: DiskCommit): Promise<DiskJob> {
    const { node, top = node, ...rest } = options;
    const named = { ...this.#named(rest), node, top };
    return this.#run(
      skipFilters(top) === skipFilters(node)
        ? startActiveCommit(this.#graph, this.#list, named)
        : startCommit(this.#graph, this.#list, named),
    );
  }

  get all(): DiskJob[] {
    return [...this.#jobs.values()];
  }

  /** Cancels what runs, and waits for it; the graph can be closed then. */
  close(): Promise<void> {
    return this.#list.close();
  }

  async #run(starting: Job | Promise<Job>): Promise<DiskJob> {
    const job = await starting;
    const made = new DiskJob(job, this.#list.clock);
    this.#jobs.set(job.id, made);
    const gone = (): void => void this.#jobs.delete(job.id);
    made.result.then(gone, gone);
    return made;
  }

  #named<T extends { readonly id?: string }>(options: T): T & { readonly id: string } {
    const { id = `job${String(this.#next++)}` } = options;
    if (this.#list.tryFind(id) === undefined) return { ...options, id };
    throw new BlockError('EEXIST', `Job ID '${id}' already in use`);
  }
}
