/** Clock port over the timers of Node. */
import type { Clock } from '../host.js';

/** What a timer of Node takes at most; longer ones would fire at once. */
const LONGEST_MS = 2 ** 31 - 1;

export const nodeClock: Clock = {
  now: () => performance.now(),
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
