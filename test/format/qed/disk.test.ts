// Goal: whatever guests do at once, and wherever the power goes or the file fails, a QED disk holds
// what was flushed and stays consistent. Method: ../disk-tests.ts on shapes of images.
import type { Shape } from '../disk-work.js';
import { diskTests } from '../disk-tests.js';

const KiB = 1024;
const MiB = 1024 * KiB;

const plain: Shape = {
  name: 'plain',
  format: 'qed',
  create: '',
  size: 2 * MiB + 512,
  unit: 64 * KiB,
};

const shapes: readonly Shape[] = [
  plain,
  { ...plain, name: 'over a backing file', backing: 1 * MiB + 70 * KiB },
  {
    ...plain,
    name: 'small clusters over a longer backing file, O_DIRECT',
    create: 'cluster_size=4k,table_size=1',
    unit: 4 * KiB,
    size: 3 * MiB,
    backing: 4 * MiB,
    alignment: 512,
  },
  { ...plain, name: 'stale bytes behind its end', stale: 130 * KiB + 300 },
];

diskTests(shapes, { isHarmless: () => false });
