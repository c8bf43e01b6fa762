// Goal: no VHD or VHDX, however broken, crashes vdisk, keeps it busy without end, or is changed by
// a reader. Method: mutations of sound images (logs that have to be replayed among them), from
// seeds that are the same in each run; `npm run fuzz -- vhd` goes on with others.
import { describe } from 'vitest';
import { fuzzSeeds } from './seeds.js';
import { fuzzVhd } from './vhd-fuzz.js';

describe('mutated VHD and VHDX images', () => {
  fuzzSeeds('vhd', { each: 50, tests: 4, fuzz: fuzzVhd });
});
