/** Properties that SCSI disks and drives share. */
import { t } from '../../../options/schema.js';

export const scsiProperties = {
  channel: t.uint({ bits: 32 }, { default: 0, doc: 'channel of the controller' }),
  'scsi-id': t.optional(t.uint({ bits: 32 }, { doc: 'target; default: the first free' })),
  lun: t.optional(t.uint({ bits: 32 }, { doc: 'number of the unit; default: the first free' })),
  serial: t.optional(t.str({ doc: 'serial number, at most 36 characters' })),
  vendor: t.optional(t.str({ doc: 'vendor, at most 8 characters; default QEMU' })),
  product: t.optional(t.str({ doc: 'product, at most 16 characters' })),
  ver: t.optional(t.str({ doc: 'revision, at most 4 characters' })),
  device_id: t.optional(t.str({ doc: 'identification; default: the serial number' })),
  wwn: t.id64({ default: 0n, doc: 'world wide name; 0: none' }),
} as const;
