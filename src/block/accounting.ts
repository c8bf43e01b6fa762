/**
 * What a device has done with its disk: operations, bytes, times, histograms.
 *
 * Whoever carries out requests for a guest counts them: the backend itself does not, so that its
 * short way stays short, and so that a request that a device splits or merges counts as the guest
 * made it.
 *
 * ```ts
 * const begun = backend.accounting.begin();
 * await backend.read(offset, iov);
 * backend.accounting.done('read', iov.bytes, begun);
 * ```
 */
import type { Clock } from '../host/host.js';

export const accountedKinds = ['read', 'write', 'zoneAppend', 'flush', 'unmap'] as const;

export type AccountedKind = (typeof accountedKinds)[number];

/** What is counted of one kind of request; times in nanoseconds. */
export interface KindCounters {
  bytes: number;
  operations: number;
  failed: number;
  /** Refused before anything was done, for they made no sense. */
  invalid: number;
  /** Requests that were joined with others. */
  merged: number;
  totalTimeNs: number;
}

/** Bounds in nanoseconds, rising, and how many requests lay below, between and above them. */
export interface LatencyHistogram {
  readonly boundaries: readonly number[];
  readonly bins: number[];
}

const NS_PER_MS = 1_000_000;

/** Least, greatest and average of what happened in about the last `periodMs`. */
class TimedAverage {
  /** Two windows, the second half a period behind; the older one is told. */
  readonly #windows: { min: number; max: number; sum: number; count: number; endMs: number }[];
  readonly #periodMs: number;

  constructor(periodMs: number, nowMs: number) {
    this.#periodMs = periodMs;
    const empty = { min: Infinity, max: 0, sum: 0, count: 0 };
    this.#windows = [
      { ...empty, endMs: nowMs + periodMs },
      { ...empty, endMs: nowMs + periodMs + periodMs / 2 },
    ];
  }

  add(value: number, nowMs: number): void {
    this.#expire(nowMs);
    for (const window of this.#windows) {
      window.min = Math.min(window.min, value);
      window.max = Math.max(window.max, value);
      window.sum += value;
      window.count++;
    }
  }

  facts(nowMs: number): { min: number; max: number; average: number; depth: number } {
    this.#expire(nowMs);
    const [a, b] = this.#windows;
    const window = a !== undefined && b !== undefined && b.endMs < a.endMs ? b : a;
    if (window === undefined || window.count === 0) return { min: 0, max: 0, average: 0, depth: 0 };
    const elapsedNs = (this.#periodMs - (window.endMs - nowMs)) * NS_PER_MS;
    const average = Math.floor(window.sum / window.count);
    const depth = elapsedNs > 0 ? window.sum / elapsedNs : 0;
    return { min: window.min, max: window.max, average, depth };
  }

  #expire(nowMs: number): void {
    for (const window of this.#windows) {
      if (nowMs < window.endMs) continue;
      const missed = Math.floor((nowMs - window.endMs) / this.#periodMs) + 1;
      Object.assign(window, { min: Infinity, max: 0, sum: 0, count: 0 });
      window.endMs += missed * this.#periodMs;
    }
  }
}

/** What is told of one interval, as QMP's BlockDeviceTimedStats has it. */
export interface IntervalFacts {
  readonly seconds: number;
  readonly kinds: Readonly<
    Record<AccountedKind, { min: number; max: number; average: number; depth: number }>
  >;
}

export class IoAccounting {
  readonly read = counters();
  readonly write = counters();
  readonly zoneAppend = counters();
  readonly flush = counters();
  readonly unmap = counters();
  /** Requests that failed count for times and idleness. */
  accountFailed = true;
  /** Requests that made no sense count for idleness. */
  accountInvalid = true;
  readonly histograms = new Map<AccountedKind, LatencyHistogram>();
  readonly #clock: Clock;
  /** As under QEMU's qtest: all requests take the same time. */
  readonly #fixedNs: number | undefined;
  readonly #intervals: {
    readonly seconds: number;
    readonly averages: Readonly<Record<AccountedKind, TimedAverage>>;
  }[] = [];
  #lastMs: number | undefined;

  constructor(clock: Clock, fixedNs?: number) {
    this.#clock = clock;
    this.#fixedNs = fixedNs;
  }

  /** The moment at which a request begins; for {@link done} and {@link failed}. */
  begin(): number {
    return this.#clock.now();
  }

  /** A request of `bytes` that began at `begunMs` went well. */
  done(kind: AccountedKind, bytes: number, begunMs: number): void {
    const count = this[kind];
    count.bytes += bytes;
    count.operations++;
    this.#time(kind, begunMs, true);
  }

  /** It failed. */
  failed(kind: AccountedKind, begunMs: number): void {
    this[kind].failed++;
    this.#time(kind, begunMs, this.accountFailed);
  }

  /** A request was refused before anything was done. */
  invalid(kind: AccountedKind): void {
    this[kind].invalid++;
    if (this.accountInvalid) this.#lastMs = this.#clock.now();
  }

  /** So many requests were joined with others, and are not counted themselves. */
  merged(kind: AccountedKind, requests: number): void {
    this[kind].merged += requests;
  }

  /** Nanoseconds since the last request; undefined before the first. */
  get idleNs(): number | undefined {
    if (this.#lastMs === undefined) return undefined;
    return Math.round((this.#clock.now() - this.#lastMs) * NS_PER_MS);
  }

  /** From now on times are told for the last `seconds`, too. */
  addInterval(seconds: number): void {
    const now = this.#clock.now();
    const make = (): TimedAverage => new TimedAverage(seconds * 1000, now);
    const averages = {
      read: make(),
      write: make(),
      zoneAppend: make(),
      flush: make(),
      unmap: make(),
    };
    this.#intervals.push({ seconds, averages });
  }

  /** The first that was added first. */
  intervals(): IntervalFacts[] {
    const now = this.#clock.now();
    return this.#intervals.map(({ seconds, averages }) => ({
      seconds,
      kinds: {
        read: averages.read.facts(now),
        write: averages.write.facts(now),
        zoneAppend: averages.zoneAppend.facts(now),
        flush: averages.flush.facts(now),
        unmap: averages.unmap.facts(now),
      },
    }));
  }

  /** Counts times of a kind by these bounds in nanoseconds; false when they do not rise. */
  setHistogram(kind: AccountedKind, boundaries: readonly number[]): boolean {
    let last = 0;
    for (const each of boundaries) {
      if (each <= last) return false;
      last = each;
    }
    this.histograms.set(kind, {
      boundaries: [...boundaries],
      bins: new Array<number>(boundaries.length + 1).fill(0),
    });
    return true;
  }

  #time(kind: AccountedKind, begunMs: number, isTold: boolean): void {
    const now = this.#clock.now();
    const ns = this.#fixedNs ?? Math.round((now - begunMs) * NS_PER_MS);
    const histogram = this.histograms.get(kind);
    if (histogram !== undefined) {
      const found = histogram.boundaries.findIndex((bound) => ns < bound);
      const bin = found < 0 ? histogram.boundaries.length : found;
      histogram.bins[bin] = (histogram.bins[bin] ?? 0) + 1;
    }
    if (!isTold) return;
    this[kind].totalTimeNs += ns;
    this.#lastMs = now;
    for (const { averages } of this.#intervals) averages[kind].add(ns, now);
  }
}

function counters(): KindCounters {
  return { bytes: 0, operations: 0, failed: 0, invalid: 0, merged: 0, totalTimeNs: 0 };
}
