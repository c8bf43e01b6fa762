/**
 * On-disk structures of qcow, version 1, as tables (lib/fields.ts).
 *
 * Specification: none was written; the header and the entries are as QEMU 10 writes them. All
 * numbers are big endian.
 */
import type { Field, RecordOf } from '../../lib/fields.js';

export const HEADER_FIELDS = [
  { field: 'magic', offset: 0, width: 4, meaning: 'QFI and 0xfb' },
  { field: 'version', offset: 4, width: 4, meaning: '1' },
  { field: 'backing_file_offset', offset: 8, width: 8, meaning: 'bytes; 0: none' },
  { field: 'backing_file_size', offset: 16, width: 4, meaning: 'bytes, no final zero' },
  { field: 'mtime', offset: 20, width: 4, meaning: 'unused' },
  { field: 'size', offset: 24, width: 8, meaning: 'virtual size in bytes' },
  { field: 'cluster_bits', offset: 32, width: 1, meaning: '9 to 16' },
  { field: 'l2_bits', offset: 33, width: 1, meaning: '6 to 13' },
  { field: 'crypt_method', offset: 36, width: 4, meaning: '0: none, 1: AES' },
  { field: 'l1_table_offset', offset: 40, width: 8, meaning: 'bytes' },
] as const satisfies readonly Field[];
export type QcowHeaderFields = RecordOf<typeof HEADER_FIELDS>;

export const HEADER_BYTES = 48;
export const MAGIC = 0x5146_49fb;
export const VERSION = 1;
export const SECTOR = 512;
export const ENTRY_BYTES = 8;

export const Crypt = { none: 0, aes: 1 } as const;

export const Limit = {
  minClusterBits: 9,
  maxClusterBits: 16,
  minL2Bits: 6,
  maxL2Bits: 13,
  maxBackingName: 1023,
  /** Entries of the L1 table, as in QEMU. */
  maxL1Entries: Math.floor(0x7fff_ffff / 8),
} as const;

/** Of new images: over a backing file clusters are small, for each is copied. */
export const Default = {
  plain: { clusterBits: 12, l2Bits: 9 },
  backed: { clusterBits: 9, l2Bits: 12 },
} as const;

/** zlib's settings for compressed clusters: QEMU's. */
export const DEFLATE = { windowBits: 12, level: -1, memLevel: 9 } as const;
