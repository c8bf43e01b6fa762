// Goal: no VMDK disk, however broken, crashes vdisk, keeps it busy without end, or is changed by a
// reader. Method: mutations of sound disks, from seeds that are the same in each run.
import { fuzzTests } from './format-fuzz.js';

const MiB = 1024 * 1024;
/** The header, the descriptor, directory and tables. */
const places = [
  [0, 80],
  [0, 80],
  [0x200, 0x360],
  [0x2a00, 0x2a10],
  [0x3400, 0x3410],
  [0x3600, 0x36a0],
] as const;
const text = [[0, 340]] as const;

fuzzTests('vmdk', [
  { format: 'vmdk', create: '', size: 4 * MiB, places },
  { format: 'vmdk', create: 'zeroed_grain=on', size: 2 * MiB + 512, places },
  { format: 'vmdk', create: 'subformat=streamOptimized', size: 4 * MiB, places },
  { format: 'vmdk', create: 'subformat=monolithicFlat', size: MiB, places: text },
  { format: 'vmdk', create: 'subformat=twoGbMaxExtentSparse', size: MiB, places: text },
]);
