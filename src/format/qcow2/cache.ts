/**
 * Cache of metadata tables: slices of L2 tables, or refcount blocks.
 *
 * Nothing is written from here: dirty tables are handed out by `takeDirty` to the writeback
 * (writeback.ts), which knows the order in which they may reach the file.
 *
 * Rules for callers
 *  C1  A table is used only until the next `await`; afterwards it is looked up again. `use` runs a
 *      function on the table at the moment it is there, however small the cache is; what `get`
 *      resolves to is safe only where nobody else can change the table meanwhile.
 *  C2  Before bytes of a table change, `touch` is called, and what it returns is changed: a table
 *      that a writeback holds is copied first, so that a write in flight never sees later changes.
 *  C3  A dirty table is never evicted. Whoever makes tables dirty asks `isPressed` and then
 *      waits for a writeback, so the cache outgrows its capacity by a bounded amount only.
 */
import { Iov } from '../../lib/iov.js';

/** Tables of a cache that may all become dirty. */
const SMALL = 256;

/** One table in memory. */
export class MetaTable {
  /** Where it lies in the image file, in bytes. */
  readonly offset: number;
  bytes: Uint8Array;
  view: DataView;
  /** Changed bytes [dirtyFrom, dirtyTo); clean when `dirtyTo` is 0. */
  dirtyFrom = 0;
  dirtyTo = 0;
  /** A writeback holds `bytes`. */
  frozen = false;
  /** Used since the eviction hand passed. */
  recent = true;
  /** Used since the last `dropUnused`. */
  usedInInterval = true;

  constructor(offset: number, bytes: Uint8Array) {
    this.offset = offset;
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get isDirty(): boolean {
    return this.dirtyTo !== 0;
  }
}

/** A dirty table as it was when the writeback began. */
export interface FrozenTable {
  readonly table: MetaTable;
  readonly bytes: Uint8Array;
  readonly from: number;
  readonly to: number;
}

/** Reads one table; throws what the file throws. */
export type TableReader = (offset: number, into: Iov) => Promise<void>;

interface Waiter {
  readonly call: (table: MetaTable) => void;
  readonly reject: (error: unknown) => void;
}

export class MetaCache {
  /** Bytes of each table. */
  readonly tableBytes: number;
  /** Tables that are kept; dirty ones may exceed it for a while (C3). */
  readonly capacity: number;
  readonly #read: TableReader;
  readonly #tables = new Map<number, MetaTable>();
  /** Who waits for tables that are being read. */
  readonly #loading = new Map<number, Waiter[]>();
  #dirty = 0;
  /** Grows whenever a table leaves the cache; whoever remembers tables compares it. */
  evictions = 0;

  constructor(tableBytes: number, capacity: number, read: TableReader) {
    this.tableBytes = tableBytes;
    this.capacity = capacity;
    this.#read = read;
  }

  get size(): number {
    return this.#tables.size;
  }

  get dirtyCount(): number {
    return this.#dirty;
  }

  /**
   * So many tables are dirty that a writeback should run before more become so. In a large cache
   * half of them, so that a clean one to evict is found soon; a small one may fill, for each
   * writeback makes the writer wait for all data that is not durable.
   */
  get isPressed(): boolean {
    const { capacity } = this;
    return this.#dirty >= (capacity > SMALL ? (capacity >> 1) + 1 : capacity);
  }

  /** The table at `offset` if it is here. */
  peek(offset: number): MetaTable | undefined {
    const table = this.#tables.get(offset);
    if (table !== undefined) {
      table.recent = true;
      table.usedInInterval = true;
    }
    return table;
  }

  /** The table at `offset`, read when needed; see C1. Throws what the read throws. */
  get(offset: number): Promise<MetaTable> {
    return this.use(offset, (table) => table);
  }

  /**
   * Calls `fn` with the table at `offset`, which is read when needed. `fn` must not wait for
   * anything. Throws what the read or `fn` throws.
   */
  use<T>(offset: number, fn: (table: MetaTable) => T): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const call = (table: MetaTable): void => {
        try {
          resolve(fn(table));
        } catch (e) {
          reject(e instanceof Error ? e : new Error(String(e)));
        }
      };
      const table = this.peek(offset);
      if (table !== undefined) {
        call(table);
        return;
      }
      const waiter = { call, reject };
      const waiting = this.#loading.get(offset);
      if (waiting !== undefined) {
        waiting.push(waiter);
        return;
      }
      this.#loading.set(offset, [waiter]);
      void this.#load(offset);
    });
  }

  async #load(offset: number): Promise<void> {
    const bytes = new Uint8Array(this.tableBytes);
    let error: unknown;
    try {
      await this.#read(offset, Iov.of(bytes));
    } catch (e) {
      error = e;
    }
    const waiting = this.#loading.get(offset) ?? [];
    this.#loading.delete(offset);
    if (error !== undefined) {
      for (const { reject } of waiting) reject(error);
      return;
    }
    // A table that was added meanwhile (a new one at this place) is newer than what was read.
    const table = this.peek(offset) ?? this.add(offset, bytes);
    for (const { call } of waiting) call(table);
  }

  /** Puts a table with known content in; clean until touched. Replaces one at the same place. */
  add(offset: number, bytes: Uint8Array): MetaTable {
    this.drop(offset, this.tableBytes);
    this.#makeRoom();
    const table = new MetaTable(offset, bytes);
    this.#tables.set(offset, table);
    return table;
  }

  /** Announces a change of bytes [from, to) of `table` and returns the table to change (C2). */
  touch(table: MetaTable, from: number, to: number): MetaTable {
    let live = this.#tables.get(table.offset);
    if (live === undefined) {
      // Evicted between its load and its use: it was clean, so it can simply come back.
      this.#tables.set(table.offset, table);
      live = table;
    }
    if (live.frozen) {
      live.bytes = live.bytes.slice();
      live.view = new DataView(live.bytes.buffer);
      live.frozen = false;
    }
    if (live.dirtyTo === 0) {
      this.#dirty++;
      live.dirtyFrom = from;
      live.dirtyTo = to;
    } else {
      if (from < live.dirtyFrom) live.dirtyFrom = from;
      if (to > live.dirtyTo) live.dirtyTo = to;
    }
    return live;
  }

  /** All dirty tables as they are now, lowest offset first; they count as clean afterwards. */
  takeDirty(): FrozenTable[] {
    const out: FrozenTable[] = [];
    if (this.#dirty === 0) return out;
    for (const table of this.#tables.values()) {
      if (table.dirtyTo === 0) continue;
      out.push({ table, bytes: table.bytes, from: table.dirtyFrom, to: table.dirtyTo });
      table.dirtyTo = 0;
      table.frozen = true;
    }
    this.#dirty = 0;
    return out.sort((a, b) => a.table.offset - b.table.offset);
  }

  /** The frozen tables reached the file. */
  written(frozen: readonly FrozenTable[]): void {
    for (const { table, bytes } of frozen) if (table.bytes === bytes) table.frozen = false;
  }

  /** They did not: they are dirty again, with whatever changed since. */
  notWritten(frozen: readonly FrozenTable[]): void {
    for (const { table, bytes, from, to } of frozen) {
      if (table.bytes === bytes) table.frozen = false;
      // A table that was dropped meanwhile is of no interest any more.
      if (this.#tables.get(table.offset) === table) this.touch(table, from, to);
    }
  }

  /** Forgets tables inside [offset, offset + bytes), dirty or not: their place is free. */
  drop(offset: number, bytes: number): void {
    if (bytes <= this.tableBytes * 64) {
      for (let at = offset; at < offset + bytes; at += this.tableBytes) {
        this.#remove(this.#tables.get(at));
      }
      return;
    }
    for (const table of this.#tables.values()) {
      if (table.offset >= offset && table.offset < offset + bytes) this.#remove(table);
    }
  }

  /** Forgets everything. */
  clear(): void {
    this.#tables.clear();
    this.#dirty = 0;
    this.evictions++;
  }

  /** Forgets clean tables that nobody used since the last call (cache-clean-interval). */
  dropUnused(): void {
    for (const table of this.#tables.values()) {
      if (!table.usedInInterval && table.dirtyTo === 0 && !table.frozen) this.#remove(table);
      else table.usedInInterval = false;
    }
  }

  #remove(table: MetaTable | undefined): void {
    if (table === undefined) return;
    if (table.dirtyTo !== 0) this.#dirty--;
    table.dirtyTo = 0;
    this.#tables.delete(table.offset);
    this.evictions++;
  }

  /** Second chance: the first table that is clean and was not used since the hand passed goes. */
  #makeRoom(): void {
    if (this.#tables.size < this.capacity) return;
    let steps = this.#tables.size * 2;
    for (const table of this.#tables.values()) {
      if (this.#tables.size < this.capacity || steps-- === 0) return;
      if (!table.recent && table.dirtyTo === 0 && !table.frozen) {
        this.#remove(table);
      } else {
        // To the end of the order; the iteration meets it again there.
        table.recent = false;
        this.#tables.delete(table.offset);
        this.#tables.set(table.offset, table);
      }
    }
  }
}
