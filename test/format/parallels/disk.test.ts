// Goal: whatever guests do at once, and wherever the power goes or the file fails, a Parallels disk
// holds what was flushed and stays consistent. Method: ../disk-tests.ts on shapes of images.
import type { Shape } from '../disk-work.js';
import { diskTests } from '../disk-tests.js';

const KiB = 1024;
const MiB = 1024 * KiB;

const plain: Shape = {
  name: 'small clusters',
  format: 'parallels',
  create: 'cluster_size=64k',
  size: 2 * MiB + 512,
  unit: 64 * KiB,
};

const shapes: readonly Shape[] = [
  plain,
  { ...plain, name: 'clusters of 1 MiB, O_DIRECT', create: '', unit: MiB, alignment: 512 },
  { ...plain, name: 'clusters of an odd size', create: 'cluster_size=31k', unit: 31 * KiB },
  { ...plain, name: 'stale bytes behind its end', stale: 130 * KiB + 300 },
];

// The file grows ahead of the writes.
diskTests(shapes, { isHarmless: (line) => line.startsWith('ERROR space leaked at the end') });
