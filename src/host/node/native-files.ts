/**
 * Files over the native addon: engines io_uring, native (Linux AIO) and threads.
 *
 * Transfers that the page cache can serve finish in the addon at once, whatever the
 * engine; the rest goes to the engine asked for. With O_DIRECT only memory that the
 * device cannot take is copied.
 */
import * as fs from 'node:fs';
import { assert } from '../../lib/assert.js';
import { Iov } from '../../lib/iov.js';
import { HostError } from '../file.js';
import type {
  EngineName,
  FileExtent,
  FileKind,
  FileLimits,
  FileOpenOptions,
  FileRun,
  HostFile,
  LockRequest,
} from '../file.js';
import { nowMs } from './clock.js';
import { closeFd, isTransient, kindOf, openFd } from './fs-calls.js';
import { EngineCode, Op, errnoError } from './native-engine.js';
import type { NativeEngine, Target } from './native-engine.js';
import type { AlignedPool } from './aligned.js';

/** IOV_MAX of Linux. */
const MOST_PIECES = 1024;
/** Below the 2 GiB that one system call transfers at most. */
const MOST_BYTES = 1024 * 1024 * 1024;
/** How often a request is tried again after EINTR or EAGAIN. */
const MOST_RETRIES = 1000;
/** An lseek that took longer (ms) shows that the file system must read for it: */
const SLOW_SEEK_MS = 2;
/** then such calls go to the pool for this long (ms). */
const SEEK_PAUSE_MS = 200;

/** Modes of fallocate(2). */
const KEEP_SIZE = 1;
const PUNCH_HOLE = 2;
const ZERO_RANGE = 16;

const LOCK_TYPES = { unlock: 0, shared: 1, exclusive: 2 } as const;

/** Answers of the kernel that mean: this file system or device cannot. */
const CANNOT = new Set(['ENOTSUP', 'ENOSYS', 'ENOTTY', 'EINVAL', 'EXDEV', 'ETXTBSY', 'ENODEV']);

function orUnsupported(error: unknown): never {
  if (error instanceof HostError && CANNOT.has(error.code)) {
    throw new HostError('ENOTSUP', undefined, { cause: error });
  }
  throw error;
}

type Direction = typeof Op.read | typeof Op.write;

export class NativeFile implements HostFile, Target {
  readonly code: number;
  readonly maxBatch: number;
  limits: FileLimits;
  direct: boolean;
  cached: boolean;
  queued = 0;
  batch = 0;
  inFlight = 0;
  #onIdle: (() => void) | undefined;
  #closed = false;
  #seekSlowUntil = 0;
  /** Blocks that were allocated here, and of which nothing behind `#unwritten` was written yet. */
  #unwritten = 0;
  #unwrittenEnd = 0;
  readonly #numbers = new Float64Array(5);

  constructor(
    readonly path: string,
    readonly fd: number,
    readonly kind: FileKind,
    readonly engine: Exclude<EngineName, 'node-fs'>,
    private readonly options: FileOpenOptions,
    private readonly io: NativeEngine,
    private readonly pool: AlignedPool,
  ) {
    this.code = EngineCode[engine];
    this.maxBatch = options.maxBatch ?? 0;
    this.direct = options.direct;
    this.cached = !options.direct;
    this.limits = this.#readLimits(options.direct);
  }

  get writable(): boolean {
    return this.options.writable;
  }

  #readLimits(direct: boolean): FileLimits {
    const out = this.#numbers;
    const result = this.io.binding.fileLimits(this.fd, direct, out);
    if (result < 0) throw errnoError(result);
    return {
      requestAlignment: out[0]!,
      memoryAlignment: Math.max(1, out[1]!),
      maxTransfer: Math.min(out[2]!, MOST_BYTES),
      optimalTransfer: out[3]!,
      discardAlignment: out[4]!,
    };
  }

  idle(): void {
    this.#onIdle?.();
  }

  #drain(): Promise<void> {
    if (this.inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#onIdle = resolve;
    });
  }

  /** Whether `iov` can go to the engine as it is. */
  #isPlain(iov: Iov): boolean {
    const { bufs } = iov;
    if (this.#closed || bufs.length === 0 || bufs.length > MOST_PIECES) return false;
    if (iov.bytes > MOST_BYTES) return false;
    if (this.cached) return true;
    // A power of two; & looks at the low 32 bits, and is much faster than % on doubles.
    const mask = this.limits.memoryAlignment - 1;
    for (const b of bufs) {
      if ((this.io.addressOf(b) & mask) !== 0) return false;
      if (bufs.length > 1 && (b.byteLength & mask) !== 0) return false;
    }
    return true;
  }

  // hot: bench/engine
  read(offset: number, iov: Iov): Promise<number> {
    if (!this.#isPlain(iov)) return this.#slow(Op.read, offset, iov);
    return new Promise((resolve, reject) => {
      this.io.transfer(this, Op.read, offset, iov, (result) => {
        if (result === iov.bytes) resolve(result);
        else this.#resume(Op.read, offset, iov, result).then(resolve, reject);
      });
    });
  }

  // hot: bench/engine
  write(offset: number, iov: Iov): Promise<void> {
    if (!this.#isPlain(iov)) return this.#slow(Op.write, offset, iov).then(() => undefined);
    const engine = offset < this.#unwrittenEnd ? this.#engineAt(offset, iov.bytes) : this.code;
    return new Promise((resolve, reject) => {
      const settle = (result: number): void => {
        if (result === iov.bytes) resolve();
        else this.#resume(Op.write, offset, iov, result).then(() => resolve(), reject);
      };
      this.io.transfer(this, Op.write, offset, iov, settle, engine);
    });
  }

  /**
   * The engine for a write before `#unwrittenEnd`. The first write into allocated blocks changes
   * metadata when it is done. Asynchronous engines leave that to a thread of the kernel, which
   * takes its time, longest on a busy machine; a thread of the pool does it itself.
   */
  #engineAt(offset: number, bytes: number): number {
    const end = offset + bytes;
    if (end <= this.#unwritten || this.cached) return this.code;
    if (offset <= this.#unwritten) this.#unwritten = end;
    return EngineCode.threads;
  }

  /** Goes on after a first transfer that failed or moved fewer bytes than asked for. */
  async #resume(way: Direction, offset: number, iov: Iov, result: number): Promise<number> {
    if (result < 0) {
      const error = errnoError(result);
      if (!isTransient(error)) throw error;
      return this.#loop(way, offset, iov);
    }
    if (way === Op.read && this.#isEnd(result)) return result;
    return result + (await this.#loop(way, offset + result, iov.slice(result, iov.bytes - result)));
  }

  /** Nothing, or with O_DIRECT an odd count, comes only at the end of the file. */
  #isEnd(got: number): boolean {
    return got === 0 || got % this.limits.requestAlignment !== 0;
  }

  async #slow(way: Direction, offset: number, iov: Iov): Promise<number> {
    if (this.#closed) throw new HostError('EBADF');
    if (iov.bytes === 0) return 0;
    // Counted as one request, so that close() waits for all its parts.
    this.inFlight++;
    try {
      return await this.#loop(way, offset, iov);
    } finally {
      if (--this.inFlight === 0) this.idle();
    }
  }

  /** Transfers until all bytes moved; a read stops at the end of the file. */
  async #loop(way: Direction, offset: number, iov: Iov): Promise<number> {
    let moved = 0;
    let retries = 0;
    while (moved < iov.bytes) {
      const result = await this.#part(way, offset + moved, iov, moved);
      if (result < 0) {
        const error = errnoError(result);
        if (!isTransient(error) || ++retries > MOST_RETRIES) throw error;
        await new Promise(setImmediate);
        continue;
      }
      moved += result;
      if (way === Op.read && this.#isEnd(result)) break;
      if (result === 0) throw new HostError('ENOSPC');
      retries = 0;
    }
    return moved;
  }

  /** One transfer of what is left of `iov` after `done` bytes, within the kernel's bounds. */
  async #part(way: Direction, offset: number, iov: Iov, done: number): Promise<number> {
    let part = iov.slice(done, Math.min(iov.bytes - done, MOST_BYTES));
    if (part.bufs.length > MOST_PIECES) part = Iov.from(part.bufs.slice(0, MOST_PIECES));
    const plain = this.cached || this.#isPlain(part);
    if (plain) return this.#transfer(way, offset, part);
    // Whole again, so that the length stays aligned.
    const whole = iov.slice(done, Math.min(iov.bytes - done, this.pool.mostBytes));
    const memory = this.pool.take(whole.bytes);
    try {
      const bounce = memory.subarray(0, whole.bytes);
      if (way === Op.write) whole.copyTo(bounce);
      const result = await this.#transfer(way, offset, Iov.of(bounce));
      if (way === Op.read && result > 0) whole.copyFrom(bounce.subarray(0, result));
      return result;
    } finally {
      this.pool.give(memory);
    }
  }

  #transfer(way: Direction, offset: number, iov: Iov): Promise<number> {
    return new Promise((resolve) => {
      this.io.transfer(this, way, offset, iov, resolve);
    });
  }

  /** An operation of the pool; its result. */
  #operate(op: number, offset = 0, bytes = 0, arg1 = 0, arg2 = 0, keep?: unknown): Promise<number> {
    if (this.#closed) return Promise.reject(new HostError('EBADF'));
    return new Promise((resolve, reject) => {
      this.io.operate(this, op, offset, bytes, arg1, arg2, keep, (result) => {
        if (result < 0 && op !== Op.extent) reject(errnoError(result));
        else resolve(result);
      });
    });
  }

  #sizes(which: 0 | 1): Promise<number> {
    const result = this.#closed ? -9 : this.io.binding.fileSize(this.fd, this.#numbers);
    if (result < 0) return Promise.reject(errnoError(result));
    return Promise.resolve(this.#numbers[which]!);
  }

  size(): Promise<number> {
    return this.#sizes(0);
  }

  allocatedBytes(): Promise<number> {
    return this.#sizes(1);
  }

  async flush(): Promise<void> {
    await this.#operate(Op.fdatasync);
  }

  async truncate(bytes: number): Promise<void> {
    this.#unwrittenEnd = Math.min(this.#unwrittenEnd, bytes);
    await this.#operate(Op.truncate, bytes);
  }

  async allocate(offset: number, bytes: number): Promise<void> {
    await this.#fallocate(0, offset, bytes);
    if (offset !== this.#unwrittenEnd) this.#unwritten = offset;
    this.#unwrittenEnd = offset + bytes;
  }

  async #fallocate(mode: number, offset: number, bytes: number): Promise<void> {
    if (bytes === 0) return;
    await this.#operate(Op.fallocate, offset, bytes, mode).catch(orUnsupported);
  }

  async punchHole(offset: number, bytes: number): Promise<void> {
    await this.#fallocate(PUNCH_HOLE | KEEP_SIZE, offset, bytes);
  }

  async zeroRange(offset: number, bytes: number): Promise<void> {
    if (bytes === 0) return;
    if (this.kind === 'block') {
      await this.#operate(Op.zeroOut, offset, bytes).catch(orUnsupported);
      return;
    }
    try {
      await this.#fallocate(ZERO_RANGE, offset, bytes);
    } catch (error) {
      if (!(error instanceof HostError) || error.code !== 'ENOTSUP') throw error;
      // tmpfs and others: a hole, then blocks for it, read as zeroes as well.
      await this.#fallocate(PUNCH_HOLE | KEEP_SIZE, offset, bytes);
      await this.#fallocate(0, offset, bytes);
    }
  }

  async discard(offset: number, bytes: number): Promise<void> {
    if (this.kind !== 'block') return this.punchHole(offset, bytes);
    if (bytes === 0) return;
    await this.#operate(Op.discard, offset, bytes).catch(orUnsupported);
  }

  async extentAt(offset: number): Promise<FileExtent | undefined> {
    if (this.#closed) throw new HostError('EBADF');
    let run: number;
    const before = nowMs();
    if (before < this.#seekSlowUntil) {
      run = await this.#operate(Op.extent, offset);
    } else {
      run = this.io.binding.extentAt(this.fd, offset);
      const after = nowMs();
      if (after - before > SLOW_SEEK_MS) this.#seekSlowUntil = after + SEEK_PAUSE_MS;
    }
    return run === 0 ? undefined : { data: run > 0, bytes: Math.abs(run) };
  }

  async copyFrom(source: HostFile, from: number, to: number, bytes: number): Promise<number> {
    if (!(source instanceof NativeFile)) throw new HostError('ENOTSUP');
    if (bytes === 0) return 0;
    source.inFlight++;
    try {
      return await this.#operate(Op.copy, to, bytes, source.fd, from, source).catch(orUnsupported);
    } finally {
      if (--source.inFlight === 0) source.idle();
    }
  }

  async tryFindZeroes(
    offset: number,
    bytes: number,
    blockBytes: number,
    skew: number,
    zero: Uint8Array,
  ): Promise<boolean> {
    if (!this.cached) return false;
    assert(zero.byteLength * blockBytes >= skew + bytes, 'a mark for each block');
    try {
      await this.#operate(Op.findZeroes, offset, bytes, blockBytes, skew, zero);
      return true;
    } catch {
      // Whoever reads the range will be told why.
      return false;
    }
  }

  tryWriteFrom(source: FileRun, offset: number, zeroBlock: number): Promise<void> | undefined {
    const { file, bytes } = source;
    if (!(file instanceof NativeFile) || !this.cached || !file.cached) return undefined;
    return this.#writeFrom(file, new Float64Array([file.fd, source.offset, zeroBlock]), {
      offset,
      bytes,
    });
  }

  /** `origin`: struct origin of vdisk.h. */
  async #writeFrom(
    source: NativeFile,
    origin: Float64Array,
    { offset, bytes }: { offset: number; bytes: number },
  ): Promise<void> {
    source.inFlight++;
    try {
      await this.#operate(Op.writeFrom, offset, bytes, 0, 0, new Uint8Array(origin.buffer));
    } finally {
      if (--source.inFlight === 0) source.idle();
    }
  }

  #lock(request: LockRequest, test: boolean): number {
    if (this.#closed) throw new HostError('EBADF');
    const { type, offset, bytes } = request;
    const result = this.io.binding.lock(this.fd, LOCK_TYPES[type], offset, bytes, test);
    if (result >= 0) return result;
    const error = errnoError(result);
    if (error.code === 'EAGAIN' || error.code === 'EACCES') return 1;
    // A kernel or file system without such locks.
    if (error.code === 'EINVAL' || error.code === 'ENOLCK') throw new HostError('ENOTSUP');
    throw error;
  }

  async tryLock(request: LockRequest): Promise<boolean> {
    return this.#lock(request, false) === 0;
  }

  async testLock(request: LockRequest): Promise<boolean> {
    return this.#lock(request, true) === 0;
  }

  async setDirect(direct: boolean): Promise<void> {
    if (direct === this.direct) return;
    await this.#drain();
    const result = this.#closed ? -9 : this.io.binding.setDirect(this.fd, direct);
    if (result < 0) throw errnoError(result);
    this.direct = direct;
    this.cached = !direct;
    this.limits = this.#readLimits(direct);
  }

  async dropCache(): Promise<void> {
    await this.#operate(Op.dropCache);
  }

  isCached(offset: number, bytes: number): boolean {
    return this.cached && !this.#closed && this.io.binding.isCached(this.fd, offset, bytes);
  }

  cachedBytes(): Promise<number> {
    return this.#operate(Op.resident).catch(orUnsupported);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#drain();
    await closeFd(this.fd);
  }
}

/** Opens `path` on `engine`, which works here. */
export async function openNativeFile(
  path: string,
  options: FileOpenOptions,
  engine: Exclude<EngineName, 'node-fs'>,
  io: NativeEngine,
  pool: AlignedPool,
): Promise<HostFile> {
  const fd = await openFd(path, options);
  try {
    const kind = kindOf(fs.fstatSync(fd));
    return new NativeFile(path, fd, kind, engine, options, io, pool);
  } catch (error) {
    fs.closeSync(fd);
    throw error;
  }
}
