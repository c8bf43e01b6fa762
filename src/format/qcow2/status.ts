/** Block status: what the L2 tables say of a run, with the place in the file where there is one. */
import type { DriverStatus } from '../../block/types.js';
import { Kind } from './entry.js';
import type { Qcow2Image } from './image.js';
import { NO_HOST } from './mapping.js';
import type { GuestOffset } from './units.js';

/** The run at `guest`, at most `bytes` long. Throws EIO on damaged tables. */
export async function blockStatus(
  image: Qcow2Image,
  guest: GuestOffset,
  bytes: number,
): Promise<DriverStatus> {
  image.checkUsable();
  if (image.writes.runs.size > 0) await image.writes.settle(guest, bytes);
  const { mapping } = image;
  const found = mapping.tryLookup(guest, bytes) ?? (await mapping.lookup(guest, bytes));
  if (found.kind === Kind.invalid) throw await image.corrupt(true, found.message);
  if (found.kind === Kind.compressed) {
    return { bytes: found.bytes, data: true, zero: false, allocated: true, compressed: true };
  }
  const status: DriverStatus = {
    bytes: found.bytes,
    data: found.kind === Kind.data,
    zero: found.kind === Kind.zero,
    allocated: found.kind !== Kind.unallocated,
  };
  if (found.host !== NO_HOST && image.crypto === undefined) {
    status.offset = found.host;
    status.file = image.dataFile.node;
    if (status.data && (await hasHoles(image))) status.recurse = true;
  }
  return status;
}

/**
 * Whether clusters are mapped that the file does not store (preallocation=metadata): then the
 * file's own holes are worth asking for. Found out once, by comparing the clusters in use with
 * the file's blocks.
 */
async function hasHoles(image: Qcow2Image): Promise<boolean> {
  // Where refcounts cannot be read, the data still can.
  image.holes ??= await detectHoles(image).catch(() => false);
  return image.holes;
}

async function detectHoles(image: Qcow2Image): Promise<boolean> {
  const { file, g, refcounts } = image;
  const stored = await file.node.instance.allocatedBytes?.();
  if (stored === undefined) return false;
  const blocks = Math.floor(stored / g.clusterSize);
  const limit = Math.max(Math.floor((blocks * 10) / 9), blocks + 2);
  const clusters = Math.ceil(file.size / g.clusterSize);
  let used = 0;
  for (let base = 0; base < clusters; base += g.refcountBlockEntries) {
    const index = refcounts.blockIndex(base);
    const block = refcounts.tryBlock(index) ?? (await refcounts.block(index));
    if (block === null) continue;
    const count = Math.min(g.refcountBlockEntries, clusters - base);
    for (let i = 0; i < count; i++) if (refcounts.codec.get(block.view, i) !== 0) used++;
    if (used >= limit) return true;
  }
  return false;
}
