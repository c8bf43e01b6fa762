// Goal: no qcow2 image, however broken, crashes vdisk, keeps it busy without end, or is changed by
// a reader. Method: mutations of sound images, from seeds that are the same in each run;
// `npm run fuzz -- qcow2` goes on with other seeds for as long as one likes.
import { describe } from 'vitest';
import { fuzzSeeds } from './seeds.js';
import { fuzzQcow2 } from './qcow2-fuzz.js';

describe('mutated qcow2 images', () => {
  fuzzSeeds('qcow2', { each: 50, tests: 6, fuzz: fuzzQcow2 });
});
