/** A dynamic disk: reading, writing, and growing by blocks. See driver.ts for the invariants. */
import type { Child } from '../../block/child.js';
import type {
  DriverInstance,
  ImageInfo,
  NodeOptions,
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
import { Iov } from '../../lib/iov.js';
import { settleAll } from '../../lib/settle-all.js';
import { BlockAllocator } from './allocate.js';
import { parseFooter } from './footer.js';
import { strongOptions } from './strong-options.js';
import type { BlockTable } from './table.js';

export interface DynamicInit {
  readonly file: Child;
  /** The footer's bytes. */
  readonly footer: Uint8Array;
  readonly blocks: BlockTable;
  /** Where the file's used part ends: the next block begins there. */
  readonly end: number;
}

export class DynamicInstance implements DriverInstance {
  readonly writeFlags = Req.writeUnchanged;
  readonly zeroFlags = Req.mayUnmap | Req.noFallback | Req.writeUnchanged;
  readonly uniqueId: Uint8Array;
  readonly #file: Child;
  readonly #node: BlockNode;
  readonly #blocks: BlockTable;
  readonly #allocator: BlockAllocator;
  readonly #options: NodeOptions;
  readonly #warn: (text: string) => void;

  constructor(context: OpenContext, init: DynamicInit) {
    this.#file = init.file;
    this.#node = context.node;
    this.#blocks = init.blocks;
    this.#options = context.options;
    this.#warn = (text) => {
      context.graph.warn(text);
    };
    this.#allocator = new BlockAllocator(init);
    this.uniqueId = parseFooter(init.footer).unique_id;
  }

  length(): number {
    return this.#blocks.shape.size;
  }

  // hot: bench/formats
  read(offset: number, iov: Iov): Promise<void> {
    const blocks = this.#blocks;
    const { blockSize } = blocks.shape;
    const inside = offset % blockSize;
    if (inside + iov.bytes > blockSize) return this.#readRuns(offset, iov);
    const index = blocks.indexOf(offset);
    if (blocks.isStored(index)) return this.#file.read(blocks.dataOffset(index) + inside, iov);
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
    const blocks = this.#blocks;
    const inside = offset % blocks.shape.blockSize;
    const index = blocks.indexOf(offset);
    const whole = inside + bytes <= blocks.shape.blockSize && blocks.isStored(index);
    if (!whole || !this.#node.readOnly) return undefined;
    return this.#file.node.tryFileRun(blocks.dataOffset(index) + inside, bytes);
  }

  get takesFileRuns(): boolean {
    return this.#file.node.takesFileRuns;
  }

  get zeroUnit(): number {
    return this.#blocks.shape.blockSize;
  }

  tryWriteFrom(offset: number, run: FileRun, zeroBlock: number): Promise<void> | undefined {
    return this.takesFileRuns ? this.#writeFrom(offset, run, zeroBlock) : undefined;
  }

  /** The bitmaps of new blocks are set by the next writeback. */
  async #writeFrom(offset: number, run: FileRun, zeroBlock: number): Promise<void> {
    const blocks = this.#blocks;
    await this.#allocator.allocate(blocks.indexOf(offset), blocks.indexOf(offset + run.bytes - 1));
    const parts: Promise<void>[] = [];
    for (const { at, bytes, index, host = 0 } of this.#pieces(offset, run.bytes)) {
      this.#allocator.markUsed(index);
      parts.push(storeData(this.#file, host, sliceRun(run, at, bytes), zeroBlock));
    }
    await settleAll(parts);
  }

  // hot: bench/formats
  write(offset: number, iov: Iov): Promise<void> {
    const blocks = this.#blocks;
    const { blockSize } = blocks.shape;
    const inside = offset % blockSize;
    const index = blocks.indexOf(offset);
    if (inside + iov.bytes > blockSize || !blocks.isStored(index)) {
      return this.#writeRuns(offset, iov);
    }
    this.#allocator.markUsed(index);
    return this.#file.write(blocks.dataOffset(index) + inside, iov);
  }

  /**
   * Blocks that are not stored are allocated first. What lies in a row in the file is one write,
   * the bitmaps of new blocks included.
   */
  async #writeRuns(offset: number, iov: Iov): Promise<void> {
    const blocks = this.#blocks;
    const first = blocks.indexOf(offset);
    const last = blocks.indexOf(offset + iov.bytes - 1);
    const fresh = await this.#allocator.allocate(first, last);
    const writes: { host: number; bufs: Uint8Array[]; bytes: number; marked: number[] }[] = [];
    for (const { at, bytes, index, inside } of this.#pieces(offset, iov.bytes)) {
      let host = blocks.dataOffset(index) + inside;
      const bufs = [...iov.slice(at, bytes).bufs];
      let total = bytes;
      const marked: number[] = [];
      if (inside === 0 && fresh.has(index)) {
        host -= blocks.bitmapBytes;
        bufs.unshift(this.#allocator.fullBitmap);
        total += blocks.bitmapBytes;
        marked.push(index);
      } else {
        this.#allocator.markUsed(index);
      }
      const before = writes.at(-1);
      if (before !== undefined && before.host + before.bytes === host) {
        before.bufs.push(...bufs);
        before.bytes += total;
        before.marked.push(...marked);
      } else {
        writes.push({ host, bufs, bytes: total, marked });
      }
    }
    await settleAll(
      writes.map(async ({ host, bufs, bytes, marked }) => {
        await this.#file.write(host, new Iov(bufs, bytes));
        for (const index of marked) this.#allocator.bitmapWritten(index);
      }),
    );
  }

  /** What is not stored reads as zeroes already. */
  async writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    const parts: Promise<void>[] = [];
    for (const { bytes: n, host, index } of this.#pieces(offset, bytes)) {
      if (host === undefined) continue;
      this.#allocator.markUsed(index);
      parts.push(this.#file.writeZeroes(host, n, flags));
    }
    await settleAll(parts);
  }

  async discard(offset: number, bytes: number): Promise<void> {
    const parts: Promise<void>[] = [];
    for (const { bytes: n, host } of this.#pieces(offset, bytes)) {
      if (host !== undefined) parts.push(this.#file.discard(host, n));
    }
    await settleAll(parts);
  }

  async blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    const blocks = this.#blocks;
    const { blockSize } = blocks.shape;
    const index = blocks.indexOf(offset);
    if (!blocks.isStored(index)) {
      const run = blocks.unstoredRun(offset, bytes);
      return { bytes: run, data: false, zero: true, allocated: true };
    }
    const inside = offset % blockSize;
    return {
      bytes: Math.min(bytes, blockSize - inside),
      data: true,
      zero: false,
      allocated: true,
      offset: blocks.dataOffset(index) + inside,
      file: this.#file.node,
    };
  }

  /** The parts of a range by blocks; runs of blocks that are not stored are one part. */
  *#pieces(offset: number, total: number): Generator<Piece> {
    const blocks = this.#blocks;
    const { blockSize } = blocks.shape;
    for (let at = 0; at < total;) {
      const index = blocks.indexOf(offset + at);
      const inside = (offset + at) % blockSize;
      if (blocks.isStored(index)) {
        const bytes = Math.min(total - at, blockSize - inside);
        yield { at, bytes, index, inside, host: blocks.dataOffset(index) + inside };
        at += bytes;
      } else {
        const bytes = blocks.unstoredRun(offset + at, total - at);
        yield { at, bytes, index, inside, host: undefined };
        at += bytes;
      }
    }
  }

  flushToOs(): Promise<void> {
    return this.#allocator.writeback();
  }

  info(): ImageInfo {
    return { clusterSize: this.#blocks.shape.blockSize };
  }

  hasZeroInit(): boolean {
    return true;
  }

  async reopenPrepare({ flags }: ReopenRequest): Promise<ReopenStep> {
    if (!this.#node.readOnly && !flags.writable) {
      await this.#allocator.writeback();
      await this.#file.flush();
    }
    return { commit: () => undefined, abort: () => undefined };
  }

  strongOptions(): NodeOptions {
    return strongOptions(this.#options);
  }

  /** A failure is told as a warning; guests learn about it by flushing first. */
  async close(): Promise<void> {
    if (this.#node.readOnly) return;
    try {
      await this.#allocator.writeback();
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
  /** Of the block that it begins in, and where there. */
  readonly index: number;
  readonly inside: number;
  /** Where it is in the file; undefined: nowhere. */
  readonly host: number | undefined;
}
