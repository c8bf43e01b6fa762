#!/usr/bin/env node
// npm run fuzz -- NAME [--seed N] [--seconds N]: runs the fuzzer test/fuzz/NAME.test.ts with seeds
// from N on (by default from a random one) for so long (by default 10 minutes). The seed of a
// failure is printed; `--seed` with it, and few `--seconds`, repeats it.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { root } from './files.mjs';

const folder = join(root, 'test', 'fuzz');
const names = readdirSync(folder)
  .filter((name) => name.endsWith('.test.ts'))
  .map((name) => name.slice(0, -'.test.ts'.length));
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seed: { type: 'string' }, seconds: { type: 'string', default: '600' } },
});
const [name] = positionals;
if (name === undefined || !existsSync(join(folder, `${name}.test.ts`))) {
  console.error(`usage: npm run fuzz -- ${names.join('|')} [--seed N] [--seconds N]`);
  process.exit(2);
}
const seed = values.seed ?? String(Math.floor(Math.random() * 2 ** 31));
console.log(`seeds from ${seed} on, for ${values.seconds} s`);
const { status } = spawnSync(
  process.execPath,
  ['node_modules/vitest/vitest.mjs', 'run', `test/fuzz/${name}.test.ts`],
  {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, VDISK_FUZZ_SEED: seed, VDISK_FUZZ_SECONDS: values.seconds },
  },
);
process.exitCode = status ?? 1;
