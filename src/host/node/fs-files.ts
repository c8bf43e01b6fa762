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
  FileStat,
  HostFile,
  HostFiles,
} from '../file.js';
import { AlignedPool, allocateAligned, isAligned } from './aligned.js';
import { toHostError } from './errors.js';
import * as paths from './paths.js';

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

/** One call of node:fs as a promise of its result. */
function call<T>(start: (done: (error: Error | null, value: T) => void) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    start((error, value) => {
      if (error === null) resolve(value);
      else reject(toHostError(error));
    });
  });
}

function closeFd(fd: number): Promise<void> {
  return call<undefined>((done) => {
    fs.close(fd, (error) => {
      done(error ?? null, undefined);
    });
  });
}

function isTransient(error: HostError): boolean {
  return error.code === 'EINTR' || error.code === 'EAGAIN';
}

function kindOf(stat: fs.Stats | fs.BigIntStats): FileKind {
  if (stat.isFile()) return 'regular';
  if (stat.isBlockDevice()) return 'block';
  return stat.isCharacterDevice() ? 'char' : 'other';
}

/** Size of a block device from sysfs; st_size is 0 for them. */
async function blockDeviceBytes(rdev: number): Promise<number> {
  const major = (rdev >> 8) & 0xfff;
  const minor = (rdev & 0xff) | ((rdev >> 12) & 0xfff00);
  try {
    const text = await fs.promises.readFile(`/sys/dev/block/${major}:${minor}/size`, 'utf8');
    return Number(text) * 512;
  } catch (error) {
    throw toHostError(error);
  }
}

async function sizeOf(stat: fs.Stats): Promise<number> {
  return stat.isBlockDevice() ? blockDeviceBytes(stat.rdev) : stat.size;
}

function unsupported(): Promise<never> {
  return Promise.reject(new HostError('ENOTSUP'));
}

/** Tries direct reads of growing size; the first that the kernel takes is the alignment. */
async function probeAlignment(fd: number): Promise<number> {
  for (const bytes of [512, 1024, 2048]) {
    const page = allocateAligned(PAGE_BYTES);
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

async function probeLimits(fd: number, stat: fs.Stats, direct: boolean): Promise<FileLimits> {
  const alignment = direct ? await probeAlignment(fd) : 1;
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
  readonly #pool = new AlignedPool();

  constructor(
    readonly path: string,
    private fd: number,
    private readonly flags: number,
    readonly kind: FileKind,
    limits: FileLimits,
    private readonly io: FsCalls,
  ) {
    this.limits = limits;
    this.direct = (flags & fs.constants.O_DIRECT) !== 0;
  }

  get writable(): boolean {
    return (this.flags & fs.constants.O_RDWR) !== 0;
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

  #stat(): Promise<fs.Stats> {
    return call<fs.Stats>((done) => {
      fs.fstat(this.fd, done);
    });
  }

  size(): Promise<number> {
    return this.#track(async () => sizeOf(await this.#stat()));
  }

  allocatedBytes(): Promise<number> {
    return this.#track(async () => (await this.#stat()).blocks * 512);
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
    if (iov.bufs.every((b) => isAligned(b, alignment) && b.byteLength % alignment === 0)) {
      return this.#loop(way, offset, iov);
    }
    const buffer = this.#pool.take(iov.bytes);
    try {
      const bytes = buffer.subarray(0, iov.bytes);
      if (way === 'write') iov.copyTo(bytes);
      const moved = await this.#loop(way, offset, Iov.of(bytes));
      if (way === 'read') iov.slice(0, moved).copyFrom(bytes.subarray(0, moved));
      return moved;
    } finally {
      this.#pool.give(buffer);
    }
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
    const { O_RDWR, O_DIRECT } = fs.constants;
    const flags = (this.flags & O_RDWR) | (direct ? O_DIRECT : 0);
    const old = this.fd;
    const fd = await call<number>((done) => {
      fs.open(`/proc/self/fd/${old}`, flags, done);
    });
    const stat = await call<fs.Stats>((done) => {
      fs.fstat(fd, done);
    });
    const limits = await probeLimits(fd, stat, direct);
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

/** The flags of open(2) for `options`. */
export function openFlags(options: FileOpenOptions): number {
  const { O_RDWR, O_RDONLY, O_DIRECT, O_CREAT, O_TRUNC, O_EXCL } = fs.constants;
  let flags = options.writable ? O_RDWR : O_RDONLY;
  if (options.direct) flags |= O_DIRECT;
  if (options.create !== undefined) flags |= O_CREAT;
  if (options.create === 'truncate') flags |= O_TRUNC;
  if (options.create === 'exclusive') flags |= O_EXCL;
  return flags;
}

/** stat() of the port: size of devices too, identity independent of the name. */
export async function statPath(path: string): Promise<FileStat> {
  try {
    const stat = await fs.promises.stat(path, { bigint: true });
    const kind = stat.isDirectory() ? 'directory' : kindOf(stat);
    const device = kind === 'block' || kind === 'char';
    return {
      kind,
      size: kind === 'block' ? await blockDeviceBytes(Number(stat.rdev)) : Number(stat.size),
      identity: device ? `${kind}:${stat.rdev}` : `${stat.dev}:${stat.ino}`,
    };
  } catch (error) {
    throw toHostError(error);
  }
}

/** Opens over node:fs whatever engine was named; the caller has checked that. */
export async function openFsFile(
  path: string,
  options: FileOpenOptions,
  io: FsCalls = nodeCalls,
): Promise<HostFile> {
  const flags = openFlags(options);
  const fd = await call<number>((done) => {
    fs.open(path, flags, options.mode ?? 0o644, done);
  });
  try {
    const stat = await call<fs.Stats>((done) => {
      fs.fstat(fd, done);
    });
    const limits = await probeLimits(fd, stat, options.direct);
    return new FsFile(path, fd, flags, kindOf(stat), limits, io);
  } catch (error) {
    fs.closeSync(fd);
    throw error;
  }
}

/** HostFiles over node:fs alone. */
export function fsFiles(): HostFiles {
  return {
    async open(path, options) {
      if (options.engine !== 'auto' && options.engine !== 'node-fs') {
        throw new HostError('ENOSYS', `aio=${options.engine} was specified, but is not supported`);
      }
      return openFsFile(path, options);
    },
    stat: statPath,
    async unlink(path) {
      await fs.promises.unlink(path).catch((error: unknown) => {
        throw toHostError(error);
      });
    },
    engines: () => Promise.resolve(['node-fs']),
    ...paths,
  };
}
