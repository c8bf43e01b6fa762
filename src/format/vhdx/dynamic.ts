/** A disk without a parent: reading, writing, and growing by blocks. See driver.ts. */
import type { Child } from '../../block/child.js';
import type {
  CheckOptions,
  CheckResult,
  DriverInstance,
  ImageInfo,
  OpenContext,
  ReopenRequest,
  ReopenStep,
} from '../../block/driver.js';
import { sliceRun, storeData } from '../../block/data.js';
import { errorText } from '../../block/errors.js';
import type { BlockNode } from '../../block/node.js';
import type { DriverStatus } from '../../block/types.js';
import { Req } from '../../block/types.js';
import type { FileRun } from '../../host/file.js';
import type { Iov } from '../../lib/iov.js';
import { settleAll } from '../../lib/settle-all.js';
import { BlockAllocator } from './allocate.js';
import type { Extent } from './header.js';
import type { Session } from './session.js';
import type { Bat } from './table.js';

export interface DynamicInit {
  readonly file: Child;
  readonly bat: Bat;
  readonly session: Session;
  /** Parts of the file that are no blocks. */
  readonly taken: readonly Extent[];
  /** The log was replayed when the image was opened. */
  readonly replayed: boolean;
}

export class DynamicInstance implements DriverInstance {
  readonly writeFlags = Req.writeUnchanged;
  readonly zeroFlags = Req.mayUnmap | Req.noFallback | Req.writeUnchanged;
  readonly #init: DynamicInit;
  readonly #file: Child;
  readonly #bat: Bat;
  readonly #session: Session;
  readonly #allocator: BlockAllocator;
  readonly #node: BlockNode;
  readonly #warn: (text: string) => void;

  constructor(context: OpenContext, init: DynamicInit) {
    this.#init = init;
    this.#file = init.file;
    this.#bat = init.bat;
    this.#session = init.session;
    this.#node = context.node;
    this.#warn = (text) => {
      context.graph.warn(text);
    };
    const { file, bat, session, taken } = init;
    const end = taken.reduce((n, e) => Math.max(n, e.offset + e.bytes), bat.end);
    this.#allocator = new BlockAllocator({ file, bat, session, end });
  }

  /** Changes with each writer; children name it to know their parent by. */
  get dataWriteGuid(): Uint8Array {
    return this.#session.dataWriteGuid;
  }

  length(): number {
    return this.#bat.size;
  }

  // hot: bench/formats
  read(offset: number, iov: Iov): Promise<void> {
    const bat = this.#bat;
    const inside = offset % bat.blockSize;
    if (inside + iov.bytes > bat.blockSize) return this.#readRuns(offset, iov);
    const block = bat.indexOf(offset);
    if (bat.isStored(block)) return this.#file.read(bat.offsetOf(block) + inside, iov);
    iov.fill(0);
    return Promise.resolve();
  }

  async #readRuns(offset: number, iov: Iov): Promise<void> {
    const parts: Promise<void>[] = [];
    for (const { at, bytes, host } of this.#pieces(offset, iov.bytes)) {
      const part = iov.slice(at, bytes);
      if (host === undefined) part.fill(0);
      else parts.push(this.#file.read(host, part));
    }
    await settleAll(parts);
  }

  /** Only of images that nobody writes to. */
  tryFileRun(offset: number, bytes: number): FileRun | undefined {
    const bat = this.#bat;
    const inside = offset % bat.blockSize;
    const block = bat.indexOf(offset);
    const whole = inside + bytes <= bat.blockSize && bat.isStored(block);
    if (!whole || !this.#node.readOnly) return undefined;
    return this.#file.node.tryFileRun(bat.offsetOf(block) + inside, bytes);
  }

  get takesFileRuns(): boolean {
    return this.#file.node.takesFileRuns;
  }

  get zeroUnit(): number {
    return this.#bat.blockSize;
  }

  tryWriteFrom(offset: number, run: FileRun, zeroBlock: number): Promise<void> | undefined {
    if (!this.takesFileRuns) return undefined;
    return this.#writeRuns(offset, run.bytes, (host, at, bytes) =>
      storeData(this.#file, host, sliceRun(run, at, bytes), zeroBlock),
    );
  }

  // hot: bench/formats
  write(offset: number, iov: Iov): Promise<void> {
    const bat = this.#bat;
    const inside = offset % bat.blockSize;
    const block = bat.indexOf(offset);
    const whole = inside + iov.bytes <= bat.blockSize && bat.isStored(block);
    if (!whole || !this.#session.isOpen) {
      return this.#writeRuns(offset, iov.bytes, (host, at, n) =>
        this.#file.write(host, iov.slice(at, n)),
      );
    }
    return this.#file.write(bat.offsetOf(block) + inside, iov);
  }

  /** Blocks that are not stored are allocated first; what lies in a row is one write. */
  async #writeRuns(
    offset: number,
    total: number,
    store: (host: number, at: number, bytes: number) => Promise<void>,
  ): Promise<void> {
    const bat = this.#bat;
    await this.#allocator.begin();
    await this.#allocator.allocate(bat.indexOf(offset), bat.indexOf(offset + total - 1));
    const runs: { at: number; bytes: number; host: number }[] = [];
    for (const { at, bytes, host = 0 } of this.#pieces(offset, total)) {
      const before = runs.at(-1);
      if (before !== undefined && before.host + before.bytes === host) before.bytes += bytes;
      else runs.push({ at, bytes, host });
    }
    await settleAll(runs.map(({ at, bytes, host }) => store(host, at, bytes)));
  }

  /** What is not stored reads as zeroes already. */
  async writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    const parts: Promise<void>[] = [];
    const stored = [...this.#pieces(offset, bytes)].filter(({ host }) => host !== undefined);
    if (stored.length > 0) await this.#allocator.begin();
    for (const { bytes: n, host = 0 } of stored) {
      parts.push(this.#file.writeZeroes(host, n, flags));
    }
    await settleAll(parts);
  }

  async discard(offset: number, bytes: number): Promise<void> {
    const parts: Promise<void>[] = [];
    const stored = [...this.#pieces(offset, bytes)].filter(({ host }) => host !== undefined);
    if (stored.length > 0) await this.#allocator.begin();
    for (const { bytes: n, host = 0 } of stored) parts.push(this.#file.discard(host, n));
    await settleAll(parts);
  }

  async blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    const bat = this.#bat;
    const block = bat.indexOf(offset);
    if (!bat.isStored(block)) {
      return { bytes: bat.runOf(offset, bytes), data: false, zero: true, allocated: true };
    }
    const inside = offset % bat.blockSize;
    return {
      bytes: Math.min(bytes, bat.blockSize - inside),
      data: true,
      zero: false,
      allocated: true,
      offset: bat.offsetOf(block) + inside,
      file: this.#file.node,
    };
  }

  /** The parts of a range by blocks, and where they are in the file. */
  *#pieces(offset: number, total: number): Generator<Piece> {
    const bat = this.#bat;
    for (let at = 0; at < total;) {
      const block = bat.indexOf(offset + at);
      const inside = (offset + at) % bat.blockSize;
      const isStored = bat.isStored(block);
      const bytes = isStored
        ? Math.min(total - at, bat.blockSize - inside)
        : bat.runOf(offset + at, total - at);
      yield { at, bytes, host: isStored ? bat.offsetOf(block) + inside : undefined };
      at += bytes;
    }
  }

  flushToOs(): Promise<void> {
    return this.#allocator.writeback();
  }

  info(): ImageInfo {
    return { clusterSize: this.#bat.blockSize };
  }

  /** Preallocated blocks show what the file held. */
  async hasZeroInit(): Promise<boolean> {
    const { bat } = this.#init;
    for (let i = 0; i < bat.blocks; i++) if (!bat.isStored(i)) return true;
    return (await this.#file.node.instance.hasZeroInit?.()) ?? false;
  }

  async check(options: CheckOptions): Promise<CheckResult> {
    let corruptions = 0;
    this.#bat.check(this.#init.taken, this.#file.size, (e) => {
      corruptions++;
      options.report(e.message, true);
    });
    const corruptionsFixed = this.#init.replayed ? 1 : 0;
    return { corruptions, leaks: 0, checkErrors: 0, corruptionsFixed, leaksFixed: 0 };
  }

  async reopenPrepare({ flags }: ReopenRequest): Promise<ReopenStep> {
    if (!this.#node.readOnly && !flags.writable) await this.#allocator.end();
    return { commit: () => undefined, abort: () => undefined };
  }

  /** A failure is told as a warning; guests learn about it by flushing first. */
  async close(): Promise<void> {
    if (this.#node.readOnly) return;
    try {
      await this.#allocator.end();
    } catch (e) {
      this.#warn(`Failed to write the block allocation table: ${errorText(e)}`);
    }
  }
}

/** A part of a request. */
interface Piece {
  /** Where it begins in the request. */
  readonly at: number;
  readonly bytes: number;
  /** Where it is in the file; undefined: nowhere. */
  readonly host: number | undefined;
}
