/** An open VDI image: its state, reading and writing. Write order and invariants: driver.ts. */
import type { Child } from '../../block/child.js';
import { BlockError } from '../../block/errors.js';
import type { FileGrowth } from '../../block/file-growth.js';
import type { BlockNode } from '../../block/node.js';
import type { DriverStatus } from '../../block/types.js';
import { Iov } from '../../lib/iov.js';
import { Mutex } from '../../lib/mutex.js';
import { begun, settleAll } from '../../lib/settle-all.js';
import type { BlockMap } from './block-map.js';
import { BlockUsage } from './block-map.js';
import type { VdiHeader } from './header.js';
import { encodeHeader } from './header.js';
import { Entry, ImageType } from './layout.js';

/** What the map says of a run of the disk. */
type Run =
  | { readonly kind: 'data'; readonly host: number; readonly bytes: number }
  | { readonly kind: 'zero' | 'unallocated' | 'damaged'; readonly bytes: number };

export interface VdiImageInit {
  readonly node: BlockNode;
  readonly file: Child;
  readonly header: VdiHeader;
  readonly map: BlockMap;
  readonly growth: FileGrowth;
}

export class VdiImage {
  readonly node: BlockNode;
  readonly file: Child;
  readonly header: VdiHeader;
  readonly map: BlockMap;
  readonly #growth: FileGrowth;
  readonly #blockSize: number;
  readonly #dataStart: number;
  /** Found when the first block is allocated (V3). */
  #usage: BlockUsage | undefined;
  /** Blocks of the disk that get their place now, and when that has ended (V4). */
  readonly #pending = new Map<number, Promise<void>>();
  readonly #storing = new Mutex();
  #headerBlocks: number;

  constructor({ node, file, header, map, growth }: VdiImageInit) {
    this.node = node;
    this.file = file;
    this.header = header;
    this.map = map;
    this.#growth = growth;
    this.#blockSize = header.fields.block_size;
    this.#dataStart = header.fields.offset_data;
    this.#headerBlocks = header.fields.blocks_allocated;
  }

  get blockSize(): number {
    return this.#blockSize;
  }

  get isStatic(): boolean {
    return this.header.fields.image_type === ImageType.static;
  }

  /** The run that begins at `offset`, at most `bytes` long. */
  runAt(offset: number, bytes: number): Run {
    const size = this.#blockSize;
    const { entries, count } = this.map;
    let index = Math.floor(offset / size);
    const inside = offset - index * size;
    const first = entries[index];
    let length = size - inside;
    if (first === undefined) return { kind: 'damaged', bytes };
    if (first >= Entry.firstSpecial) {
      while (length < bytes && entries[++index] === first) length += size;
      const kind = first === Entry.zero ? 'zero' : 'unallocated';
      return { kind, bytes: Math.min(length, bytes) };
    }
    if (first >= count) return { kind: 'damaged', bytes: Math.min(length, bytes) };
    let next = first;
    while (length < bytes && entries[++index] === ++next) length += size;
    const host = this.#hostOf(first) + inside;
    return { kind: 'data', host, bytes: Math.min(length, bytes) };
  }

  #hostOf(block: number): number {
    return this.#dataStart + block * this.#blockSize;
  }

  // hot: bench/formats
  read(offset: number, iov: Iov): Promise<void> {
    const run = this.runAt(offset, iov.bytes);
    if (run.bytes === iov.bytes) return this.#readRun(run, offset, iov);
    return this.#readRuns(offset, iov);
  }

  async #readRuns(offset: number, iov: Iov): Promise<void> {
    const parts: Promise<void>[] = [];
    for (let at = 0; at < iov.bytes;) {
      const run = this.runAt(offset + at, iov.bytes - at);
      parts.push(this.#readRun(run, offset + at, iov.slice(at, run.bytes)));
      at += run.bytes;
    }
    await settleAll(parts);
  }

  #readRun(run: Run, offset: number, iov: Iov): Promise<void> {
    if (run.kind === 'data') return this.#readData(run.host, iov);
    if (run.kind === 'damaged') return Promise.reject(this.#damaged(offset));
    if (run.kind === 'unallocated' && this.node.backing !== undefined) {
      return this.node.backing.read(offset, iov);
    }
    iov.fill(0);
    return Promise.resolve();
  }

  #readData(host: number, iov: Iov): Promise<void> {
    const event = this.file.debugEvent('read_aio');
    if (event === undefined) return this.file.read(host, iov);
    return event.then(() => this.file.read(host, iov));
  }

  #damaged(offset: number): BlockError {
    const index = Math.floor(offset / this.#blockSize);
    const entry = this.map.entries[index];
    const what = entry === undefined ? 'no map entry' : `the map entry ${String(entry)}`;
    return new BlockError('EIO', `Block ${String(index)} has ${what}; run check`);
  }

  // hot: bench/formats
  write(offset: number, iov: Iov): Promise<void> {
    const run = this.runAt(offset, iov.bytes);
    if (run.kind === 'data' && run.bytes === iov.bytes) return this.#writeData(run.host, iov);
    return this.#writeRuns(offset, iov);
  }

  #writeData(host: number, iov: Iov): Promise<void> {
    const growing = this.#growth.before(host + iov.bytes, iov.bytes);
    const event = this.file.debugEvent('write_aio');
    if (growing === undefined && event === undefined) return this.file.write(host, iov);
    return (async () => {
      await growing;
      await event;
      await this.file.write(host, iov);
    })();
  }

  async #writeRuns(offset: number, iov: Iov): Promise<void> {
    const usage = this.#usageForWriting();
    const parts: Promise<void>[] = [];
    for (let at = 0; at < iov.bytes;) {
      const index = Math.floor((offset + at) / this.#blockSize);
      const busy = this.#pending.get(index);
      if (busy !== undefined) {
        await busy;
        continue;
      }
      let run = this.runAt(offset + at, iov.bytes - at);
      if (run.kind === 'data') {
        parts.push(begun(this.#writeData(run.host, iov.slice(at, run.bytes))));
      } else {
        const bytes = this.#untilPending(offset + at, run.bytes);
        run = { kind: 'zero', bytes };
        parts.push(...this.#allocate(usage, offset + at, iov.slice(at, bytes)).map(begun));
      }
      at += run.bytes;
    }
    await settleAll(parts);
  }

  /** How much of a run lies before the first block that gets its place just now. */
  #untilPending(offset: number, bytes: number): number {
    if (this.#pending.size === 0) return bytes;
    const size = this.#blockSize;
    for (let at = size - (offset % size); at < bytes; at += size) {
      if (this.#pending.has(Math.floor((offset + at) / size))) return at;
    }
    return bytes;
  }

  /** Throws EINVAL where the map is damaged. */
  #usageForWriting(): BlockUsage {
    if (this.#usage === undefined) {
      this.#usage = new BlockUsage(this.map);
      this.#growth.take(0, Math.max(this.#hostOf(this.#usage.end), this.#growth.usedEnd));
    }
    return this.#usage;
  }

  /** Gives blocks that have none a place and writes `iov` there; all of it has none. */
  #allocate(usage: BlockUsage, offset: number, iov: Iov): Promise<void>[] {
    const size = this.#blockSize;
    const parts: Promise<void>[] = [];
    for (let at = 0; at < iov.bytes;) {
      const index = Math.floor((offset + at) / size);
      const inside = offset + at - index * size;
      const reused = usage.tryTakeFree();
      const count = reused === undefined ? Math.ceil((inside + iov.bytes - at) / size) : 1;
      const block = reused ?? usage.takeEnd(count);
      const bytes = Math.min(count * size - inside, iov.bytes - at);
      const host = this.#hostOf(block);
      const isFresh = this.#growth.take(host, count * size);
      const piece = iov.slice(at, bytes);
      if (isFresh) {
        for (let i = 0; i < count; i++) this.map.set(index + i, block + i);
        parts.push(this.#writeData(host + inside, piece));
      } else {
        parts.push(this.#writeStale(usage, { index, block, count, inside }, piece));
      }
      at += bytes;
    }
    return parts;
  }

  /**
   * Into blocks that may hold anything: what is not written becomes zero first, and the map names
   * them only then. Whoever else comes to one of these blocks waits.
   */
  #writeStale(
    usage: BlockUsage,
    place: { index: number; block: number; count: number; inside: number },
    iov: Iov,
  ): Promise<void> {
    const { index, block, count, inside } = place;
    const start = this.#hostOf(block);
    const end = start + count * this.#blockSize;
    const tail = start + inside + iov.bytes;
    const run = async (): Promise<void> => {
      const parts = [this.#writeData(start + inside, iov)];
      if (inside > 0) parts.push(this.file.writeZeroes(start, inside));
      if (tail < end) parts.push(this.file.writeZeroes(tail, end - tail));
      await settleAll(parts);
      for (let i = 0; i < count; i++) this.map.set(index + i, block + i);
    };
    const work = run().catch((e: unknown) => {
      usage.giveBack(block, count);
      throw e;
    });
    const done = work
      .catch(() => undefined)
      .then(() => {
        for (let i = 0; i < count; i++) this.#pending.delete(index + i);
      });
    for (let i = 0; i < count; i++) this.#pending.set(index + i, done);
    return work;
  }

  /** Blocks without a place are zero already; the others keep theirs. */
  async writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    const parts: Promise<void>[] = [];
    for (let at = 0; at < bytes;) {
      const busy = this.#pending.get(Math.floor((offset + at) / this.#blockSize));
      if (busy !== undefined) {
        await busy;
        continue;
      }
      const run = this.runAt(offset + at, bytes - at);
      const length = run.kind === 'data' ? run.bytes : this.#untilPending(offset + at, run.bytes);
      if (run.kind === 'data') parts.push(begun(this.file.writeZeroes(run.host, length, flags)));
      if (run.kind === 'damaged') parts.push(begun(Promise.reject(this.#damaged(offset + at))));
      at += length;
    }
    await settleAll(parts);
  }

  /** The file is told; blocks keep their place. */
  async discard(offset: number, bytes: number): Promise<void> {
    const parts: Promise<void>[] = [];
    for (let at = 0; at < bytes;) {
      const run = this.runAt(offset + at, bytes - at);
      if (run.kind === 'data') parts.push(this.file.discard(run.host, run.bytes));
      at += run.bytes;
    }
    await settleAll(parts);
  }

  status(offset: number, bytes: number): DriverStatus {
    const run = this.runAt(offset, bytes);
    if (run.kind === 'damaged') throw this.#damaged(offset);
    if (run.kind === 'data') {
      return {
        bytes: run.bytes,
        data: true,
        zero: false,
        allocated: true,
        offset: run.host,
        file: this.file.node,
        recurse: this.isStatic,
      };
    }
    const shows = run.kind === 'unallocated' && this.node.backing !== undefined;
    return { bytes: run.bytes, data: false, zero: !shows, allocated: !shows };
  }

  /** Stores what changed of header and map, in the order of V2. Throws; it is tried again then. */
  store(): Promise<void> {
    return this.#storing.run(async () => {
      const usage = this.#usage;
      if (usage === undefined || (!this.map.isDirty && !this.#headerIsOld)) return;
      const runs = this.map.takeDirty();
      try {
        await this.#growth.cover();
        await this.#storeHeader(usage);
        await this.file.flush();
        const { offset_bmap: start } = this.header.fields;
        await settleAll(
          runs.map(({ offset, bytes }) => this.file.write(start + offset, Iov.of(bytes))),
        );
      } catch (e) {
        this.map.putBack(runs);
        throw e;
      }
    });
  }

  get #headerIsOld(): boolean {
    return this.#usage !== undefined && this.#usage.end !== this.#headerBlocks;
  }

  async #storeHeader(usage: BlockUsage): Promise<void> {
    const blocks = usage.end;
    if (blocks === this.#headerBlocks) return;
    this.header.fields.blocks_allocated = blocks;
    encodeHeader(this.header);
    await this.file.write(0, Iov.of(this.header.bytes));
    this.#headerBlocks = blocks;
  }

  /** Nothing that grows the file is under way. */
  settledGrowth(): Promise<void> {
    return this.#growth.settled();
  }

  /** Stores everything and cuts off what was grown ahead. */
  async close(): Promise<void> {
    await this.store();
    await this.#growth.trim();
  }
}
