/** The header of a QED image: parsing with its checks, and writing. Pure. */
import { BlockError } from '../../block/errors.js';
import { MAX_LENGTH } from '../../block/types.js';
import { decodeFields, encodeFields } from '../../lib/fields.js';
import type { QedHeaderFields } from './layout.js';
import { Entry, Feature, HEADER_BYTES, HEADER_FIELDS, Limit, MAGIC, SECTOR } from './layout.js';

/** Whether `head` begins a QED image. */
export function isQed(head: Uint8Array): boolean {
  if (head.byteLength < HEADER_BYTES) return false;
  return new DataView(head.buffer, head.byteOffset).getUint32(0, true) === MAGIC;
}

const isPowerOfTwo = (n: number): boolean => n > 0 && (n & (n - 1)) === 0;

export function isClusterSize(n: number): boolean {
  return n >= Limit.minClusterSize && n <= Limit.maxClusterSize && isPowerOfTwo(n);
}

export function isTableSize(n: number): boolean {
  return n <= Limit.maxTableSize && isPowerOfTwo(n);
}

/** Entries of a table. */
export function tableEntries(clusterSize: number, tableSize: number): number {
  return (clusterSize * tableSize) / Entry.bytes;
}

/** Largest virtual size that tables of this size can map; exact below 2^53. */
export function maxImageSize(clusterSize: number, tableSize: number): number {
  return tableEntries(clusterSize, tableSize) ** 2 * clusterSize;
}

/** Entries of the L1 table that sizes up to the largest possible need. */
export function l1Entries(fields: QedHeaderFields): number {
  const entries = tableEntries(fields.cluster_size, fields.table_size);
  return Math.min(entries, Math.ceil(MAX_LENGTH / (entries * fields.cluster_size)));
}

function invalid(what: string): BlockError {
  return new BlockError('EINVAL', `QED ${what}`);
}

/**
 * Parses and checks the first 64 bytes against the length of the file. Throws BlockError: EINVAL
 * for what cannot be, ENOTSUP for features that are not known.
 */
export function parseHeader(bytes: Uint8Array, fileSize: number): QedHeaderFields {
  if (!isQed(bytes)) throw new BlockError('EINVAL', 'Image not in QED format');
  const fields = decodeFields(HEADER_FIELDS, bytes, 0, 'little');
  const unknown = fields.features & ~Feature.known;
  if (unknown !== 0n) {
    throw new BlockError('ENOTSUP', `Unsupported QED features: ${unknown.toString(16)}`);
  }
  const { cluster_size: cluster, table_size: table, header_size: header } = fields;
  if (!isClusterSize(cluster)) throw invalid('cluster size is invalid');
  if (!isTableSize(table)) throw invalid('table size is invalid');
  const { image_size: size, l1_table_offset: l1 } = fields;
  if (size % SECTOR !== 0 || size > maxImageSize(cluster, table)) {
    throw invalid('image size is invalid');
  }
  if (size > MAX_LENGTH) throw new BlockError('EFBIG', 'QED image size is too large');
  const end = fileSize - (fileSize % cluster);
  if (l1 % cluster !== 0 || l1 < header * cluster || l1 + table * cluster > end) {
    throw invalid('table offset is invalid');
  }
  if (header < 1) throw invalid('header size is invalid');
  if ((fields.features & Feature.backingFile) !== 0n) checkBackingName(fields);
  return fields;
}

function checkBackingName(fields: QedHeaderFields): void {
  const { backing_filename_offset: at, backing_filename_size: bytes } = fields;
  const room = fields.header_size * fields.cluster_size;
  if (at + bytes > room) throw invalid('backing filename offset is invalid');
  if (bytes > Limit.maxBackingName) throw invalid('backing filename is too long');
}

export function encodeHeader(fields: QedHeaderFields): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  encodeFields(HEADER_FIELDS, fields, bytes, 0, 'little');
  return bytes;
}
