/** Writing new images: a header, the backing file's name and an empty L1 table. */
import type { CreateContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { filePreallocation } from '../../block/truncate.js';
import { encodeFields } from '../../lib/fields.js';
import { Iov } from '../../lib/iov.js';
import type { CreateValues } from '../../options/create-options.js';
import { typedValues } from '../../options/create-options.js';
import { qcowCreateOptions } from './create-options.js';
import {
  Crypt,
  Default,
  ENTRY_BYTES,
  HEADER_BYTES,
  HEADER_FIELDS,
  Limit,
  MAGIC,
  SECTOR,
  VERSION,
} from './layout.js';

/** Creates an image. Throws BlockError or OptionError. */
export async function createQcow(context: CreateContext): Promise<void> {
  const o = typedValues(qcowCreateOptions, context.values);
  const size = Math.ceil((o.size ?? 0) / SECTOR) * SECTOR;
  if (size === 0) throw new BlockError('EINVAL', 'Image size is too small, cannot be zero length');
  const isEncrypted = await checkEncryption(context, o);
  const name = new TextEncoder().encode(o.backing_file ?? '');
  if (name.length > Limit.maxBackingName) {
    throw new BlockError('EINVAL', 'Backing file name too long');
  }
  const hasBacking = o.backing_file !== undefined;
  const { clusterBits, l2Bits } = hasBacking ? Default.backed : Default.plain;
  const l1 = Math.ceil((HEADER_BYTES + name.length) / ENTRY_BYTES) * ENTRY_BYTES;
  const entries = Math.ceil(size / 2 ** (clusterBits + l2Bits));
  if (entries > Limit.maxL1Entries) throw new BlockError('EFBIG');
  const header = new Uint8Array(l1);
  const fields = {
    magic: MAGIC,
    version: VERSION,
    backing_file_offset: hasBacking ? HEADER_BYTES : 0,
    backing_file_size: name.length,
    mtime: 0,
    size,
    cluster_bits: clusterBits,
    l2_bits: l2Bits,
    crypt_method: isEncrypted ? Crypt.aes : Crypt.none,
    l1_table_offset: l1,
  };
  encodeFields(HEADER_FIELDS, fields, header, 0, 'big');
  header.set(name, HEADER_BYTES);
  filePreallocation(context.values['preallocation']);
  const file = await context.createFile(0);
  try {
    // Whole sectors of the table, as QEMU.
    const table = Math.ceil((entries * ENTRY_BYTES) / SECTOR) * SECTOR;
    await file.truncate(0, { exact: false });
    await file.truncate(l1 + table, { exact: false });
    await file.writeZeroes(l1, table);
    await file.write(0, Iov.of(header));
    await file.flush();
  } finally {
    await file.close();
  }
}

/** Whether the image is to be encrypted. Throws EINVAL with QEMU's texts. */
async function checkEncryption(context: CreateContext, o: CreateValues): Promise<boolean> {
  let format = o['encrypt.format'];
  if (o['encryption'] === true) {
    if (format !== undefined) {
      const text = "'encrypt.format' and its alias 'encryption' can't be used at the same time";
      throw new BlockError('EINVAL', text);
    }
    format = 'aes';
  }
  const secret = o['encrypt.key-secret'];
  if (format === undefined) {
    if (secret === undefined) return false;
    throw new BlockError('EINVAL', "Parameter 'encrypt.format' is missing");
  }
  if (format !== 'aes') throw new BlockError('EINVAL', 'Unsupported encryption format');
  if (secret === undefined) {
    throw new BlockError('EINVAL', "Parameter 'encrypt.key-secret' is required for cipher");
  }
  await context.graph.secret(String(secret));
  return true;
}
