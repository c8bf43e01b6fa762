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
import { luksOptionsFrom } from '../../block/crypto/luks-options.js';
import type { BlockdevAmend, BlockdevCreate } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { CreateValues } from '../../options/create-options.js';
import { createOptions } from '../../options/create-options.js';
import { t } from '../../options/schema.js';

export const luksCreateOptions = createOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  'key-secret': { type: 'str', help: 'ID of the secret that holds the passphrase' },
  'cipher-alg': { type: 'str', help: 'Encryption cipher (default: aes-256)' },
  'cipher-mode': { type: 'str', help: 'Encryption cipher mode (default: xts)' },
  'ivgen-alg': { type: 'str', help: 'Generator of initialisation vectors' },
  'ivgen-hash-alg': { type: 'str', help: 'Hash of the generator (essiv)' },
  'hash-alg': { type: 'str', help: 'Hash of key derivation (default: sha256)' },
  'iter-time': { type: 'number', help: 'Milliseconds that unlocking takes (2000)' },
  'detached-header': { type: 'bool', help: 'Create a header without payload' },
});

export const luksAmendOptions = createOptions({
  state: { type: 'str', help: 'New state of the key slots (active/inactive)' },
  'new-secret': { type: 'str', help: 'ID of the secret to put in a key slot' },
  'old-secret': { type: 'str', help: 'Erase the key slots that this secret opens' },
  keyslot: { type: 'number', help: 'The key slot to change' },
  'iter-time': { type: 'number', help: 'Milliseconds that unlocking takes (2000)' },
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
      throw new BlockError('ENOTSUP', "Option 'header' of blockdev-create is not supported");
    }
    if (file !== undefined) return {};
    throw new BlockError('EINVAL', "Either the parameter 'header' or 'file' must be specified");
  },
};

/** What x-blockdev-amend takes; the image opens with the secret that it was opened with. */
export const luksBlockdevAmend: BlockdevAmend = {
  decl: t.struct('BlockdevAmendOptionsLUKS', luksAmendFields),
  values: ({ driver: _, ...options }, { 'key-secret': opened }) =>
    ({ secret: opened, ...options }) as CreateValues,
};
