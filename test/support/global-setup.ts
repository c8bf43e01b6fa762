// Runs once before all tests: the tools' bundles are those of the sources.
import { execFileSync } from 'node:child_process';
import { rootPath } from './paths.js';

export default function setup(): void {
  try {
    execFileSync(process.execPath, [rootPath('tools/bundle.mjs')], { stdio: 'inherit' });
  } catch {
    // `npm test` has built before and stops there. Here, while someone edits, tests of one module
    // need not wait until all the tools compile again.
    console.error('The tools do not bundle: tests that start one run the last that did.');
  }
}
