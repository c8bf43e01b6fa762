/** Writers that know what each block of a disk must hold, whatever happens below it. */
import type { Backend } from '../../src/block/backend.js';
import { filled, Random, readBytes } from '../support/index.js';

export const BLOCK = 4096;
/** Often enough for a fault that comes once, and for those of several nodes. */
const TRIES = 64;

/** Throws when a block is not filled with the byte that `model` says. */
export function compareBlocks(
  got: Uint8Array,
  model: Uint8Array,
  first: number,
  what: string,
): void {
  const wrong: string[] = [];
  for (let i = 0; i * BLOCK < got.length; i++) {
    const block = got.subarray(i * BLOCK, (i + 1) * BLOCK);
    const want = model[first + i] ?? 0;
    const odd = block.findIndex((byte) => byte !== want);
    if (odd < 0) continue;
    const where = odd === 0 ? '' : ` at byte ${String(odd)}`;
    wrong.push(
      `block ${String(first + i)} holds ${String(block[odd])}${where}, not ${String(want)}`,
    );
  }
  if (wrong.length === 0) return;
  throw new Error(`${what}: ${String(wrong.length)} blocks: ${wrong.slice(0, 40).join('; ')}`);
}

/** A fault that was injected may hit a guest: it tries again, as a guest would. */
async function insist<T>(request: () => Promise<T>): Promise<T> {
  for (let left = TRIES; ; left--) {
    try {
      return await request();
    } catch (e) {
      if (left === 0) throw e;
    }
  }
}

/** Several writers, each on a part of the disk of its own. */
export class Guests {
  /** Fill byte of each block. */
  readonly model: Uint8Array;
  writes = 0;
  readonly #disk: Backend;
  readonly #writers: Promise<void>[];
  #failed: { readonly e: unknown } | undefined;
  #stopped = false;
  #paused = 0;
  #resume: (() => void)[] = [];
  #atRest = 0;
  #quiet: (() => void)[] = [];

  constructor(disk: Backend, blocks: number, writers: number, seed: number) {
    this.#disk = disk;
    this.model = new Uint8Array(blocks);
    const part = blocks / writers;
    this.#writers = Array.from({ length: writers }, (_, i) =>
      this.#run(i * part, part, new Random(seed + i)).catch((e: unknown) => {
        this.#failed ??= { e };
        this.#stopped = true;
        this.#rest(1);
      }),
    );
  }

  get #all(): number {
    return this.#writers.length;
  }

  async #run(first: number, blocks: number, random: Random): Promise<void> {
    // The constructor is to know how many there are.
    await Promise.resolve();
    while (!this.#stopped) {
      if (this.#paused > 0) {
        this.#rest(1);
        await new Promise<void>((resolve) => this.#resume.push(resolve));
        this.#rest(-1);
        continue;
      }
      await this.#step(first, blocks, random);
      this.writes++;
    }
    this.#rest(1);
  }

  #rest(change: number): void {
    this.#atRest += change;
    if (this.#atRest < this.#all) return;
    for (const resolve of this.#quiet.splice(0)) resolve();
  }

  async #step(first: number, blocks: number, random: Random): Promise<void> {
    const at = first + random.int(0, blocks - 1);
    const count = Math.min(random.chance(0.1) ? 64 : random.int(1, 8), first + blocks - at);
    const [offset, bytes] = [at * BLOCK, count * BLOCK];
    const kind = random.int(0, 9);
    if (kind < 5) {
      const value = random.int(1, 255);
      await insist(() => this.#disk.write(offset, filled(bytes, value)));
      this.model.fill(value, at, at + count);
    } else if (kind < 6) {
      await insist(() => this.#disk.writeZeroes(offset, bytes));
      this.model.fill(0, at, at + count);
    } else if (kind < 7) await insist(() => this.#disk.flush());
    else await this.#check(at, count);
    // Guests that leave the jobs nothing would prove little.
    if (random.chance(0.2)) await new Promise((resolve) => setTimeout(resolve, 1));
  }

  async #check(at: number, count: number): Promise<void> {
    const got = await insist(() => readBytes(this.#disk, at * BLOCK, count * BLOCK));
    compareBlocks(got, this.model, at, `disk (${this.#disk.node.name})`);
  }

  /** Runs `work` while no request of a guest is in flight. Throws what a guest has found. */
  async whilePaused<T>(work: (model: Uint8Array) => Promise<T>): Promise<T> {
    this.#paused++;
    try {
      if (this.#atRest < this.#all) {
        await new Promise<void>((resolve) => this.#quiet.push(resolve));
      }
      this.throwIfFailed();
      return await work(this.model);
    } finally {
      this.#paused--;
      if (this.#paused === 0) for (const resolve of this.#resume.splice(0)) resolve();
    }
  }

  throwIfFailed(): void {
    if (this.#failed !== undefined) throw this.#failed.e;
  }

  /** Ends the writers and looks at each block once more. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#writers);
    this.throwIfFailed();
    await this.#check(0, this.model.length);
  }
}
