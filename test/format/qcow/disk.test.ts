// Goal: whatever guests do at once, and wherever the power goes or the file fails, a qcow disk
// holds what was flushed. Method: ../disk-tests.ts on shapes of images.
import type { Shape } from '../disk-work.js';
import { diskTests } from '../disk-tests.js';

const KiB = 1024;
const MiB = 1024 * KiB;

const plain: Shape = {
  name: 'plain',
  format: 'qcow',
  create: '',
  size: 2 * MiB + 512,
  unit: 4 * KiB,
};

const shapes: readonly Shape[] = [
  plain,
  { ...plain, name: 'over a backing file', backing: MiB + 70 * KiB, unit: 512 },
  { ...plain, name: 'O_DIRECT', alignment: 512 },
  { ...plain, name: 'stale bytes behind its end', stale: 130 * KiB + 300 },
];

diskTests(shapes, { isHarmless: () => false });
