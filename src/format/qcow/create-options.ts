/** Creation options of the qcow format, with QEMU's names. */
import { createdOnFile } from '../../block/blockdev-types.js';
import { createEncryption, encryptionValues } from '../../block/crypto/create-encryption.js';
import type { BlockdevCreate } from '../../block/driver.js';
import { createOptions } from '../../options/create-options.js';
import { t } from '../../options/schema.js';

export const qcowCreateOptions = createOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  backing_file: { type: 'str', help: 'File name of a base image' },
  backing_fmt: { type: 'str', help: 'Format of the backing image' },
  encryption: {
    type: 'bool',
    help: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
  },
  'encrypt.format': { type: 'str', help: "Encrypt the image, format choices: 'aes'" },
  'encrypt.key-secret': {
    type: 'str',
    help: 'ID of the secret that provides the AES encryption key',
  },
});

/** What blockdev-create takes. */
export const qcowBlockdevCreate: BlockdevCreate = {
  decl: t.struct('BlockdevCreateOptionsQcow', {
    ...createdOnFile,
    'backing-file': t.optional(t.str({ doc: 'name of the backing file' })),
    encrypt: t.optional(createEncryption),
  }),
  values: encryptionValues,
};
