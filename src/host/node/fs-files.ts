/**
 * Files over node:fs (engine `node-fs`): the fallback that works wherever Node does.
 *
 * What node:fs has no call for (fallocate, SEEK_HOLE, locks, ioctl) rejects with
 * ENOTSUP, and callers fall back to plain writes. O_DIRECT goes through aligned
 * bounce buffers.
 */
import * as fs from 'node:fs';
import { Iov } from '../../lib/iov.js';
import { HostError } from '../file.js';
import type {
  EngineName,
  FileExtent,
  FileKind,
  FileLimits,
  FileOpenOptions,
  HostFile,
} from '../file.js';
import type { AlignedPool } from './aligned.js';
import { toHostError } from './errors.js';
import { blockDeviceBytes, call, closeFd, fstat, isTransient, kindOf, openFd } from './fs-calls.js';

/** IOV_MAX of Linux. */
const MOST_PIECES = 1024;
/** Below the 2 GiB that one system call transfers at most. */
const MOST_BYTES = 1024 * 1024 * 1024;
const PAGE_BYTES = 4096;
/** How often a request is tried again after EINTR or EAGAIN. */
const MOST_RETRIES = 1000;

type Done = (error: Error | null, bytes: number) => void;

/** The calls of node:fs that move bytes; tests put faulty ones in their place. */
export interface FsCalls {
  read(fd: number, b: Uint8Array, at: number, n: number, offset: number, done: Done): void;
  readv(fd: number, bufs: readonly Uint8Array[], offset: number, done: Done): void;
  write(fd: number, b: Uint8Array, at: number, n: number, offset: number, done: Done): void;
  writev(fd: number, bufs: readonly Uint8Array[], offset: number, done: Done): void;
}

const nodeCalls: FsCalls = {
  read: fs.read,
  readv: fs.readv,
  write: fs.write,
  writev: fs.writev,
};

type Direction = 'read' | 'write';

async function sizeOf(stat: fs.Stats): Promise<number> {
  return stat.isBlockDevice() ? blockDeviceBytes(stat.rdev) : stat.size;
}

function unsupported(): Promise<never> {
  return Promise.reject(new HostError('ENOTSUP'));
}

/** Tries direct reads of growing size; the first that the kernel takes is the alignment. */
async function probeAlignment(fd: number, pool: AlignedPool): Promise<number> {
  const page = pool.take(PAGE_BYTES);
  for (const bytes of [512, 1024, 2048]) {
    const tried = call<number>((done) => {
      fs.read(fd, page, bytes, bytes, bytes, done);
    });
    const code = await tried.then(
      () => undefined,
      (error: unknown) => toHostError(error).code,
    );
    if (code !== 'EINVAL') return bytes;
  }
  return PAGE_BYTES;
}

async function probeLimits(
  fd: number,
  stat: fs.Stats,
  direct: boolean,
  pool: AlignedPool,
): Promise<FileLimits> {
  const alignment = direct ? await probeAlignment(fd, pool) : 1;
  return {
    requestAlignment: alignment,
    memoryAlignment: direct ? Math.max(512, alignment) : 1,
    maxTransfer: MOST_BYTES,
    optimalTransfer: stat.blksize,
    discardAlignment: 0,
  };
}

class FsFile implements HostFile {
  readonly engine: EngineName = 'node-fs';
  limits: FileLimits;
  direct: boolean;
  #inFlight = 0;
  #idle: (() => void) | undefined;
  #closed = false;
  readonly writable: boolean;

  constructor(
    readonly path: string,
    private fd: number,
    options: FileOpenOptions,
    readonly kind: FileKind,
    limits: FileLimits,
    private readonly pool: AlignedPool,
    private readonly io: FsCalls,
  ) {
    this.limits = limits;
    this.writable = options.writable;
    this.direct = options.direct;
  }

  /** Counts a request in, for close() to wait for. */
  #track<T>(run: () => Promise<T>): Promise<T> {
    if (this.#closed) return Promise.reject(new HostError('EBADF'));
    this.#inFlight++;
    return run().finally(() => {
      this.#left();
    });
  }

  #left(): void {
    if (--this.#inFlight === 0) this.#idle?.();
  }

  #drain(): Promise<void> {
    if (this.#inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#idle = resolve;
    });
  }

  size(): Promise<number> {
    return this.#track(async () => sizeOf(await fstat(this.fd)));
  }

  allocatedBytes(): Promise<number> {
    return this.#track(async () => (await fstat(this.fd)).blocks * 512);
  }

  // hot: bench/engine
  read(offset: number, iov: Iov): Promise<number> {
    const only = iov.bufs[0];
    if (this.direct || this.#closed || only === undefined || iov.bytes > MOST_BYTES) {
      return this.#slow('read', offset, iov);
    }
    return new Promise((resolve, reject) => {
      this.#inFlight++;
      const done = (error: Error | null, got: number): void => {
        this.#left();
        if (error === null && got === iov.bytes) resolve(got);
        else this.#resume('read', offset, iov, error, got).then(resolve, reject);
      };
      if (iov.bufs.length === 1) this.io.read(this.fd, only, 0, iov.bytes, offset, done);
      else if (iov.bufs.length <= MOST_PIECES) this.io.readv(this.fd, iov.bufs, offset, done);
      else done(null, 0);
    });
  }

  // hot: bench/engine
  write(offset: number, iov: Iov): Promise<void> {
    const only = iov.bufs[0];
    if (this.direct || this.#closed || only === undefined || iov.bytes > MOST_BYTES) {
      return this.#slow('write', offset, iov).then(() => undefined);
    }
    return new Promise((resolve, reject) => {
      this.#inFlight++;
      const done = (error: Error | null, got: number): void => {
        this.#left();
        if (error === null && got === iov.bytes) resolve();
        else {
          this.#resume('write', offset, iov, error, got).then(() => {
            resolve();
          }, reject);
        }
      };
      if (iov.bufs.length === 1) this.io.write(this.fd, only, 0, iov.bytes, offset, done);
      else if (iov.bufs.length <= MOST_PIECES) this.io.writev(this.fd, iov.bufs, offset, done);
      else done(null, 0);
    });
  }

  /** Goes on after a first call that failed or moved `got` bytes only. */
  async #resume(
    way: Direction,
    offset: number,
    iov: Iov,
    error: Error | null,
    got: number,
  ): Promise<number> {
    if (error !== null) {
      const host = toHostError(error);
      if (!isTransient(host)) throw host;
      return this.#slow(way, offset, iov);
    }
    return got + (await this.#slow(way, offset + got, iov.slice(got, iov.bytes - got)));
  }

  #slow(way: Direction, offset: number, iov: Iov): Promise<number> {
    return this.#track(() =>
      this.direct ? this.#bounce(way, offset, iov) : this.#loop(way, offset, iov),
    );
  }

  /** Calls until all bytes moved; a read stops at the end of the file. */
  async #loop(way: Direction, offset: number, iov: Iov): Promise<number> {
    let moved = 0;
    let retries = 0;
    while (moved < iov.bytes) {
      const part = iov.slice(moved, Math.min(iov.bytes - moved, MOST_BYTES));
      let got: number;
      try {
        got = await this.#once(way, offset + moved, part.bufs.slice(0, MOST_PIECES));
      } catch (error) {
        const host = toHostError(error);
        if (!isTransient(host) || ++retries > MOST_RETRIES) throw host;
        await new Promise(setImmediate);
        continue;
      }
      if (got === 0) {
        if (way === 'read') break;
        throw new HostError('ENOSPC');
      }
      retries = 0;
      moved += got;
      // With O_DIRECT only the end of the file makes an odd count.
      if (way === 'read' && moved % this.limits.requestAlignment !== 0) break;
    }
    return moved;
  }

  #once(way: Direction, offset: number, bufs: readonly Uint8Array[]): Promise<number> {
    return call<number>((done) => {
      if (way === 'read') this.io.readv(this.fd, bufs, offset, done);
      else this.io.writev(this.fd, bufs, offset, done);
    });
  }

  /** O_DIRECT: through aligned memory unless the caller's is known to be aligned. */
  async #bounce(way: Direction, offset: number, iov: Iov): Promise<number> {
    const alignment = this.limits.memoryAlignment;
    const fits = (b: Uint8Array): boolean =>
      b.byteLength % alignment === 0 && this.pool.isAligned(b, alignment);
    if (iov.bufs.every(fits)) return this.#loop(way, offset, iov);
    let moved = 0;
    while (moved < iov.bytes) {
      const part = iov.slice(moved, Math.min(iov.bytes - moved, this.pool.mostBytes));
      const buffer = this.pool.take(part.bytes);
      try {
        const bytes = buffer.subarray(0, part.bytes);
        if (way === 'write') part.copyTo(bytes);
        const got = await this.#loop(way, offset + moved, Iov.of(bytes));
        if (way === 'read') part.copyFrom(bytes.subarray(0, got));
        moved += got;
        if (got < part.bytes) break;
      } finally {
        this.pool.give(buffer);
      }
    }
    return moved;
  }

  #void(start: (done: fs.NoParamCallback) => void): Promise<void> {
    return this.#track(() =>
      call<undefined>((done) => {
        start((error) => {
          done(error, undefined);
        });
      }),
    );
  }

  flush(): Promise<void> {
    return this.#void((done) => {
      fs.fdatasync(this.fd, done);
    });
  }

  truncate(bytes: number): Promise<void> {
    return this.#void((done) => {
      fs.ftruncate(this.fd, bytes, done);
    });
  }

  allocate(): Promise<void> {
    return unsupported();
  }
  punchHole(): Promise<void> {
    return unsupported();
  }
  zeroRange(): Promise<void> {
    return unsupported();
  }
  extentAt(): Promise<FileExtent | undefined> {
    return Promise.resolve(undefined);
  }
  copyFrom(): Promise<number> {
    return unsupported();
  }
  tryLock(): Promise<boolean> {
    return unsupported();
  }
  testLock(): Promise<boolean> {
    return unsupported();
  }

  /** Opens the same inode again with the other flag, then swaps the descriptors. */
  async setDirect(direct: boolean): Promise<void> {
    if (direct === this.direct) return;
    const { O_RDWR, O_RDONLY, O_DIRECT } = fs.constants;
    const flags = (this.writable ? O_RDWR : O_RDONLY) | (direct ? O_DIRECT : 0);
    const old = this.fd;
    const fd = await call<number>((done) => {
      fs.open(`/proc/self/fd/${old}`, flags, done);
    });
    const limits = await probeLimits(fd, await fstat(fd), direct, this.pool);
    await this.#drain();
    this.fd = fd;
    this.direct = direct;
    this.limits = limits;
    await closeFd(old);
  }

  dropCache(): Promise<void> {
    return Promise.resolve();
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#drain();
    await closeFd(this.fd);
  }
}

/** Opens over node:fs whatever engine was named; the caller has checked that. */
export async function openFsFile(
  path: string,
  options: FileOpenOptions,
  pool: AlignedPool,
  io: FsCalls = nodeCalls,
): Promise<HostFile> {
  const fd = await openFd(path, options);
  try {
    const stat = await fstat(fd);
    const limits = await probeLimits(fd, stat, options.direct, pool);
    return new FsFile(path, fd, options, kindOf(stat), limits, pool, io);
  } catch (error) {
    fs.closeSync(fd);
    throw error;
  }
}
