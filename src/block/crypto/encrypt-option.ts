/** The option `encrypt` of a node: how its image is encrypted, and the secret that unlocks it. */
import { OptionError } from '../../options/option-error.js';
import type { NodeOptions } from '../driver.js';
import { BlockError } from '../errors.js';

/** Options under `encrypt.`: BlockdevQcow2Encryption. */
export interface EncryptOptions {
  readonly format?: string;
  readonly keySecret?: string;
}

/** Throws EINVAL where the option names another format than the header; '': none. */
export function checkFormat(format: string, options: EncryptOptions): void {
  const asked = options.format;
  if (asked === undefined || asked === format) return;
  throw new BlockError(
    'EINVAL',
    format === ''
      ? `No encryption in image header, but options specified format '${asked}'`
      : `Header reported '${format}' encryption format but options specify '${asked}'`,
  );
}

/** Throws OptionError. */
export function encryptOptions(given: unknown): EncryptOptions {
  if (typeof given !== 'object' || given === null) return {};
  const out: { format?: string; keySecret?: string } = {};
  for (const [name, value] of Object.entries(given)) {
    if (name !== 'format' && name !== 'key-secret') {
      throw new OptionError(`Parameter '${name}' is unexpected`, `encrypt.${name}`);
    }
    if (typeof value !== 'string') {
      const text = `Invalid parameter type for '${name}', expected: string`;
      throw new OptionError(text, `encrypt.${name}`);
    }
    out[name === 'format' ? 'format' : 'keySecret'] = value;
  }
  return out;
}

/** The id of the secret. Throws EINVAL when none is named. */
export function secretId(options: EncryptOptions): string {
  if (options.keySecret !== undefined) return options.keySecret;
  throw new BlockError('EINVAL', "Parameter 'encrypt.key-secret' is required for cipher");
}

/** What of the option `encrypt` an image cannot be opened without: the id of its secret. */
export function strongEncryptOptions(given: unknown): NodeOptions {
  if (typeof given !== 'object' || given === null) return {};
  const id: unknown = Reflect.get(given, 'key-secret');
  return id === undefined ? {} : { 'encrypt.key-secret': id };
}
