/**
 * Following a disk that is being written: what a bitmap names is copied until nothing is left, then
 * the job is ready, and goes on with what is written. What mirrors and commits of active images
 * have in common.
 *
 * Invariants
 *  F1  A bit is cleared before its range is read and set when a write has ended, so that a range is
 *      clean only if the target has what the last write left.
 */
import type { DirtyBitmap } from '../block/dirty-bitmap.js';
import { chainStatus } from '../block/status.js';
import type { BlockNode } from '../block/node.js';
import { doPieces, PieceFailure } from './pieces.js';
import type { JobControl } from './work.js';

export interface FollowInit {
  readonly dirty: DirtyBitmap;
  /** Length of the disk. */
  readonly bytes: number;
  /** Bytes that are copied at a time, at most. */
  readonly pieceBytes: number;
  /** Pieces in flight at a time. */
  readonly parallel: number;
  /** Throws {@link PieceFailure}. */
  copy(this: void, offset: number, bytes: number): Promise<void>;
  /** Makes what was copied durable. */
  flush(this: void): Promise<void>;
  /** What failed beside the copies since it was asked last. */
  takeFailure?(this: void): PieceFailure | undefined;
}

/** How often a job that is ready looks for what was written. */
const LOOK_MS = 100;

export class Follow {
  readonly #init: FollowInit;
  isReady = false;
  /** The job was told to complete. */
  completes = false;

  constructor(init: FollowInit) {
    this.#init = init;
  }

  /** Until the job is to end. Throws what ends it. */
  async run(job: JobControl): Promise<void> {
    const { dirty, takeFailure } = this.#init;
    this.#tellTotal(job);
    for (;;) {
      await this.#copyDirty(job);
      const failure = takeFailure?.();
      if (failure !== undefined) await job.ioFailed(failure.operation, failure.cause);
      if (dirty.dirtyBytes > this.#mayStay) continue;
      if (!this.isReady) {
        if (!(await this.#flushed(job))) continue;
        this.isReady = true;
        job.ready();
      }
      const ends = this.completes || job.isCancelRequested;
      if (ends && (await this.#flushed(job))) return;
      if (!ends) await job.sleep(LOOK_MS);
    }
  }

  /** Makes what was copied durable, with the job's policy of errors; false: not yet. */
  async #flushed(job: JobControl): Promise<boolean> {
    try {
      await this.#init.flush();
      return true;
    } catch (e) {
      if ((await job.ioFailed('write', e)) === 'ignore') await job.sleep(LOOK_MS);
      return false;
    }
  }

  /** A job that completes copies what fits into the buffers while guests are held. */
  get #mayStay(): number {
    const { pieceBytes, parallel } = this.#init;
    return this.isReady && this.completes ? pieceBytes * parallel : 0;
  }

  /** Whether a cancel ends the job at once. */
  endsAtOnce(force: boolean): boolean {
    return force || !this.isReady;
  }

  /** The last ranges, while guests are held. Throws. */
  async catchUp(): Promise<void> {
    try {
      for (let range = this.#take(0); range !== undefined; range = this.#take(0)) {
        await this.#init.copy(range.offset, range.bytes);
      }
    } catch (e) {
      throw e instanceof PieceFailure ? e.cause : e;
    }
  }

  #tellTotal(job: JobControl): void {
    job.progress.total = job.progress.done + this.#init.dirty.dirtyBytes;
  }

  async #copyDirty(job: JobControl): Promise<void> {
    let at = 0;
    await doPieces(job, {
      parallel: this.#init.parallel,
      next: async () => {
        const range = this.#take(at);
        if (range === undefined) return undefined;
        at = range.offset + range.bytes;
        job.progress.total = Math.max(job.progress.total, job.progress.done + range.bytes);
        return { ...range, copy: true };
      },
      copy: ({ offset, bytes }) => this.#init.copy(offset, bytes),
      ignored: () => 'again',
    });
    this.#tellTotal(job);
  }

  /** The next dirty range from `from`, which is clean then (F1). */
  #take(from: number): { offset: number; bytes: number } | undefined {
    const { dirty, bytes: end, pieceBytes } = this.#init;
    const start = dirty.next(from, true);
    if (start === undefined || start >= end) return undefined;
    const offset = start - (start % dirty.granularity);
    const stop = dirty.next(start, false) ?? end;
    const bytes = Math.min(stop, offset + pieceBytes, end) - offset;
    dirty.clear(offset, bytes);
    return { offset, bytes };
  }
}

/** Marks what a chain holds above `base`, and what nobody knows about. Throws ECANCELED. */
export async function markHeld(
  job: JobControl,
  dirty: DirtyBitmap,
  top: BlockNode,
  base: BlockNode | undefined,
): Promise<void> {
  for (let at = 0; at < top.size;) {
    await job.pausePoint();
    const left = top.size - at;
    const run = await chainStatus(top, base, at, left, false).catch(() => undefined);
    const bytes = run === undefined || run.bytes === 0 ? left : run.bytes;
    if (run?.allocated !== false) dirty.set(at, bytes);
    at += bytes;
  }
}
