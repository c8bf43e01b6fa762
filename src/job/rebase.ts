/** Giving an image another backing file without a change of what it shows. */
import { Backend, toolPerms } from '../block/backend.js';
import { BlockError, errorCode, errorText } from '../block/errors.js';
import type { BlockNode } from '../block/node.js';
import { below, chainStatus, nodeStatus, skipFilters } from '../block/status.js';
import { Perm, Req } from '../block/types.js';
import { Iov } from '../lib/iov.js';
import type { OperationOptions } from './operation.js';
import { ProgressMeter } from './operation.js';

export interface RebaseOptions extends OperationOptions {
  /** The new backing image; undefined: none, the image will hold everything itself. */
  readonly base: BlockNode | undefined;
  /** `base` is in the image's chain already: what only it and those below hold stays there. */
  readonly baseIsBelow: boolean;
  /** Write what must be taken over compressed. */
  readonly compress: boolean;
}

const PIECE = 2 * 1024 * 1024;
/** Pieces in the works. */
const PARALLEL = 4;
const SECTOR = 512;

/**
 * Copies into `image` what it shows of its old backing file and would not show of the new one.
 * The reference to the backing file is not changed. Throws BlockError; what the image shows is
 * the same before, during and after.
 */
export async function takeOverDifferences(image: Backend, options: RebaseOptions): Promise<void> {
  const work = new Rebase(image, options);
  await work.run();
}

interface Piece {
  readonly offset: number;
  readonly bytes: number;
  /** Bytes of it that no piece or skip before it counted. */
  readonly counts: number;
  /** Whole clusters that the image holds nothing of: they may be written compressed. */
  readonly whole: boolean;
}

class Rebase {
  readonly #image: Backend;
  readonly #options: RebaseOptions;
  readonly #meter: ProgressMeter;
  readonly #old: BlockNode | undefined;
  /** Differences are written in multiples of it; compressed ones in multiples of `#cluster`. */
  #unit = SECTOR;
  #cluster = SECTOR;
  /** The writes of the pieces before: pieces are read side by side, but written in order. */
  #written: Promise<void> = Promise.resolve();
  #failure: unknown;
  #failed = false;

  constructor(image: Backend, options: RebaseOptions) {
    this.#image = image;
    this.#options = options;
    this.#meter = new ProgressMeter(image.graph.host.clock, options);
    this.#meter.total = image.size;
    this.#old = below(skipFilters(image.node));
  }

  async run(): Promise<void> {
    await this.#chooseUnit();
    const { graph } = this.#image;
    const old = await reader(graph, this.#old);
    const fresh = await reader(graph, this.#options.base);
    try {
      await this.#pump((piece) => this.#takeOver(piece, old, fresh));
    } finally {
      await old?.close();
      await fresh?.close();
    }
    this.#meter.finish();
  }

  async #chooseUnit(): Promise<void> {
    const info = await skipFilters(this.#image.node).instance.info?.();
    this.#cluster = info?.clusterSize ?? SECTOR;
    this.#unit = info?.subclusterSize ?? this.#cluster;
  }

  /** Runs `work` over all pieces, some at once; ends when nothing is in flight. */
  async #pump(work: (piece: Piece) => Promise<void>): Promise<void> {
    const pieces = this.#pieces();
    const lane = async (): Promise<void> => {
      try {
        for (;;) {
          // Generators answer one call after the other.
          const next = await pieces.next();
          if (next.done === true || this.#failed) return;
          this.#meter.check();
          await work(next.value);
        }
      } catch (e) {
        if (!this.#failed) this.#failure = e;
        this.#failed = true;
      }
    };
    await Promise.all(Array.from({ length: PARALLEL }, lane));
    if (this.#failed) throw this.#failure;
  }

  /** What the image shows of its backing file, in pieces. */
  async *#pieces(): AsyncGenerator<Piece> {
    const top = skipFilters(this.#image.node);
    const end = this.#image.size;
    for (let at = 0; at < end;) {
      const bytes = await this.#skip(top, at, end);
      if (bytes > 0) {
        this.#meter.advance(bytes);
        at += bytes;
        continue;
      }
      const runEnd = at + (await this.#runBelow(top, at, end));
      while (at < runEnd) {
        const piece = await this.#piece(top, at, runEnd, end);
        yield piece;
        at = piece.offset + piece.bytes;
      }
    }
  }

  /** The next piece of a run; to be compressed, it is widened to clusters where that is right. */
  async #piece(top: BlockNode, at: number, runEnd: number, end: number): Promise<Piece> {
    const length = Math.min(PIECE - (at % PIECE), runEnd - at);
    if (!this.#options.compress) return { offset: at, bytes: length, counts: length, whole: false };
    const from = at - (at % this.#cluster);
    const to = Math.min(end, Math.ceil((at + length) / this.#cluster) * this.#cluster);
    if (await this.#isAbsent(top, from, to)) {
      return { offset: from, bytes: to - from, counts: to - at, whole: true };
    }
    // Some cluster holds something already: it stays as it is, its gaps are filled plainly.
    const next = Math.min(at + length, from + this.#cluster);
    const absent = next - from < this.#cluster ? false : await this.#isAbsent(top, from, next);
    if (absent) return { offset: from, bytes: next - from, counts: next - at, whole: true };
    return { offset: at, bytes: next - at, counts: next - at, whole: false };
  }

  /** Whether the image itself holds nothing in [from, to). */
  async #isAbsent(top: BlockNode, from: number, to: number): Promise<boolean> {
    for (let at = from; at < to;) {
      const own = await this.#status(() => nodeStatus(top, at, to - at, false));
      if (own.allocated) return false;
      at += Math.max(own.bytes, 1);
    }
    return true;
  }

  /** How many bytes from `at` on need nothing done; 0: something may. */
  async #skip(top: BlockNode, at: number, end: number): Promise<number> {
    const own = await this.#status(() => nodeStatus(top, at, end - at, false));
    if (own.allocated || this.#old === undefined) return own.allocated ? own.bytes : 0;
    if (!this.#options.baseIsBelow) return 0;
    const old = this.#old;
    const above = await this.#status(() =>
      chainStatus(old, this.#options.base, at, own.bytes, false),
    );
    return above.allocated ? 0 : above.bytes;
  }

  /** Length of the run at `at` that the image does not hold. */
  async #runBelow(top: BlockNode, at: number, end: number): Promise<number> {
    const own = await this.#status(() => nodeStatus(top, at, end - at, false));
    let { bytes } = own;
    const { base, baseIsBelow } = this.#options;
    const old = this.#old;
    if (baseIsBelow && old !== undefined) {
      bytes = (await this.#status(() => chainStatus(old, base, at, own.bytes, false))).bytes;
    }
    return Math.max(bytes, 1);
  }

  async #status<T>(ask: () => Promise<T>): Promise<T> {
    try {
      return await ask();
    } catch (e) {
      const text = `error while reading image metadata: ${errorText(e)}`;
      throw new BlockError(errorCode(e), text, { cause: e });
    }
  }

  async #takeOver(
    piece: Piece,
    old: Backend | undefined,
    fresh: Backend | undefined,
  ): Promise<void> {
    const turn = this.#written;
    let done = (): void => undefined;
    this.#written = new Promise((resolve) => {
      done = resolve;
    });
    try {
      await this.#compareAndWrite(piece, turn, old, fresh);
    } finally {
      done();
    }
    this.#meter.advance(piece.counts);
  }

  /** Writes where the two differ, after `turn`. */
  async #compareAndWrite(
    piece: Piece,
    turn: Promise<void>,
    old: Backend | undefined,
    fresh: Backend | undefined,
  ): Promise<void> {
    const { hot } = this.#image.graph.host;
    const { offset, bytes } = piece;
    const before = new Uint8Array(bytes);
    const after = new Uint8Array(bytes);
    await readPart(old, offset, before, 'error while reading from old backing file');
    await readPart(fresh, offset, after, 'error while reading from new backing file');
    const beyond = old === undefined || offset >= old.size;
    const differs = hot.equal?.(before, after) !== true;
    await turn;
    if (differs && !this.#failed) await this.#writeDifferences(piece, before, after, beyond);
  }

  async #writeDifferences(
    piece: Piece,
    before: Uint8Array,
    after: Uint8Array,
    isZero: boolean,
  ): Promise<void> {
    const { offset, bytes, whole } = piece;
    const unit = whole ? this.#cluster : this.#unit;
    const skew = offset % unit;
    let from = -1;
    const flush = async (to: number): Promise<void> => {
      if (from >= 0) await this.#write(offset + from, before.subarray(from, to), isZero, whole);
      from = -1;
    };
    for (let at = 0, next = unit - skew; at < bytes; at = next, next += unit) {
      const end = Math.min(next, bytes);
      if (same(before, after, at, end)) await flush(at);
      else if (from < 0) from = at;
    }
    await flush(bytes);
  }

  async #write(
    offset: number,
    data: Uint8Array,
    isZero: boolean,
    compress: boolean,
  ): Promise<void> {
    try {
      if (isZero) await this.#image.writeZeroes(offset, data.byteLength);
      else if (!compress) await this.#image.write(offset, Iov.of(data));
      else await this.#image.write(offset, Iov.of(data), Req.compressed);
    } catch (e) {
      const text = `Error while writing to COW image: ${errorText(e)}`;
      throw new BlockError(errorCode(e), text, { cause: e });
    }
  }
}

/** A reading handle on a node; undefined for none. */
async function reader(
  graph: Backend['graph'],
  node: BlockNode | undefined,
): Promise<Backend | undefined> {
  if (node === undefined) return undefined;
  const backend = new Backend({ graph, name: '', ...toolPerms(false), shared: Perm.all });
  await backend.attach(node);
  return backend;
}

/** Fills `into`; past the end, or without an image, with zeroes. */
async function readPart(
  from: Backend | undefined,
  offset: number,
  into: Uint8Array,
  text: string,
): Promise<void> {
  const inside = from === undefined ? 0 : Math.min(into.byteLength, from.size - offset);
  if (from === undefined || inside <= 0) return;
  try {
    await from.read(offset, Iov.of(into.subarray(0, inside)));
  } catch (e) {
    throw new BlockError(errorCode(e), text, { cause: e });
  }
}

function same(a: Uint8Array, b: Uint8Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (a[i] !== b[i]) return false;
  return true;
}
