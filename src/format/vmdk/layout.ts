/**
 * On-disk structures of VMDK as tables (lib/fields.ts); all numbers are little endian.
 *
 * Specification: VMware, "Virtual Disk Format 5.0" (hosted and ESX sparse extents, markers); the
 * constant header of seSparse extents is as VMware's ESX writes it. Offsets and sizes in these
 * structures count sectors of 512 bytes. A grain is what is mapped at once; a grain table (GT) maps
 * a run of grains, the grain directory (GD) says where the grain tables are.
 */
import type { Field, RecordOf } from '../../lib/fields.js';

export const SECTOR = 512;

/** Hosted sparse extent header, version 1 to 3: `KDMV`. */
export const SPARSE_FIELDS = [
  { field: 'magicNumber', offset: 0, width: 4, meaning: 'KDMV' },
  { field: 'version', offset: 4, width: 4, meaning: '1; 2 with zeroed grains; 3 streams' },
  { field: 'flags', offset: 8, width: 4, meaning: 'see SparseFlag' },
  { field: 'capacity', offset: 12, width: 8, meaning: 'size of the extent' },
  { field: 'grainSize', offset: 20, width: 8, meaning: 'sectors of a grain' },
  { field: 'descriptorOffset', offset: 28, width: 8, meaning: 'embedded descriptor, or 0' },
  { field: 'descriptorSize', offset: 36, width: 8, meaning: 'its room' },
  { field: 'numGTEsPerGT', offset: 44, width: 4, meaning: 'entries of a grain table' },
  { field: 'rgdOffset', offset: 48, width: 8, meaning: 'redundant grain directory' },
  { field: 'gdOffset', offset: 56, width: 8, meaning: 'grain directory, or -1: see the footer' },
  { field: 'overHead', offset: 64, width: 8, meaning: 'sectors before the first grain' },
  { field: 'uncleanShutdown', offset: 72, width: 1, meaning: 'was not closed' },
  { field: 'singleEndLineChar', offset: 73, width: 1, meaning: 'line feed' },
  { field: 'nonEndLineChar', offset: 74, width: 1, meaning: 'space' },
  { field: 'doubleEndLineChar1', offset: 75, width: 1, meaning: 'carriage return' },
  { field: 'doubleEndLineChar2', offset: 76, width: 1, meaning: 'line feed' },
  { field: 'compressAlgorithm', offset: 77, width: 2, meaning: '0 none, 1 deflate' },
] as const satisfies readonly Field[];
export type SparseFields = RecordOf<typeof SPARSE_FIELDS>;

/** ESX server sparse extent header (`vmfsSparse`): `COWD`. */
export const COWD_FIELDS = [
  { field: 'magicNumber', offset: 0, width: 4, meaning: 'COWD' },
  { field: 'version', offset: 4, width: 4, meaning: '1' },
  { field: 'flags', offset: 8, width: 4, meaning: '3' },
  { field: 'numSectors', offset: 12, width: 4, meaning: 'size of the extent' },
  { field: 'grainSize', offset: 16, width: 4, meaning: 'sectors of a grain' },
  { field: 'gdOffset', offset: 20, width: 4, meaning: 'grain directory' },
  { field: 'numGDEntries', offset: 24, width: 4, meaning: 'its entries' },
  { field: 'freeSector', offset: 28, width: 4, meaning: 'first that nobody uses' },
] as const satisfies readonly Field[];

/** seSparse constant header, the fields that are needed to read. */
export const SESPARSE_FIELDS = [
  { field: 'magic', offset: 0, width: 8, bits: true, meaning: '0xcafebabe' },
  { field: 'version', offset: 8, width: 8, bits: true, meaning: '2.1' },
  { field: 'capacity', offset: 16, width: 8, meaning: 'size of the extent' },
  { field: 'grain_size', offset: 24, width: 8, meaning: '8' },
  { field: 'grain_table_size', offset: 32, width: 8, meaning: '64' },
  { field: 'flags', offset: 40, width: 8, bits: true, meaning: '0' },
  { field: 'volatile_header_offset', offset: 80, width: 8, meaning: '1' },
  { field: 'volatile_header_size', offset: 88, width: 8, meaning: '1' },
  { field: 'journal_header_offset', offset: 96, width: 8, meaning: '2' },
  { field: 'journal_header_size', offset: 104, width: 8, meaning: '2' },
  { field: 'journal_offset', offset: 112, width: 8, meaning: '2048' },
  { field: 'journal_size', offset: 120, width: 8, meaning: '2048' },
  { field: 'grain_dir_offset', offset: 128, width: 8, meaning: 'grain directory' },
  { field: 'grain_dir_size', offset: 136, width: 8, meaning: 'its sectors' },
  { field: 'grain_tables_offset', offset: 144, width: 8, meaning: 'grain tables' },
  { field: 'grain_tables_size', offset: 152, width: 8, meaning: 'their sectors' },
  { field: 'free_bitmap_offset', offset: 160, width: 8, meaning: 'free bitmap' },
  { field: 'free_bitmap_size', offset: 168, width: 8, meaning: 'its sectors' },
  { field: 'backmap_offset', offset: 176, width: 8, meaning: 'back map' },
  { field: 'backmap_size', offset: 184, width: 8, meaning: 'its sectors' },
  { field: 'grains_offset', offset: 192, width: 8, meaning: 'where the grains begin' },
  { field: 'grains_size', offset: 200, width: 8, meaning: 'their sectors' },
] as const satisfies readonly Field[];
export type SeSparseFields = RecordOf<typeof SESPARSE_FIELDS>;

/** The volatile header of a seSparse extent. */
export const SESPARSE_VOLATILE_FIELDS = [
  { field: 'magic', offset: 0, width: 8, bits: true, meaning: '0xcafecafe' },
  { field: 'replay_journal', offset: 24, width: 1, meaning: 'the journal has to be replayed' },
] as const satisfies readonly Field[];

export const SPARSE_MAGIC = 0x564d444b;
export const COWD_MAGIC = 0x44574f43;
export const SESPARSE_MAGIC = 0xcafebaben;
export const SESPARSE_VOLATILE_MAGIC = 0xcafecafen;
export const SESPARSE_VERSION = 0x2_0000_0001n;

/** Bits of `flags` of a hosted sparse extent. */
export const SparseFlag = {
  validNewLine: 1,
  redundantDirectory: 2,
  /** A grain table entry of 1 stands for zeroes. */
  zeroedGrain: 4,
  compressed: 0x1_0000,
  /** Grains begin with a marker: where they belong, and their length. */
  markers: 0x2_0000,
} as const;

/** `gdOffset`: the grain directory is named by the footer. */
export const GD_AT_END = 2 ** 64;

/** Bytes of a compressed grain's marker: sector of the disk (8), length (4). */
export const GRAIN_MARKER_BYTES = 12;
/** Marker types of the footer. */
export const Marker = { endOfStream: 0, footer: 3 } as const;

/** Limits, most of them QEMU's. */
export const Limit = {
  maxGrainSectors: 0x20_0000,
  /** Of compressed extents, whose grains are unpacked as a whole: 64 MiB. */
  maxPackedGrainSectors: 0x2_0000,
  /** Bytes of grains, before and after, that are unpacked at once: one of the largest. */
  unpackingBytes: 192 * 1024 * 1024,
  maxTableEntries: 512,
  /** Entries of a grain directory. */
  maxDirectory: 32 * 1024 * 1024,
  /** Of several extents together, so that one file named often does not take all memory. */
  maxDirectories: 8 * 1024 * 1024,
  /** Bytes of a descriptor that are looked at. */
  maxDescriptor: 1024 * 1024 - 1,
  /** Files of one disk: 16 TiB of extents of 2 GiB. */
  maxExtents: 8192,
  /** Sectors of an extent, so that its bytes are exact. */
  maxSectors: 2 ** 44,
  /** Bytes of grain tables that are held in memory when nothing is to be written. */
  cacheBytes: 16 * 1024 * 1024,
  /** Changed grain tables before they are written. */
  maxDirtyTables: 2048,
} as const;

/** How images are created. */
export const New = {
  grainSectors: 128,
  tableEntries: 512,
  descriptorOffset: 1,
  descriptorSectors: 20,
  /** Bytes of the extents of twoGbMaxExtent images. */
  extentBytes: 2 ** 31,
} as const;
