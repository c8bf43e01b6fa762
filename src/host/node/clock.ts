/** Clock port over the timers of Node. */
import type { Clock } from '../host.js';

export const nodeClock: Clock = {
  now: () => performance.now(),
  after(delayMs, fn) {
    const timer = setTimeout(fn, delayMs);
    return () => {
      clearTimeout(timer);
    };
  },
};
