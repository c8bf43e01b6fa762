/**
 * The header: parse and validate, change, write back. Pure: no I/O.
 *
 * Validation comes in the order and with the texts of QEMU 10, because scripts compare them. A
 * header that passed `parseHeader` can be worked with without further checks: each table
 * lies on a cluster boundary, below 2^53, and is no longer than its limit.
 */
import { BlockError } from '../../block/errors.js';
import { MAX_LENGTH } from '../../block/types.js';
import type { Extensions, FeatureName } from './extensions.js';
import {
  encodeExtensions,
  noExtensions,
  parseExtensions,
  parseFeatureNames,
} from './extensions.js';
import type { HeaderRecord } from './layout.js';
import {
  decodeFields,
  encodeFields,
  HEADER_FIELDS,
  HEADER_LENGTH,
  HEADER_V2_LENGTH,
  HEADER_V3_MIN_LENGTH,
  Incompat,
  Limit,
  MAGIC,
} from './layout.js';
import type { Geometry } from './units.js';
import { geometry, l1EntriesFor } from './units.js';

/** Everything that the first cluster says. */
export interface Qcow2Header {
  /** The fixed fields; a driver changes them and writes the header again. */
  readonly fields: HeaderRecord;
  /** Header bytes past the fields that vdisk knows; kept. */
  readonly unknownFields: Uint8Array;
  readonly extensions: Extensions;
  /** Name of the backing file as stored; '' when there is none. */
  backingFile: string;
}

/** How the image is opened, as far as validation depends on it. */
export interface HeaderPurpose {
  readonly writable: boolean;
  /** For `check`: damage that it repairs is let through. */
  readonly check: boolean;
}

const utf8 = new TextDecoder();
const encoder = new TextEncoder();

/** Bytes of the first cluster that parsing the header takes; reads `fixed` (112 bytes). */
export function headerSpan(fixed: Uint8Array): number {
  const fields = decodeFields(HEADER_FIELDS, fixed);
  checkStart(fields);
  return 2 ** fields.cluster_bits;
}

/**
 * Parses the first cluster; `head` may be shorter when the file is, what is missing counts as
 * zeroes. Throws BlockError with QEMU's text.
 */
export function parseHeader(head: Uint8Array, purpose: HeaderPurpose): Qcow2Header {
  const fields = decodeFields(HEADER_FIELDS, head);
  checkStart(fields);
  const clusterSize = 2 ** fields.cluster_bits;
  normaliseVersion(fields, clusterSize);
  const unknownFields = slice(head, HEADER_LENGTH, fields.header_length);
  if (fields.backing_file_offset > clusterSize) throw invalid('Invalid backing file offset');
  const extEnd = fields.backing_file_offset === 0 ? clusterSize : fields.backing_file_offset;
  checkCompressionType(fields);
  checkFeatures(fields, head, extEnd, purpose);
  checkWidths(fields, purpose);
  checkTables(fields, purpose);
  checkSize(fields, head);
  const extensions = parseExtensions(head, fields.header_length, extEnd, {
    version: fields.version,
    clusterSize,
    cryptMethod: fields.crypt_method,
    autoclear: fields.autoclear_features,
  });
  if (fields.crypt_method === 2 && extensions.crypto === undefined) {
    throw invalid('Missing CRYPTO header for crypt method 2');
  }
  return { fields, unknownFields, extensions, backingFile: backingName(fields, head) };
}

/** Magic, version, cluster size: what must hold before anything else makes sense. */
function checkStart(fields: HeaderRecord): void {
  if (fields.magic !== MAGIC) throw invalid('Image is not in qcow2 format');
  if (fields.version < 2 || fields.version > 3) {
    throw new BlockError('ENOTSUP', `Unsupported qcow2 version ${fields.version}`);
  }
  const bits = fields.cluster_bits;
  if (bits < Limit.minClusterBits || bits > Limit.maxClusterBits) {
    throw invalid(`Unsupported cluster size: 2^${bits}`);
  }
}

/** Version 2 has no features; version 3 says how long its header is. */
function normaliseVersion(fields: HeaderRecord, clusterSize: number): void {
  if (fields.version === 2) {
    fields.incompatible_features = 0n;
    fields.compatible_features = 0n;
    fields.autoclear_features = 0n;
    fields.refcount_order = 4;
    fields.header_length = HEADER_V2_LENGTH;
    fields.compression_type = 0;
    return;
  }
  if (fields.header_length < HEADER_V3_MIN_LENGTH) throw invalid('qcow2 header too short');
  if (fields.header_length > clusterSize) throw invalid('qcow2 header exceeds cluster size');
  // Bytes past header_length are no field.
  if (fields.header_length <= HEADER_V3_MIN_LENGTH) fields.compression_type = 0;
}

function checkCompressionType(fields: HeaderRecord): void {
  const type = fields.compression_type;
  if (type > 1) throw new BlockError('ENOTSUP', `qcow2: unknown compression type: ${type}`);
  const flagged = (fields.incompatible_features & Incompat.compression) !== 0n;
  if (type === 0 && flagged) {
    throw invalid('qcow2: Compression type incompatible feature bit must not be set');
  }
  if (type !== 0 && !flagged) {
    throw invalid('qcow2: Compression type incompatible feature bit must be set');
  }
}

function checkFeatures(
  fields: HeaderRecord,
  head: Uint8Array,
  extEnd: number,
  purpose: HeaderPurpose,
): void {
  const features = fields.incompatible_features;
  const unknown = features & ~Incompat.known;
  if (unknown !== 0n) {
    const names = parseFeatureNames(head, fields.header_length, extEnd);
    throw new BlockError('ENOTSUP', unsupportedFeatures(unknown, names));
  }
  if ((features & Incompat.corrupt) !== 0n && purpose.writable && !purpose.check) {
    throw new BlockError('EACCES', 'qcow2: Image is corrupt; cannot be opened read/write');
  }
}

/** `Unsupported qcow2 feature(s): …`, with the image's own names where it has them. */
function unsupportedFeatures(mask: bigint, table: readonly FeatureName[]): string {
  const names: string[] = [];
  let rest = mask;
  for (const { type, bit, name } of table) {
    if (type !== 0 || bit > 63 || (mask & (1n << BigInt(bit))) === 0n) continue;
    names.push(name);
    rest &= ~(1n << BigInt(bit));
  }
  if (rest !== 0n) names.push(`Unknown incompatible feature: ${rest.toString(16)}`);
  return `Unsupported qcow2 feature(s): ${names.join(', ')}`;
}

function checkWidths(fields: HeaderRecord, purpose: HeaderPurpose): void {
  const extended = (fields.incompatible_features & Incompat.extendedL2) !== 0n;
  if (extended && fields.cluster_bits < Limit.minExtendedClusterBits) {
    throw invalid(`Unsupported subcluster size: ${2 ** fields.cluster_bits / Limit.subclusters}`);
  }
  if (fields.refcount_order > Limit.maxRefcountOrder) {
    throw invalid('Reference count entry width too large; may not exceed 64 bits');
  }
  if (fields.crypt_method > 2) {
    throw invalid(`Unsupported encryption method ${fields.crypt_method}`);
  }
  if (fields.refcount_table_clusters === 0 && !purpose.check) {
    throw invalid('Image does not contain a reference count table');
  }
}

function checkTables(fields: HeaderRecord, purpose: HeaderPurpose): void {
  const g = headerGeometry(fields);
  checkTable('Reference count table', g, {
    offset: fields.refcount_table_offset,
    entries: fields.refcount_table_clusters * g.reftableClusterEntries,
    entryBytes: 8,
    maxBytes: Limit.maxReftableBytes,
  });
  // A check tells what is wrong with the snapshot table itself, and cuts it.
  if (!purpose.check) checkSnapshotTablePlace(fields);
  checkTable('Active L1 table', g, {
    offset: fields.l1_table_offset,
    entries: fields.l1_size,
    entryBytes: 8,
    maxBytes: Limit.maxL1Bytes,
  });
  const needed = l1EntriesFor(g, fields.size);
  if (needed > 0x7fff_ffff) throw new BlockError('EFBIG', 'Image is too big');
  if (fields.l1_size < needed) throw invalid('L1 table is too small');
}

/** Byte offset of the header's field `size`. */
const SIZE_FIELD = 24;
const SECTOR = 512;

/** Sizes from 2^53 on are exact as numbers only when they end at a sector. */
function checkSize(fields: HeaderRecord, head: Uint8Array): void {
  if (fields.size <= MAX_LENGTH) return;
  const low = new DataView(head.buffer, head.byteOffset).getUint32(SIZE_FIELD + 4);
  if (low % SECTOR === 0 && !hasDataFile(fields)) return;
  const what = hasDataFile(fields) ? ', which needs a data file as large' : '';
  throw new BlockError(
    'EFBIG',
    `Image is too big: its virtual size exceeds 2^53 - 512 bytes${what}`,
  );
}

function hasDataFile(fields: HeaderRecord): boolean {
  return (fields.incompatible_features & Incompat.dataFile) !== 0n;
}

/** Refuses a snapshot table that is too long or lies where none can. Throws BlockError. */
export function checkSnapshotTablePlace(fields: HeaderRecord): void {
  checkTable('Snapshot table', headerGeometry(fields), {
    offset: fields.snapshots_offset,
    entries: fields.nb_snapshots,
    entryBytes: 40,
    maxBytes: 40 * Limit.maxSnapshots,
  });
}

/** Where a table lies, for `checkTable`. */
export interface TableSpan {
  readonly offset: number;
  readonly entries: number;
  readonly entryBytes: number;
  readonly maxBytes: number;
}

/** Refuses a table that is longer than its limit, not on a cluster boundary or out of reach. */
export function checkTable(name: string, g: Geometry, table: TableSpan): void {
  const bytes = table.entries * table.entryBytes;
  if (bytes > table.maxBytes) throw new BlockError('EFBIG', `${name} too large`);
  const end = table.offset + bytes;
  if (table.offset % g.clusterSize !== 0 || end > Number.MAX_SAFE_INTEGER) {
    throw invalid(`${name} offset invalid`);
  }
}

function backingName(fields: HeaderRecord, head: Uint8Array): string {
  const at = fields.backing_file_offset;
  if (at === 0) return '';
  const length = fields.backing_file_size;
  if (length > Math.min(Limit.maxBackingName, 2 ** fields.cluster_bits - at)) {
    throw invalid('Backing file name too long');
  }
  const bytes = slice(head, at, at + length);
  const end = bytes.indexOf(0);
  return utf8.decode(end < 0 ? bytes : bytes.subarray(0, end));
}

/** A copy of [from, to); zeroes past the end of `bytes`; empty when `to <= from`. */
function slice(bytes: Uint8Array, from: number, to: number): Uint8Array {
  const out = new Uint8Array(Math.max(0, to - from));
  if (from < bytes.byteLength) out.set(bytes.subarray(from, Math.min(to, bytes.byteLength)));
  return out;
}

/** Geometry that the header describes. */
export function headerGeometry(fields: HeaderRecord): Geometry {
  const extended = (fields.incompatible_features & Incompat.extendedL2) !== 0n;
  return geometry(fields.cluster_bits, fields.refcount_order, extended);
}

/**
 * The whole first cluster. Sets `header_length`, `backing_file_offset` and
 * `backing_file_size` of `header.fields` to what is written. Throws BlockError with ENOSPC when
 * extensions and backing name do not fit. The name begins at `nameFrom` at the earliest.
 */
export function encodeHeader(header: Qcow2Header, nameFrom = 0): Uint8Array {
  const { fields } = header;
  const out = new Uint8Array(2 ** fields.cluster_bits);
  const v3 = fields.version >= 3;
  const extensions = encodeExtensions(header.extensions, fields.version, out.length);
  const name = encoder.encode(header.backingFile);
  const length = v3 ? HEADER_LENGTH + header.unknownFields.length : HEADER_V2_LENGTH;
  const nameAt = Math.max(nameFrom, length + extensions.length);
  if (nameAt + name.length > out.length || name.length > Limit.maxBackingName) {
    throw new BlockError('ENOSPC');
  }
  fields.header_length = length;
  fields.backing_file_offset = name.length === 0 ? 0 : nameAt;
  fields.backing_file_size = name.length;
  encodeFields(HEADER_FIELDS, fields, v3 ? out : out.subarray(0, HEADER_V2_LENGTH));
  if (v3) out.set(header.unknownFields, HEADER_LENGTH);
  out.set(extensions, length);
  out.set(name, nameAt);
  return out;
}

/** A header with nothing in it but its version; `create` fills the rest. */
export function emptyHeader(version: 2 | 3, clusterBits: number): Qcow2Header {
  const fields = decodeFields(HEADER_FIELDS, new Uint8Array(0));
  fields.magic = MAGIC;
  fields.version = version;
  fields.cluster_bits = clusterBits;
  fields.refcount_order = 4;
  fields.header_length = version === 3 ? HEADER_LENGTH : HEADER_V2_LENGTH;
  return { fields, unknownFields: new Uint8Array(0), extensions: noExtensions(), backingFile: '' };
}

function invalid(message: string): BlockError {
  return new BlockError('EINVAL', message);
}
