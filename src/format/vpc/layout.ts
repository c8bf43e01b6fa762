/**
 * On-disk structures of a VHD: "Virtual Hard Disk Image Format Specification", version 1.0.
 * All numbers are big-endian.
 */
import type { Field, RecordOf } from '../../lib/fields.js';

/** Sectors of the disk; block bitmaps count them, block tables place blocks by them. */
export const SECTOR = 512;

/** "Hard Disk Footer Format": last sector of the file, and first one unless the disk is fixed. */
export const FOOTER_FIELDS = [
  { field: 'cookie', offset: 0, width: 8, bytes: true, meaning: 'conectix' },
  { field: 'features', offset: 8, width: 4, meaning: '1 temporary, 2 always set' },
  { field: 'version', offset: 12, width: 4, meaning: '0x00010000' },
  {
    field: 'data_offset',
    offset: 16,
    width: 8,
    bits: true,
    meaning: 'dynamic disk header; fixed: all ones',
  },
  { field: 'timestamp', offset: 24, width: 4, meaning: 'seconds since 2000-01-01 UTC' },
  { field: 'creator_app', offset: 28, width: 4, bytes: true, meaning: 'program that made it' },
  { field: 'creator_version', offset: 32, width: 4, meaning: 'its version' },
  { field: 'creator_os', offset: 36, width: 4, bytes: true, meaning: 'Wi2k or Mac' },
  { field: 'original_size', offset: 40, width: 8, meaning: 'bytes of the disk when made' },
  { field: 'current_size', offset: 48, width: 8, meaning: 'bytes of the disk' },
  { field: 'cylinders', offset: 56, width: 2, meaning: 'geometry' },
  { field: 'heads', offset: 58, width: 1, meaning: 'geometry' },
  { field: 'sectors_per_track', offset: 59, width: 1, meaning: 'geometry' },
  { field: 'disk_type', offset: 60, width: 4, meaning: '2 fixed, 3 dynamic, 4 differencing' },
  { field: 'checksum', offset: 64, width: 4, meaning: "one's complement of the sum of the bytes" },
  { field: 'unique_id', offset: 68, width: 16, bytes: true, meaning: 'UUID' },
  { field: 'saved_state', offset: 84, width: 1, meaning: 'of a suspended machine' },
] as const satisfies readonly Field[];
export type Footer = RecordOf<typeof FOOTER_FIELDS>;
export const FOOTER_BYTES = 512;
export const FOOTER_COOKIE = 'conectix';
export const FILE_FORMAT_VERSION = 0x0001_0000;

export const DiskType = { fixed: 2, dynamic: 3, differencing: 4 } as const;

/** "Dynamic Disk Header Format"; eight parent locators follow at 576. */
export const HEADER_FIELDS = [
  { field: 'cookie', offset: 0, width: 8, bytes: true, meaning: 'cxsparse' },
  { field: 'data_offset', offset: 8, width: 8, bits: true, meaning: 'all ones' },
  { field: 'table_offset', offset: 16, width: 8, meaning: 'block allocation table' },
  { field: 'header_version', offset: 24, width: 4, meaning: '0x00010000' },
  { field: 'max_table_entries', offset: 28, width: 4, meaning: 'entries of the table' },
  { field: 'block_size', offset: 32, width: 4, meaning: 'bytes of data in a block' },
  { field: 'checksum', offset: 36, width: 4, meaning: 'as in the footer' },
  { field: 'parent_unique_id', offset: 40, width: 16, bytes: true, meaning: 'UUID of the parent' },
  { field: 'parent_timestamp', offset: 56, width: 4, meaning: 'when the parent was modified' },
  { field: 'parent_unicode_name', offset: 64, width: 512, bytes: true, meaning: 'UTF-16BE' },
] as const satisfies readonly Field[];
export type DynamicHeader = RecordOf<typeof HEADER_FIELDS>;
export const HEADER_BYTES = 1024;
export const HEADER_COOKIE = 'cxsparse';

/** "Parent Locator": where a path of the parent stands. */
export const LOCATOR_FIELDS = [
  { field: 'platform_code', offset: 0, width: 4, meaning: 'kind of path, see Platform' },
  { field: 'platform_data_space', offset: 4, width: 4, meaning: 'sectors (or bytes) set aside' },
  { field: 'platform_data_length', offset: 8, width: 4, meaning: 'bytes of the path' },
  { field: 'platform_data_offset', offset: 16, width: 8, meaning: 'where it stands' },
] as const satisfies readonly Field[];
export type ParentLocator = RecordOf<typeof LOCATOR_FIELDS>;
export const LOCATOR_BYTES = 24;
export const LOCATORS_AT = 576;
export const LOCATORS = 8;

/** Platform codes of parent locators, as numbers of their four letters. */
export const Platform = {
  none: 0,
  /** W2ru: relative Windows path, UTF-16LE. */
  relative: 0x5732_7275,
  /** W2ku: absolute Windows path, UTF-16LE. */
  absolute: 0x5732_6b75,
  /** MacX: a file: URL, UTF-8. */
  url: 0x4d61_6358,
} as const;

/** What `data_offset` says where there is nothing. */
export const NOWHERE = 0xffff_ffff_ffff_ffffn;

/** Entry of the block allocation table: the block is not stored. */
export const UNUSED = 0xffff_ffff;

/** What is written into new images. */
export const FEATURES = 2;
export const CREATOR_VERSION = 0x0005_0003;
export const BLOCK_SIZE = 2 * 1024 * 1024;
export const HEADER_AT = FOOTER_BYTES;
export const TABLE_AT = HEADER_AT + HEADER_BYTES;

/** Limits, in bytes unless named otherwise. */
export const Limit = {
  /** Largest disk: 2040 GiB. */
  diskBytes: 2040 * 2 ** 30,
  /** Largest geometry: 65535 cylinders, 16 heads, 255 sectors. */
  geometrySectors: 65535 * 16 * 255,
  minBlock: SECTOR,
  /** Entries in a table that QEMU takes. */
  tableEntries: 0x2000_0000,
  /** Of a table in memory: disks of 2040 GiB in blocks of 64 KiB. */
  tableBytes: 128 * 2 ** 20,
  /** End of what table entries can reach. */
  fileBytes: UNUSED * SECTOR,
  /** Of a parent's path. */
  pathBytes: 64 * 1024,
} as const;
