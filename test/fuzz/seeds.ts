// Tests of a fuzzer over seeds: a few fixed ones in each run, and for a time with others by
// `npm run fuzz -- NAME`, which sets VDISK_FUZZ_SEED and VDISK_FUZZ_SECONDS.
import { it } from 'vitest';

export const firstSeed = Number(process.env['VDISK_FUZZ_SEED'] ?? 1);
export const fuzzSeconds = Number(process.env['VDISK_FUZZ_SECONDS'] ?? 0);

export interface FuzzTests {
  /** Seeds of one test, and tests, when there is no time to fill. */
  readonly each: number;
  readonly tests: number;
  readonly fuzz: (seed: number) => Promise<void>;
}

/** Declares the tests of a fuzzer; a failure says how it is repeated. */
export function fuzzSeeds(name: string, { each, tests, fuzz }: FuzzTests): void {
  const one = async (seed: number): Promise<void> => {
    try {
      await fuzz(seed);
    } catch (e) {
      const what = e instanceof Error ? (e.stack ?? e.message) : String(e);
      throw new Error(`npm run fuzz -- ${name} --seed ${seed} repeats it: ${what}`, { cause: e });
    }
  };
  if (fuzzSeconds > 0) {
    it(`for ${fuzzSeconds} s`, { timeout: (fuzzSeconds + 120) * 1000 }, async () => {
      const end = Date.now() + fuzzSeconds * 1000;
      let seed = firstSeed;
      while (Date.now() < end) await one(seed++);
      console.log(`seeds ${firstSeed} to ${seed - 1}`);
    });
    return;
  }
  for (let i = 0; i < tests; i++) {
    const from = firstSeed + i * each;
    it(`seeds ${from} to ${from + each - 1}`, { timeout: 240_000 }, async () => {
      for (let seed = from; seed < from + each; seed++) await one(seed);
    });
  }
}
