/** Clocks of a machine: one that whoever drives it moves, and one that goes with the host's. */
import type { GuestClock } from '../device/bus/clock.js';
import type { Clock } from '../host/host.js';

interface Timer {
  readonly at: number;
  readonly fn: () => void;
}

/** A clock that stands still until it is moved. */
export class SteppedClock implements GuestClock {
  #now = 0;
  readonly #timers = new Set<Timer>();

  now(): number {
    return this.#now;
  }

  after(delayNs: number, fn: () => void): () => void {
    const timer = { at: this.#now + Math.max(0, delayNs), fn };
    this.#timers.add(timer);
    return () => {
      this.#timers.delete(timer);
    };
  }

  /** When the next timer falls due; undefined: none is set. */
  get next(): number | undefined {
    let first: number | undefined;
    for (const { at } of this.#timers) if (first === undefined || at < first) first = at;
    return first;
  }

  /** Moves on to `at`, nanoseconds, running in order what falls due; never goes back. */
  moveTo(at: number): void {
    for (let next = this.#first(); next !== undefined && next.at <= at; next = this.#first()) {
      this.#timers.delete(next);
      this.#now = Math.max(this.#now, next.at);
      next.fn();
    }
    this.#now = Math.max(this.#now, at);
  }

  #first(): Timer | undefined {
    let first: Timer | undefined;
    for (const timer of this.#timers) if (first === undefined || timer.at < first.at) first = timer;
    return first;
  }
}

/** A clock that goes with the host's. */
export function hostClock(clock: Clock): GuestClock {
  const start = clock.now();
  return {
    now: () => Math.floor((clock.now() - start) * 1e6),
    after: (delayNs, fn) => clock.after(delayNs / 1e6, fn),
  };
}
