/**
 * On-disk structures of a UDIF image (Apple publishes none; the names are those of the community's
 * descriptions and of hdiutil's property lists). All numbers are big endian.
 */
import type { RecordOf } from '../../lib/fields.js';

export const SECTOR = 512;

/** The trailer ("koly block"): the last sector of the file. Offsets and lengths in bytes. */
export const TRAILER_BYTES = 512;
export const TRAILER_MAGIC = 'koly';
export const trailerFields = [
  { field: 'version', offset: 4, width: 4, meaning: 'version: 4' },
  { field: 'headerSize', offset: 8, width: 4, meaning: 'length of the trailer: 512' },
  { field: 'dataForkOffset', offset: 24, width: 8, meaning: 'where the data fork begins' },
  { field: 'dataForkLength', offset: 32, width: 8, meaning: 'its length' },
  { field: 'rsrcForkOffset', offset: 40, width: 8, meaning: 'where the resource fork begins' },
  { field: 'rsrcForkLength', offset: 48, width: 8, meaning: 'its length; 0: there is none' },
  { field: 'segmentNumber', offset: 56, width: 4, meaning: 'number of this file, from 1' },
  { field: 'segmentCount', offset: 60, width: 4, meaning: 'files of the image; 0 or 1: this one' },
  { field: 'xmlOffset', offset: 216, width: 8, meaning: 'where the property list begins' },
  { field: 'xmlLength', offset: 224, width: 8, meaning: 'its length; 0: there is none' },
  { field: 'sectorCount', offset: 492, width: 8, meaning: 'sectors of the disk' },
] as const;
export type Trailer = RecordOf<typeof trailerFields>;

/** A block table ("mish block", resource `blkx`): the chunks of one partition. */
export const TABLE_HEAD_BYTES = 204;
export const TABLE_MAGIC = 'mish';
export const tableFields = [
  { field: 'version', offset: 4, width: 4, meaning: 'version: 1' },
  { field: 'sectorNumber', offset: 8, width: 8, meaning: 'first sector of the disk it tells of' },
  { field: 'sectorCount', offset: 16, width: 8, meaning: 'sectors that it tells of' },
  { field: 'dataOffset', offset: 24, width: 8, meaning: 'bytes before its data in the data fork' },
  { field: 'chunkCount', offset: 200, width: 4, meaning: 'chunks that follow' },
] as const;

/** A chunk of a block table. */
export const CHUNK_BYTES = 40;
export const chunkFields = [
  { field: 'type', offset: 0, width: 4, meaning: 'how it is stored' },
  {
    field: 'sectorNumber',
    offset: 8,
    width: 8,
    meaning: 'first sector, from that of the table on',
  },
  { field: 'sectorCount', offset: 16, width: 8, meaning: 'its sectors' },
  {
    field: 'offset',
    offset: 24,
    width: 8,
    meaning: 'where it is stored, in the data of the table',
  },
  { field: 'length', offset: 32, width: 8, meaning: 'stored bytes' },
] as const;

/** How chunks are stored. */
export const ChunkType = {
  zero: 0,
  raw: 1,
  /** Nothing is stored, as nobody uses it. */
  ignored: 2,
  adc: 0x8000_0004,
  zlib: 0x8000_0005,
  bzip2: 0x8000_0006,
  lzfse: 0x8000_0007,
  /** xz streams. */
  lzma: 0x8000_0008,
  comment: 0x7fff_fffe,
  end: 0xffff_ffff,
} as const;

/** Names of the ways of compression. */
export const packings: ReadonlyMap<number, string> = new Map([
  [ChunkType.adc, 'ADC'],
  [ChunkType.zlib, 'zlib'],
  [ChunkType.bzip2, 'bzip2'],
  [ChunkType.lzfse, 'LZFSE'],
  [ChunkType.lzma, 'LZMA'],
]);

/** What is accepted at most. */
export const Limit = {
  /** Bytes of a compressed chunk, before and after: QEMU's limit. */
  chunkBytes: 64 * 1024 * 1024,
  /** Bytes of the property list or of the resource fork: QEMU's limit. */
  listBytes: 16 * 1024 * 1024,
  /** Bytes of chunks, before and after, that are unpacked at once: one of the largest. */
  unpackingBytes: 128 * 1024 * 1024,
} as const;
