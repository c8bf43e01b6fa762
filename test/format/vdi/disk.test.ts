// Goal: whatever guests do at once, and wherever the power goes or the file fails, a VDI image
// holds what was flushed and stays consistent. Method: ../disk-tests.ts on shapes of images.
import type { Shape } from '../disk-work.js';
import { diskTests } from '../disk-tests.js';

const KiB = 1024;
const MiB = 1024 * KiB;

const plain: Shape = {
  name: 'dynamic',
  format: 'vdi',
  create: '',
  size: 4 * MiB + 512,
  unit: MiB,
};

const shapes: readonly Shape[] = [
  plain,
  { ...plain, name: 'dynamic, O_DIRECT', alignment: 512 },
  { ...plain, name: 'dynamic, with stale bytes behind its end', stale: 2 * MiB + 70 * KiB },
  { ...plain, name: 'static', create: 'static=on', size: 2 * MiB },
];

/** What is counted and not named was not stored yet when the power went. */
function isHarmless(line: string): boolean {
  const [, is, should] =
    /^ERROR: allocated blocks mismatch, is (\d+), should be (\d+)$/.exec(line) ?? [];
  return is !== undefined && Number(is) < Number(should);
}

diskTests(shapes, { isHarmless });
