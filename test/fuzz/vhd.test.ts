// Goal: no VHD or VHDX, however broken, crashes vdisk, keeps it busy without end, or is changed by
// a reader. Method: mutations of sound images (logs that have to be replayed among them), from
// seeds that are the same in each run; `npm run fuzz -- vhd` goes on with others.
import { describe, it } from 'vitest';
import { fuzzVhd } from './vhd-fuzz.js';

const first = Number(process.env['VDISK_FUZZ_SEED'] ?? 1);
const seconds = Number(process.env['VDISK_FUZZ_SECONDS'] ?? 0);
const IMAGES = 50;
const TESTS = 4;

async function fuzz(seed: number): Promise<void> {
  try {
    await fuzzVhd(seed);
  } catch (e) {
    const what = e instanceof Error ? (e.stack ?? e.message) : String(e);
    throw new Error(`npm run fuzz -- vhd --seed ${seed} repeats it: ${what}`, { cause: e });
  }
}

describe('mutated VHD and VHDX images', () => {
  if (seconds > 0) {
    it(`for ${seconds} s`, { timeout: (seconds + 120) * 1000 }, async () => {
      const end = Date.now() + seconds * 1000;
      let seed = first;
      while (Date.now() < end) await fuzz(seed++);
      console.log(`seeds ${first} to ${seed - 1}`);
    });
    return;
  }
  for (let i = 0; i < TESTS; i++) {
    const from = first + i * IMAGES;
    it(`seeds ${from} to ${from + IMAGES - 1}`, { timeout: 240_000 }, async () => {
      for (let seed = from; seed < from + IMAGES; seed++) await fuzz(seed);
    });
  }
});
