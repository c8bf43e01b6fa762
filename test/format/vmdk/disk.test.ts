// Goal: whatever guests do at once, and wherever the power goes or the file fails, a VMDK disk
// holds what was flushed and stays consistent. Method: ../disk-tests.ts on shapes of images.
import type { Shape } from '../disk-work.js';
import { diskTests } from '../disk-tests.js';

const KiB = 1024;
const MiB = 1024 * KiB;

const plain: Shape = {
  name: 'monolithicSparse',
  format: 'vmdk',
  create: '',
  size: 2 * MiB + 512,
  unit: 64 * KiB,
};

const shapes: readonly Shape[] = [
  plain,
  { ...plain, name: 'sparse over a backing file', backing: 1 * MiB + 70 * KiB },
  {
    ...plain,
    name: 'zeroed grains over a backing file, O_DIRECT',
    create: 'zeroed_grain=on',
    backing: 3 * MiB,
    alignment: 512,
  },
  { ...plain, name: 'stale bytes behind its end', stale: 70 * KiB + 300 },
  { ...plain, name: 'monolithicFlat', create: 'subformat=monolithicFlat' },
];

diskTests(shapes, { isHarmless: () => false });
