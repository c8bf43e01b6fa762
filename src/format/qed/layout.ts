/**
 * On-disk structures of QED as tables (lib/fields.ts).
 *
 * Specification: QEMU 10, docs/interop/qed_spec. All numbers are little endian.
 */
import type { Field, RecordOf } from '../../lib/fields.js';

/** "Header". */
export const HEADER_FIELDS = [
  { field: 'magic', offset: 0, width: 4, meaning: 'QED and a zero' },
  { field: 'cluster_size', offset: 4, width: 4, meaning: 'bytes; power of two, 2^12 to 2^26' },
  { field: 'table_size', offset: 8, width: 4, meaning: 'clusters of a table; 1 to 16' },
  { field: 'header_size', offset: 12, width: 4, meaning: 'clusters before all others' },
  { field: 'features', offset: 16, width: 8, bits: true, meaning: 'unknown: not to be opened' },
  { field: 'compat_features', offset: 24, width: 8, bits: true, meaning: 'unknown: ignored' },
  { field: 'autoclear_features', offset: 32, width: 8, bits: true, meaning: 'writers clear them' },
  { field: 'l1_table_offset', offset: 40, width: 8, meaning: 'bytes; whole clusters' },
  { field: 'image_size', offset: 48, width: 8, meaning: 'virtual size in bytes' },
  { field: 'backing_filename_offset', offset: 56, width: 4, meaning: 'bytes from the start' },
  { field: 'backing_filename_size', offset: 60, width: 4, meaning: 'bytes, no final zero' },
] as const satisfies readonly Field[];
export type QedHeaderFields = RecordOf<typeof HEADER_FIELDS>;

export const HEADER_BYTES = 64;
export const MAGIC = 0x0044_4551;

/** "Feature bits". */
export const Feature = {
  backingFile: 1n,
  needCheck: 2n,
  backingFormatNoProbe: 4n,
  known: 7n,
} as const;

/** Entries of L2 tables that name no cluster. */
export const Entry = { unallocated: 0, zero: 1, bytes: 8 } as const;

export const SECTOR = 512;

export const Limit = {
  minClusterSize: 4096,
  maxClusterSize: 64 * 1024 * 1024,
  maxTableSize: 16,
  /** Longest name of a backing file. */
  maxBackingName: 1023,
} as const;

export const Default = { clusterSize: 64 * 1024, tableSize: 4 } as const;
