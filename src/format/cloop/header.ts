/**
 * Header of a compressed loop image, big endian: 128 bytes of a shell script, bytes of a block,
 * number of blocks; then the offsets of the blocks, and of the end, 64 bits each.
 */
import { BlockError } from '../../block/errors.js';

const SCRIPT =
  '#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n';
const SECTOR = 512;
const MAX_BLOCK = 64 * 1024 * 1024;
const MAX_BLOCKS = 0x1fff_ffff;
const MAX_TABLE = 512 * 1024 * 1024;

export const HEADER_BYTES = 136;
/** Longest compressed block: it may have grown. */
export const MAX_PACKED = 2 * MAX_BLOCK;

export interface CloopHeader {
  readonly blockBytes: number;
  readonly blocks: number;
}

/** Whether `head` begins a compressed loop image. */
export function isCloop(head: Uint8Array): boolean {
  if (head.byteLength < SCRIPT.length) return false;
  for (let i = 0; i < SCRIPT.length; i++) if (head[i] !== SCRIPT.charCodeAt(i)) return false;
  return true;
}

function invalid(text: string): BlockError {
  return new BlockError('EINVAL', text);
}

/** Parses and checks the first 136 bytes. Throws EINVAL with QEMU's texts. */
export function parseHeader(head: Uint8Array, fileSize: number): CloopHeader {
  const view = new DataView(head.buffer, head.byteOffset);
  const blockBytes = view.getUint32(128);
  const blocks = view.getUint32(132);
  if (blockBytes % SECTOR !== 0) {
    throw invalid(`block_size ${String(blockBytes)} must be a multiple of 512`);
  }
  if (blockBytes === 0) throw invalid('block_size cannot be zero');
  if (blockBytes > MAX_BLOCK)
    throw invalid(`block_size ${String(blockBytes)} must be 64 MB or less`);
  if (blocks > MAX_BLOCKS) {
    throw invalid(`n_blocks ${String(blocks)} must be ${String(MAX_BLOCKS)} or less`);
  }
  const table = (blocks + 1) * 8;
  if (table > MAX_TABLE) {
    throw invalid('image requires too many offsets, try increasing block size');
  }
  if (HEADER_BYTES + table > fileSize) throw invalid('the file ends before the table of offsets');
  return { blockBytes, blocks };
}

/** The offsets in the table, with the end. Throws EINVAL with QEMU's texts. */
export function parseOffsets(table: Uint8Array): Float64Array {
  const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
  const offsets = new Float64Array(table.length / 8);
  for (let i = 0; i < offsets.length; i++) {
    const offset = Number(view.getBigUint64(i * 8));
    const before = offsets[i - 1] ?? offset;
    if (offset < before) {
      throw invalid(
        `offsets not monotonically increasing at index ${String(i)}, image file is corrupt`,
      );
    }
    if (offset - before > MAX_PACKED || !Number.isSafeInteger(offset)) {
      throw invalid(`invalid compressed block size at index ${String(i)}, image file is corrupt`);
    }
    offsets[i] = offset;
  }
  return offsets;
}
