/**
 * Format `qcow`: QEMU's first copy-on-write format, version 1; structures in layout.ts.
 *
 * Invariants
 *  G1  Tables name whole clusters inside the file; compressed ones begin at any byte.
 *  G2  Order of writes: block/table-tree.ts. A crash leaves at most space that nobody names.
 *  G3  With encryption (AES of old, which protects little) a cluster is always written whole.
 *      Compressed clusters are not encrypted, as in QEMU.
 *
 * Not supported, as in QEMU: resizing, checking, naming another backing file, freeing clusters.
 */
import { blockdevRefOrNull, onFile } from '../../block/blockdev-types.js';
import type { Driver } from '../../block/driver.js';
import { t } from '../../options/schema.js';
import { qcowBlockdevCreate, qcowCreateOptions } from './create-options.js';
import { isQcow } from './header.js';

const keySecret = t.optional(t.str({ doc: 'ID of the secret that unlocks the image' }));

export const qcowDriver: Driver = {
  name: 'qcow',
  kind: 'format',
  needsFile: true,
  supportsBacking: true,
  compresses: true,
  optionNames: ['encrypt'],
  blockdev: t.struct('BlockdevOptionsQcow', {
    ...onFile,
    backing: t.optional(blockdevRefOrNull),
    encrypt: t.optional(
      t.union('BlockdevQcowEncryption', 'format', {
        aes: t.struct('QCryptoBlockOptionsQCow', { 'key-secret': keySecret }),
      }),
    ),
  }),
  probe: (head) => (isQcow(head) ? 100 : 0),
  open: async (context) => (await import('./open.js')).openQcow(context),
  createOptions: qcowCreateOptions,
  blockdevCreate: qcowBlockdevCreate,
  create: async (context) => {
    await (await import('./create.js')).createQcow(context);
  },
};
