/** What `info` says of an image: QMP's ImageInfoSpecificQCow2 and the facts that jobs need. */
import type { ImageInfo } from '../../block/driver.js';
import type { Qcow2Image } from './image.js';
import { Autoclear, Compat, Incompat } from './layout.js';
import { snapshotInfo } from './snapshot-table.js';

export async function imageInfo(image: Qcow2Image): Promise<ImageInfo> {
  const { g, header, snapshots } = image;
  return {
    clusterSize: g.clusterSize,
    subclusterSize: g.subclusterSize,
    vmStateOffset: image.vmStateOffset,
    isDirty: image.has(Incompat.dirty),
    isEncrypted: header.fields.crypt_method !== 0,
    ...(snapshots.length > 0 ? { snapshots: snapshots.map(snapshotInfo) } : {}),
    formatSpecific: { type: 'qcow2', data: await specific(image) },
  };
}

/** In the order of the QAPI schema. */
async function specific(image: Qcow2Image): Promise<Record<string, unknown>> {
  const { header, g, version } = image;
  const { fields, extensions } = header;
  const data: Record<string, unknown> = { compat: version >= 3 ? '1.1' : '0.10' };
  if (version >= 3) {
    if (image.has(Incompat.dataFile)) {
      if (extensions.dataFile !== undefined) data['data-file'] = extensions.dataFile;
      data['data-file-raw'] = (fields.autoclear_features & Autoclear.dataFileRaw) !== 0n;
    }
    data['extended-l2'] = image.has(Incompat.extendedL2);
    data['lazy-refcounts'] = (fields.compatible_features & Compat.lazyRefcounts) !== 0n;
    data['corrupt'] = image.has(Incompat.corrupt);
  }
  if (image.header.extensions.bitmaps !== undefined) {
    const { bitmapInfo } = await import('./bitmaps.js');
    data['bitmaps'] = await bitmapInfo(image);
  }
  data['refcount-bits'] = g.refcountBits;
  if (fields.crypt_method === 1) data['encrypt'] = { format: 'aes' };
  if (image.luks !== undefined) {
    const { LuksVolume } = await import('../../block/crypto/luks.js');
    data['encrypt'] = { format: 'luks', ...LuksVolume.describe(image.luks.header) };
  }
  data['compression-type'] = fields.compression_type === 1 ? 'zstd' : 'zlib';
  return data;
}
