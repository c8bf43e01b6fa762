/**
 * From guest offsets to what is stored: L1 in memory, slices of L2 tables in a cache.
 *
 * A lookup answers with one run of equal, contiguous clusters (or subclusters), as far as the
 * slice of the L2 table goes. Sections "Cluster mapping" and "Extended L2 Entries".
 */
import type { MetaTable } from './cache.js';
import {
  clusterKind,
  compressedSpan,
  entryOffset,
  hasHostCluster,
  isCopied,
  Kind,
  readEntry,
  subclusterKind,
  type L2Entry,
} from './entry.js';
import type { Qcow2Image } from './image.js';
import type { L1Table } from './l1.js';
import type { GuestOffset, HostOffset } from './units.js';
import { clusterStart, roundDown } from './units.js';

/** `host` of a run that is stored nowhere. */
export const NO_HOST = -1;

/** A run of guest bytes of one kind, beginning at the offset that was asked for. */
export type Extent =
  /** Stored plainly from `host` on; `copied`: may be overwritten in place. */
  | {
      readonly kind: typeof Kind.data;
      readonly bytes: number;
      readonly host: HostOffset;
      readonly copied: boolean;
    }
  /** Reads as zeroes; `host` is where it is preallocated, else NO_HOST. */
  | {
      readonly kind: typeof Kind.zero;
      readonly bytes: number;
      readonly host: HostOffset;
      readonly copied: boolean;
    }
  /** Not in this image; `host`: the cluster around it is allocated (subclusters). */
  | {
      readonly kind: typeof Kind.unallocated;
      readonly bytes: number;
      readonly host: HostOffset;
      readonly copied: boolean;
    }
  /** In the compressed cluster whose data begins at `host` and takes `span` bytes at most. */
  | {
      readonly kind: typeof Kind.compressed;
      readonly bytes: number;
      readonly host: HostOffset;
      readonly span: number;
    }
  /** The tables are damaged; `message` says how, in QEMU's words. */
  | { readonly kind: typeof Kind.invalid; readonly bytes: number; readonly message: string };

/** `%#x`: hexadecimal with its prefix, but 0 without. */
export function hex(value: number): string {
  return value === 0 ? '0' : '0x' + value.toString(16);
}

/** What is told of an extended entry whose bits contradict each other. */
export function invalidEntry(sliceOffset: HostOffset, index: number): string {
  return 'Invalid cluster entry found' + entryPlace(sliceOffset, index);
}

function entryPlace(sliceOffset: HostOffset, index: number): string {
  return ` (L2 offset: ${hex(sliceOffset)}, L2 index: ${hex(index)})`;
}

/** A slice of an L2 table and the place of one guest cluster in it. */
export interface SlicePlace {
  /** Offset of the slice in the image file. */
  readonly offset: HostOffset;
  /** Index of the cluster's entry in the slice. */
  readonly index: number;
  readonly l1Index: number;
}

export class Mapping {
  readonly #image: Qcow2Image;
  /** Undefined: the active one. */
  readonly #l1: L1Table | undefined;
  /** Guest bytes that an L2 table, and one slice of it, map. */
  readonly #l2Coverage: number;
  readonly #sliceCoverage: number;
  readonly #sliceEntries: number;
  // The slice that the last lookup used; lookups mostly stay in it.
  #memoBase = -1;
  #memoEnd = -1;
  #memoTable: MetaTable | undefined;
  #memoOffset = 0;
  #memoEvictions = 0;

  /** `l1`: the table of a snapshot, whose mapping is only looked at. */
  constructor(image: Qcow2Image, l1?: L1Table) {
    this.#image = image;
    this.#l1 = l1;
    const { g, settings } = image;
    this.#l2Coverage = g.l2Coverage;
    this.#sliceEntries = settings.l2SliceBytes / g.l2EntrySize;
    this.#sliceCoverage = this.#sliceEntries * g.clusterSize;
  }

  /** Entries of a slice. */
  get sliceEntries(): number {
    return this.#sliceEntries;
  }

  /** Guest bytes that one slice maps. */
  get sliceCoverage(): number {
    return this.#sliceCoverage;
  }

  /** To be called when an L1 entry changes. */
  forget(): void {
    this.#memoBase = this.#memoEnd = -1;
    this.#memoTable = undefined;
  }

  /** The run at `guest`, at most `bytes` long; undefined when its slice is not in memory. */
  tryLookup(guest: GuestOffset, bytes: number): Extent | undefined {
    if (guest >= this.#memoBase && guest < this.#memoEnd) {
      const table = this.#memoTable;
      if (table !== undefined && this.#memoEvictions === this.#image.l2.evictions) {
        table.recent = true;
        table.usedInInterval = true;
        return this.#inSlice(table, this.#memoOffset, guest, bytes);
      }
    }
    return this.#lookupByL1(guest, bytes);
  }

  #lookupByL1(guest: GuestOffset, bytes: number): Extent | undefined {
    const { g, l2 } = this.#image;
    const l1 = this.#l1 ?? this.#image.l1;
    const l1Index = Math.floor(guest / this.#l2Coverage);
    const l2Offset = l1Index < l1.size ? l1.l2Offset(l1Index) : 0;
    if (l2Offset === 0) return this.#withoutTable(guest, l1Index, bytes);
    if (l2Offset % g.clusterSize !== 0) {
      const message = `L2 table offset ${hex(l2Offset)} unaligned (L1 index: ${hex(l1Index)})`;
      return { kind: Kind.invalid, bytes, message };
    }
    const base = roundDown(guest, this.#sliceCoverage);
    const slice = (base - l1Index * this.#l2Coverage) / this.#sliceCoverage;
    const offset = l2Offset + slice * l2.tableBytes;
    const table = l2.peek(offset);
    if (table === undefined) return undefined;
    this.#memoBase = base;
    this.#memoEnd = base + this.#sliceCoverage;
    this.#memoTable = table;
    this.#memoOffset = offset;
    this.#memoEvictions = l2.evictions;
    return this.#inSlice(table, offset, guest, bytes);
  }

  /** Unallocated as far as L1 entries are empty. */
  #withoutTable(guest: GuestOffset, l1Index: number, bytes: number): Extent {
    const l1 = this.#l1 ?? this.#image.l1;
    let next = l1Index + 1;
    while (next * this.#l2Coverage < guest + bytes) {
      if (next < l1.size && l1.l2Offset(next) !== 0) break;
      next++;
    }
    const run = Math.min(bytes, next * this.#l2Coverage - guest);
    return { kind: Kind.unallocated, bytes: run, host: NO_HOST, copied: false };
  }

  /** As tryLookup, reading the slice when needed. Throws what the file throws. */
  async lookup(guest: GuestOffset, bytes: number): Promise<Extent> {
    while (true) {
      const found = this.tryLookup(guest, bytes);
      if (found !== undefined) return found;
      const place = this.place(guest);
      if (place === undefined) continue;
      const { offset } = place;
      const extent = await this.useSlice(offset, (table) =>
        // The table may have been replaced while it was read.
        this.place(guest)?.offset === offset
          ? this.#inSlice(table, offset, guest, bytes)
          : undefined,
      );
      if (extent !== undefined) return extent;
    }
  }

  /** Where the entry of a guest offset lies; undefined when it has no L2 table. */
  place(guest: GuestOffset): SlicePlace | undefined {
    const { g, l2 } = this.#image;
    const l1 = this.#l1 ?? this.#image.l1;
    const l1Index = Math.floor(guest / this.#l2Coverage);
    const l2Offset = l1Index < l1.size ? l1.l2Offset(l1Index) : 0;
    if (l2Offset === 0) return undefined;
    const inTable = guest - l1Index * this.#l2Coverage;
    const slice = Math.floor(inTable / this.#sliceCoverage);
    const index = Math.floor((inTable - slice * this.#sliceCoverage) / g.clusterSize);
    return { offset: l2Offset + slice * l2.tableBytes, index, l1Index };
  }

  /** Calls `fn` with the slice at `offset`, read when needed; see `use` in cache.ts. */
  async useSlice<T>(offset: HostOffset, fn: (table: MetaTable) => T): Promise<T> {
    const { l2, file } = this.#image;
    const here = l2.peek(offset);
    if (here !== undefined) return fn(here);
    const event = file.debugEvent('l2_load');
    if (event !== undefined) await event;
    return l2.use(offset, fn);
  }

  #inSlice(table: MetaTable, offset: HostOffset, guest: GuestOffset, bytes: number): Extent {
    const { g } = this.#image;
    const first = Math.floor(guest / g.clusterSize);
    const index = first % this.#sliceEntries;
    if (g.extendedL2) return this.#subclusters(table.view, offset, index, guest, bytes);
    const entry = readEntry(g, table.view, index);
    const bad = this.#damage(entry, offset, index, guest);
    if (bad !== undefined) return { kind: Kind.invalid, bytes: 1, message: bad };
    const inCluster = guest - first * g.clusterSize;
    const { hasDataFile } = this.#image;
    const kind = clusterKind(entry, hasDataFile);
    if (kind === Kind.compressed) return this.#compressed(entry, inCluster, bytes);
    const host = hasHostCluster(entry, hasDataFile) ? entryOffset(entry.hi, entry.lo) : NO_HOST;
    let run = g.clusterSize - inCluster;
    let at = index + 1;
    while (run < bytes && at < this.#sliceEntries) {
      if (!this.#continues(table.view, at, entry, host, at - index)) break;
      run += g.clusterSize;
      at++;
    }
    return {
      kind: kind as typeof Kind.data,
      bytes: run < bytes ? run : bytes,
      host: host === NO_HOST ? NO_HOST : host + inCluster,
      copied: isCopied(entry),
    };
  }

  /** Whether entry `at`, `steps` after `first`, continues the run that `first` begins. */
  #continues(view: DataView, at: number, first: L2Entry, host: HostOffset, steps: number): boolean {
    const hi = view.getUint32(at * 8);
    const lo = view.getUint32(at * 8 + 4);
    if (host === NO_HOST) return hi === first.hi && lo === first.lo;
    // The flags are equal and the offset is `steps` clusters on.
    const flagsEqual = ((hi ^ first.hi) & 0xff00_0000) === 0 && ((lo ^ first.lo) & 0x1ff) === 0;
    return flagsEqual && entryOffset(hi, lo) === host + steps * this.#image.g.clusterSize;
  }

  #compressed(entry: L2Entry, inCluster: number, bytes: number): Extent {
    const { g } = this.#image;
    const { host, bytes: span } = compressedSpan(g, entry.hi, entry.lo);
    return {
      kind: Kind.compressed,
      bytes: Math.min(bytes, g.clusterSize - inCluster),
      host,
      span,
    };
  }

  /** What is wrong with an entry that names a cluster; undefined: nothing. */
  #damage(
    entry: L2Entry,
    sliceOffset: HostOffset,
    index: number,
    guest: GuestOffset,
  ): string | undefined {
    const { g, hasDataFile, version } = this.#image;
    const kind = clusterKind(entry, hasDataFile);
    if (kind === Kind.unallocated && !g.extendedL2) return undefined;
    if (kind === Kind.compressed) {
      if (!hasDataFile) return undefined;
      const what = 'Compressed cluster entry found in image with external data file';
      return what + entryPlace(sliceOffset, index);
    }
    if (kind === Kind.zero && version < 3) {
      return 'Zero cluster entry found in pre-v3 image' + entryPlace(sliceOffset, index);
    }
    if (!hasHostCluster(entry, hasDataFile)) return undefined;
    const host = entryOffset(entry.hi, entry.lo);
    if (host % g.clusterSize !== 0) {
      return `Cluster allocation offset ${hex(host)} unaligned` + entryPlace(sliceOffset, index);
    }
    if (hasDataFile && host !== clusterStart(g, guest)) {
      return (
        `External data file host cluster offset ${hex(host)} does not match guest cluster ` +
        `offset: ${hex(clusterStart(g, guest))}, L2 index: ${hex(index)})`
      );
    }
    return undefined;
  }

  /** A run of subclusters of one kind; goes on over clusters while they are wholly of that kind. */
  #subclusters(
    view: DataView,
    sliceOffset: HostOffset,
    index: number,
    guest: GuestOffset,
    bytes: number,
  ): Extent {
    const { g, hasDataFile } = this.#image;
    const entry = readEntry(g, view, index);
    const bad = this.#damage(entry, sliceOffset, index, guest);
    if (bad !== undefined) return { kind: Kind.invalid, bytes: 1, message: bad };
    const inCluster = guest % g.clusterSize;
    const sc = Math.floor(inCluster / g.subclusterSize);
    const kind = subclusterKind(entry, sc, hasDataFile);
    if (kind === Kind.compressed) return this.#compressed(entry, inCluster, bytes);
    if (kind === Kind.invalid) {
      // Two blanks, as QEMU prints them when it reads.
      const message = invalidEntry(sliceOffset, index).replace(' (', '  (');
      return { kind, bytes: 1, message };
    }
    const host = hasHostCluster(entry, hasDataFile) ? entryOffset(entry.hi, entry.lo) : NO_HOST;
    let end = this.#sameSubclusters(entry, sc, kind);
    let run = end * g.subclusterSize - inCluster;
    for (let at = index + 1; end === 32 && run < bytes && at < this.#sliceEntries; at++) {
      const next = readEntry(g, view, at);
      if (!this.#sameCluster(next, entry, host, at - index)) break;
      if (subclusterKind(next, 0, hasDataFile) !== kind) break;
      end = this.#sameSubclusters(next, 0, kind);
      run += end * g.subclusterSize;
    }
    return {
      kind: kind as typeof Kind.data,
      bytes: run < bytes ? run : bytes,
      host: host === NO_HOST ? NO_HOST : host + inCluster,
      copied: isCopied(entry),
    };
  }

  /** Index after the last subcluster from `sc` on that is of `kind`. */
  #sameSubclusters(entry: L2Entry, sc: number, kind: Kind): number {
    const { hasDataFile } = this.#image;
    let end = sc + 1;
    while (end < 32 && subclusterKind(entry, end, hasDataFile) === kind) end++;
    return end;
  }

  /** Whether an extended entry lies `steps` host clusters after `first`, or neither has a place. */
  #sameCluster(entry: L2Entry, first: L2Entry, host: HostOffset, steps: number): boolean {
    const { g, hasDataFile } = this.#image;
    if (((entry.hi ^ first.hi) & 0xff00_0000) !== 0) return false;
    if (host === NO_HOST) return !hasHostCluster(entry, hasDataFile);
    return entryOffset(entry.hi, entry.lo) === host + steps * g.clusterSize;
  }
}
