import { onTestFailed } from 'vitest';

/** Seeded pseudo-random numbers (sfc32): the same seed gives the same sequence on every machine. */
export class Random {
  readonly seed: number;
  #a: number;
  #b: number;
  #c = 0x9e3779b9;
  #counter = 1;

  constructor(seed: number) {
    this.seed = seed >>> 0;
    this.#a = this.seed;
    this.#b = this.seed ^ 0x5bf03635;
    for (let i = 0; i < 15; i++) this.uint32();
  }

  /** A whole number in [0, 2^32). */
  uint32(): number {
    const result = (this.#a + this.#b + this.#counter) >>> 0;
    this.#counter = (this.#counter + 1) >>> 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) >>> 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + result) >>> 0;
    return result;
  }

  /** A number in [0, 1), 53 bits. */
  float(): number {
    return ((this.uint32() >>> 5) * 0x4000000 + (this.uint32() >>> 6)) / 2 ** 53;
  }

  /** A whole number in [from, to], both included. */
  int(from: number, to: number): number {
    return from + Math.floor(this.float() * (to - from + 1));
  }

  /** True with the given probability. */
  chance(probability = 0.5): boolean {
    return this.float() < probability;
  }

  /** One of the items, which must not be empty. */
  pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw new RangeError('pick() from an empty list');
    return items[this.int(0, items.length - 1)] as T;
  }

  /** Fills with bytes that do not compress, and returns the same array. */
  fill<T extends Uint8Array>(target: T): T {
    let i = 0;
    while (i + 4 <= target.length) {
      const word = this.uint32();
      target[i++] = word;
      target[i++] = word >>> 8;
      target[i++] = word >>> 16;
      target[i++] = word >>> 24;
    }
    for (; i < target.length; i++) target[i] = this.uint32();
    return target;
  }

  /** New bytes that do not compress. */
  bytes(length: number): Uint8Array<ArrayBuffer> {
    return this.fill(new Uint8Array(length));
  }
}

/**
 * The seed of this run: `VDISK_SEED` when set, else new at each call. Printed when the test fails,
 * so that `VDISK_SEED=n npx vitest run FILE -t NAME` repeats it. For use inside a test.
 */
export function testSeed(): number {
  const given = process.env['VDISK_SEED'];
  const seed = given ? Number(given) >>> 0 : Math.floor(Math.random() * 2 ** 32);
  onTestFailed(({ task }) => {
    console.error(`VDISK_SEED=${String(seed)} repeats the failure of '${task.name}'`);
  });
  return seed;
}

/** A Random with this run's seed, see testSeed(). For use inside a test. */
export function seededRandom(): Random {
  return new Random(testSeed());
}
