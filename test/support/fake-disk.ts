/**
 * A simulated disk under one file: remembers what is durable, what is not, and can lose power.
 *
 * Fault model
 *  - What reads see is the newest state. What is durable is the state at the last flush that
 *    completed, plus, after a power cut, an arbitrary part of what was done since.
 *  - A flush makes durable what had completed when it was *called*; operations that run
 *    beside it may or may not be covered (here: they are not).
 *  - A power cut works on sectors of 512 bytes. Each sector independently ends up in some
 *    state that it had since the last flush, the durable one and the newest included: so
 *    writes are dropped, torn at sector borders, and reordered. A sector itself is never torn.
 *  - The length ends up as one that the file had since the last flush, whatever became of the
 *    data; what a shorter length cuts off is gone, what a longer one adds is zero.
 *  - Zero ranges and holes are writes of zeroes. One above 4 MiB is kept or lost as a whole
 *    where no other operation touched its sectors.
 *  - No bit rot, no misdirected writes, no lying flush (each can be had by fault injection).
 */
import { Iov } from '../../src/lib/iov.js';
import { SparseMemory } from '../../src/lib/sparse-memory.js';
import type { Random } from './random.js';

export const SECTOR = 512;
/** Zero ranges up to this many bytes are torn by the sector. */
const SMALL_ZERO = 4 * 1024 * 1024;

type LogEntry =
  | { readonly kind: 'write'; readonly offset: number; readonly data: Uint8Array }
  | { readonly kind: 'zero'; readonly offset: number; readonly bytes: number }
  | { readonly kind: 'length'; readonly bytes: number };

function isLargeZero(entry: LogEntry): entry is Extract<LogEntry, { kind: 'zero' }> {
  return entry.kind === 'zero' && entry.bytes > SMALL_ZERO;
}

/** How a power cut treats what was not flushed. */
export type CutStyle = 'none' | 'all' | 'random' | 'last-only' | 'all-but-one';

export class FakeDisk {
  /** What reads see. */
  readonly current: SparseMemory;
  readonly #durable: SparseMemory;
  #log: LogEntry[] = [];
  /** Number of the first entry of `#log` among all ever made. */
  #logStart = 0;

  constructor(content?: SparseMemory) {
    this.#durable = content ?? new SparseMemory();
    this.current = this.#durable.clone();
  }

  get bytes(): number {
    return this.current.bytes;
  }

  /** Operations that a power cut may still undo. */
  get unflushed(): number {
    return this.#log.length;
  }

  write(offset: number, iov: Iov): void {
    const data = new Uint8Array(iov.bytes);
    iov.copyTo(data);
    this.#grow(offset + data.byteLength);
    this.current.write(offset, Iov.of(data));
    this.#log.push({ kind: 'write', offset, data });
  }

  zero(offset: number, bytes: number, grow: boolean): void {
    const end = grow ? offset + bytes : Math.min(offset + bytes, this.current.bytes);
    if (end <= offset) return;
    this.#grow(end);
    this.current.zero(offset, end - offset);
    this.#log.push({ kind: 'zero', offset, bytes: end - offset });
  }

  resize(bytes: number): void {
    const old = this.current.bytes;
    if (bytes === old) return;
    this.current.resize(bytes);
    this.#log.push({ kind: 'length', bytes });
    // What comes back when the file grows again is zero, unless the power cut undid the cut.
    if (bytes < old) this.#log.push({ kind: 'zero', offset: bytes, bytes: old - bytes });
  }

  #grow(end: number): void {
    if (end <= this.current.bytes) return;
    this.current.resize(end);
    this.#log.push({ kind: 'length', bytes: end });
  }

  /** A mark for {@link flushTo}: everything done so far. */
  mark(): number {
    return this.#logStart + this.#log.length;
  }

  /** Makes durable all that was done before `mark`. */
  flushTo(mark: number): void {
    const n = mark - this.#logStart;
    if (n <= 0) return;
    for (let i = 0; i < n; i++) this.#apply(this.#log[i]!);
    if (n === this.#log.length) this.#log = [];
    else this.#log.splice(0, n);
    this.#logStart = mark;
  }

  #apply(entry: LogEntry): void {
    if (entry.kind === 'write') {
      // The length has its own entries.
      this.#writeWithin(entry.offset, entry.data);
    } else if (entry.kind === 'zero') {
      this.#zeroWithin(entry.offset, entry.bytes);
    } else {
      this.#durable.resize(entry.bytes);
    }
  }

  #writeWithin(offset: number, data: Uint8Array): void {
    const keep = Math.min(data.byteLength, this.#durable.bytes - offset);
    if (keep > 0) this.#durable.write(offset, Iov.of(data.subarray(0, keep)));
  }

  #zeroWithin(offset: number, bytes: number): void {
    const keep = Math.min(bytes, this.#durable.bytes - offset);
    if (keep > 0) this.#durable.zero(offset, keep);
  }

  /** What a restart finds, chosen by `random` within the fault model. This disk stays as it is. */
  afterPowerCut(random: Random, style?: CutStyle): SparseMemory {
    const chosen = style ?? random.pick<CutStyle>([...styles]);
    const content = this.#durable.clone();
    if (chosen === 'none') return content;
    const cut = new PowerCut(this.#log, content, random, chosen);
    cut.run();
    return content;
  }
}

const styles: readonly CutStyle[] = [
  'none',
  'all',
  'random',
  'random',
  'random',
  'random',
  'last-only',
  'all-but-one',
];

/** One power cut: decides for each sector how much of its history survives. */
class PowerCut {
  readonly #touches = new Map<number, number>();
  readonly #limits = new Map<number, number>();
  readonly #probability: number;
  readonly #durableLength: number;

  constructor(
    private readonly log: readonly LogEntry[],
    private readonly content: SparseMemory,
    private readonly random: Random,
    private readonly style: CutStyle,
  ) {
    this.#durableLength = content.bytes;
    this.#probability = random.pick([0.1, 0.5, 0.5, 0.9]);
  }

  run(): void {
    // Large zero ranges count where others touch, so the others come first.
    for (const large of [false, true]) {
      for (const entry of this.log) {
        if (isLargeZero(entry) === large) this.#eachSector(entry, (s) => this.#count(s));
      }
    }
    this.content.resize(Math.max(this.content.bytes, ...this.#lengths()));
    const length = this.#chooseLength();
    const lost = this.style === 'all-but-one' ? this.random.int(0, this.log.length - 1) : -1;
    const first = this.style === 'last-only' ? this.log.length - 1 : 0;
    const seen = new Map<number, number>();
    this.log.forEach((entry, i) => {
      if (i < first || i === lost) return;
      if (isLargeZero(entry)) this.#largeZero(entry);
      this.#eachSector(entry, (s, from, to, at) => {
        const nth = (seen.get(s) ?? 0) + 1;
        seen.set(s, nth);
        if (nth > this.#limit(s)) return;
        if (entry.kind === 'write') {
          this.content.write(from, Iov.of(entry.data.subarray(at, at + to - from)));
        } else this.content.zero(from, to - from);
      });
    });
    this.content.resize(length);
  }

  #lengths(): number[] {
    // A spread of very many arguments overflows the stack: the greatest is enough.
    let most = 0;
    for (const e of this.log) if (e.kind === 'length' && e.bytes > most) most = e.bytes;
    return [most];
  }

  #chooseLength(): number {
    const lengths = [this.#durableLength];
    for (const e of this.log) if (e.kind === 'length') lengths.push(e.bytes);
    const last = lengths[lengths.length - 1]!;
    return this.style === 'random' ? this.random.pick(lengths) : last;
  }

  #count(sector: number): void {
    this.#touches.set(sector, (this.#touches.get(sector) ?? 0) + 1);
  }

  /** How many of the operations on a sector survive: a prefix of its history. */
  #limit(sector: number): number {
    const touches = this.#touches.get(sector) ?? 0;
    if (this.style !== 'random') return touches;
    let limit = this.#limits.get(sector);
    if (limit === undefined) {
      limit = 0;
      while (limit < touches && this.random.chance(this.#probability)) limit++;
      if (this.random.chance(0.1)) limit = this.random.int(0, touches);
      this.#limits.set(sector, limit);
    }
    return limit;
  }

  #largeZero(entry: { readonly offset: number; readonly bytes: number }): void {
    if (this.style === 'random' && this.random.chance()) return;
    const end = entry.offset + entry.bytes;
    const touched = [...this.#touches.keys()].filter((s) => {
      return (s + 1) * SECTOR > entry.offset && s * SECTOR < end;
    });
    let at = entry.offset;
    for (const s of touched.sort((a, b) => a - b)) {
      if (s * SECTOR > at) this.content.zero(at, s * SECTOR - at);
      at = Math.max(at, (s + 1) * SECTOR);
    }
    if (end > at) this.content.zero(at, end - at);
  }

  /** Calls `fn` for each sector that `entry` touches with the part of it, and where data is. */
  #eachSector(
    entry: LogEntry,
    fn: (sector: number, from: number, to: number, at: number) => void,
  ): void {
    if (entry.kind === 'length') return;
    const bytes = entry.kind === 'write' ? entry.data.byteLength : entry.bytes;
    if (isLargeZero(entry)) {
      this.#touchedWithin(entry.offset, bytes, fn);
      return;
    }
    const end = entry.offset + bytes;
    for (let from = entry.offset; from < end;) {
      const sector = Math.floor(from / SECTOR);
      const to = Math.min(end, (sector + 1) * SECTOR);
      fn(sector, from, to, from - entry.offset);
      from = to;
    }
  }

  #touchedWithin(
    offset: number,
    bytes: number,
    fn: (sector: number, from: number, to: number, at: number) => void,
  ): void {
    const end = offset + bytes;
    for (const sector of [...this.#touches.keys()]) {
      const from = Math.max(offset, sector * SECTOR);
      const to = Math.min(end, (sector + 1) * SECTOR);
      if (from < to) fn(sector, from, to, from - offset);
    }
  }
}
