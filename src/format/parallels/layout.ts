/**
 * On-disk structures of Parallels' expandable images as tables (lib/fields.ts).
 *
 * Specification: QEMU 10, docs/interop/parallels. All numbers are little endian.
 */
import type { Field, RecordOf } from '../../lib/fields.js';

/** "Header". */
export const HEADER_FIELDS = [
  { field: 'magic', offset: 0, width: 16, bytes: true, meaning: 'see Magic' },
  { field: 'version', offset: 16, width: 4, meaning: '2' },
  { field: 'heads', offset: 20, width: 4, meaning: 'geometry for guests' },
  { field: 'cylinders', offset: 24, width: 4, meaning: 'geometry for guests' },
  { field: 'tracks', offset: 28, width: 4, meaning: 'sectors of a cluster' },
  { field: 'nb_bat_entries', offset: 32, width: 4, meaning: 'entries of the BAT' },
  { field: 'nb_sectors', offset: 36, width: 8, meaning: 'disk size; old magic: low half only' },
  { field: 'in_use', offset: 44, width: 4, meaning: 'see InUse' },
  { field: 'data_off', offset: 48, width: 4, meaning: 'sector where data begins' },
  { field: 'flags', offset: 52, width: 4, meaning: 'kept as they are' },
  { field: 'ext_off', offset: 56, width: 8, meaning: 'sector of the Format Extension; 0: none' },
] as const satisfies readonly Field[];
export type ParallelsHeaderFields = RecordOf<typeof HEADER_FIELDS>;

/** The BAT follows at once. */
export const HEADER_BYTES = 64;

export const Magic = {
  /** Entries of the BAT count sectors. */
  old: 'WithoutFreeSpace',
  /** They count clusters. */
  ext: 'WithouFreSpacExt',
} as const;

export const VERSION = 2;
export const SECTOR = 512;

export const InUse = { open: 0x746f_6e59, none: 0 } as const;

/** "Format Extension": one cluster. */
export const EXTENSION_FIELDS = [
  { field: 'magic', offset: 0, width: 8, bits: true, meaning: '0xAB234CEF23DCEA87' },
  { field: 'm_CheckSum', offset: 8, width: 16, bytes: true, meaning: 'MD5 of all behind it' },
] as const satisfies readonly Field[];
export const EXTENSION_MAGIC = 0xab23_4cef_23dc_ea87n;
export const EXTENSION_HEADER = 24;

/** Header of a feature section. */
export const FEATURE_FIELDS = [
  { field: 'magic', offset: 0, width: 8, bits: true, meaning: 'which feature' },
  { field: 'flags', offset: 8, width: 8, bits: true, meaning: 'see FeatureFlag' },
  { field: 'data_size', offset: 16, width: 4, meaning: 'bytes that follow, padded to 8' },
  { field: 'unused32', offset: 20, width: 4, meaning: '0' },
] as const satisfies readonly Field[];
export const FEATURE_HEADER = 24;

export const Feature = { end: 0n, dirtyBitmap: 0x2038_5fae_252c_b34an } as const;
export const FeatureFlag = { necessary: 1n, transit: 2n } as const;

/** "Dirty bitmaps feature". */
export const BITMAP_FIELDS = [
  { field: 'size', offset: 0, width: 8, meaning: 'sectors of the disk' },
  { field: 'id', offset: 8, width: 16, bytes: true, meaning: 'a UUID, its name' },
  { field: 'granularity', offset: 24, width: 4, meaning: 'sectors of a bit; power of two' },
  { field: 'l1_size', offset: 28, width: 4, meaning: 'entries of the L1 table that follows' },
] as const satisfies readonly Field[];
export const BITMAP_HEADER = 32;

export const Limit = {
  /** Sectors of a cluster, as in QEMU: 2^31 / 513. */
  maxTracks: Math.floor(0x7fff_ffff / 513),
  /** Entries of the BAT, as in QEMU. */
  maxEntries: Math.floor(0x7fff_ffff / 4),
  /** Clusters that entries can name. */
  maxClusters: 0xffff_ffff,
  /** Bits of all bitmaps of an image, in bytes. */
  maxBitmapBytes: 256 * 1024 * 1024,
} as const;
