/**
 * Format `luks`: a LUKS1 volume (LUKS On-Disk Format Specification 1.2.3), with the
 * header in front of the payload or in a node of its own (`header`).
 *
 * Invariants
 *  X1  Requests reach the cipher as whole 512-byte sectors (the node aligns them); the
 *      IV of a sector is its number within the payload.
 *  X2  A caller's buffer is never encrypted in place: writes go through a copy.
 *
 * Not supported: LUKS2, argon2 (refused when the header is read).
 */
import { blockdevRef, onFile } from '../../block/blockdev-types.js';
import { isLuks } from '../../block/crypto/luks-header.js';
import type { LuksVolume } from '../../block/crypto/luks.js';
import type { Driver, MeasureResult } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { t } from '../../options/schema.js';
import type { CreateValues } from '../../options/create-options.js';
import type { Backend } from '../../block/backend.js';
import {
  luksAmendOptions,
  luksBlockdevAmend,
  luksBlockdevCreate,
  luksCreateOptions,
  volumeOptions,
} from './create-options.js';

export type { LuksVolume };

export const luksDriver: Driver = {
  name: 'luks',
  kind: 'format',
  needsFile: true,
  optionNames: ['key-secret', 'header'],
  blockdev: t.struct('BlockdevOptionsLUKS', {
    ...onFile,
    'key-secret': t.optional(t.str({ doc: 'ID of the secret that unlocks the volume' })),
    header: t.optional(blockdevRef),
  }),
  probe: (head) => (isLuks(head) && head[6] === 0 && head[7] === 1 ? 100 : 0),
  open: async (context) => (await import('./open.js')).openLuksNode(context),
  createOptions: luksCreateOptions,
  blockdevCreate: luksBlockdevCreate,
  blockdevAmend: luksBlockdevAmend,
  amendOptions: luksAmendOptions,
  create: async (context) => {
    await (await import('./create.js')).createLuksImage(context);
  },
  measure: async (values, source) => measure(values, source),
};

async function measure(values: CreateValues, source: Backend | undefined): Promise<MeasureResult> {
  const { luksPayloadOffset } = await import('../../block/crypto/luks.js');
  const bytes = source?.size ?? values.size;
  if (bytes === undefined) throw new BlockError('EINVAL', 'Image creation needs a size parameter');
  if (values['key-secret'] === undefined) {
    throw new BlockError('EINVAL', "Parameter 'key-secret' is required for cipher");
  }
  const required = Math.ceil(bytes / 512) * 512 + luksPayloadOffset(volumeOptions(values));
  return { required, fullyAllocated: required };
}
