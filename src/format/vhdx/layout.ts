/**
 * On-disk structures of a VHDX: [MS-VHDX], "Virtual Hard Disk v2 (VHDX) File Format". All numbers
 * are little-endian; GUIDs are kept as the sixteen bytes that stand in the file.
 */
import type { Field, RecordOf } from '../../lib/fields.js';

const KiB = 1024;
export const MiB = 1024 * KiB;

/** 2.2: where the structures of the header section are. */
export const Place = {
  identifier: 0,
  headers: [64 * KiB, 128 * KiB],
  regionTables: [192 * KiB, 256 * KiB],
  /** Everything else lies behind it, in whole MiB. */
  end: MiB,
} as const;

/** 2.2.1 File Type Identifier; the creator (UTF-16LE, 512 bytes) follows. */
export const IDENTIFIER = 'vhdxfile';
export const CREATOR_AT = 8;
export const CREATOR_BYTES = 512;

/** 2.2.2 Headers. */
export const HEADER_FIELDS = [
  { field: 'signature', offset: 0, width: 4, meaning: 'head' },
  { field: 'checksum', offset: 4, width: 4, meaning: 'CRC-32C of the 4 KiB, this field zero' },
  { field: 'sequence_number', offset: 8, width: 8, bits: true, meaning: 'the higher one counts' },
  { field: 'file_write_guid', offset: 16, width: 16, bytes: true, meaning: 'file was written' },
  { field: 'data_write_guid', offset: 32, width: 16, bytes: true, meaning: 'disk was written' },
  { field: 'log_guid', offset: 48, width: 16, bytes: true, meaning: 'of valid log entries, or 0' },
  { field: 'log_version', offset: 64, width: 2, meaning: '0' },
  { field: 'version', offset: 66, width: 2, meaning: '1' },
  { field: 'log_length', offset: 68, width: 4, meaning: 'bytes of the log' },
  { field: 'log_offset', offset: 72, width: 8, meaning: 'where the log is' },
] as const satisfies readonly Field[];
export type HeaderRecord = RecordOf<typeof HEADER_FIELDS>;
export const HEADER_BYTES = 4 * KiB;
/** `head` */
export const HEADER_SIGNATURE = 0x6461_6568;

/** 2.2.3 Region Table: header, then entries. */
export const REGION_HEADER_FIELDS = [
  { field: 'signature', offset: 0, width: 4, meaning: 'regi' },
  { field: 'checksum', offset: 4, width: 4, meaning: 'CRC-32C of the 64 KiB, this field zero' },
  { field: 'entry_count', offset: 8, width: 4, meaning: 'entries, at most 2047' },
] as const satisfies readonly Field[];
export const REGION_TABLE_BYTES = 64 * KiB;
export const REGION_HEADER_BYTES = 16;
/** `regi` */
export const REGION_SIGNATURE = 0x6967_6572;
export const REGION_FIELDS = [
  { field: 'guid', offset: 0, width: 16, bytes: true, meaning: 'kind of region' },
  { field: 'file_offset', offset: 16, width: 8, meaning: 'where it is, in whole MiB' },
  { field: 'length', offset: 24, width: 4, meaning: 'its bytes, in whole MiB' },
  { field: 'required', offset: 28, width: 4, meaning: 'bit 0: must be understood' },
] as const satisfies readonly Field[];
export type RegionRecord = RecordOf<typeof REGION_FIELDS>;
export const REGION_BYTES = 32;

/** 2.3 Log entries, in sectors of 4 KiB. */
export const LOG_SECTOR = 4 * KiB;
export const LOG_ENTRY_FIELDS = [
  { field: 'signature', offset: 0, width: 4, meaning: 'loge' },
  { field: 'checksum', offset: 4, width: 4, meaning: 'CRC-32C of the entry, this field zero' },
  { field: 'entry_length', offset: 8, width: 4, meaning: 'bytes of the entry' },
  { field: 'tail', offset: 12, width: 4, meaning: 'first entry that is not applied yet' },
  { field: 'sequence_number', offset: 16, width: 8, bits: true, meaning: 'one more each time' },
  { field: 'descriptor_count', offset: 24, width: 4, meaning: 'descriptors behind the header' },
  { field: 'log_guid', offset: 32, width: 16, bytes: true, meaning: 'that of the header' },
  { field: 'flushed_file_offset', offset: 48, width: 8, meaning: 'the file had these bytes' },
  { field: 'last_file_offset', offset: 56, width: 8, meaning: 'the file needs these bytes' },
] as const satisfies readonly Field[];
export type LogEntryRecord = RecordOf<typeof LOG_ENTRY_FIELDS>;
export const LOG_ENTRY_BYTES = 64;
/** `loge` */
export const LOG_SIGNATURE = 0x6567_6f6c;
/** Descriptors in the first sector of an entry; further sectors hold 128 each. */
export const LOG_FIRST_DESCRIPTORS = (LOG_SECTOR - LOG_ENTRY_BYTES) / 32;

/** 2.3.1.2 Zero Descriptor and 2.3.1.3 Data Descriptor. */
export const ZERO_FIELDS = [
  { field: 'signature', offset: 0, width: 4, meaning: 'zero' },
  { field: 'zero_length', offset: 8, width: 8, meaning: 'bytes that become zero' },
  { field: 'file_offset', offset: 16, width: 8, meaning: 'where' },
  { field: 'sequence_number', offset: 24, width: 8, bits: true, meaning: 'that of the entry' },
] as const satisfies readonly Field[];
export const DATA_FIELDS = [
  { field: 'signature', offset: 0, width: 4, meaning: 'desc' },
  { field: 'trailing_bytes', offset: 4, width: 4, bytes: true, meaning: 'bytes 4092 to 4095' },
  { field: 'leading_bytes', offset: 8, width: 8, bytes: true, meaning: 'bytes 0 to 7' },
  { field: 'file_offset', offset: 16, width: 8, meaning: 'where the sector goes' },
  { field: 'sequence_number', offset: 24, width: 8, bits: true, meaning: 'that of the entry' },
] as const satisfies readonly Field[];
export const DESCRIPTOR_BYTES = 32;
/** `zero`, `desc`, `data` */
export const ZERO_SIGNATURE = 0x6f72_657a;
export const DATA_SIGNATURE = 0x6373_6564;
export const SECTOR_SIGNATURE = 0x6174_6164;

/** 2.3.1.4 Data Sector: bytes 8 to 4091 are those of the sector that is logged. */
export const SECTOR_FIELDS = [
  { field: 'signature', offset: 0, width: 4, meaning: 'data' },
  { field: 'sequence_high', offset: 4, width: 4, meaning: 'of the entry' },
  { field: 'sequence_low', offset: 4092, width: 4, meaning: 'of the entry' },
] as const satisfies readonly Field[];

/** 2.6.1 Metadata Table. */
export const METADATA_HEADER_FIELDS = [
  { field: 'signature', offset: 0, width: 8, bits: true, meaning: 'metadata' },
  { field: 'entry_count', offset: 10, width: 2, meaning: 'entries, at most 2047' },
] as const satisfies readonly Field[];
/** `metadata` */
export const METADATA_SIGNATURE = 0x6174_6164_6174_656dn;
export const METADATA_TABLE_BYTES = 64 * KiB;
export const METADATA_HEADER_BYTES = 32;
export const METADATA_FIELDS = [
  { field: 'item_id', offset: 0, width: 16, bytes: true, meaning: 'what it is' },
  { field: 'offset', offset: 16, width: 4, meaning: 'where, in the metadata region' },
  { field: 'length', offset: 20, width: 4, meaning: 'bytes' },
  { field: 'flags', offset: 24, width: 4, meaning: '1 user, 2 of the disk, 4 required' },
] as const satisfies readonly Field[];
export const METADATA_BYTES = 32;
export const ItemFlag = { user: 1, disk: 2, required: 4 } as const;

/** 2.6.2.1 File Parameters. */
export const ParameterFlag = { leaveBlocksAllocated: 1, hasParent: 2 } as const;

/** 2.6.2.6 Parent Locator: header and entries. */
export const LOCATOR_HEADER_BYTES = 20;
export const LOCATOR_FIELDS = [
  { field: 'key_offset', offset: 0, width: 4, meaning: 'in the item' },
  { field: 'value_offset', offset: 4, width: 4, meaning: 'in the item' },
  { field: 'key_length', offset: 8, width: 2, meaning: 'bytes, UTF-16LE' },
  { field: 'value_length', offset: 10, width: 2, meaning: 'bytes, UTF-16LE' },
] as const satisfies readonly Field[];
export const LOCATOR_BYTES = 12;

/** GUIDs of regions, metadata items and locators. */
export const Guid = {
  bat: '2DC27766-F623-4200-9D64-115E9BFD4A08',
  metadata: '8B7CA206-4790-4B9A-B8FE-575F050F886E',
  fileParameters: 'CAA16737-FA36-4D43-B3B6-33F0AA44E76B',
  diskSize: '2FA54224-CD1B-4876-B211-5DBED83BF4B8',
  diskId: 'BECA12AB-B2E6-4523-93EF-C309E000C746',
  logicalSector: '8141BF1D-A96F-4709-BA47-F233A8FAAB5F',
  physicalSector: 'CDA348C7-445D-4471-9CC9-E9885251C556',
  parentLocator: 'A8D35F2D-B30B-454D-ABF7-D3D84834AB0C',
  vhdxLocator: 'B04AEFB7-D19E-4A81-B789-25B8E9445913',
} as const;

/** 2.5.1 BAT entries: state in bits 0 to 2, file offset in MiB in bits 20 to 63. */
export const BlockState = {
  notPresent: 0,
  undefined: 1,
  zero: 2,
  unmapped: 3,
  fullyPresent: 6,
  partiallyPresent: 7,
} as const;
/** The state of a sector bitmap block that is there. */
export const BITMAP_PRESENT = 6;
export const BAT_ENTRY_BYTES = 8;
/** The table is logged and written in pages of this many bytes. */
export const PAGE_BYTES = LOG_SECTOR;
export const PAGE_ENTRIES = PAGE_BYTES / BAT_ENTRY_BYTES;
/** Sectors whose bits one sector bitmap block holds. */
export const CHUNK_SECTORS = 2 ** 23;

/** Limits, in bytes unless named otherwise; all but the last two are the specification's. */
export const Limit = {
  regions: 2047,
  items: 2047,
  minBlock: MiB,
  maxBlock: 256 * MiB,
  diskBytes: 64 * 2 ** 40,
  itemBytes: MiB,
  /** Of a table in memory: 64 TiB in blocks of 4 MiB. */
  tableEntries: 2 ** 24 + 2 ** 13,
  /** Ends of files: offsets in MiB fit 32 bits. */
  fileBytes: 2 ** 52,
} as const;
