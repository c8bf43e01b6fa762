/**
 * L2 entries: what one says about a guest cluster, and how to make one. Pure.
 *
 * An entry is handled as two 32-bit halves, an extended one with two more halves for its
 * subcluster bitmap: `allocated` (bits 0-31) and `zeroes` (bits 32-63). See "L2 table entry",
 * "Standard Cluster Descriptor", "Compressed Clusters Descriptor", "Extended L2 Entries".
 */
import { Entry } from './layout.js';
import type { Geometry } from './units.js';

const TWO32 = 0x1_0000_0000;

/** What a cluster (or subcluster) is; the numbers are only compared. */
export const Kind = {
  /** Read from the backing file, else zeroes. */
  unallocated: 0,
  /** Reads as zeroes. */
  zero: 1,
  /** Stored plainly. */
  data: 2,
  compressed: 3,
  /** Breaks a rule; whoever meets it marks the image corrupt. */
  invalid: 4,
} as const;
export type Kind = (typeof Kind)[keyof typeof Kind];

/** An entry; `allocated` and `zeroes` are 0 without extended L2 entries. */
export interface L2Entry {
  readonly hi: number;
  readonly lo: number;
  /** Bit x: subcluster x is stored. */
  readonly allocated: number;
  /** Bit x: subcluster x reads as zeroes. */
  readonly zeroes: number;
}

/** Unallocated, as unused tables are full of. */
export const emptyEntry: L2Entry = Object.freeze({ hi: 0, lo: 0, allocated: 0, zeroes: 0 });

export function readEntry(g: Geometry, view: DataView, index: number): L2Entry {
  const at = index * g.l2EntrySize;
  const hi = view.getUint32(at);
  const lo = view.getUint32(at + 4);
  if (!g.extendedL2) return { hi, lo, allocated: 0, zeroes: 0 };
  return { hi, lo, zeroes: view.getUint32(at + 8), allocated: view.getUint32(at + 12) };
}

export function writeEntry(g: Geometry, view: DataView, index: number, entry: L2Entry): void {
  const at = index * g.l2EntrySize;
  view.setUint32(at, entry.hi);
  view.setUint32(at + 4, entry.lo);
  if (g.extendedL2) {
    view.setUint32(at + 8, entry.zeroes);
    view.setUint32(at + 12, entry.allocated);
  }
}

/** How many entries from `index` on, of `most`, name nothing: neither a cluster nor zeroes. */
export function countEmpty(g: Geometry, view: DataView, index: number, most: number): number {
  const first = index * g.l2EntrySize;
  const end = first + most * g.l2EntrySize;
  let at = first;
  while (at < end && view.getUint32(at) === 0 && view.getUint32(at + 4) === 0) {
    if (g.extendedL2 && (view.getUint32(at + 8) | view.getUint32(at + 12)) !== 0) break;
    at += g.l2EntrySize;
  }
  return (at - first) / g.l2EntrySize;
}

export function sameEntry(a: L2Entry, b: L2Entry): boolean {
  return a.hi === b.hi && a.lo === b.lo && a.allocated === b.allocated && a.zeroes === b.zeroes;
}

/** Host offset of a standard entry in bytes; rounded above 2^53. */
export function entryOffset(hi: number, lo: number): number {
  return (hi & Entry.offsetHi) * TWO32 + ((lo & Entry.offsetLo) >>> 0);
}

export function isCompressed(entry: L2Entry): boolean {
  return (entry.hi & Entry.compressedHi) !== 0;
}

/** Whether the entry says that its host cluster belongs to it alone. */
export function isCopied(entry: L2Entry): boolean {
  return (entry.hi & Entry.copiedHi) !== 0;
}

/** What an entry is, whole clusters; `dataFile`: offset 0 counts when the copied flag is set. */
export function clusterKind(entry: L2Entry, dataFile: boolean): Kind {
  if (isCompressed(entry)) return Kind.compressed;
  if ((entry.lo & Entry.zeroLo) !== 0) return Kind.zero;
  return hasHostCluster(entry, dataFile) ? Kind.data : Kind.unallocated;
}

/** Whether a standard entry holds a host cluster, be it data or preallocated. */
export function hasHostCluster(entry: L2Entry, dataFile: boolean): boolean {
  if ((entry.lo & Entry.offsetLo) !== 0 || (entry.hi & Entry.offsetHi) !== 0) return true;
  return dataFile && isCopied(entry);
}

/** What subcluster `sc` of an extended entry is. */
export function subclusterKind(entry: L2Entry, sc: number, dataFile: boolean): Kind {
  if (isCompressed(entry)) return Kind.compressed;
  const bit = 1 << sc;
  const zero = (entry.zeroes & bit) !== 0;
  if ((entry.allocated & bit) !== 0) {
    return zero || !hasHostCluster(entry, dataFile) ? Kind.invalid : Kind.data;
  }
  return zero ? Kind.zero : Kind.unallocated;
}

/** Whether an extended entry says two things of a subcluster, or stores one nowhere. */
export function isContradiction(entry: L2Entry, dataFile: boolean): boolean {
  if (entry.allocated === 0 || isCompressed(entry)) return false;
  return (entry.allocated & entry.zeroes) !== 0 || !hasHostCluster(entry, dataFile);
}

/** A standard entry for a host cluster that is used once. */
export function dataEntry(host: number, allocated = 0, zeroes = 0): L2Entry {
  return {
    hi: (Math.floor(host / TWO32) | Entry.copiedHi) >>> 0,
    lo: host % TWO32,
    allocated: allocated >>> 0,
    zeroes: zeroes >>> 0,
  };
}

/** Standard entries of `count` clusters in a row, each used once. */
export function writeDataEntries(
  view: DataView,
  index: number,
  host: number,
  clusterSize: number,
  count: number,
): void {
  for (let i = 0; i < count; i++) {
    const at = host + i * clusterSize;
    view.setUint32((index + i) * 8, (Math.floor(at / TWO32) | Entry.copiedHi) >>> 0);
    view.setUint32((index + i) * 8 + 4, at % TWO32);
  }
}

/** Where compressed data lies: `bytes` up to the end of its last sector. */
export interface CompressedSpan {
  readonly host: number;
  readonly bytes: number;
}

/** Decodes a compressed entry; `host` is rounded above 2^53. */
export function compressedSpan(g: Geometry, hi: number, lo: number): CompressedSpan {
  const hiBits = g.compressedOffsetBits - 32;
  const host = ((hi & (2 ** hiBits - 1)) >>> 0) * TWO32 + lo;
  const more = (hi & 0x3fff_ffff) >>> hiBits;
  return { host, bytes: (more + 1) * 512 - (lo % 512) };
}

/** Makes a compressed entry for `bytes` bytes at `host`. */
export function compressedEntry(g: Geometry, host: number, bytes: number): L2Entry {
  const more = Math.floor((host + bytes - 1) / 512) - Math.floor(host / 512);
  const hiBits = g.compressedOffsetBits - 32;
  const hi = (Entry.compressedHi | (more << hiBits) | Math.floor(host / TWO32)) >>> 0;
  return { hi, lo: host % TWO32, allocated: 0, zeroes: 0 };
}

/** First host offset that a compressed entry cannot hold. */
export function compressedLimit(g: Geometry): number {
  return 2 ** Math.min(g.compressedOffsetBits, 56);
}

/** Bits `first` to `first + count - 1` of a subcluster bitmap, as an unsigned number. */
export function subclusterMask(first: number, count: number): number {
  if (count >= 32) return 0xffff_ffff;
  return (((1 << count) - 1) << first) >>> 0;
}

/** `0x…` of an entry's first 64 bits, for messages. */
export function entryHex(hi: number, lo: number): string {
  return hi === 0 ? lo.toString(16) : hi.toString(16) + lo.toString(16).padStart(8, '0');
}
