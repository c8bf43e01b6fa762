/** One entry of the log: coding and checking. Pure. */
import { BlockError } from '../../block/errors.js';
import { decodeFields, encodeFields } from '../../lib/fields.js';
import type { Crc } from './header.js';
import { seal } from './header.js';
import type { LogEntryRecord } from './layout.js';
import {
  DATA_FIELDS,
  DATA_SIGNATURE,
  DESCRIPTOR_BYTES,
  Limit,
  LOG_ENTRY_BYTES,
  LOG_ENTRY_FIELDS,
  LOG_FIRST_DESCRIPTORS,
  LOG_SECTOR,
  LOG_SIGNATURE,
  SECTOR_FIELDS,
  SECTOR_SIGNATURE,
  ZERO_FIELDS,
  ZERO_SIGNATURE,
} from './layout.js';

/** 4 KiB of metadata and where they belong. */
export interface LoggedPage {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** What an entry changes in the file. */
export interface LogChange {
  readonly offset: number;
  /** Bytes of zeroes, or a page. */
  readonly zeroes?: number;
  readonly page?: Uint8Array;
}

export interface EntryPlace {
  /** Where the entry begins in the log; it is its own tail. */
  readonly position: number;
  readonly sequence: bigint;
  readonly logGuid: Uint8Array;
  readonly fileBytes: number;
}

/** Sectors that hold the header and so many descriptors. */
export function descriptorSectors(descriptors: number): number {
  return 1 + Math.ceil(Math.max(0, descriptors - LOG_FIRST_DESCRIPTORS) / 128);
}

/** An entry that holds up to 126 pages. */
export function encodeEntry(pages: readonly LoggedPage[], place: EntryPlace, crc: Crc): Uint8Array {
  const heads = descriptorSectors(pages.length);
  const bytes = new Uint8Array((heads + pages.length) * LOG_SECTOR);
  const { sequence } = place;
  const record: LogEntryRecord = {
    signature: LOG_SIGNATURE,
    checksum: 0,
    entry_length: bytes.length,
    tail: place.position,
    sequence_number: sequence,
    descriptor_count: pages.length,
    log_guid: place.logGuid,
    flushed_file_offset: place.fileBytes,
    last_file_offset: place.fileBytes,
  };
  encodeFields(LOG_ENTRY_FIELDS, record, bytes, 0, 'little');
  pages.forEach((page, i) => {
    const descriptor = {
      signature: DATA_SIGNATURE,
      trailing_bytes: page.bytes.subarray(LOG_SECTOR - 4, LOG_SECTOR),
      leading_bytes: page.bytes.subarray(0, 8),
      file_offset: page.offset,
      sequence_number: sequence,
    };
    const at = LOG_ENTRY_BYTES + i * DESCRIPTOR_BYTES;
    encodeFields(DATA_FIELDS, descriptor, bytes, at, 'little');
    const sector = (heads + i) * LOG_SECTOR;
    bytes.set(page.bytes.subarray(8, LOG_SECTOR - 4), sector + 8);
    const frame = {
      signature: SECTOR_SIGNATURE,
      sequence_high: Number(sequence >> 32n),
      sequence_low: Number(sequence & 0xffff_ffffn),
    };
    encodeFields(SECTOR_FIELDS, frame, bytes, sector, 'little');
  });
  return seal(bytes, crc);
}

/** Header of an entry, when `sector` begins one of this log that could be whole. */
export function tryEntryHeader(
  sector: Uint8Array,
  logGuid: Uint8Array,
  logBytes: number,
): LogEntryRecord | undefined {
  const entry = decodeFields(LOG_ENTRY_FIELDS, sector, 0, 'little');
  const { entry_length: length, descriptor_count: count, tail } = entry;
  if (entry.signature !== LOG_SIGNATURE || entry.sequence_number === 0n) return undefined;
  if (!entry.log_guid.every((b, i) => b === logGuid[i])) return undefined;
  if (length === 0 || length % LOG_SECTOR !== 0 || length > logBytes) return undefined;
  if (tail % LOG_SECTOR !== 0 || tail >= logBytes) return undefined;
  return descriptorSectors(count) * LOG_SECTOR <= length ? entry : undefined;
}

/**
 * What a whole entry, whose checksum is right, changes. Throws EINVAL for one that contradicts
 * itself.
 */
export function* entryChanges(bytes: Uint8Array, entry: LogEntryRecord): Generator<LogChange> {
  const count = entry.descriptor_count;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let sector = descriptorSectors(count) * LOG_SECTOR;
  for (let i = 0; i < count; i++) {
    const at = LOG_ENTRY_BYTES + i * DESCRIPTOR_BYTES;
    const signature = view.getUint32(at, true);
    if (signature === ZERO_SIGNATURE) {
      const zero = decodeFields(ZERO_FIELDS, bytes, at, 'little');
      checkDescriptor(zero.sequence_number, entry, zero.file_offset, zero.zero_length);
      yield { offset: zero.file_offset, zeroes: zero.zero_length };
      continue;
    }
    if (signature !== DATA_SIGNATURE) {
      const text = `Invalid VHDX log descriptor entry signature 0x${signature.toString(16)}`;
      throw new BlockError('EINVAL', text);
    }
    const data = decodeFields(DATA_FIELDS, bytes, at, 'little');
    checkDescriptor(data.sequence_number, entry, data.file_offset, LOG_SECTOR);
    if (sector + LOG_SECTOR > bytes.length) throw damaged('has fewer data sectors than it says');
    const frame = decodeFields(SECTOR_FIELDS, bytes, sector, 'little');
    const sequence = (BigInt(frame.sequence_high) << 32n) | BigInt(frame.sequence_low);
    if (frame.signature !== SECTOR_SIGNATURE || sequence !== entry.sequence_number) {
      throw damaged('has a data sector of another entry');
    }
    const page = bytes.slice(sector, sector + LOG_SECTOR);
    page.set(data.leading_bytes, 0);
    page.set(data.trailing_bytes, LOG_SECTOR - 4);
    yield { offset: data.file_offset, page };
    sector += LOG_SECTOR;
  }
}

function checkDescriptor(
  sequence: bigint,
  entry: LogEntryRecord,
  offset: number,
  bytes: number,
): void {
  if (sequence !== entry.sequence_number) throw damaged('has a descriptor of another entry');
  if (offset % LOG_SECTOR !== 0 || bytes % LOG_SECTOR !== 0) {
    throw damaged('changes something that is not aligned to 4 KiB');
  }
  if (offset + bytes > Limit.fileBytes) throw damaged('changes something past all files');
}

function damaged(what: string): BlockError {
  return new BlockError('EINVAL', `The VHDX log is damaged: an entry ${what}`);
}
