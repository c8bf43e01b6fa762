#!/usr/bin/env node
// npm run lint: tidy, then Prettier, then ESLint; all of them always, so that one run shows all.
// With file names only those go to Prettier and ESLint.
import { spawnSync } from 'node:child_process';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const files = process.argv.slice(2);
const steps = [
  ['tidy', 'tools/tidy.mjs'],
  ['prettier', 'node_modules/prettier/bin/prettier.cjs', '--check', '--log-level=warn'],
  ['eslint', 'node_modules/eslint/bin/eslint.js', '--max-warnings=0'],
];

const failed = [];
for (const [name, script, ...args] of steps) {
  const targets = name === 'tidy' ? [] : files.length > 0 ? files : ['.'];
  const { status } = spawnSync(process.execPath, [script, ...args, ...targets], {
    cwd: root,
    stdio: 'inherit',
  });
  if (status !== 0) failed.push(name);
}
console.log(failed.length === 0 ? 'lint: clean' : `lint: failed: ${failed.join(', ')}`);
process.exitCode = failed.length === 0 ? 0 : 1;
