/**
 * The directory of persistent bitmaps: reading, judging and writing its entries. No state.
 *
 * See "Bitmap directory" of the specification. A bitmap that vdisk cannot use (extra data that is
 * not marked compatible, a type that it does not know) makes the whole directory unusable, as it
 * does for QEMU, and is never written back changed. Extra data that is marked compatible is kept.
 */
import { BlockError } from '../../block/errors.js';
import type { BitmapDirRecord, BitmapsExt } from './layout.js';
import {
  BITMAP_DIR_FIELDS,
  BITMAP_DIR_FIXED_LENGTH,
  decodeFields,
  encodeFields,
} from './layout.js';
import type { Geometry, HostOffset } from './units.js';
import { isOffset, roundUp } from './units.js';

/** Flags of a directory entry. */
export const BitmapFlag = { inUse: 1, auto: 2, extraDataCompatible: 4, known: 7 } as const;

/** The one type of bitmap that there is. */
export const BITMAP_TYPE_DIRTY = 1;

/** Limits of bitmaps, which are QEMU's. */
export const BitmapLimit = {
  /** Most entries of a bitmap table, and most bytes of the bitmap itself. */
  maxTableEntries: 0x800_0000,
  maxBytes: 0x2000_0000,
  minGranularityBits: 9,
  maxGranularityBits: 31,
  maxNameBytes: 1023,
} as const;

/** A bitmap as the directory describes it. */
export interface DirectoryEntry {
  tableOffset: HostOffset;
  /** Entries of the bitmap table. */
  tableSize: number;
  flags: number;
  readonly granularityBits: number;
  readonly name: string;
  readonly nameBytes: Uint8Array;
  /** Not understood, but compatible. */
  readonly extraData: Uint8Array;
}

const utf8 = new TextDecoder();

/** Bytes of one entry, padding included. */
export function directoryEntryBytes(entry: DirectoryEntry): number {
  const { nameBytes, extraData } = entry;
  return roundUp(BITMAP_DIR_FIXED_LENGTH + extraData.length + nameBytes.length, 8);
}

/** Parses the directory. Throws BlockError EINVAL with QEMU's text at the first breach. */
export function parseDirectory(bytes: Uint8Array, ext: BitmapsExt, g: Geometry): DirectoryEntry[] {
  const out: DirectoryEntry[] = [];
  let at = 0;
  while (at < bytes.length) {
    if (at + BITMAP_DIR_FIXED_LENGTH > bytes.length) throw broken();
    const record = decodeFields(BITMAP_DIR_FIELDS, bytes, at);
    if (out.length + 1 > ext.nb_bitmaps) {
      throw new BlockError('EINVAL', 'More bitmaps found than specified in header extension');
    }
    const nameAt = at + BITMAP_DIR_FIXED_LENGTH + record.extra_data_size;
    const next = roundUp(nameAt + record.name_size, 8);
    if (next > bytes.length) throw broken();
    const isCompatible = (record.flags & BitmapFlag.extraDataCompatible) !== 0;
    if (record.extra_data_size !== 0 && !isCompatible) {
      throw new BlockError('EINVAL', 'Bitmap extra data is not supported');
    }
    const nameBytes = bytes.slice(nameAt, nameAt + record.name_size);
    const name = utf8.decode(nameBytes);
    if (!isRight(record, g)) {
      throw new BlockError('EINVAL', `Bitmap '${name}' doesn't satisfy the constraints`);
    }
    out.push({
      tableOffset: record.bitmap_table_offset,
      tableSize: record.bitmap_table_size,
      flags: record.flags,
      granularityBits: record.granularity_bits,
      name,
      nameBytes,
      extraData: bytes.slice(at + BITMAP_DIR_FIXED_LENGTH, nameAt),
    });
    at = next;
  }
  if (out.length !== ext.nb_bitmaps) {
    throw new BlockError('EINVAL', 'Less bitmaps found than specified in header extension');
  }
  return out;
}

function broken(): BlockError {
  return new BlockError('EINVAL', 'Broken bitmap directory');
}

function isRight(record: BitmapDirRecord, g: Geometry): boolean {
  const offset = record.bitmap_table_offset;
  const bits = record.granularity_bits;
  const isFormed =
    record.bitmap_table_size !== 0 &&
    offset !== 0 &&
    isOffset(offset) &&
    offset % g.clusterSize === 0 &&
    record.bitmap_table_size <= BitmapLimit.maxTableEntries &&
    bits >= BitmapLimit.minGranularityBits &&
    bits <= BitmapLimit.maxGranularityBits &&
    (record.flags & ~BitmapFlag.known) === 0 &&
    record.name_size !== 0 &&
    record.name_size <= BitmapLimit.maxNameBytes &&
    record.type === BITMAP_TYPE_DIRTY;
  if (!isFormed) return false;
  return record.bitmap_table_size * g.clusterSize <= BitmapLimit.maxBytes;
}

/** Clusters that the bits of a bitmap take: the entries of its table. */
export function bitmapTableSize(g: Geometry, diskSize: number, granularityBits: number): number {
  return Math.ceil(bitmapBytes(diskSize, granularityBits) / g.clusterSize);
}

/** Bytes of the bits of a bitmap over `diskSize` bytes. */
export function bitmapBytes(diskSize: number, granularityBits: number): number {
  return Math.ceil(Math.ceil(diskSize / 2 ** granularityBits) / 8);
}

/** The bytes of a directory. */
export function encodeDirectory(entries: readonly DirectoryEntry[]): Uint8Array {
  const out = new Uint8Array(entries.reduce((sum, e) => sum + directoryEntryBytes(e), 0));
  let at = 0;
  for (const entry of entries) {
    const record: BitmapDirRecord = {
      bitmap_table_offset: entry.tableOffset,
      bitmap_table_size: entry.tableSize,
      flags: entry.flags,
      type: BITMAP_TYPE_DIRTY,
      granularity_bits: entry.granularityBits,
      name_size: entry.nameBytes.length,
      extra_data_size: entry.extraData.length,
    };
    encodeFields(BITMAP_DIR_FIELDS, record, out, at);
    out.set(entry.extraData, at + BITMAP_DIR_FIXED_LENGTH);
    out.set(entry.nameBytes, at + BITMAP_DIR_FIXED_LENGTH + entry.extraData.length);
    at += directoryEntryBytes(entry);
  }
  return out;
}

/** What an entry of a bitmap table says of its cluster of bits. */
export type BitmapCluster =
  | { readonly kind: 'zeroes' | 'ones' }
  | { readonly kind: 'stored'; readonly offset: HostOffset }
  | { readonly kind: 'invalid' };

/** Reads entry `index` of a bitmap table. */
export function bitmapCluster(g: Geometry, table: DataView, index: number): BitmapCluster {
  const hi = table.getUint32(index * 8);
  const lo = table.getUint32(index * 8 + 4);
  if ((hi & 0xff00_0000) !== 0 || (lo & 0x1fe) !== 0) return { kind: 'invalid' };
  const offset = hi * 0x1_0000_0000 + ((lo & 0xffff_fe00) >>> 0);
  const ones = (lo & 1) !== 0;
  if (offset === 0) return { kind: ones ? 'ones' : 'zeroes' };
  if (ones || offset % g.clusterSize !== 0 || !isOffset(offset)) return { kind: 'invalid' };
  return { kind: 'stored', offset };
}
