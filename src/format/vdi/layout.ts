/**
 * On-disk structures of VDI as tables (lib/fields.ts).
 *
 * Specification: the header of VirtualBox's Virtual Disk Image, version 1.1 (`VDIHEADER1PLUS`).
 * All numbers are little endian. A block map of 32-bit entries says where each block lies.
 */
import type { Field, RecordOf } from '../../lib/fields.js';

/** Where the virtual size stands: 64 bits, of which images in use need 49. */
export const DISK_SIZE = 0x170;

/** The header, first bytes of the file; a text of 64 bytes stands before the signature. */
export const HEADER_FIELDS = [
  { field: 'signature', offset: 0x40, width: 4, meaning: '0xbeda107f' },
  { field: 'version', offset: 0x44, width: 4, meaning: 'major << 16 | minor' },
  { field: 'header_size', offset: 0x48, width: 4, meaning: 'bytes from here to the end' },
  { field: 'image_type', offset: 0x4c, width: 4, meaning: 'see ImageType' },
  { field: 'image_flags', offset: 0x50, width: 4, meaning: 'kept as they are' },
  { field: 'offset_bmap', offset: 0x154, width: 4, meaning: 'where the block map begins' },
  { field: 'offset_data', offset: 0x158, width: 4, meaning: 'where the first block lies' },
  { field: 'cylinders', offset: 0x15c, width: 4, meaning: 'geometry; unused' },
  { field: 'heads', offset: 0x160, width: 4, meaning: 'geometry; unused' },
  { field: 'sectors', offset: 0x164, width: 4, meaning: 'geometry; unused' },
  { field: 'sector_size', offset: 0x168, width: 4, meaning: '512' },
  { field: 'disk_size', offset: DISK_SIZE, width: 8, meaning: 'virtual size in bytes' },
  { field: 'block_size', offset: 0x178, width: 4, meaning: 'bytes of a block' },
  { field: 'block_extra', offset: 0x17c, width: 4, meaning: 'bytes before each block; 0' },
  { field: 'blocks_in_image', offset: 0x180, width: 4, meaning: 'entries of the block map' },
  { field: 'blocks_allocated', offset: 0x184, width: 4, meaning: 'blocks that the file holds' },
] as const satisfies readonly Field[];
export type VdiHeaderFields = RecordOf<typeof HEADER_FIELDS>;

/** Where the four UUIDs stand, 16 bytes each. */
export const Uuid = {
  /** Of the image. */
  image: 0x188,
  /** Changes when the image was written to. */
  modified: 0x198,
  /** `image` of the parent, in a differencing image. */
  parent: 0x1a8,
  /** `modified` of the parent. */
  parentModified: 0x1b8,
  bytes: 16,
} as const;

/** Bytes of the text in front, and of all that the header occupies. */
export const TEXT_BYTES = 0x40;
export const HEADER_BYTES = 512;
export const SIGNATURE = 0xbeda107f;
export const VERSION_1_1 = 0x0001_0001;
/** From `header_size` on to the end of the last field, as VirtualBox counts. */
export const HEADER_SIZE = 0x180;

export const ImageType = { dynamic: 1, static: 2, undo: 3, differencing: 4 } as const;

/** Entries of the block map that name no block of the file. */
export const Entry = {
  /** Never written: zeroes, or what the parent holds. */
  unallocated: 0xffff_ffff,
  /** Zeroes, whatever the parent holds. */
  zero: 0xffff_fffe,
  /** From here on an entry names no block. */
  firstSpecial: 0xffff_fffe,
} as const;

export const SECTOR = 512;
export const MIB = 1024 * 1024;

/** Limits, QEMU's where it has them. */
export const Limit = {
  /** Blocks of 1 MiB whose map has less than 2^31 bytes. */
  maxBlocks: 0x1fff_ff80,
  maxDiskSize: 0x1fff_ff80 * MIB,
  /** VirtualBox makes blocks of 1 MiB; other powers of two in this range are read all the same. */
  minBlockSize: 4096,
  maxBlockSize: 256 * MIB,
} as const;
