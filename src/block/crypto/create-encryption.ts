/** What blockdev-create takes for encryption, in the shape of create options (qcow2, qcow). */
import { t } from '../../options/schema.js';
import { luksCreateFields } from '../blockdev-types.js';
import type { NodeOptions } from '../driver.js';

const keySecret = t.optional(t.str({ doc: 'ID of the secret that holds the passphrase' }));

export const createEncryption = t.union(
  'QCryptoBlockCreateOptions',
  'format',
  {
    qcow: t.struct('QCryptoBlockOptionsQCow', { 'key-secret': keySecret }),
    luks: t.struct('QCryptoBlockCreateOptionsLUKS', luksCreateFields),
  },
  { base: { format: t.enumOf('qcow', 'luks', { name: 'QCryptoBlockFormat' }) } },
);

/** The same as options of `-o`. */
export function encryptionValues({ encrypt }: NodeOptions): Record<string, string | number> {
  const values: Record<string, string | number> = {};
  for (const [name, value] of Object.entries((encrypt as NodeOptions | undefined) ?? {})) {
    const word = name === 'format' && value === 'qcow' ? 'aes' : value;
    values[`encrypt.${name}`] = word as string | number;
  }
  return values;
}
