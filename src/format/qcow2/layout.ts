/**
 * On-disk structures of qcow2 as tables: types, codecs and dumps come from them (lib/fields.ts).
 *
 * Specification: QEMU 10, docs/interop/qcow2. All numbers are big endian.
 */
import type { Field, RecordOf } from '../../lib/fields.js';

export { decodeFields, encodeFields, readU64, writeU64 } from '../../lib/fields.js';

/** `QFI\xfb` */
export const MAGIC = 0x514649fb;

/** Bytes of the header of version 2, and the shortest and the own one of version 3. */
export const HEADER_V2_LENGTH = 72;
export const HEADER_V3_MIN_LENGTH = 104;
export const HEADER_LENGTH = 112;

/** The header, first bytes of the file. */
export const HEADER_FIELDS = [
  { field: 'magic', offset: 0, width: 4, meaning: 'QFI\\xfb' },
  { field: 'version', offset: 4, width: 4, meaning: '2 or 3' },
  { field: 'backing_file_offset', offset: 8, width: 8, meaning: 'where the backing name is, or 0' },
  { field: 'backing_file_size', offset: 16, width: 4, meaning: 'bytes of the backing name' },
  { field: 'cluster_bits', offset: 20, width: 4, meaning: 'cluster size = 1 << cluster_bits' },
  { field: 'size', offset: 24, width: 8, meaning: 'virtual size in bytes' },
  { field: 'crypt_method', offset: 32, width: 4, meaning: '0 none, 1 AES, 2 LUKS' },
  { field: 'l1_size', offset: 36, width: 4, meaning: 'entries of the active L1 table' },
  { field: 'l1_table_offset', offset: 40, width: 8, meaning: 'active L1 table' },
  { field: 'refcount_table_offset', offset: 48, width: 8, meaning: 'refcount table' },
  { field: 'refcount_table_clusters', offset: 56, width: 4, meaning: 'its length' },
  { field: 'nb_snapshots', offset: 60, width: 4, meaning: 'entries of the snapshot table' },
  { field: 'snapshots_offset', offset: 64, width: 8, meaning: 'snapshot table' },
  { field: 'incompatible_features', offset: 72, width: 8, bits: true, meaning: 'see Incompat' },
  { field: 'compatible_features', offset: 80, width: 8, bits: true, meaning: 'see Compat' },
  { field: 'autoclear_features', offset: 88, width: 8, bits: true, meaning: 'see Autoclear' },
  { field: 'refcount_order', offset: 96, width: 4, meaning: 'bits of a refcount = 1 << order' },
  { field: 'header_length', offset: 100, width: 4, meaning: 'bytes of this structure' },
  { field: 'compression_type', offset: 104, width: 1, meaning: '0 deflate, 1 zstd' },
] as const satisfies readonly Field[];

/** The fields of the header by their names in the specification. */
export type HeaderRecord = RecordOf<typeof HEADER_FIELDS>;

/** `incompatible_features` */
export const Incompat = {
  dirty: 1n,
  corrupt: 2n,
  dataFile: 4n,
  compression: 8n,
  extendedL2: 16n,
  known: 31n,
} as const;

/** `compatible_features` */
export const Compat = { lazyRefcounts: 1n, known: 1n } as const;

/** `autoclear_features` */
export const Autoclear = { bitmaps: 1n, dataFileRaw: 2n, known: 3n } as const;

/** Types of header extensions. */
export const Ext = {
  end: 0,
  backingFormat: 0xe2792aca,
  featureTable: 0x6803f857,
  bitmaps: 0x23852875,
  crypto: 0x0537be77,
  dataFile: 0x44415441,
} as const;

/** Bytes of an extension's type and length. */
export const EXT_HEAD_LENGTH = 8;

/** Features that the feature-name table names; `type` 0 incompatible, 1 compatible, 2 autoclear. */
export const FEATURE_NAMES = [
  { type: 0, bit: 0, name: 'dirty bit' },
  { type: 0, bit: 1, name: 'corrupt bit' },
  { type: 0, bit: 2, name: 'external data file' },
  { type: 0, bit: 3, name: 'compression type' },
  { type: 0, bit: 4, name: 'extended L2 entries' },
  { type: 1, bit: 0, name: 'lazy refcounts' },
  { type: 2, bit: 0, name: 'bitmaps' },
  { type: 2, bit: 1, name: 'raw external data' },
] as const;

/** Bytes of an entry of the feature-name table, and of the name in it. */
export const FEATURE_ENTRY_LENGTH = 48;
export const FEATURE_NAME_LENGTH = 46;

/** Data of the extension `Ext.bitmaps`. */
export const BITMAPS_EXT_FIELDS = [
  { field: 'nb_bitmaps', offset: 0, width: 4, meaning: 'bitmaps in the directory' },
  { field: 'reserved', offset: 4, width: 4, meaning: 'zero' },
  { field: 'bitmap_directory_size', offset: 8, width: 8, meaning: 'bytes of the directory' },
  { field: 'bitmap_directory_offset', offset: 16, width: 8, meaning: 'bitmap directory' },
] as const satisfies readonly Field[];
export const BITMAPS_EXT_LENGTH = 24;
export type BitmapsExt = RecordOf<typeof BITMAPS_EXT_FIELDS>;

/** Data of the extension `Ext.crypto`. */
export const CRYPTO_EXT_FIELDS = [
  { field: 'offset', offset: 0, width: 8, meaning: 'where the encryption header is' },
  { field: 'length', offset: 8, width: 8, meaning: 'its bytes' },
] as const satisfies readonly Field[];
export const CRYPTO_EXT_LENGTH = 16;
export type CryptoExt = RecordOf<typeof CRYPTO_EXT_FIELDS>;

/** Fixed part of an entry of the snapshot table; extra data, id and name follow it. */
export const SNAPSHOT_FIELDS = [
  { field: 'l1_table_offset', offset: 0, width: 8, meaning: 'L1 table of the snapshot' },
  { field: 'l1_size', offset: 8, width: 4, meaning: 'its entries' },
  { field: 'id_str_size', offset: 12, width: 2, meaning: 'bytes of the id' },
  { field: 'name_size', offset: 14, width: 2, meaning: 'bytes of the name' },
  { field: 'date_sec', offset: 16, width: 4, meaning: 'seconds since 1970' },
  { field: 'date_nsec', offset: 20, width: 4, meaning: 'nanoseconds of it' },
  { field: 'vm_clock_nsec', offset: 24, width: 8, bits: true, meaning: 'guest time' },
  { field: 'vm_state_size', offset: 32, width: 4, meaning: 'bytes of VM state' },
  { field: 'extra_data_size', offset: 36, width: 4, meaning: 'bytes of extra data' },
] as const satisfies readonly Field[];
export const SNAPSHOT_FIXED_LENGTH = 40;
export type SnapshotRecord = RecordOf<typeof SNAPSHOT_FIELDS>;

/** Extra data of a snapshot; offsets count from the start of the extra data. */
export const SNAPSHOT_EXTRA_FIELDS = [
  { field: 'vm_state_size_large', offset: 0, width: 8, meaning: 'bytes of VM state' },
  { field: 'disk_size', offset: 8, width: 8, meaning: 'virtual size' },
  { field: 'icount', offset: 16, width: 8, bits: true, meaning: 'instruction count or -1' },
] as const satisfies readonly Field[];
export const SNAPSHOT_EXTRA_LENGTH = 24;

/** Fixed part of an entry of the bitmap directory; extra data and name follow it. */
export const BITMAP_DIR_FIELDS = [
  { field: 'bitmap_table_offset', offset: 0, width: 8, meaning: 'bitmap table' },
  { field: 'bitmap_table_size', offset: 8, width: 4, meaning: 'its entries' },
  { field: 'flags', offset: 12, width: 4, meaning: '1 in use, 2 auto, 4 extra data compatible' },
  { field: 'type', offset: 16, width: 1, meaning: '1 dirty tracking' },
  { field: 'granularity_bits', offset: 17, width: 1, meaning: 'bytes a bit = 1 << it' },
  { field: 'name_size', offset: 18, width: 2, meaning: 'bytes of the name' },
  { field: 'extra_data_size', offset: 20, width: 4, meaning: 'bytes of extra data' },
] as const satisfies readonly Field[];
export const BITMAP_DIR_FIXED_LENGTH = 24;
export type BitmapDirRecord = RecordOf<typeof BITMAP_DIR_FIELDS>;

/**
 * Bits of table entries, as the upper and lower 32-bit halves in which entries are handled.
 * An L1 entry is an offset and `copied`; an L2 entry adds `compressed` and the zero flag; the
 * offset is in bits 9 to 55 in all of them.
 */
export const Entry = {
  /** Upper half: the cluster's refcount is exactly one. */
  copiedHi: 0x8000_0000,
  /** Upper half: compressed cluster (L2). */
  compressedHi: 0x4000_0000,
  /** Lower half: reads as zeroes (L2, version 3, no extended entries). */
  zeroLo: 1,
  /** Offset bits of either half. */
  offsetHi: 0x00ff_ffff,
  offsetLo: 0xffff_fe00,
  /** Bits that are reserved in a standard L2 entry; the zero flag is not among them. */
  l2ReservedHi: 0x3f00_0000,
  l2ReservedLo: 0x0000_01fe,
  /** Bits that are reserved in an L1 entry. */
  l1ReservedHi: 0x7f00_0000,
  l1ReservedLo: 0x0000_01ff,
} as const;

/** Limits, most of them QEMU's, all in bytes or counts. */
export const Limit = {
  minClusterBits: 9,
  maxClusterBits: 21,
  /** Smallest cluster of an image with extended L2 entries: 32 subclusters of 512 bytes. */
  minExtendedClusterBits: 14,
  subclusters: 32,
  maxRefcountOrder: 6,
  maxL1Bytes: 32 * 1024 * 1024,
  maxReftableBytes: 8 * 1024 * 1024,
  maxBackingName: 1023,
  maxSnapshots: 65536,
  /** Bytes of the snapshot table: 1 KiB for each snapshot. */
  maxSnapshotTableBytes: 64 * 1024 * 1024,
  maxSnapshotExtra: 1024,
  maxBitmaps: 65535,
  maxBitmapDirectoryBytes: 65535 * 1024,
  /** First host offset that L1 and L2 entries cannot hold. */
  offsetEnd: 2 ** 56,
} as const;
