/**
 * The copy loop of convert: many large requests in flight, zeroes found and left out.
 *
 * Rules
 *  C1  Writes begin in the order of their offsets (unless `outOfOrder`), so that a growing
 *      target is laid out in order; they need not end in order.
 *  C2  A buffer belongs to one piece from the start of its read to the end of its last write.
 *  C3  After the first error nothing new begins; `run` ends when nothing is in flight any more.
 *  C4  What stands plainly in cached files on both sides is not brought here: the host looks for
 *      its zeroes and copies the rest. What fails on that way is read and written again, so that
 *      errors are those of the plain way.
 */
import type { Backend } from '../block/backend.js';
import { BlockError, errorCode, errorText, isNotSupported } from '../block/errors.js';
import { Req } from '../block/types.js';
import type { FileRun } from '../host/file.js';
import type { Host } from '../host/host.js';
import { Iov } from '../lib/iov.js';
import type { PlanOptions, RunList, Source } from './copy-plan.js';
import { CopyPlan, RunKind, SECTOR } from './copy-plan.js';
import { offload } from './copy-offload.js';
import type { ProgressMeter } from './operation.js';
import { mapFor, storeMarked, storeRuns } from './store-runs.js';
import type { ZeroMap } from './zero-runs.js';
import { countMarked, dropShortZeroRuns } from './zero-runs.js';

export interface CopyOptions extends PlanOptions {
  readonly host: Host;
  readonly target: Backend;
  /** The target reads as zeroes where nothing is written: zeroes are skipped. */
  readonly targetIsZero: boolean;
  /** Zero runs at least this long become holes; 0: all is written, zeroes too. In bytes. */
  readonly minSparse: number;
  /** With `minSparse` 0: what is known to be zero is written as zeroes, not as data. */
  readonly keepsHoles?: boolean;
  /** Multiple to which data is rounded before it is written, in bytes; a power of two. */
  readonly alignment: number;
  /** Write whole clusters of this size compressed. */
  readonly compressCluster?: number | undefined;
  /** Pieces in flight. */
  readonly parallel: number;
  /** Writes may begin in any order. */
  readonly outOfOrder: boolean;
  /** Let the host copy inside itself where it can. */
  readonly offload: boolean;
  /** Bytes per second that may be written; 0: no limit. */
  readonly rate: number;
  /** What lies before is there already. Default 0. */
  readonly from?: number | undefined;
  /** Called now and then with an offset before which everything was written. */
  readonly checkpoint?: ((offset: number) => Promise<void>) | undefined;
  /** How often: after so many bytes. Default: by bytes and time. */
  readonly checkpointBytes?: number | undefined;
  readonly meter: ProgressMeter;
}

/** Length of a piece. Larger ones gain nothing and cost memory: `parallel` of them are in use. */
const PIECE = 1024 * 1024;
/** Of one that goes from file to file, without a buffer: fewer turns of the event loop. */
const PASSED_PIECE = 16 * 1024 * 1024;
/** When compressing, a piece is many requests already. */
const COMPRESS_PIECE = 512 * 1024;
/** Compressed clusters of one copy that may be in the works at once. */
const COMPRESS_PIECES = 6;
/** A checkpoint comes after so many bytes and milliseconds, or after so many more milliseconds. */
const CHECKPOINT_BYTES = 16 * 1024 * 1024;
const CHECKPOINT_MS = 250;
const CHECKPOINT_LATEST_MS = 5000;
/** Longest single zero write or offloaded copy; progress is told between two. */
const LONG_PIECE = 256 * 1024 * 1024;

interface Slot {
  buffer: Uint8Array | undefined;
  map: ZeroMap | undefined;
}

/** One piece of work on its way through reading and writing. */
interface Piece {
  readonly start: number;
  readonly bytes: number;
  readonly kind: number;
  /** The host is to copy it: no buffer is filled. */
  readonly offload: boolean;
}

/** Where a piece stands in a file. */
interface Found {
  readonly run: FileRun;
  /** The slot's map tells what of it is zero. */
  readonly marked: boolean;
  /** All of it is zero, and the target is: there is nothing to do. */
  readonly leftOut: boolean;
}

export class Copy {
  readonly #options: CopyOptions;
  readonly #plan: CopyPlan;
  #pieceBytes: number;
  /** Of a slot's buffer; longer pieces that need one go in parts. */
  readonly #bufferBytes: number;
  /** The longest piece there was. */
  #mapBytes: number;
  readonly #free: Slot[] = [];
  #slotsLeft: number;
  #waiting: ((slot: Slot) => void) | undefined;
  #inFlight = 0;
  #idle: (() => void) | undefined;
  #failure: unknown;
  #failed = false;
  #offload: boolean;
  /** Pieces may go from file to file (C4). */
  readonly #passesOn: boolean;
  /** Whoever writes them leaves zeroes out: nobody has to look for them before. */
  readonly #leavesOutZeroes: boolean;
  /** Unit in which zeroes are looked for on that way, in bytes; 0: only whole pieces of them. */
  readonly #passUnit: number;
  readonly #keepsHoles: boolean;
  #allowedAt = 0;
  /** When the last checkpoint was, and what has begun since. */
  #checkpointAt: number;
  #sinceCheckpoint = 0;
  /** Resolves when the writes of all pieces so far have begun (C1). */
  #turn: Promise<void> = Promise.resolve();

  constructor(options: CopyOptions) {
    this.#options = options;
    this.#checkpointAt = options.host.clock.now();
    this.#plan = new CopyPlan({ ...options, unit: options.compressCluster });
    this.#offload = options.offload;
    const isPlain = options.compressCluster === undefined && options.salvage !== true;
    this.#passesOn = isPlain && options.target.node.takesFileRuns;
    const { minSparse, alignment, target, targetIsZero } = options;
    const { limits, instance } = target.node;
    const { zeroUnit } = instance;
    this.#leavesOutZeroes =
      zeroUnit !== undefined && targetIsZero && minSparse > 0 && minSparse <= alignment;
    // Less than that would be allocated all the same.
    const least = Math.max(alignment, limits.writeZeroesAlignment);
    if (!this.#leavesOutZeroes) this.#passUnit = minSparse === 0 ? 0 : least;
    else this.#passUnit = zeroUnit! > 0 ? Math.max(least, zeroUnit!) : 0;
    this.#keepsHoles = options.keepsHoles ?? options.minSparse > 0;
    const cluster = options.compressCluster;
    this.#bufferBytes = this.#pieceOf(cluster === undefined ? PIECE : COMPRESS_PIECE);
    this.#pieceBytes = this.#mapBytes = this.#bufferBytes;
    this.#slotsLeft =
      cluster === undefined ? options.parallel : Math.min(options.parallel, COMPRESS_PIECES);
    // Warnings come in the order of the image.
    if (options.salvage === true) this.#slotsLeft = 1;
  }

  /** Length of pieces in whole units, about as long as wanted. */
  #pieceOf(wanted: number): number {
    const unit = Math.max(this.#options.compressCluster ?? 0, this.#options.alignment);
    return Math.max(unit, wanted - (wanted % unit));
  }

  /**
   * Pieces are longer when they will hardly need their buffers (C4), as far as the first data
   * tells, and nobody waits for the end of each.
   */
  #choosePiece(runs: RunList): void {
    const { rate, checkpoint } = this.#options;
    if (!this.#passesOn || rate > 0 || checkpoint !== undefined) return;
    for (let i = 0; i < runs.count; i++) {
      if (runs.kindOf(i) !== RunKind.data) continue;
      const at = runs.startOf(i);
      const source = this.#plan.sourceAt(at);
      const most = Math.min(PASSED_PIECE, runs.endOf(i) - at, source.end - at);
      // Blocks of a format may stand apart in its file.
      for (let wanted = PASSED_PIECE; wanted > PIECE; wanted /= 2) {
        const run = source.backend.tryFileRun(at - source.start, Math.min(wanted, most));
        if (run?.file.tryFindZeroes === undefined) continue;
        this.#pieceBytes = this.#mapBytes = this.#pieceOf(wanted);
        return;
      }
      return;
    }
  }

  /** Length of the sources together. */
  get bytes(): number {
    return this.#plan.bytes;
  }

  /** Copies all. Rejects with the first error when nothing is in flight any more (C3). */
  async run(): Promise<void> {
    const check = (): void => {
      this.#options.meter.check();
    };
    try {
      const { from = 0, meter } = this.#options;
      meter.total += from;
      meter.done += from;
      let runs = await this.#plan.runsFrom(from, check);
      this.#choosePiece(runs);
      await this.#countWork(runs, check);
      // With salvage, what could not be told may be told at the second look.
      if (this.#options.salvage === true) runs = await this.#plan.runsFrom(0, check);
      for (let at = from; at < this.bytes;) {
        await this.#copyRuns(runs);
        at = runs.endOf(runs.count - 1);
        if (at < this.bytes) runs = await this.#plan.runsFrom(at, check);
      }
    } catch (e) {
      this.#fail(e);
    }
    await this.#drain();
    if (this.#failed) throw this.#failure;
  }

  /** Sums up what will be copied, for the progress. */
  async #countWork(first: RunList, check: () => void): Promise<void> {
    const { meter } = this.#options;
    for (let runs = first; ;) {
      for (let i = 0; i < runs.count; i++) {
        const kind = runs.kindOf(i);
        if (kind === RunKind.data || (kind === RunKind.zero && !this.#keepsHoles)) {
          meter.total += runs.endOf(i) - runs.startOf(i);
        }
      }
      const at = runs.count === 0 ? this.bytes : runs.endOf(runs.count - 1);
      if (at >= this.bytes) return;
      runs = await this.#plan.runsFrom(at, check);
    }
  }

  async #copyRuns(runs: RunList): Promise<void> {
    const { targetIsZero, meter } = this.#options;
    for (let i = 0; i < runs.count; i++) {
      const kind = runs.kindOf(i);
      if (kind === RunKind.backing) continue;
      const isHole = kind === RunKind.zero && this.#keepsHoles;
      if (isHole && targetIsZero) continue;
      const end = runs.endOf(i);
      for (let at = runs.startOf(i); at < end;) {
        if (this.#failed) return;
        meter.check();
        if (this.#isCheckpointDue()) await this.#checkpoint(at);
        const offload = this.#offload && !isHole;
        const unit = isHole || offload ? LONG_PIECE : this.#pieceBytes;
        const bytes = Math.min(unit - (at % unit), end - at);
        this.#sinceCheckpoint += bytes;
        this.#launch({ start: at, bytes, kind, offload }, await this.#takeSlot());
        at += bytes;
      }
    }
  }

  #isCheckpointDue(): boolean {
    const { checkpoint, checkpointBytes, host } = this.#options;
    if (checkpoint === undefined || this.#sinceCheckpoint === 0) return false;
    if (checkpointBytes !== undefined) return this.#sinceCheckpoint >= checkpointBytes;
    const ms = host.clock.now() - this.#checkpointAt;
    if (ms >= CHECKPOINT_LATEST_MS) return true;
    return this.#sinceCheckpoint >= CHECKPOINT_BYTES && ms >= CHECKPOINT_MS;
  }

  /** Everything before `at` is written when the caller hears of it. */
  async #checkpoint(at: number): Promise<void> {
    await this.#drain();
    if (this.#failed) return;
    await this.#options.checkpoint?.(at);
    this.#checkpointAt = this.#options.host.clock.now();
    this.#sinceCheckpoint = 0;
  }

  #launch(piece: Piece, slot: Slot): void {
    this.#inFlight++;
    const done = (): void => {
      this.#inFlight--;
      this.#giveSlot(slot);
      if (this.#inFlight === 0) this.#idle?.();
    };
    this.#carryOut(piece, slot).then(done, (e: unknown) => {
      this.#fail(e);
      done();
    });
  }

  async #carryOut(piece: Piece, slot: Slot): Promise<void> {
    const { outOfOrder, rate } = this.#options;
    const before = this.#turn;
    let pass = (): void => undefined;
    if (!outOfOrder) {
      this.#turn = new Promise((resolve) => {
        pass = resolve;
      });
    }
    try {
      const isData = !this.#isHole(piece) && !piece.offload;
      const found = isData ? await this.#look(piece, slot) : undefined;
      const isLong = isData && piece.bytes > this.#bufferBytes;
      if (isLong && found === undefined) this.#pieceBytes = this.#bufferBytes;
      if (isData && !isLong && found === undefined) await this.#fetch(piece, slot);
      if (!outOfOrder) await before;
      if (rate > 0) await this.#throttle(piece.bytes);
      if (this.#failed) return;
      if (found === undefined && !isLong) {
        const stored = this.#store(piece, slot);
        pass();
        await stored;
      } else if (found === undefined || !(await this.#passOn(piece, found, slot, pass))) {
        await this.#copyParts(piece, 0, slot);
      }
    } finally {
      pass();
    }
    if (!this.#isHole(piece)) this.#options.meter.advance(piece.bytes);
  }

  #isHole(piece: Piece): boolean {
    return piece.kind === RunKind.zero && this.#keepsHoles;
  }

  /**
   * Where the piece stands in a cached file of the host, and in the slot's map which of it is
   * zero, if it can be passed on from there (C4).
   */
  async #look(piece: Piece, slot: Slot): Promise<Found | undefined> {
    if (!this.#passesOn || piece.kind !== RunKind.data) return undefined;
    const source = this.#plan.sourceAt(piece.start);
    if (piece.start + piece.bytes > source.end) return undefined;
    const run = source.backend.tryFileRun(piece.start - source.start, piece.bytes);
    const { file } = run ?? {};
    if (run === undefined || file?.tryFindZeroes === undefined) return undefined;
    const { minSparse } = this.#options;
    const map = (slot.map ??= mapFor(this.#mapBytes, this.#options.alignment));
    const block = this.#passUnit;
    if (block === 0) {
      // One look that tells whether all of it is cached.
      const isCached = await file.tryFindZeroes(run.offset, run.bytes, run.bytes, 0, map.zero);
      if (!isCached) return undefined;
      return { run, marked: false, leftOut: this.#leavesOutZeroes && map.zero[0] === 1 };
    }
    const skew = piece.start % block;
    if (!(await file.tryFindZeroes(run.offset, run.bytes, block, skew, map.zero))) return undefined;
    countMarked(map, Math.ceil((run.bytes + skew) / block));
    dropShortZeroRuns(map, Math.ceil(minSparse / block));
    return { run, marked: true, leftOut: false };
  }

  /**
   * Has the host copy a piece that stands in a file (C4), and calls `pass` if all of it is on its
   * way then; false: read it and write it.
   */
  async #passOn(
    piece: Piece,
    { run, marked, leftOut }: Found,
    slot: Slot,
    pass: () => void,
  ): Promise<boolean> {
    const { target, alignment } = this.#options;
    const zeroBlock = this.#leavesOutZeroes ? alignment : 0;
    if (leftOut) return true;
    const seen = { refused: false };
    const write = (at: number, end: number): Promise<void> => {
      const part = { file: run.file, offset: run.offset + at, bytes: end - at };
      const request = target.tryWriteFrom(piece.start + at, part, zeroBlock);
      if (request === undefined) seen.refused = true;
      return request ?? Promise.resolve();
    };
    const stored = marked
      ? storeMarked(this.#options, piece, this.#passUnit, slot.map!, write)
      : write(0, piece.bytes);
    if (!seen.refused) pass();
    try {
      await stored;
    } catch {
      return false;
    }
    return !seen.refused;
  }

  /** Fills the slot's buffer with the piece. */
  async #fetch(piece: Piece, slot: Slot): Promise<void> {
    slot.buffer ??= this.#allocate();
    const bytes = slot.buffer.subarray(0, piece.bytes);
    if (piece.kind === RunKind.zero) {
      bytes.fill(0);
      return;
    }
    for (let done = 0; done < piece.bytes;) {
      const at = piece.start + done;
      const source = this.#plan.sourceAt(at);
      const n = Math.min(piece.bytes - done, source.end - at);
      await this.#fetchFrom(source, at, bytes.subarray(done, done + n));
      done += n;
    }
  }

  /** Fills `into` from the source in which `at` lies; what is behind its end is zeroes. */
  async #fetchFrom(source: Source, at: number, into: Uint8Array): Promise<void> {
    const { backend } = source;
    const offset = at - source.start;
    const inside = Math.max(0, Math.min(into.byteLength, backend.size - offset));
    if (inside < into.byteLength) into.fill(0, inside);
    if (inside === 0) return;
    const wanted = into.subarray(0, inside);
    try {
      await backend.read(offset, Iov.of(wanted));
    } catch (e) {
      if (this.#options.salvage !== true) throw placed('reading', at, e);
      await this.#salvage(backend, offset, wanted);
    }
  }

  #allocate(): Uint8Array {
    const { files } = this.#options.host;
    return files?.alignedBuffer?.(this.#bufferBytes) ?? new Uint8Array(this.#bufferBytes);
  }

  /** Reads sector by sector; those that fail become zeroes. */
  async #salvage(from: Backend, offset: number, into: Uint8Array): Promise<void> {
    for (let at = 0; at < into.byteLength; at += SECTOR) {
      const sector = into.subarray(at, Math.min(at + SECTOR, into.byteLength));
      try {
        await from.read(offset + at, Iov.of(sector));
      } catch (e) {
        sector.fill(0);
        const where = String(offset + at);
        this.#options.onWarning?.(`error while reading offset ${where}: ${errorText(e)}`);
      }
    }
  }

  /** Starts all writes of a piece before it returns (C1). */
  #store(piece: Piece, slot: Slot): Promise<void> {
    const { minSparse, target, compressCluster, alignment } = this.#options;
    if (this.#isHole(piece)) {
      return this.#placed(piece, target.writeZeroes(piece.start, piece.bytes, Req.mayUnmap));
    }
    if (piece.offload) return this.#offloadOrCopy(piece, slot);
    const bytes = slot.buffer?.subarray(0, piece.bytes) ?? new Uint8Array(0);
    if (minSparse === 0 && compressCluster === undefined) {
      return this.#placed(piece, target.write(piece.start, Iov.of(bytes)));
    }
    slot.map ??= mapFor(this.#mapBytes, compressCluster ?? alignment);
    return this.#placed(piece, storeRuns(this.#options, piece.start, bytes, slot.map));
  }

  async #offloadOrCopy(piece: Piece, slot: Slot): Promise<void> {
    const { target } = this.#options;
    const source = this.#plan.sourceAt(piece.start);
    const from = piece.start - source.start;
    let done = 0;
    try {
      while (done < piece.bytes) {
        const left = piece.bytes - done;
        done += await offload(source.backend, from + done, target, piece.start + done, left);
      }
      return;
    } catch (e) {
      if (!isNotSupported(e)) throw placed('writing', piece.start, e);
      this.#offload = false;
    }
    await this.#copyParts(piece, done, slot);
  }

  /** Reads and writes what is left of a piece that may be longer than the slot's buffer. */
  async #copyParts(piece: Piece, done: number, slot: Slot): Promise<void> {
    while (done < piece.bytes) {
      const bytes = Math.min(this.#bufferBytes, piece.bytes - done);
      const part = { start: piece.start + done, bytes, kind: piece.kind, offload: false };
      await this.#fetch(part, slot);
      await this.#store(part, slot);
      done += bytes;
    }
  }

  async #placed(piece: Piece, work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (e) {
      throw placed('writing', piece.start, e);
    }
  }

  async #throttle(bytes: number): Promise<void> {
    const { clock } = this.#options.host;
    const now = clock.now();
    const start = Math.max(now, this.#allowedAt);
    this.#allowedAt = start + (bytes * 1000) / this.#options.rate;
    if (start > now) {
      await new Promise<void>((resolve) => {
        clock.after(start - now, resolve);
      });
    }
  }

  #takeSlot(): Slot | Promise<Slot> {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#slotsLeft > 0) {
      this.#slotsLeft--;
      return { buffer: undefined, map: undefined };
    }
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }

  #giveSlot(slot: Slot): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (waiting === undefined) this.#free.push(slot);
    else waiting(slot);
  }

  #fail(e: unknown): void {
    if (!this.#failed) this.#failure = e;
    this.#failed = true;
  }

  async #drain(): Promise<void> {
    if (this.#inFlight === 0) return;
    await new Promise<void>((resolve) => {
      this.#idle = resolve;
    });
    this.#idle = undefined;
  }
}

function placed(what: 'reading' | 'writing', offset: number, cause: unknown): BlockError {
  const text = `error while ${what} at byte ${String(offset)}: ${errorText(cause)}`;
  return new BlockError(errorCode(cause), text, { cause });
}
