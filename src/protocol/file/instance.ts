/** The state behind a node of driver `file`, `host_device` or `host_cdrom`. */
import type {
  DriverInstance,
  ImageInfo,
  OpenFlags,
  PermStep,
  ReopenRequest,
  ReopenStep,
  TruncateOptions,
} from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { BlockLimits, DriverStatus } from '../../block/types.js';
import { Perm, Req } from '../../block/types.js';
import type { FileRun, HostFile } from '../../host/file.js';
import { Iov } from '../../lib/iov.js';
import type { LockState } from './image-locks.js';
import { ImageLocks, unlocked } from './image-locks.js';
import { isNoSuchCall, truncateDevice, truncateRegular } from './truncate.js';

export interface FileInit {
  readonly file: HostFile;
  readonly filename: string;
  readonly flags: OpenFlags;
  /** Take image locks. */
  readonly locking: boolean;
  /** Opens the same path again with another mode; throws BlockError. */
  readonly openAgain: (writable: boolean, direct: boolean) => Promise<HostFile>;
}

const writePerms = Perm.write | Perm.writeUnchanged | Perm.resize;
const allDone: PermStep = { commit: async () => undefined, abort: async () => undefined };

/**
 * One open file of the host.
 *
 * Invariants
 *  F1  `#knownSize` is at most the file's length: the file is cut by this object only.
 *  F2  Every byte of `#dataRun` was data when last seen; writes never make holes, and each
 *      call that does forgets the run afterwards.
 *  F2a `#holeRun` is set only while nobody can write the file: it is open read-only here, and
 *      the locks keep other writers out.
 *  F3  Without O_DIRECT a flush that failed once fails for ever: the kernel may have dropped
 *      the pages, so a later success would say nothing.
 */
export class FileInstance implements DriverInstance {
  readonly writeFlags = Req.writeUnchanged;
  readonly zeroFlags = Req.mayUnmap | Req.noFallback | Req.writeUnchanged;
  readonly #init: FileInit;
  #file: HostFile;
  #flags: OpenFlags;
  #locks: ImageLocks;
  #lockState: LockState = unlocked;
  #knownSize = 0;
  #flushError: Error | undefined;
  #dataRun = { start: 0, end: 0 };
  #holeRun = { start: 0, end: 0 };
  // What this file system or device turned out not to offer.
  #noHoles = false;
  #noPunch = false;
  #noDiscard = false;
  #noZeroRange = false;
  #noAllocate = false;

  constructor(init: FileInit) {
    this.#init = init;
    this.#file = init.file;
    this.#flags = init.flags;
    this.#locks = new ImageLocks(init.file);
  }

  /** The open file, for copies between two of these. */
  get file(): HostFile {
    return this.#file;
  }

  get #isRegular(): boolean {
    return this.#file.kind === 'regular';
  }

  get isCached(): boolean | undefined {
    if (this.#isRegular && this.#file.direct) return false;
    return this.#file.cached === true ? true : undefined;
  }

  length(): Promise<number> {
    return this.#file.size();
  }

  limits(): Partial<BlockLimits> {
    const { limits } = this.#file;
    return {
      requestAlignment: limits.requestAlignment,
      maxTransfer: limits.maxTransfer,
      optTransfer: this.#isRegular ? 0 : limits.optimalTransfer,
      discardAlignment: limits.discardAlignment,
    };
  }

  // hot: bench/layers
  read(offset: number, iov: Iov): Promise<void> {
    return this.#file.read(offset, iov).then((got) => {
      // Past the end of the file: the rest of its last sector, or it was cut meanwhile.
      if (got < iov.bytes) iov.fill(0, got);
    });
  }

  tryFileRun(offset: number, bytes: number): FileRun {
    return { file: this.#file, offset, bytes };
  }

  // hot: bench/layers
  write(offset: number, iov: Iov): Promise<void> {
    return this.#file.write(offset, iov);
  }

  readonly zeroUnit = 0;

  get takesFileRuns(): boolean {
    return !this.#file.direct && this.#file.tryWriteFrom !== undefined;
  }

  tryWriteFrom(offset: number, run: FileRun, zeroBlock: number): Promise<void> | undefined {
    return this.#file.tryWriteFrom?.(run, offset, zeroBlock);
  }

  async writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    const unmapped = (flags & Req.mayUnmap) !== 0 && (await this.#tryPunch(offset, bytes));
    if (!unmapped && !(await this.#tryZeroRange(offset, bytes))) {
      await this.#punchAndAllocate(offset, bytes);
    }
    this.#forget(offset, bytes);
    if (this.#isRegular) await this.#growTo(offset, bytes);
  }

  async #tryPunch(offset: number, bytes: number): Promise<boolean> {
    if (this.#noPunch) return false;
    try {
      await this.#file.punchHole(offset, bytes);
      return true;
    } catch (e) {
      if (!isNoSuchCall(e)) throw e;
      this.#noPunch = true;
      return false;
    }
  }

  async #tryZeroRange(offset: number, bytes: number): Promise<boolean> {
    if (this.#noZeroRange) return false;
    try {
      await this.#file.zeroRange(offset, bytes);
      return true;
    } catch (e) {
      if (!isNoSuchCall(e)) throw e;
      this.#noZeroRange = true;
      return false;
    }
  }

  /** A hole that is filled again with allocated, unwritten blocks. */
  async #punchAndAllocate(offset: number, bytes: number): Promise<void> {
    if (!this.#isRegular || this.#noAllocate || !(await this.#tryPunch(offset, bytes))) {
      throw new BlockError('ENOTSUP');
    }
    try {
      await this.#file.allocate(offset, bytes);
    } catch (e) {
      if (!isNoSuchCall(e)) throw e;
      this.#noAllocate = true;
      throw new BlockError('ENOTSUP');
    }
  }

  /**
   * A zero write past the end makes the file longer. Not by truncate: a data write beyond it
   * may be in flight, and would be cut off.
   */
  async #growTo(offset: number, bytes: number): Promise<void> {
    const end = offset + bytes;
    if (end <= this.#knownSize) return;
    this.#knownSize = await this.#file.size();
    if (end <= this.#knownSize) return;
    const n = Math.min(bytes, this.#file.limits.requestAlignment);
    await this.#file.write(end - n, Iov.alloc(n));
  }

  async discard(offset: number, bytes: number): Promise<void> {
    if (!(await this.#tryDiscard(offset, bytes))) throw new BlockError('ENOTSUP');
    this.#forget(offset, bytes);
  }

  async #tryDiscard(offset: number, bytes: number): Promise<boolean> {
    if (this.#isRegular || this.#file.discard === undefined) return this.#tryPunch(offset, bytes);
    if (this.#noDiscard) return false;
    try {
      await this.#file.discard(offset, bytes);
      return true;
    } catch (e) {
      if (!isNoSuchCall(e)) throw e;
      this.#noDiscard = true;
      return false;
    }
  }

  async flushToDisk(): Promise<void> {
    if (this.#flushError !== undefined) throw this.#flushError; // F3
    try {
      await this.#file.flush();
    } catch (e) {
      if (!this.#file.direct && e instanceof Error) this.#flushError = e;
      throw e;
    }
  }

  async blockStatus(offset: number, bytes: number, wantZero: boolean): Promise<DriverStatus> {
    if (!wantZero || this.#noHoles) return dataRun(offset, bytes);
    if (offset >= this.#dataRun.start && offset < this.#dataRun.end) {
      return dataRun(offset, Math.min(bytes, this.#dataRun.end - offset));
    }
    if (offset >= this.#holeRun.start && offset < this.#holeRun.end && this.#isConstant()) {
      return zeroRun(offset, Math.min(bytes, this.#holeRun.end - offset));
    }
    const extent = await this.#file.extentAt(offset);
    if (extent === undefined) {
      const size = await this.#file.size();
      if (offset >= size) return zeroRun(offset, bytes);
      this.#noHoles = true;
      return dataRun(offset, bytes);
    }
    const end = offset + extent.bytes;
    const align = this.#file.limits.requestAlignment;
    if (extent.data) {
      if (this.#isRegular) this.#dataRun = { start: offset, end };
      return dataRun(offset, Math.min(bytes, roundUp(extent.bytes, align)));
    }
    const atEnd = extent.bytes % align !== 0 && end >= (await this.#file.size());
    const hole = atEnd ? roundUp(extent.bytes, align) : extent.bytes - (extent.bytes % align);
    if (hole > 0 && this.#isConstant()) this.#holeRun = { start: offset, end: offset + hole };
    // A hole that is shorter than one block shares that block with data.
    return hole === 0
      ? dataRun(offset, Math.min(bytes, align))
      : zeroRun(offset, Math.min(bytes, hole));
  }

  othersWrote(): void {
    this.#knownSize = 0;
    this.#dataRun = { start: 0, end: 0 };
    this.#holeRun = { start: 0, end: 0 };
  }

  /** Whether nobody can write the file (F2a). */
  #isConstant(): boolean {
    const { perm, shared } = this.#lockState;
    const held = this.#init.locking && (shared & Perm.write) === 0 && (perm & writePerms) === 0;
    return held && this.#isRegular && !this.#file.writable;
  }

  /** After bytes may have become a hole (F2). */
  #forget(offset: number, bytes: number): void {
    const run = this.#dataRun;
    if (offset < run.end && offset + bytes > run.start) this.#dataRun = { start: 0, end: 0 };
  }

  async truncate(bytes: number, options: TruncateOptions): Promise<void> {
    this.#knownSize = 0;
    try {
      if (this.#isRegular) await truncateRegular(this.#file, bytes, options.prealloc);
      else await truncateDevice(this.#file, bytes, options);
    } finally {
      this.#dataRun = { start: 0, end: 0 };
    }
  }

  allocatedBytes(): Promise<number> {
    return this.#file.allocatedBytes();
  }

  /** Files have facts, but none that apply to all of them. */
  info(): ImageInfo {
    return {};
  }

  hasZeroInit(): boolean {
    return this.#isRegular;
  }

  async copyRange(
    source: DriverInstance,
    from: number,
    to: number,
    bytes: number,
  ): Promise<number> {
    if (!(source instanceof FileInstance)) throw new BlockError('ENOTSUP');
    const copied = await this.#file.copyFrom(source.file, from, to, bytes);
    this.#forget(to, bytes);
    return copied;
  }

  /** Locks, and with auto-read-only the mode of the file, follow what the parents do. */
  async preparePermissions(perm: number, shared: number): Promise<PermStep> {
    const next: LockState = { perm, shared };
    const automatic = this.#flags.autoReadOnly && this.#flags.writable;
    const writable = automatic ? (perm & writePerms) !== 0 : this.#file.writable;
    const change = writable !== this.#file.writable;
    if (!change && !this.#init.locking) return allDone;
    await this.#takeAndCheck(next);
    let file: HostFile | undefined;
    try {
      if (change) file = await this.#openLocked(writable, this.#file.direct, next);
    } catch (e) {
      // Who may write less goes on with the file as it is: its name may be gone.
      if (writable) {
        await this.#locks.giveBack(this.#lockState);
        throw e;
      }
    }
    return {
      commit: async () => {
        this.#lockState = next;
        if (file !== undefined) await this.#swap(file);
        if (this.#init.locking) await this.#locks.giveBack(next);
      },
      abort: async () => {
        await file?.close();
        if (this.#init.locking) await this.#locks.giveBack(this.#lockState);
      },
    };
  }

  async #takeAndCheck(next: LockState): Promise<void> {
    if (!this.#init.locking) return;
    const old = this.#lockState;
    const isLooser = (next.perm & ~old.perm) === 0 && (old.shared & ~next.shared) === 0;
    if (isLooser) return;
    try {
      await this.#locks.take({ perm: old.perm | next.perm, shared: old.shared & next.shared });
      await this.#locks.check(next);
    } catch (e) {
      await this.#locks.giveBack(old);
      throw e;
    }
  }

  async #openLocked(writable: boolean, direct: boolean, state: LockState): Promise<HostFile> {
    const file = await this.#init.openAgain(writable, direct);
    try {
      if (this.#init.locking) await new ImageLocks(file).take(state);
    } catch (e) {
      await file.close();
      throw e;
    }
    return file;
  }

  /** Requests in flight end on the old file; the locks are those of the new one already. */
  async #swap(file: HostFile): Promise<void> {
    const old = this.#file;
    this.#file = file;
    this.#locks = new ImageLocks(file);
    // Known to be free of conflicts; tells the new object what it holds.
    if (this.#init.locking) await this.#locks.take(this.#lockState).catch(() => undefined);
    await old.close().catch(() => undefined);
  }

  async reopenPrepare(request: ReopenRequest): Promise<ReopenStep> {
    const { flags } = request;
    const automatic = flags.autoReadOnly && flags.writable;
    const writable = automatic ? this.#file.writable : flags.writable;
    const direct = flags.cache.direct;
    const old = this.#flags;
    const change = writable !== this.#file.writable || direct !== this.#file.direct;
    // With the flags in place already, permissions are checked against the new mode.
    // It takes its locks when it is put in place: until then the old one's hold, and new
    // permissions, asked for in between, would run into locks of this very process.
    const file = change ? await this.#init.openAgain(writable, direct) : undefined;
    this.#flags = flags;
    return {
      commit: async () => {
        if (file !== undefined) await this.#swap(file);
      },
      abort: async () => {
        this.#flags = old;
        await file?.close();
      },
    };
  }

  strongOptions(): Record<string, unknown> {
    return { filename: this.#init.filename };
  }

  exactFilename(): string {
    return this.#init.filename;
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

const roundUp = (n: number, align: number): number => n + ((align - (n % align)) % align);

function dataRun(offset: number, bytes: number): DriverStatus {
  return { bytes, data: true, zero: false, allocated: true, offset };
}

function zeroRun(offset: number, bytes: number): DriverStatus {
  return { bytes, data: false, zero: true, allocated: true, offset };
}
