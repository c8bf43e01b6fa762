/** Names and texts of LUKS options that luks and qcow2's `encrypt.` share, as QEMU has them. */

export const luksCreateKeys = {
  cipherAlg: { type: 'str', help: 'Name of encryption cipher algorithm' },
  cipherMode: { type: 'str', help: 'Name of encryption cipher mode' },
  ivgenAlg: { type: 'str', help: 'Name of IV generator algorithm' },
  ivgenHashAlg: { type: 'str', help: 'Name of IV generator hash algorithm' },
  hashAlg: { type: 'str', help: 'Name of encryption hash algorithm' },
  iterTime: { type: 'number', help: 'Time to spend in PBKDF in milliseconds' },
} as const;

export const luksAmendKeys = {
  state: { type: 'str', help: 'Select new state of affected keyslots (active/inactive)' },
  keyslot: { type: 'number', help: 'Select a single keyslot to modify explicitly' },
  oldSecret: { type: 'str', help: 'Select all keyslots that match this password' },
  newSecret: {
    type: 'str',
    help: 'New secret to set in the matching keyslots. Empty string to erase',
  },
} as const;
