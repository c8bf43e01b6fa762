// Goal: no guest brings the process down, reaches memory or disks beyond its own, or keeps the
// host busy without end. Method: a machine with every device, driven by a hostile guest from a
// seed (see devices-fuzz.ts), the same seeds in each run; `npm run fuzz -- devices` goes on with
// others.
import { describe } from 'vitest';
import { fuzzSeeds } from './seeds.js';
import { fuzzGuest } from './devices-fuzz.js';

describe('hostile guests', () => {
  fuzzSeeds('devices', { each: 1, tests: 2, fuzz: fuzzGuest });
});
