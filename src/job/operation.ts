/**
 * What long operations share: progress with rate and time left, and cancelling.
 *
 * ```ts
 * const operation = runOperation(clock, (meter) => convert({ …, meter }));
 * for await (const p of operation) console.log(p.done, p.total, p.secondsLeft);
 * const result = await operation.result;
 * ```
 */
import type { Clock } from '../host/host.js';
import { BlockError } from '../block/errors.js';

/** How far an operation is; all counts in bytes. */
export interface Progress {
  readonly done: number;
  /** What there is to do as far as known now; may grow. 0 before the first plan. */
  readonly total: number;
  /** Mean over the last seconds; 0 before anything was done. */
  readonly bytesPerSecond: number;
  /** Undefined while no rate is known. */
  readonly secondsLeft: number | undefined;
}

/** What an operation needs to run under a caller's eyes. */
export interface OperationOptions {
  /** Called after each piece of work (of about a megabyte), and at the end. */
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  /** Ends the operation with ECANCELED at the next piece; nothing stays in flight. */
  readonly signal?: AbortSignal | undefined;
}

/** Weight of the last interval in the rate's moving mean, per second of its length. */
const RATE_WEIGHT = 0.5;

/** Counts work and tells who wants to know. */
export class ProgressMeter {
  done = 0;
  total = 0;
  readonly #clock: Clock;
  readonly #notify: ((progress: Progress) => void) | undefined;
  readonly #signal: AbortSignal | undefined;
  #rate = 0;
  #markTime: number;
  #markDone = 0;

  constructor(clock: Clock, options: OperationOptions = {}) {
    this.#clock = clock;
    this.#notify = options.onProgress;
    this.#signal = options.signal;
    this.#markTime = clock.now();
  }

  /** `bytes` more are done. */
  advance(bytes: number): void {
    this.done += bytes;
    this.#notify?.(this.progress());
  }

  /** All is done: tells it whatever the time. */
  finish(): void {
    this.done = this.total;
    this.#notify?.(this.progress());
  }

  progress(): Progress {
    const now = this.#clock.now();
    const seconds = (now - this.#markTime) / 1000;
    if (seconds > 0.1) {
      const latest = (this.done - this.#markDone) / seconds;
      const weight = this.#rate === 0 ? 1 : Math.min(1, seconds * RATE_WEIGHT);
      this.#rate += (latest - this.#rate) * weight;
      this.#markTime = now;
      this.#markDone = this.done;
    }
    const left = Math.max(0, this.total - this.done);
    return {
      done: this.done,
      total: this.total,
      bytesPerSecond: this.#rate,
      secondsLeft: this.#rate > 0 ? left / this.#rate : undefined,
    };
  }

  /** Throws ECANCELED when the caller gave up. */
  check(): void {
    if (this.#signal?.aborted === true) throw new BlockError('ECANCELED');
  }
}

/** A running operation: await `result`, or iterate over its progress first. */
export class Operation<T> implements AsyncIterable<Progress> {
  readonly result: Promise<T>;
  #latest: Progress | undefined;
  #wake: (() => void) | undefined;
  #ended = false;

  constructor(start: (onProgress: (progress: Progress) => void) => Promise<T>) {
    this.result = start((progress) => {
      this.#latest = progress;
      this.#wake?.();
    });
    const end = (): void => {
      this.#ended = true;
      this.#wake?.();
    };
    this.result.then(end, end);
  }

  /** The latest progress each time there is news; ends with the operation, throws its error. */
  async *[Symbol.asyncIterator](): AsyncIterator<Progress> {
    for (;;) {
      const latest = this.#latest;
      this.#latest = undefined;
      if (latest !== undefined) yield latest;
      else if (this.#hasEnded()) break;
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
    await this.result;
  }

  #hasEnded(): boolean {
    return this.#ended;
  }
}
