// Goal: a delay longer than a timer of Node can be is waited for, not over at once.
// Method: a delay of 136 years, with Node's warnings counted.
import { setTimeout as wait } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import { nodeClock } from './clock.js';

it('waits for years', async () => {
  const warnings: string[] = [];
  const note = (w: Error): void => void warnings.push(w.name);
  process.on('warning', note);
  onTestFinished(() => void process.off('warning', note));
  let fired = 0;
  const stop = nodeClock.after((2 ** 32 - 1) * 1000, () => fired++);
  await wait(20);
  stop();
  expect([fired, warnings]).toEqual([0, []]);
});
