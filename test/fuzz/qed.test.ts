// Goal: no QED image, however broken, crashes vdisk, keeps it busy without end, or is changed by a
// reader. Method: mutations of sound images, from seeds that are the same in each run.
import { fuzzTests } from './format-fuzz.js';

const KiB = 1024;
const MiB = 1024 * KiB;
/** The header, the L1 table and the first L2 table. */
const places = [
  [0, 64],
  [0, 64],
  [64 * KiB, 64 * KiB + 16],
  [320 * KiB, 320 * KiB + 80],
] as const;
const small = [
  [0, 64],
  [4 * KiB, 4 * KiB + 32],
  [8 * KiB, 8 * KiB + 200],
] as const;

fuzzTests('qed', [
  { format: 'qed', create: '', size: 4 * MiB, places },
  { format: 'qed', create: 'cluster_size=4k,table_size=1', size: 4 * MiB + 512, places: small },
]);
