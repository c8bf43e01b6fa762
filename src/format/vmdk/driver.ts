/**
 * Format `vmdk`: disks of VMware ("Virtual Disk Format 5.0"; header and terms: layout.ts).
 *
 * A disk is a descriptor and extents one after the other; a sparse extent may carry the
 * descriptor itself.
 *
 * Invariants
 *  M1  A grain has one place in its extent's file, at or behind `overHead`; places are given out at
 *      the end of the file only and never taken back.
 *  M2  Order of writes: data, a flush, then the grain tables that name it, the redundant ones
 *      included. So a table on disk names only what is there; a crash leaves at most space that
 *      nobody uses. Directory and tables themselves are written when the extent is created.
 *  M3  The CID changes before the first write since the disk was opened; nothing is read from a
 *      parent that has another CID than the disk remembers.
 *  M4  A new place that reads as the grain did is mapped at once, so several writers fill it. Any
 *      other is mapped when the whole grain is written; whoever else writes to it waits.
 *  M5  Grains of streams are appended in the order in which they were asked for, and only once.
 *
 * Extents are opened by the names that the descriptor gives, in its folder: paths and nothing else,
 * no protocols, no formats but those of extents (extent-path.ts).
 *
 * Not supported: raw device mappings, encrypted and custom disks, extents that are not `RW`,
 * writing seSparse, making grain tables where an extent has none, resizing, amending. Check
 * repairs nothing, as in QEMU.
 */
import { cowFormat } from '../../block/blockdev-types.js';
import type { Driver } from '../../block/driver.js';
import { vmdkBlockdevCreate, vmdkCreateOptions } from './create-options.js';
import { isDescriptor } from './descriptor.js';
import { COWD_MAGIC, SPARSE_MAGIC } from './layout.js';

function probe(head: Uint8Array): number {
  if (head.byteLength < 4) return 0;
  const magic = new DataView(head.buffer, head.byteOffset).getUint32(0, true);
  if (magic === SPARSE_MAGIC || magic === COWD_MAGIC) return 100;
  return isDescriptor(head) ? 100 : 0;
}

export const vmdkDriver: Driver = {
  name: 'vmdk',
  kind: 'format',
  needsFile: true,
  supportsBacking: true,
  blockdev: cowFormat,
  compresses: true,
  optionNames: ['extents'],
  probe,
  open: async (context) => (await import('./open.js')).openVmdk(context),
  createOptions: vmdkCreateOptions,
  blockdevCreate: vmdkBlockdevCreate,
  create: async (context) => {
    await (await import('./create.js')).createVmdk(context);
  },
};
