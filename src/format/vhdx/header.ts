/** The two headers and the region table: parsing, validation, making. */
import { BlockError } from '../../block/errors.js';
import { decodeFields, encodeFields } from '../../lib/fields.js';
import { guidText } from './guid.js';
import type { HeaderRecord, RegionRecord } from './layout.js';
import {
  Guid,
  HEADER_BYTES,
  HEADER_FIELDS,
  HEADER_SIGNATURE,
  Limit,
  LOG_SECTOR,
  MiB,
  Place,
  REGION_BYTES,
  REGION_FIELDS,
  REGION_HEADER_BYTES,
  REGION_HEADER_FIELDS,
  REGION_SIGNATURE,
} from './layout.js';

/** CRC-32C as the host computes it. */
export type Crc = (bytes: Uint8Array, seed?: number) => number;

/** Where the checksum is in headers, tables and log entries. */
const CHECKSUM_AT = 4;
const noChecksum = new Uint8Array(4);

/** Checksum of a structure, its checksum field counting as zero. */
export function structureSum(bytes: Uint8Array, crc: Crc): number {
  const head = crc(bytes.subarray(0, CHECKSUM_AT));
  return crc(bytes.subarray(CHECKSUM_AT + 4), crc(noChecksum, head));
}

/** Writes the checksum of a structure into it. */
export function seal(bytes: Uint8Array, crc: Crc): Uint8Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  view.setUint32(CHECKSUM_AT, structureSum(bytes, crc), true);
  return bytes;
}

/** A header, or undefined where it is damaged or of another version. */
export function tryHeader(bytes: Uint8Array, crc: Crc): HeaderRecord | undefined {
  const header = decodeFields(HEADER_FIELDS, bytes, 0, 'little');
  if (header.signature !== HEADER_SIGNATURE || header.version !== 1) return undefined;
  return header.checksum === structureSum(bytes, crc) ? header : undefined;
}

/** The header that counts, and which of the two it is. */
export function currentHeader(both: readonly (HeaderRecord | undefined)[]): {
  header: HeaderRecord;
  index: 0 | 1;
} {
  const [first, second] = both;
  const firstWins =
    second === undefined || (first?.sequence_number ?? -1n) >= second.sequence_number;
  const header = firstWins ? first : second;
  if (header === undefined) throw new BlockError('EINVAL', 'No valid VHDX header found');
  checkLog(header);
  return { header, index: firstWins ? 0 : 1 };
}

/** 2.2.2: version, place and length of the log. */
function checkLog({
  log_version: version,
  log_length: length,
  log_offset: offset,
}: HeaderRecord): void {
  if (version !== 0) throw invalid('log version', version, '0');
  if (length === 0 || length % MiB !== 0) throw invalid('log length', length, 'whole MiB');
  if (offset < Place.end || offset % MiB !== 0 || offset > Limit.fileBytes) {
    throw invalid('log offset', offset, 'whole MiB behind the headers');
  }
}

/** A header as 4 KiB with its checksum. */
export function encodeHeader(header: HeaderRecord, crc: Crc): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  encodeFields(HEADER_FIELDS, header, bytes, 0, 'little');
  return seal(bytes, crc);
}

/** A part of the file that is taken; for the check that parts do not overlap. */
export interface Extent {
  readonly offset: number;
  readonly bytes: number;
}

export interface Regions {
  readonly bat: Extent;
  readonly metadata: Extent;
  /** All of the file that is no block: headers, log, regions (unknown ones too). */
  readonly taken: readonly Extent[];
}

/** Parses a region table; undefined: it is damaged. Throws EINVAL or ENOTSUP for bad entries. */
export function tryRegions(bytes: Uint8Array, header: HeaderRecord, crc: Crc): Regions | undefined {
  const {
    signature,
    checksum,
    entry_count: count,
  } = decodeFields(REGION_HEADER_FIELDS, bytes, 0, 'little');
  if (signature !== REGION_SIGNATURE || checksum !== structureSum(bytes, crc)) return undefined;
  if (count > Limit.regions) throw invalid('number of regions', count, `at most ${Limit.regions}`);
  const taken: Extent[] = [
    { offset: 0, bytes: Place.end },
    { offset: header.log_offset, bytes: header.log_length },
  ];
  const found = new Map<string, Extent>();
  for (let i = 0; i < count; i++) {
    const at = REGION_HEADER_BYTES + i * REGION_BYTES;
    const region = decodeFields(REGION_FIELDS, bytes, at, 'little');
    const guid = guidText(region.guid);
    const extent = regionExtent(region, guid);
    checkFree(taken, extent);
    taken.push(extent);
    found.set(guid, extent);
  }
  const bat = found.get(Guid.bat);
  const metadata = found.get(Guid.metadata);
  if (bat === undefined) throw new BlockError('EINVAL', 'The VHDX image has no BAT region');
  if (metadata === undefined)
    throw new BlockError('EINVAL', 'The VHDX image has no metadata region');
  return { bat, metadata, taken };
}

function regionExtent(region: RegionRecord, guid: string): Extent {
  const { file_offset: offset, length: bytes, required } = region;
  if ((required & 1) !== 0 && guid !== Guid.bat && guid !== Guid.metadata) {
    throw new BlockError('ENOTSUP', `The VHDX image needs the region ${guid}, which is unknown`);
  }
  if (offset < Place.end || offset % MiB !== 0 || offset > Limit.fileBytes) {
    throw invalid(`offset of region ${guid}`, offset, 'whole MiB behind the headers');
  }
  if (bytes === 0 || bytes % LOG_SECTOR !== 0) {
    throw invalid(`length of region ${guid}`, bytes, 'whole MiB');
  }
  return { offset, bytes };
}

/** Throws EINVAL where `extent` meets one that is taken. */
export function checkFree(taken: readonly Extent[], extent: Extent): void {
  const end = extent.offset + extent.bytes;
  for (const other of taken) {
    const otherEnd = other.offset + other.bytes;
    if (extent.offset >= otherEnd || other.offset >= end) continue;
    const text = `VHDX region ${extent.offset}-${end} overlaps with region `;
    throw new BlockError('EINVAL', `${text}${other.offset}-${otherEnd}`);
  }
}

/** `Cannot open the VHDX image: <field> is <value>, expected <rule>`. */
export function invalid(field: string, value: number | string, rule: string): BlockError {
  const text = `Cannot open the VHDX image: ${field} is ${value}, expected ${rule}`;
  return new BlockError('EINVAL', text);
}
