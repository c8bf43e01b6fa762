/**
 * Port: files of the host, and the I/O engines behind them.
 *
 * Implemented by host/node (threads, Linux AIO, io_uring, plain node:fs) and by
 * test fakes (simulated disks that lose power). Nothing here knows about images.
 */
import type { Iov } from '../lib/iov.js';
import { errnoText } from './errno.js';

/**
 * An error of the operating system; `code` is the errno name (`ENOENT`, `EIO`, …),
 * `message` the C library's text for it unless another is given.
 */
export class HostError extends Error {
  override readonly name = 'HostError';
  readonly code: string;
  constructor(code: string, message?: string, options?: ErrorOptions) {
    super(message ?? errnoText(code), options);
    this.code = code;
  }
}

/** How requests reach the kernel. `node-fs` is the fallback over node:fs. */
export type EngineName = 'threads' | 'native' | 'io_uring' | 'node-fs';

export interface FileOpenOptions {
  /** Open for writing too. */
  readonly writable: boolean;
  /** `O_DIRECT`: bypass the page cache. */
  readonly direct: boolean;
  /** Which engine carries the I/O; `auto` takes the fastest that works. */
  readonly engine: EngineName | 'auto';
  /** Upper bound of requests submitted in one batch; 0: the engine's own default. */
  readonly maxBatch?: number;
  /** Create the file: `truncate` empties an existing one, `exclusive` fails with EEXIST. */
  readonly create?: 'truncate' | 'exclusive' | 'keep';
  /** Permission bits of a created file. */
  readonly mode?: number;
}

export type FileKind = 'regular' | 'block' | 'char' | 'other';

/** What block I/O must respect for this open file; all in bytes. */
export interface FileLimits {
  /** Offsets and lengths must be multiples of it (1 when buffered). */
  readonly requestAlignment: number;
  /** Buffer addresses should be multiples of it; misaligned ones are bounced. */
  readonly memoryAlignment: number;
  /** Longest single transfer. */
  readonly maxTransfer: number;
  /** Preferred I/O size (st_blksize or the device's optimal size). */
  readonly optimalTransfer: number;
  /** Granularity of discard; 0 when unknown. */
  readonly discardAlignment: number;
}

/** A run of bytes of one kind, as SEEK_DATA/SEEK_HOLE tell it. */
export interface FileExtent {
  readonly data: boolean;
  readonly bytes: number;
}

/** Byte-range lock state asked for; see `HostFile.lock`. */
export interface LockRequest {
  /** First byte and count of the range. */
  readonly offset: number;
  readonly bytes: number;
  readonly type: 'shared' | 'exclusive' | 'unlock';
}

/**
 * One open file. All offsets and counts in bytes. Each method rejects with
 * {@link HostError}; the file's content is then undefined in the range asked
 * for and unchanged elsewhere.
 */
/** A run of a file's bytes. */
export interface FileRun {
  readonly file: HostFile;
  readonly offset: number;
  readonly bytes: number;
}

export interface HostFile {
  readonly path: string;
  readonly kind: FileKind;
  readonly engine: EngineName;
  readonly limits: FileLimits;
  readonly writable: boolean;
  readonly direct: boolean;
  /** Small transfers mostly finish at once, in the page cache; absent: they do not. */
  readonly cached?: boolean;

  /** Current length: st_size, or the block device's size. */
  size(): Promise<number>;
  /** Bytes that the file occupies on its file system (st_blocks * 512). */
  allocatedBytes(): Promise<number>;
  /** Fills `iov`; resolves to the bytes read, short only at the end of the file. */
  read(offset: number, iov: Iov): Promise<number>;
  /** Writes all of `iov`, extending the file if needed. */
  write(offset: number, iov: Iov): Promise<void>;
  /** fdatasync: every write that completed before the call is durable afterwards. */
  flush(): Promise<void>;
  /** Sets the length; a longer file reads as zeroes there. */
  truncate(bytes: number): Promise<void>;
  /** Allocates blocks; extends the file. ENOTSUP where the file system cannot. */
  allocate(offset: number, bytes: number): Promise<void>;
  /** Deallocates blocks; the range reads as zeroes. ENOTSUP where it cannot. */
  punchHole(offset: number, bytes: number): Promise<void>;
  /** Makes the range read as zeroes and keeps it allocated if it can. ENOTSUP where it cannot. */
  zeroRange(offset: number, bytes: number): Promise<void>;
  /** The run that begins at `offset`; undefined where holes cannot be seen or at the end. */
  extentAt(offset: number): Promise<FileExtent | undefined>;
  /** Copies within the kernel (reflink or copy_file_range); bytes copied, ENOTSUP if it cannot. */
  copyFrom(source: HostFile, from: number, to: number, bytes: number): Promise<number>;
  /** Open-file-description lock; false when another holder conflicts; ENOTSUP if there are none. */
  tryLock(request: LockRequest): Promise<boolean>;
  /** Whether `request` could be granted now, without taking it. */
  testLock(request: LockRequest): Promise<boolean>;
  /** Changes O_DIRECT on the open file. */
  setDirect(direct: boolean): Promise<void>;
  /** Drops the page cache of the file; best effort. */
  dropCache(): Promise<void>;
  /**
   * Tells a device that the range is not needed; what it reads as afterwards is the
   * device's. On a regular file the same as punchHole. ENOTSUP where it cannot; absent
   * where only punchHole is there.
   */
  discard?(offset: number, bytes: number): Promise<void>;
  /** Whether all of a range is in the page cache, as far as that is known at once. */
  isCached?(offset: number, bytes: number): boolean;
  /** Bytes of the file in the page cache; absent or ENOTSUP where that cannot be known. */
  cachedBytes?(): Promise<number>;
  /**
   * Which blocks of a range hold only zeroes: fills `zero` with a 1 or a 0 for each. The first
   * block begins `skew` bytes before `offset`; what lies behind the end of the file is zeroes.
   * False: that cannot be told without waiting for a device. Absent: the file has to be read.
   */
  tryFindZeroes?(
    offset: number,
    bytes: number,
    blockBytes: number,
    skew: number,
    zero: Uint8Array,
  ): Promise<boolean>;
  /**
   * Writes what stands in another file, zeroes for what lies behind its end; undefined: read and
   * write it. The bytes are copied, never shared. With a `zeroBlock` the place reads as zeroes, and
   * blocks of so many bytes that hold nothing else need not be written.
   */
  tryWriteFrom?(source: FileRun, offset: number, zeroBlock: number): Promise<void> | undefined;
  /** Ends requests in flight and closes. */
  close(): Promise<void>;
}

export interface FileStat {
  readonly kind: FileKind | 'directory';
  readonly size: number;
  /** Identifies the file on this host, whatever its name. */
  readonly identity: string;
  /** Differs after its content was written; absent where that is not known. */
  readonly modified?: string;
  /** Absent where the host does not know them. */
  readonly times?: FileTimes;
}

/** When a file was used, in milliseconds since 1970 (UTC). */
export interface FileTimes {
  /** Its content was written. */
  readonly modifiedMs: number;
  /** Its content or its inode was changed. */
  readonly changedMs: number;
  readonly accessedMs: number;
}

/** The files of a host. Paths are the host's; relative ones start at its working directory. */
export interface HostFiles {
  open(path: string, options: FileOpenOptions): Promise<HostFile>;
  stat(path: string): Promise<FileStat>;
  unlink(path: string): Promise<void>;
  /** Names of what is in a folder, in no order; absent where folders cannot be listed. */
  list?(folder: string): Promise<readonly string[]>;
  /** Engines that work here, best first. */
  engines(): Promise<readonly EngineName[]>;
  /** Zeroed memory that no engine has to copy for O_DIRECT. Absent: any memory will do. */
  alignedBuffer?(bytes: number): Uint8Array;
  /** Why the fast engines are not in use, for people; undefined when they are. */
  engineNote?(): string | undefined;
  /** Path arithmetic: the folder of `path` (with its slash kept off), `''` when none. */
  dirname(path: string): string;
  /** `name` as seen from folder `base`; absolute names and protocol names stay. */
  join(base: string, name: string): string;
  isAbsolute(path: string): boolean;
}
