/** Writing new images: a header and an empty L1 table. */
import type { CreateContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { filePreallocation } from '../../block/truncate.js';
import { Iov } from '../../lib/iov.js';
import { typedValues } from '../../options/create-options.js';
import { qedCreateOptions } from './create-options.js';
import { encodeHeader, isClusterSize, isTableSize, maxImageSize } from './header.js';
import { Default, Feature, HEADER_BYTES, Limit, MAGIC, SECTOR } from './layout.js';

/** Creates an image. Throws BlockError or OptionError. */
export async function createQed(context: CreateContext): Promise<void> {
  const o = typedValues(qedCreateOptions, context.values);
  const clusterSize = o.cluster_size;
  const tableSize = o.table_size ?? Default.tableSize;
  const size = Math.ceil((o.size ?? 0) / SECTOR) * SECTOR;
  checkSizes(clusterSize, tableSize, size);
  const name = new TextEncoder().encode(o.backing_file ?? '');
  if (name.length > Limit.maxBackingName) {
    throw new BlockError('EINVAL', 'The name of the backing file is too long');
  }
  const hasBacking = o.backing_file !== undefined;
  const features =
    (hasBacking ? Feature.backingFile : 0n) |
    (hasBacking && o.backing_fmt === 'raw' ? Feature.backingFormatNoProbe : 0n);
  const header = encodeHeader({
    magic: MAGIC,
    cluster_size: clusterSize,
    table_size: tableSize,
    header_size: 1,
    features,
    compat_features: 0n,
    autoclear_features: 0n,
    l1_table_offset: clusterSize,
    image_size: size,
    backing_filename_offset: hasBacking ? HEADER_BYTES : 0,
    backing_filename_size: name.length,
  });
  filePreallocation(context.values['preallocation']);
  const file = await context.createFile(0);
  try {
    const table = clusterSize * tableSize;
    await file.truncate(0, { exact: false });
    await file.truncate(clusterSize + table, { exact: false });
    await file.writeZeroes(clusterSize, table);
    await file.write(0, Iov.from([header, name]));
    await file.flush();
  } finally {
    await file.close();
  }
}

/** Throws EINVAL with QEMU's texts. */
function checkSizes(clusterSize: number, tableSize: number, size: number): void {
  if (!isClusterSize(clusterSize)) {
    const range = `[${String(Limit.minClusterSize)}, ${String(Limit.maxClusterSize)}]`;
    const text = `QED cluster size must be within range ${range} and power of 2`;
    throw new BlockError('EINVAL', text);
  }
  if (!isTableSize(tableSize)) {
    const range = `[1, ${String(Limit.maxTableSize)}]`;
    const text = `QED table size must be within range ${range} and power of 2`;
    throw new BlockError('EINVAL', text);
  }
  const most = maxImageSize(clusterSize, tableSize);
  if (size > most) {
    const text =
      'QED image size must be a non-zero multiple of cluster size and less than ' +
      `${String(BigInt(most))} bytes`;
    throw new BlockError('EINVAL', text);
  }
}
