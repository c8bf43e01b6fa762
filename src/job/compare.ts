/** Comparing the content of two images, across formats and backing chains. */
import type { Backend } from '../block/backend.js';
import { BlockError, errorCode, errorText } from '../block/errors.js';
import { chainStatus } from '../block/status.js';
import type { ChainStatus } from '../block/types.js';
import type { Host, Hot } from '../host/host.js';
import { Iov } from '../lib/iov.js';
import type { OperationOptions } from './operation.js';
import { ProgressMeter } from './operation.js';

/** Unit in which differences are located, in bytes. */
const SECTOR = 512;
/** Most that is read of each image at once: what is in flight stays in the processor's cache. */
const PIECE = 512 * 1024;
/** Pairs of pieces that are read ahead. */
const AHEAD = 3;

export interface CompareOptions extends OperationOptions {
  readonly host: Host;
  /** Sizes and allocation must be equal too. */
  readonly strict: boolean;
  /** For messages. */
  readonly names: readonly [string, string];
}

/** Why two images differ; `equal`: they do not. Offsets in bytes, of the first difference. */
export type CompareResult =
  | { readonly outcome: 'equal'; readonly sizesDiffer: boolean }
  | { readonly outcome: 'size' }
  | { readonly outcome: 'status'; readonly offset: number }
  | { readonly outcome: 'content'; readonly offset: number; readonly sizesDiffer: boolean };

/** A comparison could not go on; `step` says where. */
export class CompareError extends BlockError {
  readonly step: 'status' | 'read';
  /** It came as far as the part that only the longer image has. */
  readonly sizesDiffer: boolean;
  constructor(step: 'status' | 'read', message: string, sizesDiffer: boolean, cause: unknown) {
    super(errorCode(cause), message, { cause });
    this.step = step;
    this.sizesDiffer = sizesDiffer;
  }
}

type Work = 'skip' | 'compare' | 'first' | 'second';

interface Piece {
  readonly offset: number;
  readonly bytes: number;
  readonly work: Work;
}

/**
 * Compares `a` with `b`. Where one is longer, the rest must read as zeroes (unless `strict`).
 * Throws {@link CompareError} when status or data of an image cannot be read.
 */
export async function compare(
  a: Backend,
  b: Backend,
  options: CompareOptions,
): Promise<CompareResult> {
  return new Comparison(a, b, options).run();
}

class Comparison {
  readonly #a: Backend;
  readonly #b: Backend;
  readonly #options: CompareOptions;
  readonly #meter: ProgressMeter;
  readonly #common: number;
  readonly #buffers: Uint8Array[] = [];
  #differs: CompareResult | undefined;

  constructor(a: Backend, b: Backend, options: CompareOptions) {
    this.#a = a;
    this.#b = b;
    this.#options = options;
    this.#meter = new ProgressMeter(options.host.clock, options);
    this.#common = Math.min(a.size, b.size);
    this.#meter.total = Math.max(a.size, b.size);
  }

  async run(): Promise<CompareResult> {
    const sizesDiffer = this.#a.size !== this.#b.size;
    if (sizesDiffer && this.#options.strict) return { outcome: 'size' };
    // Pieces are read ahead and judged in order, so that the first difference is told.
    const ahead: Promise<number | undefined>[] = [];
    let result: CompareResult | undefined;
    try {
      for await (const piece of this.#pieces()) {
        this.#meter.check();
        if (piece.work === 'skip') {
          this.#meter.advance(piece.bytes);
          continue;
        }
        ahead.push(this.#start(piece));
        if (ahead.length < AHEAD) continue;
        result = this.#judge(await ahead.shift());
        if (result !== undefined) break;
      }
      while (result === undefined && ahead.length > 0) result = this.#judge(await ahead.shift());
    } finally {
      await Promise.allSettled(ahead);
    }
    result ??= this.#differs;
    if (result !== undefined) return result;
    this.#meter.finish();
    return { outcome: 'equal', sizesDiffer };
  }

  #judge(offset: number | undefined): CompareResult | undefined {
    if (offset === undefined) return undefined;
    return { outcome: 'content', offset, sizesDiffer: offset >= this.#common };
  }

  /** A piece in flight; its rejection is seen when its turn comes. */
  #start(piece: Piece): Promise<number | undefined> {
    const work = this.#check(piece);
    work.catch(() => undefined);
    return work;
  }

  /** What to do with each run of both images, up to a difference in status (strict). */
  async *#pieces(): AsyncGenerator<Piece> {
    const common = this.#common;
    let left: ChainStatus | undefined;
    let right: ChainStatus | undefined;
    let leftEnd = 0;
    let rightEnd = 0;
    for (let at = 0; at < common;) {
      if (left === undefined || leftEnd <= at) {
        left = await this.#status(0, at, common - at);
        leftEnd = at + left.bytes;
      }
      if (right === undefined || rightEnd <= at) {
        right = await this.#status(1, at, common - at);
        rightEnd = at + right.bytes;
      }
      const end = Math.min(leftEnd, rightEnd);
      if (this.#options.strict && !alike(left, right)) {
        this.#differs = { outcome: 'status', offset: at };
        return;
      }
      yield* split(at, end, workOf(left, right));
      at = end;
    }
    yield* this.#rest();
  }

  /** The longer image's end: all that is not known to be zero is read. */
  async *#rest(): AsyncGenerator<Piece> {
    const which = this.#a.size > this.#b.size ? 0 : 1;
    const end = Math.max(this.#a.size, this.#b.size);
    for (let at = this.#common; at < end;) {
      const status = await this.#status(which, at, end - at);
      const known = status.zero || !status.allocated;
      yield* split(at, at + status.bytes, known ? 'skip' : which === 0 ? 'first' : 'second');
      at += status.bytes;
    }
  }

  async #status(which: 0 | 1, offset: number, bytes: number): Promise<ChainStatus> {
    const { node } = which === 0 ? this.#a : this.#b;
    try {
      const status = await chainStatus(node, undefined, offset, bytes);
      return status.bytes > 0 ? status : { ...status, bytes };
    } catch (e) {
      const text = `Sector allocation test failed for ${this.#name(which)}`;
      throw new CompareError('status', text, offset >= this.#common, e);
    }
  }

  /** Offset of the first difference in the piece. */
  async #check(piece: Piece): Promise<number | undefined> {
    const { hot } = this.#options.host;
    const one = this.#take(piece.bytes);
    try {
      if (piece.work !== 'compare') {
        const which = piece.work === 'first' ? 0 : 1;
        await this.#read(which, piece.offset, one.bytes);
        return hot.isZero(one.bytes) ? undefined : piece.offset + firstNonZero(one.bytes, hot);
      }
      const two = this.#take(piece.bytes);
      const reads = [
        this.#read(0, piece.offset, one.bytes),
        this.#read(1, piece.offset, two.bytes),
      ];
      try {
        await Promise.all(reads);
      } finally {
        await Promise.allSettled(reads);
        this.#buffers.push(two.buffer);
      }
      const at = firstDifference(one.bytes, two.bytes, hot);
      return at === undefined ? undefined : piece.offset + at;
    } finally {
      this.#buffers.push(one.buffer);
      this.#meter.advance(piece.bytes);
    }
  }

  #take(bytes: number): { buffer: Uint8Array; bytes: Uint8Array } {
    const buffer = this.#buffers.pop() ?? new Uint8Array(PIECE);
    return { buffer, bytes: buffer.subarray(0, bytes) };
  }

  async #read(which: 0 | 1, offset: number, into: Uint8Array): Promise<void> {
    try {
      await (which === 0 ? this.#a : this.#b).read(offset, Iov.of(into));
    } catch (e) {
      const where = `Error while reading offset ${String(offset)} of ${this.#name(which)}`;
      throw new CompareError('read', `${where}: ${errorText(e)}`, offset >= this.#common, e);
    }
  }

  #name(which: 0 | 1): string {
    return this.#options.names[which];
  }
}

function alike(a: ChainStatus, b: ChainStatus): boolean {
  return (
    a.data === b.data &&
    a.zero === b.zero &&
    a.allocated === b.allocated &&
    a.compressed === b.compressed &&
    (a.offset === undefined) === (b.offset === undefined) &&
    // Where the run reaches the image's end is part of the status, too.
    a.eof === b.eof
  );
}

function workOf(a: ChainStatus, b: ChainStatus): Work {
  if (a.zero && b.zero) return 'skip';
  const first = a.allocated && !a.zero;
  const second = b.allocated && !b.zero;
  if (first && second) return 'compare';
  if (first) return 'first';
  return second ? 'second' : 'skip';
}

function* split(start: number, end: number, work: Work): Generator<Piece> {
  if (work === 'skip') {
    yield { offset: start, bytes: end - start, work };
    return;
  }
  for (let at = start; at < end;) {
    const bytes = Math.min(PIECE - (at % PIECE), end - at);
    yield { offset: at, bytes, work };
    at += bytes;
  }
}

/** Offset of the first sector of `b` that is not zero, given that there is one. */
function firstNonZero(b: Uint8Array, hot: Hot): number {
  let at = 0;
  while (hot.isZero(b.subarray(at, at + SECTOR))) at += SECTOR;
  return at;
}

/** Offset of the first sector in which the two differ. */
function firstDifference(a: Uint8Array, b: Uint8Array, hot: Hot): number | undefined {
  if (hot.equal?.(a, b) === true) return undefined;
  const words = Math.floor(a.byteLength / 4);
  const left = new Int32Array(a.buffer, a.byteOffset, words);
  const right = new Int32Array(b.buffer, b.byteOffset, words);
  for (let i = 0; i < words; i++) if (left[i] !== right[i]) return floorSector(i * 4);
  for (let i = words * 4; i < a.byteLength; i++) if (a[i] !== b[i]) return floorSector(i);
  return undefined;
}

function floorSector(offset: number): number {
  return offset - (offset % SECTOR);
}
