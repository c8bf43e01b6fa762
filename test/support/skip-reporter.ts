// Writes what `npm test` reports at its end: numbers, and the names of skipped and failed tests.
import { writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import type { Reporter, TestModule } from 'vitest/node';
import { rootPath } from './paths.js';

export default class SkipReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    const path = process.env['VDISK_TEST_SUMMARY'];
    if (path === undefined) return;
    const failures = errors.map((error) => `outside of tests: ${firstLine(error)}`);
    const summary = { passed: 0, failed: errors.length, skipped: [] as string[], failures };
    for (const module of modules) {
      const file = relative(rootPath(), module.moduleId);
      let failedHere = 0;
      for (const test of module.children.allTests()) {
        const result = test.result();
        if (result.state === 'passed') summary.passed++;
        else if (result.state === 'skipped') {
          const note = result.note === undefined ? '' : ` [${result.note}]`;
          summary.skipped.push(`${file} > ${test.fullName}${note}`);
        } else {
          failedHere++;
          failures.push(`${file} > ${test.fullName}: ${firstLine(result.errors?.[0])}`);
        }
      }
      // A file that does not load, or whose hook fails, has no failed test of its own.
      if (failedHere === 0 && module.state() === 'failed') {
        failedHere = 1;
        failures.push(`${file}: ${firstLine(module.errors()[0])}`);
      }
      summary.failed += failedHere;
    }
    writeFileSync(path, JSON.stringify(summary));
  }
}

/** The first line of an error's message, cut at 300 characters. */
function firstLine(error: unknown): string {
  const message = error instanceof Object && 'message' in error ? error.message : error;
  return String(message).split('\n', 1)[0]!.slice(0, 300);
}
