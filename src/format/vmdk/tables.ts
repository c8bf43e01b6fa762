/** Grain directory and grain tables of a sparse extent: a cache, and what has to be written. */
import type { Child } from '../../block/child.js';
import { BlockError, withErrno } from '../../block/errors.js';
import { Iov } from '../../lib/iov.js';
import type { SparseGeometry } from './header.js';
import { Limit, SECTOR } from './layout.js';

/** What a grain table entry says when it names no place; else it is an offset in bytes. */
export const Grain = { unallocated: -1, zero: -2, damaged: -3 } as const;

/** One grain table: host offsets in bytes, or values of {@link Grain}. */
export interface GrainTable {
  readonly entries: Float64Array;
  isDirty: boolean;
}

const TWO32 = 0x1_0000_0000;
/** Entries hold a sector number in 32 bits. */
const END_OF_ENTRIES = TWO32 * SECTOR;

/** A run of bytes to be written. */
export interface TableWrite {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

export class GrainTables {
  readonly #file: Child;
  readonly #g: SparseGeometry;
  /** Offsets of the grain tables in bytes; 0: there is none. */
  readonly #directory: Float64Array;
  readonly #redundant: Float64Array | undefined;
  readonly #cache = new Map<number, GrainTable>();
  readonly #loading = new Map<number, Promise<GrainTable>>();
  readonly #dirty = new Set<number>();
  readonly #maxTables: number;

  constructor(
    file: Child,
    g: SparseGeometry,
    directory: Float64Array,
    redundant: Float64Array | undefined,
  ) {
    this.#file = file;
    this.#g = g;
    this.#directory = directory;
    this.#redundant = redundant;
    this.#maxTables = Math.max(16, Math.floor(Limit.cacheBytes / (g.tableEntries * 8)));
  }

  get dirtyCount(): number {
    return this.#dirty.size;
  }

  /** Number of grain tables. */
  get count(): number {
    return this.#directory.length;
  }

  /** Where grain tables stand, for `check`. */
  offsetOf(index: number): number {
    return this.#directory[index] ?? 0;
  }

  /** The table if it is in memory; null: there is none. */
  tryTable(index: number): GrainTable | null | undefined {
    const found = this.#cache.get(index);
    if (found !== undefined) return found;
    return (this.#directory[index] ?? 0) === 0 ? null : undefined;
  }

  /** The table; null: there is none. Throws what reading throws. */
  async table(index: number): Promise<GrainTable | null> {
    const found = this.tryTable(index);
    if (found !== undefined) return found;
    let loading = this.#loading.get(index);
    if (loading === undefined) {
      loading = this.#load(index).finally(() => this.#loading.delete(index));
      this.#loading.set(index, loading);
    }
    return loading;
  }

  async #load(index: number): Promise<GrainTable> {
    const { tableEntries, entryBytes } = this.#g;
    const bytes = new Uint8Array(tableEntries * entryBytes);
    const event = this.#file.debugEvent('l2_load');
    if (event !== undefined) await event;
    await this.#file.read(this.#directory[index] ?? 0, Iov.of(bytes));
    const table = { entries: this.#decode(bytes), isDirty: false };
    this.#evict();
    this.#cache.set(index, table);
    return table;
  }

  #decode(bytes: Uint8Array): Float64Array {
    const view = new DataView(bytes.buffer);
    const { tableEntries, kind, hasZeroedGrains } = this.#g;
    const entries = new Float64Array(tableEntries);
    for (let i = 0; i < tableEntries; i++) {
      if (kind === 'sesparse') entries[i] = this.#seSparseEntry(view, i * 8);
      else {
        const sector = view.getUint32(i * 4, true);
        if (sector === 0) entries[i] = Grain.unallocated;
        else if (sector === 1 && hasZeroedGrains) entries[i] = Grain.zero;
        else entries[i] = sector * SECTOR;
      }
    }
    return entries;
  }

  /** Type in the upper four bits; of the grain's number the lower 12 bits stand above the rest. */
  #seSparseEntry(view: DataView, at: number): number {
    const low = view.getUint32(at, true);
    const high = view.getUint32(at + 4, true);
    switch (high >>> 28) {
      case 0:
        return low === 0 && high === 0 ? Grain.unallocated : Grain.damaged;
      case 1:
      case 2:
        return Grain.zero;
      case 3: {
        const grain = ((high >>> 16) & 0xfff) + ((high & 0xffff) * TWO32 + low) * 4096;
        const host = this.#g.grainsOffset + grain * this.#g.grainBytes;
        return Number.isSafeInteger(host) ? host : Grain.damaged;
      }
      default:
        return Grain.damaged;
    }
  }

  /** Drops the oldest clean tables. */
  #evict(): void {
    if (this.#cache.size < this.#maxTables) return;
    for (const [index, table] of this.#cache) {
      if (table.isDirty) continue;
      this.#cache.delete(index);
      if (this.#cache.size < this.#maxTables) return;
    }
  }

  /** Sets an entry of a table that is in memory. */
  set(index: number, entry: number, value: number): void {
    const table = this.#cache.get(index);
    if (table === undefined) throw new Error('a grain table that is being changed is in memory');
    table.entries[entry] = value;
    table.isDirty = true;
    this.#dirty.add(index);
  }

  /** Takes the changed tables as they are now: writes for each copy of them. */
  takeDirty(): { indexes: number[]; writes: TableWrite[] } {
    const indexes = [...this.#dirty].sort((a, b) => a - b);
    this.#dirty.clear();
    const writes: TableWrite[] = [];
    for (const index of indexes) {
      const bytes = this.#encode(index);
      const redundant = this.#redundant?.[index] ?? 0;
      if (redundant > 0) writes.push({ offset: redundant, bytes });
      writes.push({ offset: this.#directory[index] ?? 0, bytes });
    }
    return { indexes, writes: joined(writes) };
  }

  #encode(index: number): Uint8Array {
    const view = new DataView(new ArrayBuffer(this.#g.tableEntries * 4));
    const table = this.#cache.get(index);
    if (table === undefined) throw new Error('a changed grain table is in memory');
    // It stays in memory until it has been written: nobody may read an older one.
    table.entries.forEach((value, i) => {
      const sector = value >= 0 ? value / SECTOR : value === Grain.zero ? 1 : 0;
      view.setUint32(i * 4, sector, true);
    });
    return new Uint8Array(view.buffer);
  }

  /** They are on disk, unless they changed again. */
  written(indexes: readonly number[]): void {
    for (const index of indexes) {
      const table = this.#cache.get(index);
      if (table !== undefined && !this.#dirty.has(index)) table.isDirty = false;
    }
  }

  /** They could not be written. */
  putBack(indexes: readonly number[]): void {
    for (const index of indexes) this.#dirty.add(index);
  }
}

/** Writes in the order of their offsets; those that touch become one. */
function joined(writes: TableWrite[]): TableWrite[] {
  writes.sort((a, b) => a.offset - b.offset);
  const out: TableWrite[] = [];
  for (let i = 0; i < writes.length;) {
    const first = writes[i]!;
    let end = first.offset + first.bytes.length;
    let n = 1;
    while (writes[i + n]?.offset === end) end += writes[i + n++]!.bytes.length;
    if (n === 1) out.push(first);
    else {
      const bytes = new Uint8Array(end - first.offset);
      for (const each of writes.slice(i, i + n)) bytes.set(each.bytes, each.offset - first.offset);
      out.push({ offset: first.offset, bytes });
    }
    i += n;
  }
  return out;
}

/** Throws EFBIG where grain table entries cannot name a byte. */
export function checkNameable(end: number): void {
  if (end > END_OF_ENTRIES) {
    throw new BlockError('EFBIG', 'The extent is full: its file cannot exceed 2 TiB');
  }
}

/** Reads the grain directory (or its redundant copy) at `offset`. */
export async function readDirectory(
  file: Child,
  g: SparseGeometry,
  offset: number,
): Promise<Float64Array> {
  const bytes = new Uint8Array(g.directoryEntries * g.entryBytes);
  try {
    if (bytes.length > 0) await file.read(offset, Iov.of(bytes));
  } catch (e) {
    throw withErrno('Could not read the grain directory', e);
  }
  const view = new DataView(bytes.buffer);
  const out = new Float64Array(g.directoryEntries);
  for (let i = 0; i < out.length; i++) {
    if (g.kind !== 'sesparse') {
      out[i] = view.getUint32(i * 4, true) * SECTOR;
      continue;
    }
    const low = view.getUint32(i * 8, true);
    const high = view.getUint32(i * 8 + 4, true);
    if (low === 0 && high === 0) continue;
    if (high !== 0x1000_0000) {
      throw new BlockError('EINVAL', `Bad entry ${String(i)} of the grain directory`);
    }
    out[i] = g.tablesOffset + low * g.tableEntries * 8;
  }
  return out;
}
