// Goal: overlapping writes exclude each other where one is serialising, and nothing else waits.
// Method: the tracker alone with writes that end when told, and random ones that are watched.
import { describe, expect, it } from 'vitest';
import type { TrackedWrite } from '../../src/block/write-tracker.js';
import { WriteTracker } from '../../src/block/write-tracker.js';
import { seededRandom } from '../support/index.js';

/** Lets everything run that can. */
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

class Watched {
  readonly #tracker = new WriteTracker();
  readonly running = new Set<string>();
  readonly #ends = new Map<string, () => void>();
  readonly results: Promise<void>[] = [];

  start(name: string, offset: number, bytes: number, serialising: boolean): void {
    const write: TrackedWrite = { offset, bytes, serialising };
    this.results.push(
      this.#tracker.run(write, async () => {
        this.running.add(name);
        await new Promise<void>((resolve) => this.#ends.set(name, resolve));
        this.running.delete(name);
      }),
    );
  }

  async end(name: string): Promise<void> {
    this.#ends.get(name)?.();
    await settle();
  }

  get names(): string {
    return [...this.running].sort().join(' ');
  }
}

describe('write tracker', () => {
  it('lets plain writes overlap, and serialising ones run alone where they overlap', async () => {
    const w = new Watched();
    w.start('a', 0, 10, false);
    w.start('b', 5, 10, false);
    w.start('c', 8, 4, true);
    w.start('d', 20, 4, true);
    await settle();
    expect(w.names).toBe('a b d');
    await w.end('a');
    expect(w.names).toBe('b d');
    await w.end('b');
    expect(w.names).toBe('c d');
  });

  it('does not hold a write up by one that waits itself', async () => {
    const w = new Watched();
    w.start('first', 0, 10, true);
    w.start('waits', 5, 10, true);
    w.start('free', 12, 10, true);
    await settle();
    expect(w.names).toBe('first free');
    await w.end('first');
    expect(w.names).toBe('free');
    await w.end('free');
    expect(w.names).toBe('waits');
  });

  it('goes on after a write that failed', async () => {
    const tracker = new WriteTracker();
    const write = { offset: 0, bytes: 1, serialising: true };
    const failed = tracker.run(write, () => Promise.reject(new Error('no')));
    const next = tracker.run(write, () => Promise.resolve('yes'));
    await expect(failed).rejects.toThrow('no');
    expect(await next).toBe('yes');
  });

  it('never runs two conflicting writes together, and ends all of them', async () => {
    const random = seededRandom();
    const tracker = new WriteTracker();
    const active = new Set<TrackedWrite>();
    const all = Array.from({ length: 200 }, async () => {
      for (let k = random.int(0, 20); k > 0; k--) await settle();
      const write = {
        offset: random.int(0, 60),
        bytes: random.int(1, 20),
        serialising: random.chance(),
      };
      await tracker.run(write, async () => {
        for (const other of active) {
          const overlap =
            other.offset < write.offset + write.bytes && write.offset < other.offset + other.bytes;
          expect(overlap && (other.serialising || write.serialising)).toBe(false);
        }
        active.add(write);
        for (let k = random.int(0, 4); k > 0; k--) await settle();
        active.delete(write);
      });
    });
    await Promise.all(all);
    expect(active.size).toBe(0);
  });
});
