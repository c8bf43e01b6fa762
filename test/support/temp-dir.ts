import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';

/**
 * A new empty folder, removed when the test that calls this ends. Outside a test (in a hook) pass
 * `{ keep: true }` and remove it in the matching hook.
 */
export function tempDir(options: { keep?: boolean } = {}): string {
  const path = mkdtempSync(join(tmpdir(), 'vdisk-test-'));
  if (options.keep !== true) {
    onTestFinished(() => {
      rmSync(path, { recursive: true, force: true });
    });
  }
  return path;
}
