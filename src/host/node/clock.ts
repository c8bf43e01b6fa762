/** Clock port over the timers of Node. */
import type { Clock } from '../host.js';

/** What a timer of Node takes at most; longer ones would fire at once. */
const LONGEST_MS = 2 ** 31 - 1;

/**
 * Milliseconds since some moment. The first use of `performance` would load all that Node measures
 * with it: a millisecond, which short commands do not have.
 */
export function nowMs(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1000 + nanoseconds / 1e6;
}

export const nodeClock: Clock = {
  now: nowMs,
  after(delayMs, fn) {
    let timer: NodeJS.Timeout | undefined;
    const wait = (ms: number): void => {
      const step = Math.min(ms, LONGEST_MS);
      timer = setTimeout(ms > LONGEST_MS ? () => wait(ms - step) : fn, step);
    };
    wait(delayMs);
    return () => {
      clearTimeout(timer);
    };
  },
};
