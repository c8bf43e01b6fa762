// Goal: no VDI image, however broken, crashes vdisk, keeps it busy without end, or is changed by a
// reader. Method: mutations of sound images, from seeds that are the same in each run.
import { fuzzTests } from './format-fuzz.js';

const MiB = 1024 * 1024;
/** The header's fields, and the block map. */
const places = [
  [0x40, 0x60],
  [0x154, 0x1c8],
  [0x1a8, 0x1b0],
  [0x200, 0x220],
] as const;

fuzzTests('vdi', [
  { format: 'vdi', create: '', size: 4 * MiB, places },
  { format: 'vdi', create: 'static=on', size: 2 * MiB + 512, places },
]);
