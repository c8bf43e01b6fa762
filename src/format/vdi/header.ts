/** The header of a VDI image: parsing with its checks, and writing. Pure. */
import { BlockError } from '../../block/errors.js';
import { decodeFields, encodeFields } from '../../lib/fields.js';
import type { VdiHeaderFields } from './layout.js';
import {
  DISK_SIZE,
  HEADER_BYTES,
  HEADER_FIELDS,
  HEADER_SIZE,
  ImageType,
  Limit,
  SECTOR,
  SIGNATURE,
  TEXT_BYTES,
  Uuid,
  VERSION_1_1,
} from './layout.js';

/** A header that was checked; `bytes` is the whole structure, for writing it again. */
export interface VdiHeader {
  readonly fields: VdiHeaderFields;
  readonly bytes: Uint8Array;
  /** Virtual size: whole sectors. */
  readonly size: number;
}

/** Whether `head` begins a VDI image. */
export function isVdi(head: Uint8Array): boolean {
  if (head.byteLength < HEADER_BYTES) return false;
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  return view.getUint32(TEXT_BYTES, true) === SIGNATURE;
}

const hex = (value: number | bigint): string => `0x${value.toString(16)}`;

function unsupported(what: string): BlockError {
  return new BlockError('ENOTSUP', `unsupported VDI image (${what})`);
}

/** Parses and checks the first 512 bytes. Throws BlockError with QEMU's texts. */
export function parseHeader(bytes: Uint8Array): VdiHeader {
  const fields = decodeFields(HEADER_FIELDS, bytes, 0, 'little');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const exactSize = view.getBigUint64(DISK_SIZE, true);
  if (exactSize > Limit.maxDiskSize) throw new BlockError('ENOTSUP', tooLarge(exactSize));
  if (fields.signature !== SIGNATURE) {
    const found = fields.signature.toString(16).padStart(8, '0');
    throw new BlockError('EINVAL', `Image not in VDI format (bad signature ${found})`);
  }
  if (fields.version !== VERSION_1_1) {
    const { version } = fields;
    throw unsupported(`version ${String(version >>> 16)}.${String(version & 0xffff)}`);
  }
  checkPlaces(fields);
  const size = fields.disk_size + ((SECTOR - (fields.disk_size % SECTOR)) % SECTOR);
  checkBlocks(fields, size);
  return { fields, bytes, size };
}

export function tooLarge(bytes: number | bigint): string {
  const most = hex(Limit.maxDiskSize);
  return `Unsupported VDI image size (size is ${hex(bytes)}, max supported is ${most})`;
}

function checkPlaces(fields: VdiHeaderFields): void {
  if (fields.offset_bmap % SECTOR !== 0) {
    throw unsupported(`unaligned block map offset ${hex(fields.offset_bmap)}`);
  }
  if (fields.offset_data % SECTOR !== 0) {
    throw unsupported(`unaligned data offset ${hex(fields.offset_data)}`);
  }
  if (fields.sector_size !== SECTOR) {
    throw unsupported(`sector size ${String(fields.sector_size)} is not ${String(SECTOR)}`);
  }
  if (fields.offset_bmap < HEADER_BYTES) {
    throw unsupported(`block map offset ${hex(fields.offset_bmap)} lies in the header`);
  }
}

function checkBlocks(fields: VdiHeaderFields, size: number): void {
  const { block_size: blockSize, blocks_in_image: blocks, image_type: type } = fields;
  const isPower = (blockSize & (blockSize - 1)) === 0;
  if (!isPower || blockSize < Limit.minBlockSize || blockSize > Limit.maxBlockSize) {
    throw unsupported(`block size ${String(blockSize)} is not 1048576`);
  }
  if (fields.block_extra !== 0) {
    throw unsupported(`${String(fields.block_extra)} extra bytes in front of each block`);
  }
  if (blocks > Limit.maxBlocks) {
    throw unsupported(`too many blocks ${String(blocks)}, max is ${String(Limit.maxBlocks)}`);
  }
  if (size > blocks * blockSize) {
    const room = blocks * blockSize;
    throw unsupported(`disk size ${String(size)}, image bitmap has room for ${String(room)}`);
  }
  if (type === 0 || type > ImageType.differencing) throw unsupported(`image type ${String(type)}`);
}

/** Facts of a new image. */
export interface NewHeader {
  readonly size: number;
  readonly blockSize: number;
  readonly static: boolean;
  /** 32 random bytes. */
  readonly random: Uint8Array;
}

/** The header of a new image. The block map follows it, whole sectors, and then the blocks. */
export function newHeader({ size, blockSize, static: isStatic, random }: NewHeader): VdiHeader {
  const blocks = Math.ceil(size / blockSize);
  const mapBytes = Math.ceil((blocks * 4) / SECTOR) * SECTOR;
  const fields: VdiHeaderFields = {
    signature: SIGNATURE,
    version: VERSION_1_1,
    header_size: HEADER_SIZE,
    image_type: isStatic ? ImageType.static : ImageType.dynamic,
    image_flags: 0,
    offset_bmap: HEADER_BYTES,
    offset_data: HEADER_BYTES + mapBytes,
    cylinders: 0,
    heads: 0,
    sectors: 0,
    sector_size: SECTOR,
    disk_size: size,
    block_size: blockSize,
    block_extra: 0,
    blocks_in_image: blocks,
    blocks_allocated: isStatic ? blocks : 0,
  };
  const bytes = new Uint8Array(HEADER_BYTES);
  bytes.set(new TextEncoder().encode('<<< vdisk Virtual Disk Image >>>\n'));
  bytes.set(versionFour(random.subarray(0, 16)), Uuid.image);
  bytes.set(versionFour(random.subarray(16, 32)), Uuid.modified);
  const header = { fields, bytes, size };
  encodeHeader(header);
  return header;
}

/** Makes a random (version 4) UUID of 16 random bytes; its first three groups are little endian. */
function versionFour(bytes: Uint8Array): Uint8Array {
  const uuid = bytes.slice();
  uuid[7] = (uuid[7]! & 0x0f) | 0x40;
  uuid[8] = (uuid[8]! & 0x3f) | 0x80;
  return uuid;
}

/** Puts the fields into the header's bytes. */
export function encodeHeader({ fields, bytes }: VdiHeader): void {
  encodeFields(HEADER_FIELDS, fields, bytes, 0, 'little');
}

/** One of the header's UUIDs as text, for people and file names; undefined when it is all zero. */
export function uuidText(bytes: Uint8Array, at: number): string | undefined {
  const raw = bytes.subarray(at, at + Uuid.bytes);
  if (raw.every((b) => b === 0)) return undefined;
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
  const digits = order.map((i) => (raw[i] ?? 0).toString(16).padStart(2, '0')).join('');
  return [8, 12, 16, 20, 32].map((end, i, ends) => digits.slice(ends[i - 1] ?? 0, end)).join('-');
}
