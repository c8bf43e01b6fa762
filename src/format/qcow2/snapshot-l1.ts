/** L1 tables of snapshots. */
import { BlockError } from '../../block/errors.js';
import { Iov } from '../../lib/iov.js';
import { checkTable } from './header.js';
import type { Qcow2Image } from './image.js';
import { Limit } from './layout.js';
import type { Qcow2Snapshot } from './snapshot-table.js';

/** The L1 table of a snapshot. Throws EFBIG or EINVAL when it cannot be one. */
export async function readSnapshotL1(
  image: Qcow2Image,
  snapshot: Qcow2Snapshot,
): Promise<Uint8Array> {
  const { l1Offset, l1OffsetRead, l1Size } = snapshot;
  checkTable('Snapshot L1 table', image.g, {
    offset: l1Offset,
    entries: l1Size,
    entryBytes: 8,
    maxBytes: Limit.maxL1Bytes,
  });
  if (l1OffsetRead !== BigInt(l1Offset)) {
    throw new BlockError('EINVAL', 'Snapshot L1 table offset invalid');
  }
  const bytes = new Uint8Array(l1Size * 8);
  if (bytes.length > 0) await image.readMeta(l1Offset, Iov.of(bytes));
  return bytes;
}
