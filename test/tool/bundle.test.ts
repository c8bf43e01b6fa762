// Goal: building the tools a second time leaves the library whole.
// Method: the rule for what is removed, over names of files that come and go.
import { expect, it } from 'vitest';
import { isStale } from '../../tools/bundle.mjs';

it.each([
  ['a bundle that is made', 'vdisk.cjs', false],
  ['a worker that is made', 'made-worker.js', false],
  ["a module of the library's", 'objects.js', false],
  ['a bundle that is made no more', 'gone.cjs', true],
  ['a worker or module that is made no more', 'gone-worker.js', true],
  ['what is no program', 'objects.d.ts', false],
])('%s', (_what, name, stale) => {
  expect(isStale(name, new Set(['vdisk.cjs', 'made-worker.js']))).toBe(stale);
});
