// Goal: docs/nbd.md tells of all that vdisk-nbd is declared to take.
// Method: each option's name is looked for.
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { nbdSpec } from '../../src/tool/nbd/arguments.js';
import { rootPath } from '../support/index.js';

it('docs/nbd.md names every option that is not hidden', () => {
  const page = readFileSync(rootPath('docs/nbd.md'), 'utf8');
  const options = Object.values<{ long?: string; hidden?: boolean }>(nbdSpec.options);
  const left = options.filter(({ hidden }) => hidden !== true).map(({ long }) => `--${long ?? ''}`);
  const missing = left.filter((name) => !page.includes(name));
  expect(missing).toEqual([]);
});
