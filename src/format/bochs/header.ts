/**
 * Header of a Bochs redolog: 512 bytes, little-endian. Magic, type and subtype are texts of 32,
 * 16 and 16 bytes; then version, header size, entries of the catalog, bytes of a bitmap, bytes of
 * an extent. Version 1 goes on with the disk size, version 2 with a time stamp before it.
 */
import { BlockError } from '../../block/errors.js';

export const HEADER_BYTES = 512;
const SECTOR = 512;
const V1 = 0x0001_0000;
const V2 = 0x0002_0000;
const MAX_CATALOG = 0x10_0000;
const MAX_EXTENT = 0x80_0000;

const texts = [
  { at: 0, text: 'Bochs Virtual HD Image' },
  { at: 32, text: 'Redolog' },
  { at: 48, text: 'Growing' },
];

/** Where things lie; all in bytes but `catalogEntries`. */
export interface BochsHeader {
  readonly size: number;
  readonly catalogOffset: number;
  readonly catalogEntries: number;
  /** A bitmap as it is stored before the data of its extent: whole sectors. */
  readonly bitmapBytes: number;
  readonly extentBytes: number;
}

/** Whether `head` begins a growing disk of a known version. */
export function isBochsHeader(head: Uint8Array): boolean {
  if (head.byteLength < HEADER_BYTES) return false;
  const version = view(head).getUint32(64, true);
  return (
    (version === V1 || version === V2) && texts.every(({ at, text }) => hasText(head, at, text))
  );
}

/** Parses and checks the header (B1). Throws BlockError EINVAL or EFBIG with QEMU's texts. */
export function parseBochsHeader(head: Uint8Array): BochsHeader {
  if (!isBochsHeader(head)) throw new BlockError('EINVAL', 'Image not in Bochs format');
  const fields = view(head);
  const u32 = (at: number): number => fields.getUint32(at, true);
  const sizeAt = u32(64) === V1 ? 84 : 88;
  const bytes = fields.getBigUint64(sizeAt, true);
  const catalogEntries = u32(72);
  const extentBytes = u32(80);
  if (catalogEntries > MAX_CATALOG) throw new BlockError('EFBIG', 'Catalog size is too large');
  if (extentBytes < SECTOR) {
    throw new BlockError('EINVAL', 'Extent size must be at least 512');
  }
  if ((extentBytes & (extentBytes - 1)) !== 0) {
    throw new BlockError('EINVAL', `Extent size ${extentBytes} is not a power of two`);
  }
  if (extentBytes > MAX_EXTENT) {
    throw new BlockError('EINVAL', `Extent size ${extentBytes} is too large`);
  }
  if (bytes > BigInt(catalogEntries) * BigInt(extentBytes)) {
    throw new BlockError('EINVAL', 'Catalog size is too small for this disk size');
  }
  const size = Number(bytes);
  return {
    size: size - (size % SECTOR),
    catalogOffset: u32(68),
    catalogEntries,
    // One bit for each sector of the extent.
    bitmapBytes: Math.ceil(u32(76) / SECTOR) * SECTOR,
    extentBytes,
  };
}

function hasText(head: Uint8Array, at: number, text: string): boolean {
  for (let i = 0; i < text.length; i++) if (head[at + i] !== text.charCodeAt(i)) return false;
  return head[at + text.length] === 0;
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
