#!/usr/bin/env node
// npm test: set-up with the programs that tests compare with, all the tests, the names of those
// that were skipped, those that failed with their errors, and as the last line 'N passed, N failed,
// N skipped'. Arguments go to Vitest.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root, tryRead } from './files.mjs';
import { trySetUp } from './setup.mjs';

/** Runs Vitest; { passed, failed, skipped: names, failures: names with errors }. */
function runTests(args) {
  const folder = mkdtempSync(join(tmpdir(), 'vdisk-summary-'));
  const path = join(folder, 'summary.json');
  const { status } = spawnSync(
    process.execPath,
    ['node_modules/vitest/vitest.mjs', 'run', ...args],
    { cwd: root, stdio: 'inherit', env: { ...process.env, VDISK_TEST_SUMMARY: path } },
  );
  const summary = JSON.parse(tryRead(path) ?? '{"passed":0,"failed":0,"skipped":[],"failures":[]}');
  rmSync(folder, { recursive: true });
  // Vitest can fail for what is no test's: a run that failed never ends with '0 failed'.
  if (status !== 0 && summary.failed === 0) summary.failed = 1;
  return summary;
}

const { passed, failed, skipped, failures } = trySetUp({ peers: true })
  ? runTests(process.argv.slice(2))
  : { passed: 0, failed: 1, skipped: [], failures: ['set-up'] };
if (skipped.length > 0) {
  console.log('\nSkipped:');
  for (const name of skipped) console.log(`  ${name}`);
}
// Last, for who sees only the end of a long log.
if (failures.length > 0) console.log('\nFailed:');
for (const name of failures) console.log(`  ${name}`);
console.log(`\n${passed} passed, ${failed} failed, ${skipped.length} skipped`);
process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
