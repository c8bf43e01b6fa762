/**
 * qcow2, versions 2 and 3: QEMU 10, docs/interop/qcow2.
 *
 * Order of writes; docs/internals/qcow2-write-order.md tells why it is enough.
 *  W1  A refcount is durable before a table on disk names its cluster (with lazy refcounts: the
 *      dirty bit is).
 *  W2  What an entry names, data or table, is durable before the entry is written.
 *  W3  L1 table, refcount table and snapshot table are replaced whole: written to a new place,
 *      flushed, then named by one sector of the header (HW1 to HW3 in header-switch.ts).
 *  W4  A reference is given back when the table that no longer has it is durable.
 *  W5  A cluster is used again when no request is in flight that could reach it by its old mapping.
 * Operations on the whole image have their own: SN1-SN5 (snapshots.ts), AR1-AR3
 * (amend-refcount.ts), AD1-AD2 (amend-downgrade.ts), CR1-CR5 (check.ts), RB1-RB4
 * (check-rebuild.ts).
 *
 * Locks, in the order in which they are taken: 1 `image.lock` (metadata in memory changes across
 * an await), 2 the writeback's mutex (tables are written), 3 `image.headerLock`.
 *
 * What there is, and what is not: docs/formats/qcow2.md.
 */
import { reopenNames } from '../../block/node-options.js';
import type { Driver, DriverInstance, OpenContext } from '../../block/driver.js';
import { qcow2BlockdevAmend, qcow2BlockdevCreate } from './blockdev-create.js';
import { qcow2AmendOptions, qcow2CreateOptions } from './create-options.js';
import { MAGIC } from './layout.js';
import { joinSettings, qcow2Blockdev, qcow2OptionNames, qcow2Options } from './options.js';

async function open(context: OpenContext): Promise<DriverInstance> {
  const [{ openImage }, { Qcow2Instance }] = await Promise.all([
    import('./open.js'),
    import('./instance.js'),
  ]);
  return new Qcow2Instance(await openImage(context));
}

/** Full score for the magic and a version that is at least 2. */
function probe(head: Uint8Array): number {
  if (head.byteLength < 8) return 0;
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  return view.getUint32(0) === MAGIC && view.getUint32(4) >= 2 ? 100 : 0;
}

export const qcow2Driver: Driver = {
  name: 'qcow2',
  kind: 'format',
  needsFile: true,
  supportsBacking: true,
  compresses: true,
  storesBitmaps: true,
  optionNames: qcow2OptionNames,
  blockdev: qcow2Blockdev,
  reopenOptions: reopenNames(qcow2Options),
  joinOptions: joinSettings,
  probe,
  open,
  maxSize: 2 ** 62,
  createOptions: qcow2CreateOptions,
  blockdevCreate: qcow2BlockdevCreate,
  blockdevAmend: qcow2BlockdevAmend,
  amendOptions: qcow2AmendOptions,
  create: async (context) => {
    const { createQcow2 } = await import('./create.js');
    await createQcow2(context);
  },
  measure: async (values, source) => {
    const { measureQcow2 } = await import('./measure.js');
    return measureQcow2(values, source);
  },
};
