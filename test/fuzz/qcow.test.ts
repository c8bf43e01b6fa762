// Goal: no qcow image, however broken, crashes vdisk, keeps it busy without end, or is changed by a
// reader. Method: mutations of sound images, from seeds that are the same in each run.
import { fuzzTests } from './format-fuzz.js';

const KiB = 1024;
const MiB = 1024 * KiB;
/** The header and the L1 table. */
const places = [
  [0, 48],
  [24, 80],
] as const;

fuzzTests('qcow', [
  { format: 'qcow', create: '', size: 4 * MiB, places },
  { format: 'qcow', create: '', size: 70 * KiB + 512, places },
]);
