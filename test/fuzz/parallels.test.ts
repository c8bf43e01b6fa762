// Goal: no Parallels image, however broken, crashes vdisk, keeps it busy without end, or is changed
// by a reader. Method: mutations of sound images, from seeds that are the same in each run.
import { fuzzTests } from './format-fuzz.js';

const MiB = 1024 * 1024;
/** The header and the BAT. */
const places = [
  [0, 64],
  [16, 64],
  [64, 120],
] as const;

fuzzTests('parallels', [
  { format: 'parallels', create: '', size: 4 * MiB, places },
  { format: 'parallels', create: 'cluster_size=64k', size: 4 * MiB + 512, places },
]);
