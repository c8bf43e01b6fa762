/** Footer and dynamic disk header: parsing, validation and making; pure functions. */
import { BlockError } from '../../block/errors.js';
import { decodeFields, encodeFields } from '../../lib/fields.js';
import { geometrySectors } from './geometry.js';
import type { DynamicHeader, Footer, ParentLocator } from './layout.js';
import {
  FOOTER_FIELDS,
  HEADER_BYTES,
  HEADER_COOKIE,
  HEADER_FIELDS,
  Limit,
  LOCATOR_BYTES,
  LOCATOR_FIELDS,
  LOCATORS,
  LOCATORS_AT,
  SECTOR,
} from './layout.js';

/** Whether a structure begins with its cookie. */
export function hasCookie(bytes: Uint8Array, cookie: string): boolean {
  for (let i = 0; i < cookie.length; i++) if (bytes[i] !== cookie.charCodeAt(i)) return false;
  return true;
}

/** One's complement of the sum of all bytes, those of the checksum itself counting as zero. */
export function checksumOf(bytes: Uint8Array, checksumAt: number): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i++) {
    if (i < checksumAt || i >= checksumAt + 4) sum += bytes[i] ?? 0;
  }
  return ~sum >>> 0;
}

const FOOTER_SUM_AT = 64;
const HEADER_SUM_AT = 36;

/** Parses a footer. Throws EINVAL for a wrong checksum; the cookie was looked at before. */
export function parseFooter(bytes: Uint8Array): Footer {
  const footer = decodeFields(FOOTER_FIELDS, bytes);
  if (footer.checksum !== checksumOf(bytes, FOOTER_SUM_AT)) {
    throw new BlockError('EINVAL', 'Incorrect header checksum');
  }
  return footer;
}

/** Footer as 512 bytes, with its checksum. */
export function encodeFooter(footer: Omit<Footer, 'checksum'>): Uint8Array {
  const bytes = new Uint8Array(SECTOR);
  encodeFields(FOOTER_FIELDS, { ...footer, checksum: 0 }, bytes);
  new DataView(bytes.buffer).setUint32(FOOTER_SUM_AT, checksumOf(bytes, FOOTER_SUM_AT));
  return bytes;
}

/** Which rule gives the size of the disk. */
export type SizeRule = 'auto' | 'chs' | 'current_size';

/** Programs that mean the geometry, not the size that stands beside it. */
const geometryCreators = ['vpc ', 'qemu'];

/**
 * Size of the disk in bytes. Virtual PC and old QEMU go by the geometry, all others by
 * `current_size`; the largest geometry says nothing. Throws EFBIG above 2040 GiB.
 */
export function diskBytes(footer: Footer, rule: SizeRule): number {
  const { cylinders, heads, sectors_per_track: sectorsPerTrack } = footer;
  const sectors = geometrySectors({ cylinders, heads, sectorsPerTrack });
  const creator = String.fromCharCode(...footer.creator_app);
  const byGeometry = rule === 'chs' || (rule === 'auto' && geometryCreators.includes(creator));
  const bytes =
    byGeometry && sectors !== Limit.geometrySectors
      ? sectors * SECTOR
      : footer.current_size - (footer.current_size % SECTOR);
  if (bytes > Limit.diskBytes) throw new BlockError('EFBIG');
  return bytes;
}

/** Parses and checks the dynamic disk header of a disk of `size` bytes. QEMU's texts. */
export function parseDynamicHeader(bytes: Uint8Array, size: number): DynamicHeader {
  if (!hasCookie(bytes, HEADER_COOKIE)) throw new BlockError('EINVAL', 'Invalid header magic');
  const header = decodeFields(HEADER_FIELDS, bytes);
  const { block_size: block, max_table_entries: entries } = header;
  if (block < Limit.minBlock || (block & (block - 1)) !== 0) {
    throw new BlockError('EINVAL', `Invalid block size ${block}`);
  }
  if (entries >= Limit.tableEntries) {
    throw new BlockError('EINVAL', `Max Table Entries too large (${entries | 0})`);
  }
  const needed = Math.ceil(size / block);
  if (needed > entries) throw new BlockError('EINVAL', 'Page table too small');
  if (needed * 4 > Limit.tableBytes) {
    throw new BlockError(
      'EFBIG',
      `Cannot open the image: its page table has ${needed} entries, expected at most ` +
        String(Limit.tableBytes / 4),
    );
  }
  return header;
}

/** Header as 1024 bytes, with its checksum and no parents. */
export function encodeDynamicHeader(header: Omit<DynamicHeader, 'checksum'>): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  encodeFields(HEADER_FIELDS, { ...header, checksum: 0 }, bytes);
  new DataView(bytes.buffer).setUint32(HEADER_SUM_AT, checksumOf(bytes, HEADER_SUM_AT));
  return bytes;
}

/** The parent locators of a header, as they stand in it. */
export function parseLocators(bytes: Uint8Array): ParentLocator[] {
  return Array.from({ length: LOCATORS }, (_, i) =>
    decodeFields(LOCATOR_FIELDS, bytes, LOCATORS_AT + i * LOCATOR_BYTES),
  );
}
