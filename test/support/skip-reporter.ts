// Writes what `npm test` reports at its end: numbers, and the names of skipped tests.
import { writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import type { Reporter, TestModule } from 'vitest/node';
import { rootPath } from './paths.js';

export default class SkipReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    const path = process.env['VDISK_TEST_SUMMARY'];
    if (path === undefined) return;
    const summary = { passed: 0, failed: errors.length, skipped: [] as string[] };
    for (const module of modules) {
      const file = relative(rootPath(), module.moduleId);
      let failedHere = 0;
      for (const test of module.children.allTests()) {
        const result = test.result();
        if (result.state === 'passed') summary.passed++;
        else if (result.state === 'skipped') {
          const note = result.note === undefined ? '' : ` [${result.note}]`;
          summary.skipped.push(`${file} > ${test.fullName}${note}`);
        } else failedHere++;
      }
      // A file that does not load, or whose hook fails, has no failed test of its own.
      if (failedHere === 0 && module.state() === 'failed') failedHere = 1;
      summary.failed += failedHere;
    }
    writeFileSync(path, JSON.stringify(summary));
  }
}
