/** What a kind of job is: a {@link JobWork}, which works with a {@link JobControl}. */
import type { JobType } from './states.js';

/** What a client wants to happen when a request of a job fails: QMP's BlockdevOnError. */
export type OnError = 'report' | 'ignore' | 'enospc' | 'stop' | 'auto';

/** How far a job is; bytes, as far as the kind of job has such. */
export interface JobProgress {
  done: number;
  total: number;
}

/** What a job's `run` works with. */
export interface JobControl {
  readonly progress: JobProgress;
  /** The job shall end without a result; pause points throw ECANCELED then. */
  readonly isCancelled: boolean;
  /** It shall end in the way of its kind: a mirror that is ready completes without pivoting. */
  readonly isCancelRequested: boolean;
  /** It shall pause: the next pause point waits. */
  readonly isHeld: boolean;
  /** Bytes a second; 0: no limit. */
  readonly speed: number;
  /** Waits while the job is paused. No request may be in flight. Throws ECANCELED. */
  pausePoint(): Promise<void>;
  /** Waits, at most so long; a pause, a cancel, {@link wake} end it early. Throws ECANCELED. */
  sleep(ms: number): Promise<void>;
  /** Waits until {@link wake}, a pause or a cancel. May end without a reason. Throws ECANCELED. */
  idle(): Promise<void>;
  /** Ends a `sleep` or an `idle` that is under way. */
  wake(): void;
  /** `bytes` were moved: waits for as long as the job's speed asks. Throws ECANCELED. */
  throttle(bytes: number): Promise<void>;
  /** All is done that has an end; the job goes on until it is told to complete. */
  ready(): void;
  /**
   * A request failed: tells clients, and does as `on-error` says. `ignore`: leave that piece;
   * `retry`: do it again (the job has been stopped and resumed in between); else throws `e`.
   */
  ioFailed(operation: 'read' | 'write', e: unknown): Promise<'ignore' | 'retry'>;
}

/** A kind of job. */
export interface JobWork {
  readonly type: JobType;
  /** Does the work; throws when it fails. Must end soon when pause points throw. */
  run(job: JobControl): Promise<void>;
  /** The last thing that may fail, when all jobs of the transaction have succeeded. */
  prepare?(): Promise<void>;
  /** The job has succeeded, with all of its transaction. Must not fail. */
  commit?(): void | Promise<void>;
  /** The job, or another of its transaction, has failed. Must not fail. */
  abort?(): void | Promise<void>;
  /** After either. Must not fail. */
  clean?(): void | Promise<void>;
  /** A ready job shall complete; absent: this kind never can. May throw; then nothing happened. */
  complete?(job: JobControl): void | Promise<void>;
  /** Cancel was asked for: whether the job is to be ended at once. Absent: yes. */
  cancel?(force: boolean): boolean;
  /** The job is ended at once: requests of it that wait for a server need not. */
  interrupt?(): void;
  /** block-job-change; absent: nothing can be changed. Throws. */
  change?(options: Readonly<Record<string, unknown>>): void | Promise<void>;
  /** Bytes that have yet to be copied; absent: what the progress leaves. */
  leftBytes?(): number;
  /** What query-block-jobs tells of this kind only. */
  info?(): Readonly<Record<string, unknown>>;
}

/** Runs `clean`; what failed, if it did: a job that never ends would hold up all others. */
export async function cleanUp(work: JobWork): Promise<unknown> {
  try {
    await work.clean?.();
  } catch (e) {
    return e;
  }
  return undefined;
}

/** What distinguishes jobs on disks from others. */
export interface BlockJobInit {
  /** Bytes a second; 0: no limit. */
  readonly speed: number;
  readonly onError?: { readonly read: OnError; readonly write: OnError };
}
