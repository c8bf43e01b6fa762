/** Reading LUKS options (creation, amend) by QEMU's names, for luks and for qcow2's `encrypt.`. */
import type { CipherMode, CipherName, HashName } from '../../host/crypto.js';
import { BlockError } from '../errors.js';
import type { LuksCreateOptions, LuksVolume } from './luks.js';
import { cipherSizes, hashSizes } from './sector-cipher.js';
import type { IvGenerator } from './sector-cipher.js';

/** Value of an option by its name without prefix; undefined when not given. */
export type OptionValue = (name: string) => string | number | boolean | undefined;

function pick<T extends string>(
  name: string,
  value: string | number | boolean | undefined,
  allowed: readonly string[],
): T | undefined {
  if (value === undefined) return undefined;
  const word = allowed.find((each) => each === value);
  if (word === undefined) {
    const message = `Parameter '${name}' does not accept value '${String(value)}'`;
    throw new BlockError('EINVAL', message);
  }
  return word as T;
}

/** What was given; {@link luksDefaults} fills in the rest. Throws EINVAL with QEMU's text. */
export function luksOptionsFrom(value: OptionValue): Partial<LuksCreateOptions> {
  const ciphers = Object.keys(cipherSizes);
  const hashes = Object.keys(hashSizes);
  const given = {
    cipher: pick<CipherName>('cipher-alg', value('cipher-alg'), ciphers),
    mode: pick<CipherMode>('cipher-mode', value('cipher-mode'), ['ecb', 'cbc', 'xts', 'ctr']),
    ivgen: pick<IvGenerator>('ivgen-alg', value('ivgen-alg'), ['plain', 'plain64', 'essiv']),
    ivgenHash: pick<HashName>('ivgen-hash-alg', value('ivgen-hash-alg'), hashes),
    hash: pick<HashName>('hash-alg', value('hash-alg'), hashes),
    iterTimeMs: toNumber(value('iter-time')),
  };
  return Object.fromEntries(Object.entries(given).filter(([, v]) => v !== undefined));
}

function toNumber(value: string | number | boolean | undefined): number | undefined {
  return value === undefined ? undefined : Number(value);
}

/**
 * Changes key slots as QCryptoBlockAmendOptionsLUKS says: `state=active` adds `new-secret`, if
 * the option `secret` (when given) opens a slot; `state=inactive` erases `keyslot` or all that
 * `old-secret` opens. The argument `secret` looks a secret up by id. Throws EINVAL and changes
 * nothing when options contradict each other.
 */
export async function amendLuks(
  volume: LuksVolume,
  value: OptionValue,
  secret: (id: string) => Promise<Uint8Array>,
  force: boolean,
): Promise<void> {
  const state = pick('state', value('state'), ['active', 'inactive']);
  if (state === undefined) throw invalid("Parameter 'state' is missing");
  const slot = toNumber(value('keyslot'));
  if (state === 'active') {
    const id = value('new-secret');
    if (id === undefined) throw invalid("'new-secret' is required to activate a keyslot");
    if (value('old-secret') !== undefined) {
      throw invalid("'old-secret' must not be given when activating keyslots");
    }
    const iterTimeMs = toNumber(value('iter-time')) ?? 2000;
    const unlock = value('secret');
    await volume.addPassword(await secret(String(id)), {
      iterTimeMs,
      force,
      ...(slot === undefined ? {} : { slot }),
      ...(unlock === undefined ? {} : { unlock: await secret(String(unlock)) }),
    });
    return;
  }
  if (value('new-secret') !== undefined) {
    throw invalid("'new-secret' must not be given when erasing keyslots");
  }
  if (value('iter-time') !== undefined) {
    throw invalid("'iter-time' must not be given when erasing keyslots");
  }
  const old = value('old-secret');
  const password = old === undefined ? undefined : await secret(String(old));
  if (slot !== undefined) await volume.eraseSlot(slot, force, password);
  else if (password !== undefined) await volume.erasePassword(password, force);
  else {
    throw invalid(
      'To erase keyslot(s), either explicit keyslot index or the password currently contained ' +
        'in them must be given',
    );
  }
}

function invalid(message: string): BlockError {
  return new BlockError('EINVAL', message);
}
