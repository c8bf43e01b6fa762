/**
 * The map of formats with two levels of tables (QED, qcow): a first table of 64-bit offsets of
 * second tables, whose 64-bit entries say where clusters are.
 *
 * The first table is in memory, the second ones are held in slices, so that memory does not grow
 * with what a crafted header asks for.
 *
 * Order of writes: data, flush, sectors of second tables, flush, sectors of the first table that
 * name new ones. So nothing on disk names what is not there, wherever the power goes; what is lost
 * is only space that nobody names.
 */
import { Iov } from '../lib/iov.js';
import { Mutex } from '../lib/mutex.js';
import { settleAll } from '../lib/settle-all.js';
import type { Child } from './child.js';
import type { ClusterMap, Taken } from './cluster-map.js';
import { Place } from './cluster-map.js';
import { BlockError, withErrno } from './errors.js';
import type { FileGrowth } from './file-growth.js';

const SECTOR = 512;
const ENTRY = 8;
const PER_SECTOR = SECTOR / ENTRY;
/** Entries of a slice, at most. */
const SLICE_ENTRIES = 4096;
/** Memory for slices, and changed ones after which they are stored. */
const CACHE_BYTES = 16 * 1024 * 1024;
const MAX_DIRTY = 64;

/** How a format stores its tables. */
export interface TreeShape {
  readonly clusterBytes: number;
  /** Entries of a second table: a power of two. */
  readonly tableEntries: number;
  readonly l1Offset: number;
  readonly l1Entries: number;
  /** Offset of the second table that an entry of the first names; 0: none; undefined: damaged. */
  tableAt(view: DataView, at: number): number | undefined;
  setTable(view: DataView, at: number, offset: number): void;
  /** What an entry of a second table says; see cluster-map.ts. */
  placeAt(view: DataView, at: number): number;
  setPlace(view: DataView, at: number, place: number): void;
  /** End of what entries can name. */
  readonly maxOffset: number;
}

interface Slice {
  /** As they are in the file. */
  readonly view: DataView;
  readonly places: Float64Array;
  /** Which of its sectors differ from the file. */
  readonly dirty: Set<number>;
}

interface Write {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** What one `store` writes. */
interface Round {
  readonly slices: { readonly index: number; readonly sectors: number[] }[];
  readonly writes: Write[];
  readonly tables: number[];
  readonly l1: Write[];
}

export class TableTree implements ClusterMap {
  readonly clusterBytes: number;
  readonly perTable: number;
  readonly shape: TreeShape;
  readonly #file: Child;
  readonly #growth: FileGrowth;
  readonly #l1: DataView;
  readonly #slicesPerTable: number;
  readonly #cache = new Map<number, Slice>();
  readonly #loading = new Map<number, Promise<Slice>>();
  readonly #dirty = new Set<number>();
  /** Slices that are being stored: they stay until they have been. */
  readonly #stored = new Set<number>();
  /** Second tables that the first one on disk does not name yet, and whether they read as zero. */
  readonly #newTables = new Map<number, boolean>();
  readonly #maxSlices: number;
  readonly #storing = new Mutex();
  /** Where the next cluster goes. */
  #next: number | undefined;
  /** Called before the first change. */
  onPrepare: (() => Promise<void> | undefined) | undefined;

  constructor(file: Child, growth: FileGrowth, shape: TreeShape, l1: Uint8Array) {
    this.#file = file;
    this.#growth = growth;
    this.shape = shape;
    this.#l1 = new DataView(l1.buffer, l1.byteOffset, l1.byteLength);
    this.clusterBytes = shape.clusterBytes;
    this.perTable = Math.min(shape.tableEntries, SLICE_ENTRIES);
    this.#slicesPerTable = shape.tableEntries / this.perTable;
    this.#maxSlices = Math.max(16, Math.floor(CACHE_BYTES / (this.perTable * ENTRY * 2)));
  }

  /** Entries of the first table. */
  get l1Entries(): number {
    return this.#l1.byteLength / ENTRY;
  }

  /** Offset of a second table; 0: none; undefined: the entry is damaged. */
  tableOffset(index: number): number | undefined {
    return index < this.l1Entries ? this.shape.tableAt(this.#l1, index * ENTRY) : undefined;
  }

  tryTable(index: number): Float64Array | null | undefined {
    const found = this.#cache.get(index);
    if (found !== undefined) return found.places;
    const table = Math.floor(index / this.#slicesPerTable);
    if (this.tableOffset(table) === 0) return null;
    return this.#newTables.has(table) ? this.#keep(index, this.#emptySlice()).places : undefined;
  }

  async table(index: number): Promise<Float64Array | null> {
    const found = this.tryTable(index);
    if (found !== undefined) return found;
    let loading = this.#loading.get(index);
    if (loading === undefined) {
      loading = this.#load(index).finally(() => this.#loading.delete(index));
      this.#loading.set(index, loading);
    }
    return (await loading).places;
  }

  #emptySlice(): Slice {
    const view = new DataView(new ArrayBuffer(this.perTable * ENTRY));
    const places = new Float64Array(this.perTable).fill(Place.unallocated);
    return { view, places, dirty: new Set() };
  }

  async #load(index: number): Promise<Slice> {
    const table = Math.floor(index / this.#slicesPerTable);
    const offset = this.tableOffset(table);
    if (offset === undefined) {
      const text = `Entry ${String(table)} of the L1 table cannot be; run check`;
      throw new BlockError('EIO', text);
    }
    const slice = this.#emptySlice();
    const { view, places } = slice;
    const bytes = this.perTable * ENTRY;
    const event = this.#file.debugEvent('l2_load');
    if (event !== undefined) await event;
    const at = offset + (index % this.#slicesPerTable) * bytes;
    await this.#file.read(at, Iov.of(new Uint8Array(view.buffer)));
    for (let i = 0; i < places.length; i++) places[i] = this.shape.placeAt(view, i * ENTRY);
    return this.#keep(index, slice);
  }

  #keep(index: number, slice: Slice): Slice {
    if (this.#cache.size >= this.#maxSlices) {
      for (const [key, { dirty }] of this.#cache) {
        if (dirty.size > 0 || this.#stored.has(key)) continue;
        this.#cache.delete(key);
        break;
      }
    }
    this.#cache.set(index, slice);
    return slice;
  }

  /** The bytes of an entry, in a slice that is in memory. */
  entryView(index: number, entry: number): { view: DataView; at: number } | undefined {
    const slice = this.#cache.get(index);
    return slice === undefined ? undefined : { view: slice.view, at: entry * ENTRY };
  }

  set(index: number, entry: number, place: number, count: number): void {
    const { shape } = this;
    if (this.tryTable(index) === null) this.#makeTable(Math.floor(index / this.#slicesPerTable));
    if (this.tryTable(index) === undefined) throw new Error('a table that changes is in memory');
    const { view, places, dirty } = this.#cache.get(index)!;
    for (let i = 0; i < count; i++) {
      const each = place < 0 ? place : place + i * this.clusterBytes;
      places[entry + i] = each;
      shape.setPlace(view, (entry + i) * ENTRY, each);
      dirty.add(Math.floor((entry + i) / PER_SECTOR));
    }
    this.#dirty.add(index);
  }

  /** Throws EFBIG, ENOSPC. */
  #makeTable(table: number): void {
    if (table >= this.l1Entries) throw new BlockError('EIO', 'The file ends before the L1 table');
    const { host, isFresh } = this.takeBytes(this.shape.tableEntries * ENTRY);
    this.shape.setTable(this.#l1, table * ENTRY, host);
    this.#newTables.set(table, isFresh);
  }

  prepare(): Promise<void> | undefined {
    return this.onPrepare?.();
  }

  take(clusters: number): Taken {
    return { ...this.takeBytes(clusters * this.clusterBytes), clusters };
  }

  /** Place at the end of the file, aligned as said. Throws EFBIG where entries cannot name it. */
  takeBytes(bytes: number, align = this.clusterBytes): { host: number; isFresh: boolean } {
    const end = this.#next ?? this.#growth.usedEnd;
    const host = Math.ceil(end / align) * align;
    if (host + bytes > this.shape.maxOffset) throw new BlockError('EFBIG');
    this.#next = host + bytes;
    return { host, isFresh: this.#growth.take(host, bytes) };
  }

  /** What was not used is lost, unless it is the last. */
  giveBack(host: number, clusters: number): void {
    const end = host + clusters * this.clusterBytes;
    // Bytes may have been written there: what is given out next must not count as fresh.
    if (this.#next === end) this.#next = host;
  }

  get isFull(): boolean {
    return this.#dirty.size > MAX_DIRTY;
  }

  get isDirty(): boolean {
    return this.#dirty.size > 0 || this.#newTables.size > 0;
  }

  store(): Promise<void> {
    if (!this.isDirty && !this.#storing.isLocked) return Promise.resolve();
    return this.#storing.run(async () => {
      if (!this.isDirty) return;
      const round = this.#takeDirty();
      try {
        await this.#write(round);
      } catch (e) {
        this.#putBack(round);
        throw e;
      } finally {
        this.#stored.clear();
      }
      for (const table of round.tables) this.#newTables.delete(table);
    });
  }

  async #write({ writes, tables, l1 }: Round): Promise<void> {
    const file = this.#file;
    await this.#growth.cover();
    await file.flush();
    const bytes = this.shape.tableEntries * ENTRY;
    for (const table of tables) {
      if (this.#newTables.get(table) !== false) continue;
      await file.writeZeroes(this.tableOffset(table) ?? 0, bytes);
    }
    await settleAll(writes.map((w) => file.write(w.offset, Iov.of(w.bytes))));
    if (l1.length === 0) return;
    await file.flush();
    await settleAll(l1.map((w) => file.write(w.offset, Iov.of(w.bytes))));
  }

  #takeDirty(): Round {
    const round: Round = { slices: [], writes: [], tables: [...this.#newTables.keys()], l1: [] };
    for (const index of this.#dirty) {
      const { view, dirty } = this.#cache.get(index)!;
      const sectors = [...dirty].sort((a, b) => a - b);
      dirty.clear();
      round.slices.push({ index, sectors });
      this.#stored.add(index);
      const table = this.tableOffset(Math.floor(index / this.#slicesPerTable)) ?? 0;
      const at = table + (index % this.#slicesPerTable) * view.byteLength;
      round.writes.push(...runsOf(view, sectors, at));
    }
    this.#dirty.clear();
    const l1 = new Set(round.tables.map((table) => Math.floor(table / PER_SECTOR)));
    const sectors = [...l1].sort((a, b) => a - b);
    round.l1.push(...runsOf(this.#l1, sectors, this.shape.l1Offset));
    return round;
  }

  #putBack({ slices }: Round): void {
    for (const { index, sectors } of slices) {
      const slice = this.#cache.get(index);
      for (const each of sectors) slice?.dirty.add(each);
      this.#dirty.add(index);
    }
  }

  /** All entries have been stored; forgets them, for somebody else changed the file. */
  forget(l1: Uint8Array): void {
    this.#cache.clear();
    new Uint8Array(this.#l1.buffer, this.#l1.byteOffset, this.#l1.byteLength).set(l1);
    this.#next = undefined;
  }
}

/** Copies of the sectors, joined where they touch; `start`: offset of the first in the file. */
function runsOf(view: DataView, sectors: readonly number[], start: number): Write[] {
  const out: Write[] = [];
  for (let i = 0; i < sectors.length;) {
    const first = sectors[i] ?? 0;
    let n = 1;
    while (sectors[i + n] === first + n) n++;
    const from = first * SECTOR;
    const bytes = Math.min(n * SECTOR, view.byteLength - from);
    const copy = new Uint8Array(view.buffer, view.byteOffset + from, bytes).slice();
    out.push({ offset: start + from, bytes: copy });
    i += n;
  }
  return out;
}

/** Reads a first table of `entries` entries, as much of it as the file holds. */
export async function readFirstTable(
  file: Child,
  offset: number,
  entries: number,
): Promise<Uint8Array> {
  const inFile = Math.max(0, Math.floor((file.size - offset) / ENTRY));
  const bytes = new Uint8Array(Math.min(entries, inFile) * ENTRY);
  try {
    if (bytes.length > 0) await file.read(offset, Iov.of(bytes));
  } catch (e) {
    throw withErrno('Could not read the L1 table', e);
  }
  return bytes;
}
