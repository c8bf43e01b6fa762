/**
 * Units of a qcow2 image: clusters, subclusters, table entries, and the arithmetic between them.
 *
 * Guest and host offsets are bytes; indexes count entries. Division is used in place of shifts
 * because offsets pass 2^32.
 */
import { Limit } from './layout.js';

declare const GUEST: unique symbol;
declare const HOST: unique symbol;
/** An offset on the virtual disk, in bytes. */
export type GuestOffset = number & { readonly [GUEST]?: true };
/** An offset in the image file or the data file, in bytes. */
export type HostOffset = number & { readonly [HOST]?: true };

/** Sizes that follow from cluster_bits, refcount_order and the L2 entry format; frozen. */
export interface Geometry {
  readonly clusterBits: number;
  readonly clusterSize: number;
  readonly extendedL2: boolean;
  /** Bytes of an L2 entry: 8, or 16 with subclusters. */
  readonly l2EntrySize: number;
  /** Entries of an L2 table. */
  readonly l2Entries: number;
  /** Guest bytes that one L2 table maps. */
  readonly l2Coverage: number;
  readonly subclusterBits: number;
  readonly subclusterSize: number;
  /** 32, or 1 without extended L2 entries. */
  readonly subclustersPerCluster: number;
  readonly refcountOrder: number;
  readonly refcountBits: number;
  /** Entries of a refcount block. */
  readonly refcountBlockEntries: number;
  /** Largest refcount; rounded to 2^64 for 64 bits. */
  readonly refcountMax: number;
  /** Entries of one cluster of the refcount table. */
  readonly reftableClusterEntries: number;
  /** Compressed descriptor: bits of the host offset (x in the specification). */
  readonly compressedOffsetBits: number;
}

/** Geometry of an image; the arguments were validated before. */
export function geometry(
  clusterBits: number,
  refcountOrder: number,
  extendedL2: boolean,
): Geometry {
  const clusterSize = 2 ** clusterBits;
  const l2EntrySize = extendedL2 ? 16 : 8;
  const l2Entries = clusterSize / l2EntrySize;
  const subclustersPerCluster = extendedL2 ? Limit.subclusters : 1;
  const refcountBits = 2 ** refcountOrder;
  return Object.freeze({
    clusterBits,
    clusterSize,
    extendedL2,
    l2EntrySize,
    l2Entries,
    l2Coverage: l2Entries * clusterSize,
    subclusterBits: extendedL2 ? clusterBits - 5 : clusterBits,
    subclusterSize: clusterSize / subclustersPerCluster,
    subclustersPerCluster,
    refcountOrder,
    refcountBits,
    refcountBlockEntries: (clusterSize * 8) / refcountBits,
    refcountMax: refcountBits === 64 ? 2 ** 64 : 2 ** refcountBits - 1,
    reftableClusterEntries: clusterSize / 8,
    compressedOffsetBits: 62 - (clusterBits - 8),
  });
}

/** Entries of the L1 table that map a disk of `bytes` bytes. */
export function l1EntriesFor(g: Geometry, bytes: number): number {
  return Math.ceil(bytes / g.l2Coverage);
}

/** Clusters that hold `bytes` bytes. */
export function clustersFor(g: Geometry, bytes: number): number {
  return Math.ceil(bytes / g.clusterSize);
}

/** Index of the cluster that holds `offset`. */
export function clusterIndex(g: Geometry, offset: number): number {
  return Math.floor(offset / g.clusterSize);
}

/** `offset` rounded down to a cluster. */
export function clusterStart(g: Geometry, offset: number): number {
  return offset - (offset % g.clusterSize);
}

/** `value` rounded up to a multiple of `unit` (any positive number). */
export function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

/** `value` rounded down to a multiple of `unit`. */
export function roundDown(value: number, unit: number): number {
  return value - (value % unit);
}

/** Whether `value` is an offset or size that vdisk can handle: an integer up to 2^53 - 1. */
export function isOffset(value: number): boolean {
  return value >= 0 && value <= Number.MAX_SAFE_INTEGER;
}

/**
 * The bytes in the machine's byte order as 32-bit words, as many as are whole. Signed, for such
 * words are small integers to V8, and the upper half of unsigned ones would each be a heap object.
 */
export function wordsOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Int32Array {
  const whole = byteLength >>> 2;
  if (byteOffset % 4 === 0) return new Int32Array(buffer, byteOffset, whole);
  return new Int32Array(buffer.slice(byteOffset, byteOffset + 4 * whole));
}
