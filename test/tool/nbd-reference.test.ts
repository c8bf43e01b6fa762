// Goal: the man page of vdisk-nbd says what the tool is declared to take. Method: it is made again
// from the declarations and compared; VDISK_WRITE_DOCS=1 npx vitest run test/tool/nbd-reference
// writes it.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { nbdSpec } from '../../src/tool/nbd/arguments.js';
import { programPage } from '../../src/tool/reference.js';
import { version } from '../../src/tool/version.js';
import { rootPath } from '../support/index.js';

const man = rootPath('docs/man/vdisk-nbd.1');

it('docs/man/vdisk-nbd.1 is that of the declarations', () => {
  const wanted = programPage('vdisk-nbd', nbdSpec, version);
  if (process.env['VDISK_WRITE_DOCS'] !== undefined) writeFileSync(man, wanted);
  else expect(existsSync(man) ? readFileSync(man, 'utf8') : '').toBe(wanted);
});

it('docs/nbd.md names every option that is not hidden', () => {
  const page = readFileSync(rootPath('docs/nbd.md'), 'utf8');
  const options = Object.values<{ long?: string; hidden?: boolean }>(nbdSpec.options);
  const left = options.filter(({ hidden }) => hidden !== true).map(({ long }) => `--${long ?? ''}`);
  const missing = left.filter((name) => !page.includes(name));
  expect(missing).toEqual([]);
});
