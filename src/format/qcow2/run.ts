/**
 * Runs: guest clusters that have a host place, but no entry in their L2 table yet.
 *
 * A run begins when a write allocates (or is about to fill a preallocated place) and ends when its
 * clusters are mapped. In between it knows which bytes the guest has written. That is what makes
 * allocation lazy: what the guest writes itself need not be copied from the backing file, so the
 * copy waits until a flush, or until too many runs wait (section "delayed copy-on-write" of
 * docs/internals/qcow2-write-order.md).
 */
import { assert } from '../../lib/assert.js';
import type { GuestOffset, HostOffset } from './units.js';

/** Byte ranges [from, to), sorted, disjoint, not adjacent. */
export class RangeSet {
  #from: number[] = [];
  #to: number[] = [];

  get isEmpty(): boolean {
    return this.#from.length === 0;
  }

  /** Number of separate ranges. */
  get count(): number {
    return this.#from.length;
  }

  add(from: number, to: number): void {
    if (from >= to) return;
    const last = this.#to.length - 1;
    if (last >= 0 && from === this.#to[last]!) {
      // A sequential writer: the last range grows.
      this.#to[last] = to;
      return;
    }
    if (last < 0 || from > this.#to[last]!) {
      this.#from.push(from);
      this.#to.push(to);
      return;
    }
    let i = 0;
    while (this.#to[i]! < from) i++;
    let k = i;
    let start = from;
    let end = to;
    while (k < this.#from.length && this.#from[k]! <= to) {
      start = Math.min(start, this.#from[k]!);
      end = Math.max(end, this.#to[k]!);
      k++;
    }
    this.#from.splice(i, k - i, start);
    this.#to.splice(i, k - i, end);
  }

  covers(from: number, to: number): boolean {
    for (let i = 0; i < this.#from.length; i++) {
      if (this.#from[i]! <= from && this.#to[i]! >= to) return true;
    }
    return from >= to;
  }

  /** Calls `fn` for the covered and uncovered parts of [from, to), in order. */
  split(from: number, to: number, fn: (from: number, to: number, covered: boolean) => void): void {
    let at = from;
    for (let i = 0; i < this.#from.length && at < to; i++) {
      const start = this.#from[i]!;
      const end = this.#to[i]!;
      if (end <= at) continue;
      if (start >= to) break;
      if (start > at) fn(at, start, false);
      const a = Math.max(start, at);
      const b = Math.min(end, to);
      fn(a, b, true);
      at = b;
    }
    if (at < to) fn(at, to, false);
  }
}

/** What the parts of a run that nobody writes have to hold. */
export const Source = {
  /** Zeroes, and the host place reads as zeroes already. */
  none: 0,
  /** Zeroes, which must be written. */
  zero: 1,
  /** What the guest reads there now (backing file, old cluster). */
  copy: 2,
} as const;
export type Source = (typeof Source)[keyof typeof Source];

/** What a run is made from. */
export interface RunInit {
  /** Guest cluster index of the first cluster. */
  readonly first: number;
  readonly count: number;
  readonly host: HostOffset;
  readonly clusterSize: number;
  /** The host place was allocated for this run (and is given back if the run comes to nothing). */
  readonly isNew: boolean;
  readonly source: Source;
  /** Bytes that become readable at once (subcluster or cluster). */
  readonly unit: number;
  /** Guest bytes [from, to) that the run has to hold although nobody may write there. */
  readonly must: readonly (readonly [number, number])[];
  /** Guest bytes that the host place holds already (subclusters of a reused cluster). */
  readonly present: readonly (readonly [number, number])[];
}

/** `open`: takes writes; `closed`: being filled and mapped; `done`: mapped or given up. */
export type RunState = 'open' | 'closed' | 'done';

export class Run {
  readonly first: number;
  readonly count: number;
  readonly host: HostOffset;
  readonly guest: GuestOffset;
  /** End of the run in guest bytes. */
  readonly guestEnd: GuestOffset;
  readonly isNew: boolean;
  readonly source: Source;
  readonly unit: number;
  readonly #must: readonly (readonly [number, number])[];
  /** What the guest wrote (and what was filled in), in guest bytes. */
  readonly covered = new RangeSet();
  state: RunState = 'open';
  /** Writes into the run that are planned or in flight. */
  #inFlight = 0;
  /** The guest wrote into it, so that there is something to map. */
  isWritten = false;
  #idle: (() => void)[] | undefined;
  #changed: (() => void)[] | undefined;

  constructor(init: RunInit) {
    this.first = init.first;
    this.count = init.count;
    this.host = init.host;
    this.guest = init.first * init.clusterSize;
    this.guestEnd = this.guest + init.count * init.clusterSize;
    this.isNew = init.isNew;
    this.source = init.source;
    this.unit = init.unit;
    this.#must = init.must;
    for (const [from, to] of init.present) this.covered.add(from, to);
  }

  /** The guest wrote [from, to), which is in the run's place now. */
  wrote(from: GuestOffset, to: GuestOffset): void {
    this.covered.add(from, to);
    this.isWritten = true;
  }

  /** Host offset of a guest byte inside the run. */
  hostOf(guest: GuestOffset): HostOffset {
    return this.host + (guest - this.guest);
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  enter(): void {
    assert(this.state !== 'done', 'write into a run that has ended');
    this.#inFlight++;
  }

  leave(): void {
    this.#inFlight--;
    if (this.#inFlight > 0) return;
    const idle = this.#idle;
    if (idle === undefined) return;
    this.#idle = undefined;
    for (const resolve of idle) resolve();
  }

  /** Resolves when no write is in flight. */
  whenIdle(): Promise<void> {
    if (this.#inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => (this.#idle ??= []).push(resolve));
  }

  /** Resolves when the run is not closed any more: it takes writes again, or has ended. */
  whenChanged(): Promise<void> {
    if (this.state !== 'closed') return Promise.resolve();
    return new Promise((resolve) => (this.#changed ??= []).push(resolve));
  }

  /** After a failed attempt to fill or map it: it goes on as before. */
  reopen(): void {
    this.state = 'open';
    this.#wake();
  }

  end(): void {
    this.state = 'done';
    this.#wake();
  }

  #wake(): void {
    const changed = this.#changed;
    if (changed === undefined) return;
    this.#changed = undefined;
    for (const resolve of changed) resolve();
  }

  /**
   * Parts that have to be filled before the run can be mapped: the rest of each unit that is
   * covered in part, and what must be there in any case. `planned`: parts that are about to be
   * written.
   */
  gaps(planned: readonly (readonly [number, number])[] = []): [number, number][] {
    if (this.source === Source.none) return [];
    let have = this.covered;
    if (planned.length > 0) {
      have = new RangeSet();
      this.covered.split(this.guest, this.guestEnd, (from, to, covered) => {
        if (covered) have.add(from, to);
      });
      for (const [from, to] of planned) have.add(from, to);
    }
    const out: [number, number][] = [];
    for (const [from, to] of this.#units(have)) {
      have.split(from, to, (a, b, covered) => {
        if (!covered) out.push([a, b]);
      });
    }
    return out;
  }

  /** Units that the run maps, as sorted disjoint ranges of guest bytes. */
  touched(): [number, number][] {
    return this.#units(this.covered);
  }

  #units(have: RangeSet): [number, number][] {
    const units = new RangeSet();
    for (const [from, to] of this.#must) units.add(from, to);
    have.split(this.guest, this.guestEnd, (from, to, covered) => {
      if (!covered) return;
      units.add(from - (from % this.unit), Math.ceil(to / this.unit) * this.unit);
    });
    const out: [number, number][] = [];
    units.split(this.guest, this.guestEnd, (from, to, covered) => {
      if (covered) out.push([from, to]);
    });
    return out;
  }
}

/** The runs of an image by guest cluster. */
export class RunMap {
  readonly #byCluster = new Map<number, Run>();
  readonly #runs = new Set<Run>();
  readonly #clusterSize: number;

  constructor(clusterSize: number) {
    this.#clusterSize = clusterSize;
  }

  get size(): number {
    return this.#runs.size;
  }

  all(): Run[] {
    return [...this.#runs];
  }

  /** Runs in order of their beginning. */
  values(): IterableIterator<Run> {
    return this.#runs.values();
  }

  at(cluster: number): Run | undefined {
    return this.#byCluster.get(cluster);
  }

  /** The first run that [guest, guest + bytes) meets. */
  firstIn(guest: GuestOffset, bytes: number): Run | undefined {
    if (this.#runs.size === 0) return undefined;
    const from = Math.floor(guest / this.#clusterSize);
    const to = Math.ceil((guest + bytes) / this.#clusterSize);
    if (to - from > this.#byCluster.size) {
      let best: Run | undefined;
      for (const run of this.#runs) {
        if (run.first >= to || run.first + run.count <= from) continue;
        if (best === undefined || run.first < best.first) best = run;
      }
      return best;
    }
    for (let c = from; c < to; c++) {
      const run = this.#byCluster.get(c);
      if (run !== undefined) return run;
    }
    return undefined;
  }

  add(run: Run): void {
    this.#runs.add(run);
    for (let c = run.first; c < run.first + run.count; c++) {
      assert(!this.#byCluster.has(c), 'two runs over one cluster');
      this.#byCluster.set(c, run);
    }
  }

  delete(run: Run): void {
    if (!this.#runs.delete(run)) return;
    for (let c = run.first; c < run.first + run.count; c++) this.#byCluster.delete(c);
  }
}
