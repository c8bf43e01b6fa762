/**
 * How far a file has been used, and growing it ahead of the writes.
 *
 * `freshFrom` is the first byte that nobody ever wrote in this file: what is allocated from there
 * on reads as zeroes without being written (when the file zero-fills what it grows by).
 *
 * A direct write that extends a file is slow, for it changes the inode each time and runs alone;
 * one into a hole is slow too, for the file system allocates each time. So after a few such writes
 * the file is extended ahead with its blocks allocated, in steps that double; `trim` takes the rest
 * back at close. After a crash the image merely has a tail that nobody uses. The second step and
 * those after it are begun while writes still find room, so that none waits for them.
 *
 * Setting a file's length also cuts it: a write behind the new end that completes meanwhile would
 * be lost. So the file always grows past all that has been given out (whatever may be in flight
 * lies before that), and who is given more meanwhile waits before writing there. An allocation
 * that fails is undone by the file driver, which cuts again: so the first step allocates nothing,
 * and after it every write has asked `before`, hence lies inside the file.
 *
 * Blocks that are allocated but were never written cost each first write a change of metadata as
 * well: more than a small direct write itself. So ahead of a stream of such writes zeroes are
 * written in large pieces, into what nobody was given; who is given some of it meanwhile waits
 * for them (`before`), and who works on the whole image waits for all (`settled`).
 */
import type { Child } from './child.js';
import { Iov } from '../lib/iov.js';

const FIRST_STEP = 4 * 1024 * 1024;
const LARGEST_STEP = 64 * 1024 * 1024;
/** Extending writes before the file is grown ahead. */
const PATIENCE = 4;

/** Zeroes that are written at once, and the longest writes for which they are. */
const FILL_STEP = 1024 * 1024;
const FILL_FOR = 32 * 1024;
/** Small writes near the end before the first zeroes. */
const FILL_PATIENCE = 8;
/** Borders of zeroes: no device has larger blocks for O_DIRECT. */
const FILL_ALIGN = 4096;

/** Growing by steps that the user chose, from the first write on. */
export interface GrowthRule {
  /** Bytes beyond the write that needs room. */
  readonly stepBytes: number;
  /** Whether blocks are allocated with it. */
  readonly allocates: boolean;
}

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
  #stepBytes: number;
  #possible = true;
  /** Grow by it alone, and only for writes that need room. */
  readonly #rule: GrowthRule | undefined;
  #grownAhead = false;
  /** Allocate blocks with the next step; undefined: not yet. */
  #allocates: boolean | undefined;
  #growing: Promise<void> | undefined;
  /** Makes the zeroes; undefined: nothing is filled. */
  #zeroes: (() => Uint8Array) | undefined;
  #fillPatience = FILL_PATIENCE;
  /** Where the last zeroes begin and end; being written while `#filling` is set. */
  #fillFrom = 0;
  #fillEnd = 0;
  #filling: Promise<void> | undefined;

  constructor(file: Child, zeroInit: boolean, rule?: GrowthRule) {
    this.#file = file;
    this.#rule = rule;
    this.#stepBytes = rule?.stepBytes ?? FIRST_STEP;
    // With a rule no write has extended the file by itself, so that the first step may allocate.
    this.#allocates = rule?.allocates;
    this.#zeroInit = zeroInit;
    this.#base = file.size;
    this.#freshFrom = file.size;
    this.#durableSize = file.size;
  }

  /** Zeroes are written ahead of small writes; `zeroes` gives memory that stays zero. */
  fillAhead(zeroes: (bytes: number) => Uint8Array): void {
    let memory: Uint8Array | undefined;
    if (this.#zeroInit) this.#zeroes = () => (memory ??= zeroes(FILL_STEP));
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

  /**
   * Makes room for a write that ends at `end`; undefined when there is nothing to wait for.
   * `bytes`: length of a write of guest data.
   */
  before(end: number, bytes = 0): Promise<void> | undefined {
    if (end > this.#file.size && this.#possible) return this.#makeRoom(end, bytes);
    if (bytes > 0) this.#goOn(end, bytes);
    if (this.#filling === undefined || end <= this.#fillFrom) return undefined;
    return this.#filling.then(() => this.before(end, bytes));
  }

  #makeRoom(end: number, bytes: number): Promise<void> | undefined {
    if (this.#growing !== undefined) return this.#growing.then(() => this.before(end, bytes));
    if (this.#rule === undefined && ++this.#extensions <= PATIENCE) return undefined;
    return this.#step(end).then(() => this.before(end, bytes));
  }

  /** What is done ahead of a write of guest data that has room. */
  #goOn(end: number, bytes: number): void {
    if (this.#growing !== undefined || this.#rule !== undefined) return;
    const room = this.#file.size - Math.max(end, this.#freshFrom);
    if (this.#grownAhead && this.#possible && room < this.#stepBytes / 2) void this.#step(end);
    else if (bytes <= FILL_FOR) this.#fill(end);
  }

  #step(end: number): Promise<void> {
    const to = Math.max(end, this.#freshFrom) + this.#stepBytes;
    this.#stepBytes = this.#rule?.stepBytes ?? Math.min(this.#stepBytes * 2, LARGEST_STEP);
    return this.#grow(to).catch(() => {
      // Devices and peers of fixed size, full disks: the write itself will tell.
      this.#possible = false;
    });
  }

  /** Before a small write that ends at `end`: zeroes beyond all that has been given out. */
  #fill(end: number): void {
    if (this.#filling !== undefined || this.#zeroes === undefined) return;
    if (this.#freshFrom - end > FILL_STEP) return;
    if (this.#fillPatience > 0) {
      this.#fillPatience--;
      return;
    }
    if (this.#fillEnd - this.#freshFrom >= FILL_STEP / 2) return;
    const from = Math.ceil(Math.max(this.#freshFrom, this.#fillEnd) / FILL_ALIGN) * FILL_ALIGN;
    const most = Math.min(FILL_STEP, this.#file.size - from);
    if (most < FILL_STEP / 2) return;
    const zeroes = this.#zeroes();
    const bytes = most - (most % FILL_ALIGN);
    this.#fillFrom = from;
    this.#fillEnd = from + bytes;
    this.#filling = this.#file.write(from, Iov.of(zeroes.subarray(0, bytes))).then(
      () => {
        this.#filling = undefined;
      },
      () => {
        // The write that comes to this place tells about the error.
        this.#filling = this.#zeroes = undefined;
      },
    );
  }

  /** Nothing that was begun here is in flight. */
  async settled(): Promise<void> {
    while (this.#growing !== undefined || this.#filling !== undefined) {
      await this.#growing;
      await this.#filling;
    }
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
      await this.#grow(this.#freshFrom + this.#stepBytes);
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
    await this.settled();
    this.#fillEnd = Math.min(this.#fillEnd, end);
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
    this.#fillEnd = Math.min(this.#fillEnd, end);
  }
}
