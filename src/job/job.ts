/**
 * A job: a long operation that a client can watch, pause, slow down, cancel and finish.
 *
 * A kind of job is a {@link JobWork} (work.ts): an asynchronous `run` over a {@link JobControl},
 * and what is to be done at its end. All else is here: states (states.ts), pausing, speed,
 * errors, events.
 *
 * Invariants
 *  J1  A state follows on another only as states.ts says.
 *  J2  A paused job is parked at one of its pause points: it has no request in flight.
 *  J3  `prepare`, `commit`, `abort`, `clean` run when `run` has ended, one job at a time and while
 *      no command of a monitor is carried out.
 *  J4  While a job has an edge to a node, draining that node parks the job first, so that it never
 *      waits for a request that is held back. A job attaches the edge before the backends that
 *      it works through.
 */
import { BlockError, errorCode, messageOf } from '../block/errors.js';
import type { ChildParent } from '../block/child.js';
import { Child } from '../block/child.js';
import type { PermPair } from '../block/driver.js';
import type { BlockNode } from '../block/node.js';
import type { OpBlocker } from '../block/op-blockers.js';
import type { Clock } from '../host/host.js';
import { assert } from '../lib/assert.js';
import { RateLimit } from './rate-limit.js';
import type { JobStatus, JobType, JobVerb } from './states.js';
import { accepts, mayFollow } from './states.js';
import { JobTransaction } from './transaction.js';
import type { BlockJobInit, JobControl, JobProgress, JobWork, OnError } from './work.js';
import { cleanUp } from './work.js';

export type { BlockJobInit, JobControl, JobProgress, JobWork, OnError } from './work.js';

export interface JobInit {
  readonly id: string;
  readonly work: JobWork;
  /** Finalize without being told. Default: yes. */
  readonly autoFinalize?: boolean | undefined;
  /** Forget the job when it has ended. Default: yes. */
  readonly autoDismiss?: boolean | undefined;
  readonly transaction?: JobTransaction | undefined;
  /** The job is one that query-block-jobs lists. */
  readonly block?: BlockJobInit | undefined;
}

/** Where a job lives; see job-list.ts. */
export interface JobHost {
  readonly clock: Clock;
  emit(name: string, data: Readonly<Record<string, unknown>>): void;
  /** Runs `work` when no command is carried out. */
  exclusive<T>(work: () => Promise<T>): Promise<T>;
  /** The job is in state `null`. */
  remove(job: Job): void;
}

/** A job that waits at a pause point, in a sleep, or idle. */
interface Parked {
  readonly resume: () => void;
  cancelTimer: () => void;
}

export class Job implements JobControl, ChildParent {
  readonly id: string;
  readonly work: JobWork;
  readonly autoFinalize: boolean;
  readonly autoDismiss: boolean;
  readonly transaction: JobTransaction;
  readonly isBlockJob: boolean;
  readonly progress: JobProgress = { done: 0, total: 0 };
  readonly asNode = undefined;
  readonly staysAtNode = true;
  /** Why it failed; also set when it was cancelled. */
  error: unknown;
  ioStatus: 'ok' | 'failed' | 'nospace' = 'ok';
  /** Resolves when the job is concluded, whatever its result. */
  readonly concluded: Promise<void>;
  #tellConcluded: () => void = () => undefined;
  readonly #host: JobHost;
  readonly #rate: RateLimit;
  readonly #onError: NonNullable<BlockJobInit['onError']>;
  readonly #edges: Child[] = [];
  readonly #blocker: OpBlocker;
  #status: JobStatus = 'undefined';
  #pauseCount = 0;
  #userPaused = false;
  /** Soft or forced; {@link isCancelled} only the latter. */
  #cancelRequested = false;
  #forceCancel = false;
  #started = false;
  #parked: Parked | undefined;
  /** The state to return to from a pause. */
  #pausedFrom: JobStatus | undefined;
  #busy = false;
  #quiet: (() => void)[] = [];
  #running: Promise<void> | undefined;
  #ended = false;
  #settling = false;

  constructor(host: JobHost, init: JobInit) {
    this.#host = host;
    this.id = init.id;
    this.work = init.work;
    this.autoFinalize = init.autoFinalize ?? true;
    this.autoDismiss = init.autoDismiss ?? true;
    this.transaction = init.transaction ?? new JobTransaction();
    this.transaction.add(this);
    this.isBlockJob = init.block !== undefined;
    this.#onError = init.block?.onError ?? { read: 'report', write: 'report' };
    this.#rate = new RateLimit(host.clock);
    this.#rate.speed = Math.max(0, init.block?.speed ?? 0);
    this.#blocker = { reason: `block device is in use by block job: ${init.work.type}` };
    this.concluded = new Promise((resolve) => {
      this.#tellConcluded = resolve;
    });
    this.#become('created');
  }

  get type(): JobType {
    return this.work.type;
  }

  get status(): JobStatus {
    return this.#status;
  }

  /** Bytes a second; 0: no limit. */
  get speed(): number {
    return this.#rate.speed;
  }

  /** Works at this moment. */
  get isBusy(): boolean {
    return this.#busy;
  }

  /** Shall not go on: a client, an error or a drained section holds it. */
  get isHeld(): boolean {
    return this.#pauseCount > 0;
  }

  get isReady(): boolean {
    return this.#status === 'ready' || this.#status === 'standby';
  }

  get isCancelled(): boolean {
    return this.#forceCancel;
  }

  get isCancelRequested(): boolean {
    return this.#cancelRequested;
  }

  /** `run` has ended, or was never begun and will not be. */
  get hasEnded(): boolean {
    return this.#ended;
  }

  /** Why it failed, for people. */
  get errorText(): string | undefined {
    return this.error === undefined ? undefined : messageOf(this.error);
  }

  // Verbs of clients. Each throws BlockError when the state does not take it.

  /** Throws BlockError with QEMU's text when the job's state does not take the verb. */
  apply(verb: JobVerb): void {
    if (accepts(this.#status, verb)) return;
    const text = `Job '${this.id}' in state '${this.#status}' cannot accept command verb '${verb}'`;
    throw new BlockError('EPERM', text);
  }

  /** Begins with the work. */
  start(): void {
    assert(this.#status === 'created', `job '${this.id}' was started before`);
    this.#started = true;
    this.#become('running');
    this.#busy = true;
    this.#running = this.#run();
    void this.#running.then(() => this.#host.exclusive(() => this.#completed()));
  }

  /**
   * As {@link start}, by one whom no command disturbs: a job with nothing to do is over when it
   * resolves.
   */
  async startNow(): Promise<void> {
    this.start();
    for (let i = 0; i < AT_ONCE && !this.#ended; i++) await Promise.resolve();
    if (this.#ended) await this.#completed();
  }

  /** A client pauses the job. */
  pauseByUser(): void {
    this.apply('pause');
    if (this.#userPaused) throw new BlockError('EINVAL', 'Job is already paused');
    this.#userPaused = true;
    this.#hold();
  }

  /** A client lets the job go on; an error that had stopped it is forgotten. */
  resumeByUser(): void {
    if (!this.#userPaused || this.#pauseCount === 0) {
      throw new BlockError('EINVAL', "Can't resume a job that was not paused");
    }
    this.apply('resume');
    this.#endUserPause();
    this.wake();
  }

  get isUserPaused(): boolean {
    return this.#userPaused;
  }

  /** A client changes the speed. */
  setSpeed(bytesPerSecond: number): void {
    this.apply('set-speed');
    checkSpeed(bytesPerSecond);
    const old = this.#rate.speed;
    this.#rate.speed = bytesPerSecond;
    if (old === 0 || (bytesPerSecond > 0 && bytesPerSecond <= old)) return;
    this.wake();
  }

  /** A client ends the job; resolves when that is done as far as it can be at once. */
  async cancelByUser(force: boolean): Promise<void> {
    this.apply('cancel');
    await this.cancel(force);
  }

  /** A client completes a ready job. */
  async complete(): Promise<void> {
    this.apply('complete');
    if (this.#cancelRequested || this.work.complete === undefined) {
      throw new BlockError('EINVAL', `The active block job '${this.id}' cannot be completed`);
    }
    await this.work.complete(this);
    this.wake();
  }

  /** A client lets a pending job, and all of its transaction, take effect. */
  async finalize(): Promise<void> {
    this.apply('finalize');
    await this.transaction.finalize(this);
  }

  /** A client has seen the result. */
  dismiss(): void {
    this.apply('dismiss');
    this.#forget();
  }

  async change(options: Readonly<Record<string, unknown>>): Promise<void> {
    this.apply('change');
    if (this.work.change === undefined) {
      throw new BlockError('ENOTSUP', 'Job type does not support change');
    }
    await this.work.change(options);
  }

  /** Ends the job by force or in the way of its kind. */
  async cancel(force: boolean): Promise<void> {
    if (this.#status === 'concluded') {
      this.#forget();
      return;
    }
    const forced = this.requestCancel(force);
    if (!this.#started) await this.#completed();
    else if (!this.#ended) this.wake();
    else if (forced) await this.transaction.abort(this);
  }

  /** Asks the job to end; whether by force. Nothing has happened yet. */
  requestCancel(force: boolean): boolean {
    const forced = this.work.cancel?.(force) ?? true;
    if (this.#userPaused) this.#endUserPause();
    if (this.#ended && !forced) return false;
    this.#cancelRequested = true;
    this.#forceCancel ||= forced;
    if (forced) this.work.interrupt?.();
    this.wake();
    return forced;
  }

  // What `run` uses.

  async pausePoint(): Promise<void> {
    this.#checkCancelled();
    if (this.#pauseCount === 0) return;
    await this.#park(undefined);
    this.#checkCancelled();
  }

  async sleep(ms: number): Promise<void> {
    this.#checkCancelled();
    await this.#park(ms);
    this.#checkCancelled();
  }

  async idle(): Promise<void> {
    this.#checkCancelled();
    await this.#park(undefined);
    this.#checkCancelled();
  }

  /** Lets a parked job look about: it goes on, or is paused when it is to be. */
  wake(): void {
    const parked = this.#parked;
    if (parked === undefined) return;
    parked.cancelTimer();
    parked.cancelTimer = (): void => undefined;
    if (this.#pauseCount > 0 && !this.#forceCancel) {
      this.#enterPause();
      return;
    }
    if (this.#pausedFrom !== undefined) {
      const back = this.#pausedFrom;
      this.#pausedFrom = undefined;
      this.#become(back);
    }
    this.#parked = undefined;
    this.#busy = true;
    parked.resume();
  }

  async throttle(bytes: number): Promise<void> {
    this.#rate.account(bytes);
    await this.pausePoint();
    for (let ms = this.#rate.delayMs(); ms > 0; ms = this.#rate.delayMs()) await this.sleep(ms);
  }

  ready(): void {
    this.#become('ready');
    this.#tellBlockEvent('BLOCK_JOB_READY', this.#facts());
  }

  async ioFailed(operation: 'read' | 'write', e: unknown): Promise<'ignore' | 'retry'> {
    const isFull = errorCode(e) === 'ENOSPC';
    const action = actionFor(this.#onError[operation], isFull);
    this.#tellBlockEvent('BLOCK_JOB_ERROR', { device: this.id, operation, action });
    if (action === 'report') throw new BlockError(errorCode(e), undefined, { cause: e });
    if (action === 'ignore') return 'ignore';
    if (!this.#userPaused) {
      this.#pauseCount++;
      // A client resumes it.
      this.#userPaused = true;
    }
    this.ioStatus = isFull ? 'nospace' : 'failed';
    await this.pausePoint();
    return 'retry';
  }

  // Nodes that must stay as they are.

  /** Ties the job to a node until it ends: nothing is done to it that `except` does not allow. */
  async addNode(node: BlockNode, name: string, perms: PermPair): Promise<void> {
    const edge = new Child(this, name, 0, node, perms);
    await node.graph.attachEdge(edge);
    this.#edges.push(edge);
    node.opBlockers.add(this.#blocker);
  }

  /** Whether the job is tied to a node. */
  uses(node: BlockNode): boolean {
    return this.#edges.some((edge) => edge.node === node);
  }

  /** Lets go of all nodes. */
  async releaseNodes(): Promise<void> {
    for (const edge of this.#edges) edge.node.opBlockers.delete(this.#blocker);
    for (const edge of this.#edges.splice(0)) await edge.node.graph.detachEdge(edge);
  }

  describeParent(): string {
    return `${this.type} job '${this.id}'`;
  }

  /** A node of the job is to be still: parks it (J4). */
  async drainBegin(): Promise<void> {
    this.#hold();
    if (!this.#busy) return;
    await new Promise<void>((resolve) => {
      this.#quiet.push(resolve);
    });
  }

  drainEnd(): void {
    this.#pauseCount--;
    if (this.#pauseCount === 0) this.wake();
  }

  // What a transaction does with its jobs.

  /** Resolves when `run` has ended. */
  async whenEnded(): Promise<void> {
    await this.#running;
  }

  /** Takes a cancel as a failure; whether the job has failed. */
  takeOutcome(): boolean {
    if (this.error === undefined && this.#forceCancel) this.error = new BlockError('ECANCELED');
    if (this.error === undefined) return false;
    if (this.#status !== 'aborting') this.#become('aborting');
    return true;
  }

  /** The work is done, and the others' of the transaction may not be. */
  becomeWaiting(): void {
    this.#become('waiting');
  }

  becomePending(): void {
    this.#become('pending');
    if (this.autoFinalize) return;
    this.#tellBlockEvent('BLOCK_JOB_PENDING', { type: this.type, id: this.id });
  }

  /** Runs `prepare`; whether that went well. */
  async prepare(): Promise<boolean> {
    if (this.error !== undefined) return false;
    try {
      await this.work.prepare?.();
      return true;
    } catch (e) {
      this.error = e;
      this.takeOutcome();
      return false;
    }
  }

  /** Commits or aborts, cleans, and tells the result. */
  async settle(): Promise<void> {
    if (this.#settling) return;
    this.#settling = true;
    const failed = this.takeOutcome();
    if (failed) await this.work.abort?.();
    else await this.work.commit?.();
    const unclean = await cleanUp(this.work);
    this.error ??= unclean;
    await this.releaseNodes();
    this.#ended = true;
    if (this.#started) this.#tellEnd(failed || this.error !== undefined);
    this.transaction.remove(this);
    this.#become('concluded');
    this.#tellConcluded();
    if (this.autoDismiss || !this.#started) this.#forget();
  }

  /** The job could not be set up; it never was. */
  async discard(): Promise<void> {
    await this.releaseNodes();
    this.transaction.remove(this);
    this.#ended = true;
    this.#become('null');
    this.#host.remove(this);
    this.#tellConcluded();
  }

  /** QMP's JobInfo. */
  jobInfo(): Record<string, unknown> {
    return {
      id: this.id,
      type: this.type,
      status: this.#status,
      'current-progress': this.progress.done,
      'total-progress': this.progress.total,
      error: this.errorText,
    };
  }

  /** QMP's BlockJobInfo. */
  blockJobInfo(): Record<string, unknown> {
    return {
      ...this.#facts(),
      busy: this.#busy,
      paused: this.#pauseCount > 0,
      'io-status': this.ioStatus,
      ready: this.isReady,
      status: this.#status,
      'auto-finalize': this.autoFinalize,
      'auto-dismiss': this.autoDismiss,
      error: this.errorText,
      ...this.work.info?.(),
    };
  }

  #facts(): Record<string, unknown> {
    return {
      type: this.type,
      device: this.id,
      len: this.progress.total,
      offset: this.progress.done,
      speed: this.#rate.speed,
    };
  }

  #tellEnd(failed: boolean): void {
    if (this.#forceCancel) this.#tellBlockEvent('BLOCK_JOB_CANCELLED', this.#facts());
    else {
      const error = failed ? { error: this.errorText } : {};
      this.#tellBlockEvent('BLOCK_JOB_COMPLETED', { ...this.#facts(), ...error });
    }
  }

  #tellBlockEvent(name: string, data: Readonly<Record<string, unknown>>): void {
    if (this.isBlockJob) this.#host.emit(name, data);
  }

  #become(status: JobStatus): void {
    const from = this.#status;
    assert(mayFollow(from, status), `J1: job '${this.id}' goes from ${from} to ${status}`);
    this.#status = status;
    this.#host.emit('JOB_STATUS_CHANGE', { id: this.id, status });
  }

  #forget(): void {
    this.#become('null');
    this.#host.remove(this);
  }

  async #run(): Promise<void> {
    try {
      if (this.#pauseCount > 0) await this.pausePoint();
      await this.work.run(this);
    } catch (e) {
      if (!this.#forceCancel) this.error = e;
    }
    this.#ended = true;
    this.#busy = false;
    this.#tellQuiet();
  }

  /** `run` has ended, or will not begin. */
  async #completed(): Promise<void> {
    // Another job of the transaction, or a cancel, may have settled it meanwhile.
    if (this.#settling || this.#isCompleted()) return;
    if (this.takeOutcome()) await this.transaction.abort(this);
    else await this.transaction.succeeded(this);
  }

  #isCompleted(): boolean {
    return !['created', 'running', 'paused', 'ready', 'standby'].includes(this.#status);
  }

  #checkCancelled(): void {
    if (this.#forceCancel) throw new BlockError('ECANCELED');
  }

  #hold(): void {
    this.#pauseCount++;
    this.wake();
  }

  #endUserPause(): void {
    this.#userPaused = false;
    this.ioStatus = 'ok';
    this.#pauseCount--;
  }

  /** Gives up the loop until {@link wake} lets it go on; `ms`: or so long, unless paused. */
  #park(ms: number | undefined): Promise<void> {
    return new Promise((resume) => {
      const parked: Parked = { resume, cancelTimer: () => undefined };
      this.#parked = parked;
      this.#busy = false;
      if (this.#pauseCount > 0) this.#enterPause();
      else if (ms !== undefined) {
        parked.cancelTimer = this.#host.clock.after(ms, () => {
          this.wake();
        });
      }
      this.#tellQuiet();
    });
  }

  #enterPause(): void {
    if (this.#pausedFrom !== undefined) return;
    this.#pausedFrom = this.#status;
    this.#become(this.#status === 'ready' ? 'standby' : 'paused');
  }

  #tellQuiet(): void {
    for (const resolve of this.#quiet.splice(0)) resolve();
  }
}

/** Turns of microtasks in which a job with nothing to do is over. */
const AT_ONCE = 8;

function actionFor(policy: OnError, isFull: boolean): 'report' | 'ignore' | 'stop' {
  if (policy === 'enospc' || policy === 'auto') return isFull ? 'stop' : 'report';
  return policy;
}

/** Throws BlockError with QEMU's text for a speed that cannot be. */
export function checkSpeed(bytesPerSecond: number): void {
  if (bytesPerSecond >= 0) return;
  throw new BlockError('EINVAL', "Parameter 'speed' expects a non-negative value");
}
