/**
 * Format `qed`: QEMU's enhanced disks. Specification: QEMU 10, docs/interop/qed_spec; structures in
 * layout.ts.
 *
 * Invariants
 *  Q1  What L1 and L2 tables name lies behind the header, inside the file, at a whole number of
 *      clusters, and is named once ("Consistency checking"); `check` tells of the rest.
 *  Q2  Order of writes: block/table-tree.ts. A crash leaves at most clusters that nobody names.
 *  Q3  Without a backing file QED_F_NEED_CHECK stands in the header from the first cluster that is
 *      given a place until the image is closed or becomes read-only, or nothing was written for
 *      five seconds, as with QEMU. Who opens an image with it for writing checks and repairs it
 *      first.
 *  Q4  A writer clears autoclear features that it does not know before anything else.
 *
 * Not supported, as in QEMU: shrinking, preallocation, compression, internal snapshots, encryption.
 */
import { cowFormat } from '../../block/blockdev-types.js';
import type { Driver } from '../../block/driver.js';
import { qedBlockdevCreate, qedCreateOptions } from './create-options.js';
import { isQed } from './header.js';

export const qedDriver: Driver = {
  name: 'qed',
  kind: 'format',
  needsFile: true,
  supportsBacking: true,
  optionNames: [],
  blockdev: cowFormat,
  probe: (head) => (isQed(head) ? 100 : 0),
  open: async (context) => (await import('./open.js')).openQed(context),
  createOptions: qedCreateOptions,
  blockdevCreate: qedBlockdevCreate,
  create: async (context) => {
    await (await import('./create.js')).createQed(context);
  },
};
