/**
 * Requests into the native addon: one engine object per JavaScript thread.
 *
 * A request fills a slot of the memory shared with the addon and appends its number to
 * the list of the turn; the addon takes the list before the event loop would sleep, and
 * calls `deliver` once for all that finished. See native/src/vdisk.h for the layout and
 * the invariants.
 */
import { constants } from 'node:os';
import { assert } from '../../lib/assert.js';
import type { Iov } from '../../lib/iov.js';
import { HostError } from '../file.js';
import type { NativeBinding, NativeContext } from './native-binding.js';

/** Requests in the addon at once; more wait here. SLOTS of vdisk.h. */
const SLOTS = 1024;
/** Pieces kept in the shared memory per slot. PIECES of vdisk.h. */
const PIECES = 16;

/** Byte offsets of struct shared. */
const HEADER_BYTES = 64;
const SLOT_BYTES = 64;
const SLOTS_AT = HEADER_BYTES;
const FLAGS_AT = SLOTS_AT + SLOTS * SLOT_BYTES;
const SQ_AT = FLAGS_AT + SLOTS * 4;
const CQ_AT = SQ_AT + SLOTS * 4;
const PIECES_AT = CQ_AT + SLOTS * 8;
export const SHARED_BYTES = PIECES_AT + SLOTS * PIECES * 16;

/** Words of the header. */
const H_QUEUED = 0;
const H_INFLIGHT = 1;
const H_ARMED = 2;
const H_BATCH = 3;
const H_BLOCKED = 4;

/** Fields of a slot: indices in doubles, and in 32-bit words. */
const OFFSET = 0;
const ADDR = 1;
const BYTES = 2;
const RESULT = 3;
const OP = 8;
const FD = 9;
const COUNT = 10;
const ENGINE = 11;
const ARG1 = 6;
const ARG2 = 7;

/** enum op of vdisk.h. */
export const Op = {
  read: 0,
  write: 1,
  fdatasync: 2,
  truncate: 3,
  fallocate: 4,
  copy: 5,
  discard: 6,
  zeroOut: 7,
  dropCache: 8,
  resident: 9,
  extent: 10,
  findZeroes: 11,
  writeFrom: 12,
  xts: 13,
  deflate: 14,
  inflate: 15,
  zstdCompress: 16,
  zstdDecompress: 17,
} as const;

/** enum engine of vdisk.h. */
export const EngineCode = { threads: 0, native: 1, io_uring: 2 } as const;

/** Slot flag: the page cache is in use, so the request may finish at once. */
const CACHED = 1;
/** Slot flag: sent to another engine than the file's, to be done in one call. */
const AT_ONCE = 2;

/** What the engine must know of the file that a request belongs to. */
export interface Target {
  readonly fd: number;
  readonly code: number;
  readonly cached: boolean;
  /** Most requests queued before they are submitted; 0: no limit of its own. */
  readonly maxBatch: number;
  /** Requests of this file queued in batch number `batch`. */
  queued: number;
  batch: number;
  /** Requests not finished. */
  inFlight: number;
  /** Called when inFlight falls to 0. */
  idle(): void;
}

/** Result of an operation: a byte count, or a negative errno. */
type Settle = (result: number) => void;

/** Changes requests on their way, for tests: shorter, or failing with an errno. */
export type Tamper = (op: number, bytes: number) => { bytes?: number; errno?: number } | undefined;

interface Waiting {
  readonly target: Target;
  readonly op: number;
  readonly offset: number;
  readonly bytes: number;
  readonly keep: unknown;
  readonly arg1: number;
  readonly arg2: number;
  readonly engine: number;
  readonly settle: Settle;
}

/** Looking for completions longer than this costs more CPU than it saves time. */
const POLL_LIMIT_NS = 150_000;

/** VDISK_POLL_MAX_NS sets another limit, 0 none (QEMU's iothread property `poll-max-ns`). */
function pollLimitNs(): number {
  const text = process.env['VDISK_POLL_MAX_NS'];
  const value = Number(text);
  return text === undefined || !(value >= 0) ? POLL_LIMIT_NS : value;
}

/** Names by number; of two names for one number, the one that callers compare with. */
let names: Map<number, string> | undefined;
function errnoName(errno: number): string {
  if (names === undefined) {
    names = new Map(Object.entries(constants.errno).map(([name, value]) => [value, name]));
    names.set(constants.errno.EAGAIN, 'EAGAIN');
    names.set(constants.errno.EOPNOTSUPP, 'ENOTSUP');
  }
  return names.get(errno) ?? 'EIO';
}

/** Whether the addon lays its memory out, and numbers its operations, as this module does. */
export function isFromTheseSources(binding: NativeBinding): boolean {
  return binding.sharedBytes === SHARED_BYTES && binding.operations === Object.keys(Op).length;
}

/** The error for a negative result. */
export function errnoError(result: number): HostError {
  return new HostError(errnoName(-result));
}

export class NativeEngine {
  readonly binding: NativeBinding;
  readonly #context: NativeContext;
  readonly #header: Int32Array;
  readonly #f64: Float64Array;
  readonly #i32: Int32Array;
  readonly #flags: Int32Array;
  readonly #sq: Int32Array;
  readonly #cq: Int32Array;
  readonly #pieces: Float64Array;
  readonly #piecesAddress: number;
  readonly #free: Int32Array;
  #freeCount = SLOTS;
  readonly #settle: (Settle | undefined)[] = new Array<Settle | undefined>(SLOTS).fill(undefined);
  readonly #targets: (Target | undefined)[] = new Array<Target | undefined>(SLOTS).fill(undefined);
  /** Memory that must outlive the request. */
  readonly #kept: unknown[] = new Array<unknown>(SLOTS).fill(undefined);
  readonly #waiting: Waiting[] = [];
  readonly #addresses = new WeakMap<ArrayBufferLike, number>();
  #lastBuffer: ArrayBufferLike | undefined;
  #lastAddress = 0;
  readonly #opened = new Map<number, number>();
  #tamper: Tamper | undefined;

  constructor(binding: NativeBinding) {
    assert(isFromTheseSources(binding), 'an addon of these sources');
    this.binding = binding;
    const shared = new ArrayBuffer(SHARED_BYTES);
    this.#header = new Int32Array(shared, 0, HEADER_BYTES / 4);
    this.#f64 = new Float64Array(shared, SLOTS_AT, (SLOTS * SLOT_BYTES) / 8);
    this.#i32 = new Int32Array(shared, SLOTS_AT, (SLOTS * SLOT_BYTES) / 4);
    this.#flags = new Int32Array(shared, FLAGS_AT, SLOTS);
    this.#sq = new Int32Array(shared, SQ_AT, SLOTS);
    this.#cq = new Int32Array(shared, CQ_AT, 2 * SLOTS);
    this.#pieces = new Float64Array(shared, PIECES_AT, SLOTS * PIECES * 2);
    this.#piecesAddress = binding.addressOf(this.#pieces) + PIECES_AT;
    this.#free = new Int32Array(SLOTS);
    for (let i = 0; i < SLOTS; i++) this.#free[i] = SLOTS - 1 - i;
    const deliver = (count: number): void => {
      this.#deliver(count);
    };
    this.#context = binding.create(shared, deliver, pollLimitNs());
  }

  /** Sets up an engine of the kernel once; 0 or a negative errno. */
  open(code: number): number {
    let result = this.#opened.get(code);
    if (result === undefined) {
      result = this.binding.openEngine(this.#context, code);
      this.#opened.set(code, result);
    }
    return result;
  }

  /** Counters of the addon: batches, inline, ring, aio, pool, rounds, wakes. */
  stats(): readonly number[] {
    return this.binding.stats(this.#context);
  }

  /** Has the event loop look for data on a socket a while before it sleeps, or no more. */
  watchSocket(fd: number, on: boolean): void {
    this.binding.watchSocket(this.#context, fd, on);
  }

  /** Counts a write that waits for its peer (1), or one that was taken (-1). */
  countBlocked(change: 1 | -1): void {
    this.#header[H_BLOCKED]! += change;
  }

  /** Writes that wait for their peers. */
  get blocked(): number {
    return this.#header[H_BLOCKED]!;
  }

  /** For tests: looks at each transfer before it goes out; undefined ends it. */
  setTamper(tamper: Tamper | undefined): void {
    this.#tamper = tamper;
  }

  /** Address of the first byte of `view`. */
  addressOf(view: Uint8Array): number {
    const { buffer } = view;
    if (buffer === this.#lastBuffer) return this.#lastAddress + view.byteOffset;
    let address = this.#addresses.get(buffer);
    if (address === undefined) {
      address = this.binding.addressOf(view);
      this.#addresses.set(buffer, address);
    }
    this.#lastBuffer = buffer;
    this.#lastAddress = address;
    return address + view.byteOffset;
  }

  /**
   * Starts a read or a write of all of `iov` (not empty, at most 1024 pieces). `settle`
   * gets the bytes moved, maybe fewer than asked for, or a negative errno. `engine`: another than
   * the file's.
   */
  // hot: bench/engine
  transfer(
    target: Target,
    op: number,
    offset: number,
    iov: Iov,
    settle: Settle,
    engine = target.code,
  ): void {
    target.inFlight++;
    if (this.#freeCount === 0) {
      const { bytes } = iov;
      const keep = iov;
      this.#waiting.push({ target, op, offset, bytes, keep, arg1: 0, arg2: 0, engine, settle });
      return;
    }
    const slot = this.#free[--this.#freeCount]!;
    this.#kept[slot] = iov;
    const { bufs } = iov;
    const count = bufs.length;
    const word = slot * 16;
    this.#i32[word + COUNT] = count;
    this.#f64[slot * 8 + ADDR] =
      count === 1 ? this.addressOf(bufs[0]!) : this.#fillPieces(slot, iov);
    this.#queue(slot, target, op, offset, iov.bytes, settle, engine);
  }

  /** Starts any other operation; `keep` is held until it ends. */
  operate(
    target: Target,
    op: number,
    offset: number,
    bytes: number,
    arg1: number,
    arg2: number,
    keep: unknown,
    settle: Settle,
  ): void {
    target.inFlight++;
    if (this.#freeCount === 0) {
      const engine = target.code;
      this.#waiting.push({ target, op, offset, bytes, keep, arg1, arg2, engine, settle });
      return;
    }
    const slot = this.#free[--this.#freeCount]!;
    this.#kept[slot] = keep;
    const double = slot * 8;
    this.#i32[slot * 16 + COUNT] = 1;
    this.#f64[double + ADDR] = keep instanceof Uint8Array ? this.addressOf(keep) : 0;
    this.#f64[double + ARG1] = arg1;
    this.#f64[double + ARG2] = arg2;
    this.#queue(slot, target, op, offset, bytes, settle, target.code);
  }

  /** Puts the (address, length) pairs of `iov` where the addon finds them. */
  #fillPieces(slot: number, iov: Iov): number {
    const { bufs } = iov;
    let out = this.#pieces;
    let at = slot * PIECES * 2;
    let address = this.#piecesAddress + at * 8;
    if (bufs.length > PIECES) {
      out = new Float64Array(bufs.length * 2);
      at = 0;
      address = this.binding.addressOf(out);
      this.#kept[slot] = [iov, out];
    }
    for (const b of bufs) {
      out[at++] = this.addressOf(b);
      out[at++] = b.byteLength;
    }
    return address;
  }

  // hot: bench/engine
  #queue(
    slot: number,
    target: Target,
    op: number,
    offset: number,
    bytes: number,
    settle: Settle,
    engine: number,
  ): void {
    const double = slot * 8;
    const word = slot * 16;
    this.#f64[double + OFFSET] = offset;
    this.#f64[double + BYTES] = bytes;
    this.#f64[double + RESULT] = 0;
    this.#i32[word + OP] = op;
    this.#i32[word + FD] = target.fd;
    this.#i32[word + ENGINE] = engine;
    this.#flags[slot] = (target.cached ? CACHED : 0) | (engine === target.code ? 0 : AT_ONCE);
    this.#settle[slot] = settle;
    this.#targets[slot] = target;
    const header = this.#header;
    header[H_INFLIGHT]!++;
    if (this.#tamper !== undefined && this.#tampered(slot, op, bytes)) return;
    this.#sq[header[H_QUEUED]!++] = slot;
    if (header[H_ARMED] === 0) this.binding.arm(this.#context);
    if (target.maxBatch > 0) this.#limitBatch(target);
  }

  /** Submits now when the batch holds as many requests of the file as it may. */
  #limitBatch(target: Target): void {
    const batch = this.#header[H_BATCH]!;
    if (target.batch !== batch) target.queued = 0;
    target.batch = batch;
    if (++target.queued >= target.maxBatch) this.binding.submit(this.#context);
  }

  #tampered(slot: number, op: number, bytes: number): boolean {
    const change = this.#tamper?.(op, bytes);
    if (change === undefined) return false;
    const { errno } = change;
    if (errno === undefined) {
      if (this.#i32[slot * 16 + COUNT] === 1) this.#f64[slot * 8 + BYTES] = change.bytes ?? bytes;
      return false;
    }
    queueMicrotask(() => {
      this.#finish(slot, -errno);
    });
    return true;
  }

  // hot: bench/engine
  #deliver(count: number): void {
    const cq = this.#cq;
    for (let i = 0; i < count; i++) this.#finish(cq[2 * i]!, cq[2 * i + 1]!);
    if (this.#waiting.length > 0) this.#startWaiting();
  }

  #finish(slot: number, code: number): void {
    const settle = this.#settle[slot]!;
    const target = this.#targets[slot]!;
    const result = this.#f64[slot * 8 + RESULT]!;
    this.#settle[slot] = undefined;
    this.#targets[slot] = undefined;
    this.#kept[slot] = undefined;
    this.#free[this.#freeCount++] = slot;
    this.#header[H_INFLIGHT]!--;
    settle(code < 0 || result === 0 ? code : result);
    if (--target.inFlight === 0) target.idle();
  }

  /** Requests that found no free slot, in their order. */
  #startWaiting(): void {
    const waiting = this.#waiting.splice(0, this.#freeCount);
    for (const w of waiting) {
      w.target.inFlight--;
      if (w.op === Op.read || w.op === Op.write) {
        this.transfer(w.target, w.op, w.offset, w.keep as Iov, w.settle, w.engine);
      } else {
        this.operate(w.target, w.op, w.offset, w.bytes, w.arg1, w.arg2, w.keep, w.settle);
      }
    }
  }
}
