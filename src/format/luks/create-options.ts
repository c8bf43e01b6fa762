/** Creation and amend options of the luks format, and their meaning for block/crypto. */
import {
  blockdevRef,
  createdOnFile,
  luksAmendFields,
  luksCreateFields,
  preallocMode,
} from '../../block/blockdev-types.js';
import type { LuksCreateOptions } from '../../block/crypto/luks.js';
import { luksDefaults } from '../../block/crypto/luks.js';
import { luksAmendKeys, luksCreateKeys } from '../../block/crypto/luks-keys.js';
import { luksOptionsFrom } from '../../block/crypto/luks-options.js';
import type { BlockdevAmend, BlockdevCreate, NodeOptions } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { CreateValues } from '../../options/create-options.js';
import { createOptions } from '../../options/create-options.js';
import { t } from '../../options/schema.js';

export const luksCreateOptions = createOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  'key-secret': {
    type: 'str',
    help: 'ID of the secret that provides the keyslot passphrase',
  },
  'cipher-alg': luksCreateKeys.cipherAlg,
  'cipher-mode': luksCreateKeys.cipherMode,
  'ivgen-alg': luksCreateKeys.ivgenAlg,
  'ivgen-hash-alg': luksCreateKeys.ivgenHashAlg,
  'hash-alg': luksCreateKeys.hashAlg,
  'iter-time': luksCreateKeys.iterTime,
  'detached-header': { type: 'bool', help: 'Create a detached LUKS header' },
});

export const luksAmendOptions = createOptions({
  state: luksAmendKeys.state,
  'new-secret': luksAmendKeys.newSecret,
  'old-secret': luksAmendKeys.oldSecret,
  keyslot: luksAmendKeys.keyslot,
  'iter-time': luksCreateKeys.iterTime,
});

/** The volume that the user asked for; throws EINVAL for unknown algorithms. */
export function volumeOptions(values: CreateValues): LuksCreateOptions {
  return luksDefaults(luksOptionsFrom((name) => values[name]));
}

/** What blockdev-create takes. */
export const luksBlockdevCreate: BlockdevCreate = {
  decl: t.struct('BlockdevCreateOptionsLUKS', {
    ...createdOnFile,
    file: t.optional(createdOnFile.file),
    header: t.optional(blockdevRef),
    ...luksCreateFields,
    preallocation: t.optional(preallocMode),
  }),
  tooLarge: () => 'The requested file size is too large',
  values: ({ file, header }) => {
    if (header !== undefined) {
      return { 'detached-header': true, header: true, payload: file !== undefined };
    }
    if (file !== undefined) return {};
    throw new BlockError('EINVAL', "Either the parameter 'header' or 'file' must be specified");
  },
  others: ({ header }) => (header === undefined ? [] : [header as string | NodeOptions]),
};

/** What x-blockdev-amend takes; the image opens with the secret that it was opened with. */
export const luksBlockdevAmend: BlockdevAmend = {
  decl: t.struct('BlockdevAmendOptionsLUKS', luksAmendFields),
  values: ({ driver: _, ...options }, { 'key-secret': opened }) =>
    ({ secret: opened, ...options }) as CreateValues,
};
