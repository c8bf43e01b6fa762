/** Writing new images: a header and an empty BAT. */
import type { CreateContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { filePreallocation } from '../../block/truncate.js';
import { encodeFields } from '../../lib/fields.js';
import { Iov } from '../../lib/iov.js';
import { typedValues } from '../../options/create-options.js';
import { parallelsCreateOptions } from './create-options.js';
import { HEADER_BYTES, HEADER_FIELDS, InUse, Magic, SECTOR, VERSION } from './layout.js';

/** Geometry that QEMU gives its images. */
const HEADS = 16;
const SECTORS_OF_TRACK = 32;

/** Creates an image. Throws BlockError or OptionError. */
export async function createParallels(context: CreateContext): Promise<void> {
  const o = typedValues(parallelsCreateOptions, context.values);
  const sectors = Math.ceil((o.size ?? 0) / SECTOR);
  const tracks = Math.ceil(o.cluster_size / SECTOR);
  if (tracks > 0xffff_ffff) throw new BlockError('EINVAL', 'Cluster size is too large');
  if (tracks === 0 || sectors >= 2 ** 32 * tracks) throw new BlockError('EFBIG');
  const entries = Math.ceil(sectors / tracks);
  const start = Math.ceil((HEADER_BYTES + entries * 4) / (tracks * SECTOR)) * tracks;
  const header = new Uint8Array(SECTOR);
  const fields = {
    magic: new TextEncoder().encode(Magic.ext),
    version: VERSION,
    heads: HEADS,
    cylinders: Math.min(0xffff_ffff, Math.floor(sectors / HEADS / SECTORS_OF_TRACK)),
    tracks,
    nb_bat_entries: entries,
    nb_sectors: sectors,
    in_use: InUse.none,
    data_off: start,
    flags: 0,
    ext_off: 0,
  };
  encodeFields(HEADER_FIELDS, fields, header, 0, 'little');
  filePreallocation(context.values['preallocation']);
  const file = await context.createFile(0);
  try {
    await file.truncate(0, { exact: false });
    await file.truncate(start * SECTOR, { exact: false });
    if (start > 1) await file.writeZeroes(SECTOR, (start - 1) * SECTOR);
    await file.write(0, Iov.of(header));
    await file.flush();
  } finally {
    await file.close();
  }
}
