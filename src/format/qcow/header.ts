/** The header of a qcow image: parsing with its checks. Pure. */
import { BlockError } from '../../block/errors.js';
import { MAX_LENGTH } from '../../block/types.js';
import { decodeFields } from '../../lib/fields.js';
import type { QcowHeaderFields } from './layout.js';
import { Crypt, HEADER_BYTES, HEADER_FIELDS, Limit, MAGIC, SECTOR, VERSION } from './layout.js';

function head32(head: Uint8Array, at: number): number {
  return new DataView(head.buffer, head.byteOffset).getUint32(at);
}

/** Whether `head` begins a qcow image of version 1. */
export function isQcow(head: Uint8Array): boolean {
  if (head.byteLength < HEADER_BYTES) return false;
  return head32(head, 0) === MAGIC && head32(head, 4) === VERSION;
}

/** Entries of the L1 table. */
export function l1Entries({ size, cluster_bits, l2_bits }: QcowHeaderFields): number {
  return Math.ceil(size / 2 ** (cluster_bits + l2_bits));
}

function invalid(text: string): BlockError {
  return new BlockError('EINVAL', text);
}

/** Parses and checks the first 48 bytes. Throws BlockError with QEMU's texts. */
export function parseHeader(bytes: Uint8Array): QcowHeaderFields {
  if (bytes.length < HEADER_BYTES || head32(bytes, 0) !== MAGIC) {
    throw invalid('Image not in qcow format');
  }
  const fields = decodeFields(HEADER_FIELDS, bytes, 0, 'big');
  if (fields.version !== VERSION) {
    const version = String(fields.version);
    const hint = "Try the 'qcow2' driver instead.";
    throw new BlockError(
      'ENOTSUP',
      `qcow (v1) does not support qcow version ${version}`,
      fields.version === 2 || fields.version === 3 ? { hint } : {},
    );
  }
  const { size, cluster_bits: cluster, l2_bits: l2 } = fields;
  if (size <= 1) throw invalid('Image size is too small (must be at least 2 bytes)');
  if (cluster < Limit.minClusterBits || cluster > Limit.maxClusterBits) {
    throw invalid('Cluster size must be between 512 and 64k');
  }
  if (l2 < Limit.minL2Bits || l2 > Limit.maxL2Bits) {
    throw invalid('L2 table size must be between 512 and 64k');
  }
  if (fields.crypt_method > Crypt.aes) throw invalid('invalid encryption method in qcow header');
  if (size > MAX_LENGTH || l1Entries(fields) > Limit.maxL1Entries) {
    throw invalid('Image too large');
  }
  if (fields.backing_file_offset !== 0 && fields.backing_file_size > Limit.maxBackingName) {
    throw invalid('Backing file name too long');
  }
  return fields;
}

/** Virtual size in bytes: whole sectors, as in QEMU. */
export function virtualSize({ size }: QcowHeaderFields): number {
  return size - (size % SECTOR);
}
