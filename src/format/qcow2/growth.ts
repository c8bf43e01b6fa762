/**
 * How far a file has been used, and growing it ahead of the writes.
 *
 * `freshFrom` is the first byte that nobody ever wrote in this file: what is allocated from there
 * on reads as zeroes without being written (when the file zero-fills what it grows by).
 *
 * A direct write that extends a file is slow, for it changes the inode each time and runs alone;
 * one into a hole is slow too, for the file system allocates each time. So after a few such writes
 * the file is extended ahead with its blocks allocated, in steps that double; `trim` takes the rest
 * back at close. After a crash the image merely has a tail that nobody uses.
 *
 * Setting a file's length also cuts it: a write behind the new end that completes meanwhile would
 * be lost. So the file always grows past all that has been given out (whatever may be in flight
 * lies before that), and who is given more meanwhile waits before writing there. An allocation
 * that fails is undone by the file driver, which cuts again: so the first step allocates nothing,
 * and after it every write has asked `before`, hence lies inside the file.
 */
import type { Child } from '../../block/child.js';

const FIRST_STEP = 1024 * 1024;
const LARGEST_STEP = 64 * 1024 * 1024;
/** Extending writes before the file is grown ahead. */
const PATIENCE = 4;

export class FileGrowth {
  readonly #file: Child;
  /** Grown areas read as zeroes. */
  readonly #zeroInit: boolean;
  /** Length of the file when the image was opened; it is never cut below this. */
  #base: number;
  #freshFrom: number;
  /** A length that the file has even after a power cut. */
  #durableSize: number;
  #extensions = 0;
  #step = FIRST_STEP;
  #possible = true;
  #grownAhead = false;
  /** Allocate blocks with the next step; undefined: not yet. */
  #allocates: boolean | undefined;
  #growing: Promise<void> | undefined;

  constructor(file: Child, zeroInit: boolean) {
    this.#file = file;
    this.#zeroInit = zeroInit;
    this.#base = file.size;
    this.#freshFrom = file.size;
    this.#durableSize = file.size;
  }

  /** End of what has been given out. */
  get usedEnd(): number {
    return this.#freshFrom;
  }

  /** Notes that [host, host + bytes) is given out; whether it reads as zeroes as it is. */
  take(host: number, bytes: number): boolean {
    const fresh = this.#zeroInit && host >= this.#freshFrom;
    if (host + bytes > this.#freshFrom) this.#freshFrom = host + bytes;
    return fresh;
  }

  /** Makes room for a write that ends at `end`; undefined when there is nothing to wait for. */
  before(end: number): Promise<void> | undefined {
    if (end <= this.#file.size || !this.#possible) return undefined;
    if (this.#growing !== undefined) return this.#growing.then(() => this.before(end));
    if (++this.#extensions <= PATIENCE) return undefined;
    const to = Math.max(end, this.#freshFrom) + this.#step;
    this.#step = Math.min(this.#step * 2, LARGEST_STEP);
    return this.#grow(to).catch(() => {
      // Devices and peers of fixed size, full disks: the write itself will tell.
      this.#possible = false;
    });
  }

  /** Grows the file to `to`; only when it does not grow already. */
  #grow(to: number): Promise<void> {
    const growing = this.#extend(to).then(() => {
      this.#grownAhead = true;
    });
    const settled = growing
      .catch(() => undefined)
      .finally(() => {
        this.#growing = undefined;
      });
    this.#growing = settled;
    return growing;
  }

  async #extend(to: number): Promise<void> {
    if (this.#allocates === true) {
      try {
        await this.#file.truncate(to, { exact: false, prealloc: 'falloc' });
        return;
      } catch {
        // The file system cannot, or is full: a hole will do.
        this.#allocates = false;
      }
    }
    await this.#file.truncate(to, { exact: false });
    this.#allocates ??= true;
  }

  /** The file is at least as long as what has been given out; for tables that rest in the tail. */
  async cover(): Promise<void> {
    while (this.#growing !== undefined) await this.#growing;
    if (this.#file.size >= this.#freshFrom || !this.#zeroInit) return;
    try {
      await this.#grow(this.#freshFrom + this.#step);
    } catch (e) {
      // A file of fixed length: what was given out past its end could not be written either.
      if (!(e instanceof Error && 'code' in e && e.code === 'ENOTSUP')) throw e;
    }
  }

  /**
   * What has been given out lies inside the file even after a power cut: flushes when the file
   * has grown since. For mappings that wait for no other flush; an entry that points past the end
   * of the file is a fault that no repair of qemu-img's undoes.
   */
  async makeDurable(): Promise<void> {
    if (this.#freshFrom <= this.#durableSize) return;
    const { size } = this.#file;
    await this.#file.flush();
    this.#durableSize = size;
  }

  /**
   * Cuts off what was grown ahead, and, where the last `unused` bytes before that are padding of a
   * cluster, those too. Failure does not matter: the tail is sparse.
   */
  async trim(unused = 0): Promise<void> {
    const end = Math.max(this.#freshFrom - unused, this.#base);
    while (this.#growing !== undefined) await this.#growing;
    if (!this.#grownAhead || this.#file.size <= end) return;
    this.#grownAhead = false;
    this.#durableSize = Math.min(this.#durableSize, end);
    try {
      await this.#file.truncate(end, { exact: false });
    } catch {
      // See above.
    }
  }

  /** The image was cut to `end` bytes by the caller. */
  shrunk(end: number): void {
    this.#base = Math.min(this.#base, end);
    this.#freshFrom = Math.min(this.#freshFrom, end);
    this.#durableSize = Math.min(this.#durableSize, end);
  }
}
