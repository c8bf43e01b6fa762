/** What jobs that move data have in common: pieces of work, some at a time. */
import type { Backend } from '../block/backend.js';
import { copyThrough } from '../block/copy-through.js';
import { BlockError } from '../block/errors.js';
import { chainStatus } from '../block/status.js';
import { Iov } from '../lib/iov.js';
import type { JobControl } from './work.js';

/** A run of bytes, and whether there is something to do with it. */
export interface Piece {
  readonly offset: number;
  readonly bytes: number;
  readonly copy: boolean;
}

/** A piece that could not be done. */
export class PieceFailure extends Error {
  constructor(
    readonly operation: 'read' | 'write',
    override readonly cause: unknown,
  ) {
    super(operation);
  }
}

/** A request of a piece. Throws {@link PieceFailure}. */
export async function asPiece<T>(operation: 'read' | 'write', request: Promise<T>): Promise<T> {
  try {
    return await request;
  } catch (e) {
    throw new PieceFailure(operation, e);
  }
}

/**
 * Copies bytes, from file to file of the host where both ends allow, without bringing them here.
 * Throws {@link PieceFailure}.
 */
export async function copyData(
  source: Backend,
  target: Backend,
  offset: number,
  bytes: number,
  findZeroes = false,
): Promise<void> {
  const through = !findZeroes && target.node.takesFileRuns;
  if (through && (await copyThrough(source, target, offset, bytes))) return;
  const data = Iov.alloc(bytes);
  await asPiece('read', source.read(offset, data));
  const isZero = findZeroes && data.isZero();
  const write = isZero ? target.writeZeroes(offset, bytes) : target.write(offset, data);
  await asPiece('write', write);
}

/**
 * Copies what `source` shows, zeroes as zeroes where that can be told without reading; `zeroFlags`
 * are those of the zero writes. Throws {@link PieceFailure}.
 */
export async function copyRuns(
  source: Backend | undefined,
  target: Backend | undefined,
  offset: number,
  bytes: number,
  zeroFlags = 0,
): Promise<void> {
  if (source === undefined || target === undefined) throw new BlockError('ECANCELED');
  const end = offset + bytes;
  for (let at = offset; at < end;) {
    const left = end - at;
    const run = await chainStatus(source.node, undefined, at, left).catch(() => undefined);
    const n = run === undefined || run.bytes === 0 ? left : Math.min(run.bytes, left);
    if (run?.zero === true) await asPiece('write', target.writeZeroes(at, n, zeroFlags));
    else await copyData(source, target, at, n);
    at += n;
  }
}

export interface PieceWork {
  /** The next piece, none when the end is reached. May look at the images. */
  next(): Promise<Piece | undefined>;
  /** Throws {@link PieceFailure}. */
  copy(piece: Piece): Promise<void>;
  /** Pieces in flight at a time; default 8. */
  readonly parallel?: number;
  /** What becomes of a piece whose failure is ignored: is it done, or tried again later? */
  ignored(e: unknown): 'done' | 'again';
}

/** Pieces in flight at a time. */
const PARALLEL = 8;
/** Wait before a piece is tried again that nobody said to stop for. */
const RETRY_MS = 100;

/**
 * Does all pieces, several at a time unless the job's speed is limited, with the job's pauses,
 * speed and policy of errors. Throws what ends the job; nothing is in flight then.
 */
export async function doPieces(job: JobControl, work: PieceWork): Promise<void> {
  const inFlight = new Set<Promise<void>>();
  const failed: { piece: Piece; failure: PieceFailure }[] = [];
  const again: Piece[] = [];
  const order = new InOrder(job);
  const start = (piece: Piece): void => {
    const request = work.copy(piece).then(
      () => {
        order.done(piece);
      },
      (e: unknown) => {
        if (!(e instanceof PieceFailure)) throw e;
        failed.push({ piece, failure: e });
      },
    );
    inFlight.add(request);
    const gone = (): void => void inFlight.delete(request);
    request.then(gone, gone);
  };
  const quiet = async (): Promise<void> => {
    await Promise.all(inFlight);
  };
  try {
    for (;;) {
      if (job.isHeld || job.isCancelled || failed.length > 0) {
        await quiet();
        await job.pausePoint();
      }
      for (const { piece, failure } of failed.splice(0)) {
        const answer = await answerTo(job, work, failure);
        if (answer === 'done') order.done(piece);
        else again.push(piece);
      }
      const piece = again.shift() ?? order.begun(await work.next());
      if (piece === undefined) {
        await quiet();
        if (failed.length > 0) continue;
        // Who paused the job sees it paused, not ended.
        if (job.isHeld) await job.pausePoint();
        return;
      }
      if (!piece.copy) {
        order.done(piece);
        continue;
      }
      start(piece);
      if (job.speed > 0) {
        await quiet();
        await job.throttle(piece.bytes);
      } else if (inFlight.size >= (work.parallel ?? PARALLEL)) await Promise.race(inFlight);
    }
  } finally {
    await Promise.allSettled(inFlight);
  }
}

/** Counts pieces as done when all before them are: a job that stops tells where. */
class InOrder {
  readonly #job: JobControl;
  readonly #open: Piece[] = [];
  readonly #done = new Set<Piece>();

  constructor(job: JobControl) {
    this.#job = job;
  }

  begun(piece: Piece | undefined): Piece | undefined {
    if (piece !== undefined) this.#open.push(piece);
    return piece;
  }

  done(piece: Piece): void {
    this.#done.add(piece);
    for (let first = this.#open[0]; first !== undefined; first = this.#open[0]) {
      if (!this.#done.delete(first)) return;
      this.#open.shift();
      this.#job.progress.done += first.bytes;
    }
  }
}

async function answerTo(
  job: JobControl,
  work: PieceWork,
  failure: PieceFailure,
): Promise<'done' | 'again'> {
  const answer = await job.ioFailed(failure.operation, failure.cause);
  if (answer === 'retry') return 'again';
  const then = work.ignored(failure.cause);
  if (then === 'again') await job.sleep(RETRY_MS);
  return then;
}
