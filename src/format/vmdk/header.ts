/** Headers of sparse extents: parsing with its checks. Pure. */
import { BlockError } from '../../block/errors.js';
import { decodeFields } from '../../lib/fields.js';
import type { SparseFields } from './layout.js';
import {
  COWD_FIELDS,
  Limit,
  SECTOR,
  SESPARSE_FIELDS,
  SESPARSE_MAGIC,
  SESPARSE_VERSION,
  SESPARSE_VOLATILE_FIELDS,
  SESPARSE_VOLATILE_MAGIC,
  SPARSE_FIELDS,
  SPARSE_MAGIC,
  SparseFlag,
} from './layout.js';

/** What a sparse extent is like; counts in sectors where the name says so, else in bytes. */
export interface SparseGeometry {
  readonly kind: 'hosted' | 'cowd' | 'sesparse';
  readonly sectors: number;
  readonly grainBytes: number;
  /** Entries of a grain table, and bytes of one entry. */
  readonly tableEntries: number;
  readonly entryBytes: 4 | 8;
  /** Entries of the grain directory and where it stands. */
  readonly directoryEntries: number;
  readonly directoryOffset: number;
  readonly redundantOffset: number | undefined;
  readonly version: number;
  readonly hasZeroedGrains: boolean;
  readonly isCompressed: boolean;
  readonly hasMarkers: boolean;
  /** seSparse: where grain tables and grains begin. */
  readonly tablesOffset: number;
  readonly grainsOffset: number;
  /** Where data may stand at the earliest. */
  readonly dataStart: number;
}

function invalid(message: string): BlockError {
  return new BlockError('EINVAL', message);
}

/** The fields of a hosted sparse header. */
export function sparseFields(bytes: Uint8Array): SparseFields {
  return decodeFields(SPARSE_FIELDS, bytes, 0, 'little');
}

export function isSparseHeader(bytes: Uint8Array): boolean {
  return sparseFields(bytes).magicNumber === SPARSE_MAGIC;
}

/** Checks a hosted sparse header. `fileBytes`: length of the file. */
export function hostedGeometry(fields: SparseFields, fileBytes: number): SparseGeometry {
  const { version, flags, capacity, grainSize, numGTEsPerGT } = fields;
  const isCompressed = fields.compressAlgorithm === 1;
  if (version > 3) throw new BlockError('ENOTSUP', `Unsupported VMDK version ${String(version)}`);
  if (numGTEsPerGT > Limit.maxTableEntries) throw invalid('L2 table size too big');
  const covers = numGTEsPerGT * grainSize;
  if (covers <= 0) throw invalid('L1 entry size is invalid');
  const directoryEntries = Math.ceil(capacity / covers);
  checkGrain(grainSize);
  if (isCompressed && grainSize > Limit.maxPackedGrainSectors) {
    const most = String(Limit.maxPackedGrainSectors);
    const text = `Grains of the compressed extent have ${String(grainSize)} sectors, `;
    throw new BlockError('ENOTSUP', `${text}expected at most ${most}`);
  }
  if (directoryEntries > Limit.maxDirectory) throw invalid('L1 size too big');
  if (capacity > Limit.maxSectors) {
    throw new BlockError('EFBIG', 'Could not refresh total sector count: File too large');
  }
  if (fileBytes < fields.overHead * SECTOR) {
    const expected = String(fields.overHead * SECTOR);
    throw invalid(`File truncated, expecting at least ${expected} bytes`);
  }
  const hasRedundant = (flags & SparseFlag.redundantDirectory) !== 0;
  const directoryOffset = fields.gdOffset * SECTOR;
  checkDirectory(directoryOffset, directoryEntries * 4, fileBytes);
  return {
    kind: 'hosted',
    sectors: capacity,
    grainBytes: grainSize * SECTOR,
    tableEntries: numGTEsPerGT,
    entryBytes: 4,
    directoryEntries,
    directoryOffset,
    redundantOffset: hasRedundant && fields.rgdOffset > 0 ? fields.rgdOffset * SECTOR : undefined,
    version,
    hasZeroedGrains: (flags & SparseFlag.zeroedGrain) !== 0,
    isCompressed,
    hasMarkers: (flags & SparseFlag.markers) !== 0,
    tablesOffset: 0,
    grainsOffset: 0,
    dataStart: fields.overHead * SECTOR,
  };
}

function checkGrain(sectors: number): void {
  if (sectors > Limit.maxGrainSectors || (sectors & (sectors - 1)) !== 0) {
    throw invalid('Invalid granularity, image may be corrupt');
  }
}

/** What a crafted header asks for is bounded by what the file holds. */
function checkDirectory(offset: number, bytes: number, fileBytes: number): void {
  if (offset + bytes <= fileBytes + SECTOR) return;
  throw invalid(
    `Could not read the grain directory: it ends at byte ${String(offset + bytes)}, ` +
      `past the end of the file (${String(fileBytes)})`,
  );
}

/** Checks the header of an ESX sparse extent (`vmfsSparse`). */
export function cowdGeometry(head: Uint8Array, fileBytes: number): SparseGeometry {
  const fields = decodeFields(COWD_FIELDS, head, 0, 'little');
  const { numSectors, grainSize, numGDEntries } = fields;
  const tableEntries = 4096;
  if (grainSize === 0) throw invalid('L1 entry size is invalid');
  checkGrain(grainSize);
  if (numGDEntries > Limit.maxDirectory) throw invalid('L1 size too big');
  const needed = Math.ceil(numSectors / (tableEntries * grainSize));
  if (numGDEntries < needed) {
    throw invalid(
      `The grain directory has ${String(numGDEntries)} entries, expected ${String(needed)}`,
    );
  }
  const directoryOffset = fields.gdOffset * SECTOR;
  checkDirectory(directoryOffset, needed * 4, fileBytes);
  return {
    kind: 'cowd',
    sectors: numSectors,
    grainBytes: grainSize * SECTOR,
    tableEntries,
    entryBytes: 4,
    directoryEntries: needed,
    directoryOffset,
    redundantOffset: undefined,
    version: 0,
    hasZeroedGrains: false,
    isCompressed: false,
    hasMarkers: false,
    tablesOffset: 0,
    grainsOffset: 0,
    dataStart: directoryOffset + needed * 4,
  };
}

const hex16 = (value: bigint): string => `0x${value.toString(16).padStart(16, '0')}`;

/** Checks the constant header of a seSparse extent, and `volatile`, the header that follows it. */
export function seSparseGeometry(
  head: Uint8Array,
  volatile: Uint8Array,
  fileBytes: number,
): SparseGeometry {
  const f = decodeFields(SESPARSE_FIELDS, head, 0, 'little');
  if (f.magic !== SESPARSE_MAGIC) throw invalid(`Bad const header magic: ${hex16(f.magic)}`);
  if (f.version !== SESPARSE_VERSION) {
    throw new BlockError('ENOTSUP', `Unsupported version: ${hex16(f.version)}`);
  }
  if (f.grain_size !== 8) {
    throw new BlockError('ENOTSUP', `Unsupported grain size: ${String(f.grain_size)}`);
  }
  if (f.grain_table_size !== 64) {
    throw new BlockError('ENOTSUP', `Unsupported grain table size: ${String(f.grain_table_size)}`);
  }
  if (f.flags !== 0n) throw new BlockError('ENOTSUP', `Unsupported flags: ${hex16(f.flags)}`);
  if (f.capacity > Limit.maxSectors) throw new BlockError('EFBIG', 'File too large');
  const v = decodeFields(SESPARSE_VOLATILE_FIELDS, volatile, 0, 'little');
  if (v.magic !== SESPARSE_VOLATILE_MAGIC) {
    throw invalid(`Bad volatile header magic: ${hex16(v.magic)}`);
  }
  if (v.replay_journal !== 0) {
    throw new BlockError('ENOTSUP', 'Image is dirty, Replaying journal not supported');
  }
  const tableEntries = (f.grain_table_size * SECTOR) / 8;
  const directoryEntries = Math.ceil(f.capacity / (tableEntries * f.grain_size));
  if (directoryEntries * 8 > f.grain_dir_size * SECTOR) throw invalid('L1 size too big');
  if (directoryEntries > Limit.maxDirectory) throw invalid('L1 size too big');
  const directoryOffset = f.grain_dir_offset * SECTOR;
  checkDirectory(directoryOffset, directoryEntries * 8, fileBytes);
  return {
    kind: 'sesparse',
    sectors: f.capacity,
    grainBytes: f.grain_size * SECTOR,
    tableEntries,
    entryBytes: 8,
    directoryEntries,
    directoryOffset,
    redundantOffset: undefined,
    version: 0,
    hasZeroedGrains: true,
    isCompressed: false,
    hasMarkers: false,
    tablesOffset: f.grain_tables_offset * SECTOR,
    grainsOffset: f.grains_offset * SECTOR,
    dataStart: f.grains_offset * SECTOR,
  };
}
