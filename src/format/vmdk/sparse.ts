/** A sparse extent: grains mapped by tables. Write order and invariants: driver.ts. */
import type { Child } from '../../block/child.js';
import { BlockError } from '../../block/errors.js';
import type { FileGrowth } from '../../block/file-growth.js';
import type { BlockNode } from '../../block/node.js';
import type { DriverStatus } from '../../block/types.js';
import { ByteGate } from '../../lib/byte-gate.js';
import { Iov } from '../../lib/iov.js';
import { Mutex } from '../../lib/mutex.js';
import { begun, settleAll } from '../../lib/settle-all.js';
import { packGrain, unpackGrain } from './compressed.js';
import type { Extent } from './extent.js';
import { readBelow } from './extent.js';
import type { SparseGeometry } from './header.js';
import { Limit, SECTOR } from './layout.js';
import type { GrainTable, GrainTables } from './tables.js';
import { checkNameable, Grain } from './tables.js';

/** What the tables say of a run of the extent; `host`: a place or a value of Grain. */
interface Run {
  readonly host: number;
  readonly bytes: number;
}

export interface SparseInit {
  readonly node: BlockNode;
  readonly file: Child;
  readonly geometry: SparseGeometry;
  readonly tables: GrainTables;
  readonly growth: FileGrowth;
  readonly info: { readonly filename: string; readonly type: string };
  /** Bytes of the disk before this extent, and of the disk that are in it. */
  readonly start: number;
  readonly bytes: number;
}

export class SparseExtent implements Extent {
  readonly start: number;
  readonly bytes: number;
  readonly file: Child;
  readonly geometry: SparseGeometry;
  readonly tables: GrainTables;
  readonly info: Extent['info'];
  readonly #node: BlockNode;
  readonly #growth: FileGrowth;
  readonly #grain: number;
  readonly #perTable: number;
  /** Grains that get their place now, and when that has ended (M4). */
  readonly #pending = new Map<number, Promise<void>>();
  readonly #storing = new Mutex();
  readonly #unpacking = new ByteGate(Limit.unpackingBytes);
  /** Where the next grain goes. */
  #next: number | undefined;
  /** Compressed grains are appended in the order in which they were asked for. */
  #appending: Promise<void> = Promise.resolve();

  constructor(init: SparseInit) {
    const { geometry: g } = init;
    this.start = init.start;
    this.bytes = init.bytes;
    this.file = init.file;
    this.geometry = g;
    this.tables = init.tables;
    this.#node = init.node;
    this.#growth = init.growth;
    this.#grain = g.grainBytes;
    this.#perTable = g.tableEntries * g.grainBytes;
    this.info = {
      ...(g.isCompressed ? { compressed: true } : {}),
      'virtual-size': init.bytes,
      filename: init.info.filename,
      'cluster-size': g.grainBytes,
      format: init.info.type,
    };
  }

  /** Looks in tables that are in memory; undefined: one has to be read. */
  #tryRun(offset: number, bytes: number): Run | undefined {
    const index = Math.floor(offset / this.#perTable);
    const table = this.tables.tryTable(index);
    return table === undefined ? undefined : this.#runIn(table, index, offset, bytes);
  }

  async #runAt(offset: number, bytes: number): Promise<Run> {
    const index = Math.floor(offset / this.#perTable);
    return this.#runIn(await this.tables.table(index), index, offset, bytes);
  }

  /** The run within one table. */
  #runIn(table: GrainTable | null, index: number, offset: number, bytes: number): Run {
    const inTable = offset - index * this.#perTable;
    const most = Math.min(bytes, this.#perTable - inTable);
    if (table === null) return { host: Grain.unallocated, bytes: most };
    const { entries } = table;
    let entry = Math.floor(inTable / this.#grain);
    const inside = inTable - entry * this.#grain;
    const first = entries[entry] ?? Grain.damaged;
    let length = this.#grain - inside;
    const step = first < 0 ? 0 : this.#grain;
    if (first >= 0 && this.geometry.isCompressed) {
      return { host: first, bytes: Math.min(length, most) };
    }
    let next = first + step;
    while (length < most && entries[++entry] === next) {
      length += this.#grain;
      next += step;
    }
    return { host: first < 0 ? first : first + inside, bytes: Math.min(length, most) };
  }

  // hot: bench/formats
  read(offset: number, iov: Iov): Promise<void> {
    const run = this.#tryRun(offset, iov.bytes);
    if (run?.bytes === iov.bytes) return this.#readRun(run, offset, iov);
    return this.#readRuns(offset, iov);
  }

  async #readRuns(offset: number, iov: Iov): Promise<void> {
    const parts: Promise<void>[] = [];
    for (let at = 0; at < iov.bytes;) {
      const left = iov.bytes - at;
      const from = offset + at;
      const run = this.#tryRun(from, left) ?? (await this.#runOrWait(from, left, parts));
      parts.push(begun(this.#readRun(run, offset + at, iov.slice(at, run.bytes))));
      at += run.bytes;
    }
    await settleAll(parts);
  }

  /** Fails only after the parts under way have ended, for they use the caller's memory. */
  async #runOrWait(offset: number, bytes: number, parts: readonly Promise<void>[]): Promise<Run> {
    try {
      return await this.#runAt(offset, bytes);
    } catch (e) {
      await Promise.allSettled(parts);
      throw e;
    }
  }

  #readRun({ host }: Run, offset: number, iov: Iov): Promise<void> {
    if (host >= 0) {
      if (this.geometry.isCompressed) return this.#readPacked(host, offset, iov);
      const event = this.file.debugEvent('read_aio');
      if (event === undefined) return this.file.read(host, iov);
      return event.then(() => this.file.read(host, iov));
    }
    if (host === Grain.damaged) return Promise.reject(this.#damaged(offset));
    if (host === Grain.unallocated && this.#node.backing !== undefined) {
      return readBelow(this.#node, this.start + offset, iov);
    }
    iov.fill(0);
    return Promise.resolve();
  }

  #readPacked(host: number, offset: number, iov: Iov): Promise<void> {
    const packed = Math.min(2 * this.#grain, Math.max(SECTOR, this.file.size - host));
    return this.#unpacking.run(this.#grain + packed, () => this.#unpack(host, offset, iov));
  }

  async #unpack(host: number, offset: number, iov: Iov): Promise<void> {
    const inside = offset % this.#grain;
    const whole = inside === 0 && iov.bytes === this.#grain ? iov.tryContiguous() : undefined;
    const grain = whole ?? new Uint8Array(this.#grain);
    const { hasMarkers, grainBytes } = this.geometry;
    const used = Math.min(grainBytes, this.bytes - (offset - inside));
    const place = { file: this.file, host, hasMarkers, grainBytes, used };
    await unpackGrain(this.#node.graph.host.compression, place, grain);
    if (whole === undefined) iov.copyFrom(grain.subarray(inside, inside + iov.bytes));
  }

  #damaged(offset: number): BlockError {
    const grain = String(Math.floor(offset / this.#grain));
    return new BlockError('EIO', `The grain table entry of grain ${grain} cannot be; run check`);
  }

  // hot: bench/formats
  write(offset: number, iov: Iov): Promise<void> {
    if (this.geometry.isCompressed) return this.writePacked(offset, iov);
    const run = this.#tryRun(offset, iov.bytes);
    if (run?.bytes === iov.bytes && run.host >= 0) return this.#writeData(run.host, iov);
    return this.#writeRuns(offset, iov);
  }

  #writeData(host: number, iov: Iov): Promise<void> {
    if (host < this.geometry.dataStart) {
      const at = String(host);
      const text = `A grain table entry names byte ${at}, where metadata stands; run check`;
      return Promise.reject(new BlockError('EIO', text));
    }
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
    const parts: Promise<void>[] = [];
    try {
      for (let at = 0; at < iov.bytes;) {
        const run = this.#tryFreeRun(offset + at, iov.bytes - at);
        if (run === undefined) {
          await this.#settle(offset + at);
          continue;
        }
        const piece = iov.slice(at, run.bytes);
        if (run.host >= 0) parts.push(begun(this.#writeData(run.host, piece)));
        else parts.push(begun(this.#allocate(run.host, offset + at, piece)));
        at += run.bytes;
      }
    } catch (e) {
      await Promise.allSettled(parts);
      throw e;
    }
    await settleAll(parts);
    if (this.tables.dirtyCount > Limit.maxDirtyTables) await this.store();
  }

  /**
   * The run at `offset`, up to the first grain that gets its place just now; undefined where that
   * is the first, or where the table has to be read. What is done with it must begin at once:
   * anybody may give it a place meanwhile.
   */
  #tryFreeRun(offset: number, bytes: number): Run | undefined {
    if (this.#pending.has(Math.floor(offset / this.#grain))) return undefined;
    const run = this.#tryRun(offset, bytes);
    if (run === undefined || run.host >= 0) return run;
    if (run.host === Grain.damaged) throw this.#damaged(offset);
    return { host: run.host, bytes: this.#untilPending(offset, run.bytes) };
  }

  /** Waits for what `#tryFreeRun` could not. */
  async #settle(offset: number): Promise<void> {
    const busy = this.#pending.get(Math.floor(offset / this.#grain));
    if (busy !== undefined) await busy;
    else await this.tables.table(Math.floor(offset / this.#perTable));
  }

  #untilPending(offset: number, bytes: number): number {
    if (this.#pending.size === 0) return bytes;
    for (let at = this.#grain - (offset % this.#grain); at < bytes; at += this.#grain) {
      if (this.#pending.has(Math.floor((offset + at) / this.#grain))) return at;
    }
    return bytes;
  }

  /** Place for `bytes` bytes at the end of the file. */
  #take(bytes: number): { host: number; isFresh: boolean } {
    const unit = this.geometry.isCompressed ? SECTOR : this.#grain;
    if (this.#next === undefined) {
      const end = Math.max(this.#growth.usedEnd, this.geometry.dataStart);
      this.#next = Math.ceil(end / unit) * unit;
    }
    const host = this.#next;
    checkNameable(host + bytes);
    this.#next += bytes;
    return { host, isFresh: this.#growth.take(host, bytes) };
  }

  /**
   * Gives the grains of a run within one table their place and writes `iov` there. `was`: zero or
   * unallocated. Where the new place reads as the grains did, others may write beside this (M4).
   */
  #allocate(was: number, offset: number, iov: Iov): Promise<void> {
    const index = Math.floor(offset / this.#perTable);
    if (this.tables.tryTable(index) === null) return Promise.reject(noTable());
    const first = Math.floor(offset / this.#grain);
    const inside = offset - first * this.#grain;
    const count = Math.ceil((inside + iov.bytes) / this.#grain);
    const { host, isFresh } = this.#take(count * this.#grain);
    const map = (): void => {
      const entry = first - index * this.geometry.tableEntries;
      for (let i = 0; i < count; i++) this.tables.set(index, entry + i, host + i * this.#grain);
    };
    const readsZero = was === Grain.zero || this.#node.backing === undefined;
    if (isFresh && readsZero && this.tables.tryTable(index) !== undefined) {
      map();
      return this.#writeData(host + inside, iov);
    }
    const work = this.#writeWhole({ first, count, host, inside, readsZero }, iov).then(() =>
      this.#mapLoaded(index, map),
    );
    const done = work
      .catch(() => undefined)
      .then(() => {
        for (let i = 0; i < count; i++) this.#pending.delete(first + i);
      });
    for (let i = 0; i < count; i++) this.#pending.set(first + i, done);
    return work;
  }

  /** The table may have been dropped meanwhile. */
  async #mapLoaded(index: number, map: () => void): Promise<void> {
    while (this.tables.tryTable(index) === undefined) await this.tables.table(index);
    map();
  }

  /** Writes whole grains: `iov` and around it what the guest saw there before. */
  async #writeWhole(
    place: { first: number; count: number; host: number; inside: number; readsZero: boolean },
    iov: Iov,
  ): Promise<void> {
    const { first, count, host, inside, readsZero } = place;
    const start = this.start + first * this.#grain;
    const after = count * this.#grain - inside - iov.bytes;
    const head = new Uint8Array(inside);
    const tail = new Uint8Array(after);
    if (!readsZero) {
      const parts: Promise<void>[] = [];
      if (inside > 0) parts.push(readBelow(this.#node, start, Iov.of(head)));
      const at = start + inside + iov.bytes;
      if (after > 0) parts.push(readBelow(this.#node, at, Iov.of(tail)));
      await settleAll(parts);
    }
    await this.#writeData(host, Iov.from([head, ...iov.bufs, tail]));
  }

  /**
   * Whole grains that have no place yet, compressed. `mayBeShort`: zeroes follow where the last
   * piece ends within a grain, which then has its place.
   */
  async writePacked(offset: number, iov: Iov, mayBeShort = false): Promise<void> {
    const isWhole = iov.bytes % this.#grain === 0 || offset + iov.bytes === this.bytes;
    if (offset % this.#grain !== 0 || (!isWhole && !mayBeShort)) {
      throw new BlockError('EINVAL');
    }
    const { compression } = this.#node.graph.host;
    const packing: Promise<Uint8Array>[] = [];
    for (let at = 0; at < iov.bytes; at += this.#grain) {
      const bytes = Math.min(this.#grain, iov.bytes - at);
      const grain = new Uint8Array(this.#grain);
      iov.slice(at, bytes).copyTo(grain);
      packing.push(packGrain(compression, (offset + at) / SECTOR, grain));
    }
    const packed = begun(Promise.all(packing));
    const before = this.#appending;
    const placed = (async () => {
      await before;
      return this.#place(offset, await packed);
    })();
    this.#appending = placed.then(
      () => undefined,
      () => undefined,
    );
    const { host, pieces } = await placed;
    await this.#writeData(host, Iov.from(pieces));
    await this.#mapPacked(offset, host, pieces);
    if (this.tables.dirtyCount > Limit.maxDirtyTables) await this.store();
  }

  async #place(
    offset: number,
    pieces: Uint8Array[],
  ): Promise<{ host: number; pieces: Uint8Array[] }> {
    let bytes = 0;
    for (const [i, piece] of pieces.entries()) {
      bytes += piece.length;
      const at = offset + i * this.#grain;
      const run = this.#tryRun(at, 1) ?? (await this.#runAt(at, 1));
      const index = Math.floor(at / this.#grain / this.geometry.tableEntries);
      if (this.tables.tryTable(index) === null) throw noTable();
      if (run.host === Grain.unallocated) continue;
      throw new BlockError('EIO', undefined, {
        before: 'Could not write to allocated cluster for streamOptimized',
      });
    }
    return { host: this.#take(bytes).host, pieces };
  }

  async #mapPacked(offset: number, host: number, pieces: readonly Uint8Array[]): Promise<void> {
    let at = host;
    for (const [i, piece] of pieces.entries()) {
      const grain = offset / this.#grain + i;
      const index = Math.floor(grain / this.geometry.tableEntries);
      if (this.tables.tryTable(index) === undefined) await this.tables.table(index);
      const place = at;
      await this.#mapLoaded(index, () => {
        this.tables.set(index, grain - index * this.geometry.tableEntries, place);
      });
      at += piece.length;
    }
  }

  /** Zeroes without data: grains with a place keep it, others need zeroed grains over a backing. */
  async writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    if (this.geometry.isCompressed) throw new BlockError('ENOTSUP');
    const parts: Promise<void>[] = [];
    try {
      for (let at = 0; at < bytes;) {
        const run = this.#tryFreeRun(offset + at, bytes - at);
        if (run === undefined) {
          await this.#settle(offset + at);
          continue;
        }
        if (run.host >= 0) parts.push(begun(this.#zeroData(run, flags)));
        else this.#zeroUnmapped(run, offset + at);
        at += run.bytes;
      }
    } catch (e) {
      await Promise.allSettled(parts);
      throw e;
    }
    await settleAll(parts);
  }

  #zeroData({ host, bytes }: Run, flags: number): Promise<void> {
    if (host < this.geometry.dataStart) return this.#writeData(host, Iov.alloc(0));
    const growing = this.#growth.before(host + bytes);
    if (growing === undefined) return this.file.writeZeroes(host, bytes, flags);
    return growing.then(() => this.file.writeZeroes(host, bytes, flags));
  }

  #zeroUnmapped({ host, bytes }: Run, offset: number): void {
    if (host === Grain.zero || this.#node.backing === undefined) return;
    const isWhole = offset % this.#grain === 0 && bytes % this.#grain === 0;
    if (!this.geometry.hasZeroedGrains || !isWhole) throw new BlockError('ENOTSUP');
    const index = Math.floor(offset / this.#perTable);
    if ((this.tables.tryTable(index) ?? null) === null) throw new BlockError('ENOTSUP');
    const entry = (offset - index * this.#perTable) / this.#grain;
    for (let i = 0; i < bytes / this.#grain; i++) this.tables.set(index, entry + i, Grain.zero);
  }

  /** The file is told; grains keep their place. */
  async discard(offset: number, bytes: number): Promise<void> {
    if (this.geometry.isCompressed) return;
    for (let at = 0; at < bytes;) {
      const run = await this.#runAt(offset + at, bytes - at);
      if (run.host >= this.geometry.dataStart) await this.file.discard(run.host, run.bytes);
      at += run.bytes;
    }
  }

  async status(offset: number, bytes: number): Promise<DriverStatus> {
    const run = this.#tryRun(offset, bytes) ?? (await this.#runAt(offset, bytes));
    const { host } = run;
    if (host >= 0) {
      const data = { bytes: run.bytes, data: true, zero: false, allocated: true };
      if (this.geometry.isCompressed) return { ...data, compressed: true };
      return { ...data, offset: host, file: this.file.node };
    }
    if (host === Grain.damaged) throw this.#damaged(offset);
    const zero = host === Grain.zero;
    return { bytes: run.bytes, data: false, zero, allocated: zero };
  }

  /** Of a run that can be passed over to the host; undefined where it is not known at once. */
  tryPlace(offset: number, bytes: number): { file: Child; host: number } | undefined {
    if (this.geometry.isCompressed) return undefined;
    const run = this.#tryRun(offset, bytes);
    if (run === undefined || run.host < 0 || run.bytes !== bytes) return undefined;
    return { file: this.file, host: run.host };
  }

  /** Stores changed grain tables in the order of M2. Throws; it is tried again then. */
  store(): Promise<void> {
    if (this.tables.dirtyCount === 0) return Promise.resolve();
    return this.#storing.run(async () => {
      if (this.tables.dirtyCount === 0) return;
      const { indexes, writes } = this.tables.takeDirty();
      try {
        await this.#growth.cover();
        await this.file.flush();
        await settleAll(writes.map(({ offset, bytes }) => this.file.write(offset, Iov.of(bytes))));
        this.tables.written(indexes);
      } catch (e) {
        this.tables.putBack(indexes);
        throw e;
      }
    });
  }

  settledGrowth(): Promise<void> {
    return this.#growth.settled();
  }

  async close(): Promise<void> {
    await this.store();
    await this.#growth.trim();
  }
}

function noTable(): BlockError {
  return new BlockError('EINVAL', 'The extent has no grain table there');
}
