/**
 * The old AES encryption of qcow and qcow2: AES-128 in CBC mode, IV `plain64` of the
 * guest sector, key = password cut or padded with zeroes to 16 bytes. It protects
 * little (see docs/security.md): read it, convert away from it.
 */
import type { HostCrypto } from '../../host/crypto.js';
import { BlockError } from '../errors.js';
import type { BlockGraph } from '../graph.js';
import type { SectorCipher } from './sector-cipher.js';
import { sectorCipher } from './sector-cipher.js';

/**
 * The cipher of an image of `format` whose password a secret holds. Throws ENOSYS where disks are
 * a guest's, as QEMU does, or what comes of the secret.
 */
export async function openLegacyAes(
  graph: BlockGraph,
  format: 'qcow' | 'qcow2',
  secret: string,
): Promise<SectorCipher> {
  if (graph.refusesLegacyAes) {
    throw new BlockError(
      'ENOSYS',
      `Use of AES-CBC encrypted ${format} images is no longer supported in system emulators`,
    );
  }
  return legacyAes(await graph.crypto(), await graph.secret(secret));
}

export function legacyAes(crypto: HostCrypto, password: Uint8Array): SectorCipher {
  const key = new Uint8Array(16);
  key.set(password.subarray(0, 16));
  return sectorCipher(crypto, {
    cipher: 'aes-128',
    mode: 'cbc',
    ivgen: 'plain64',
    ivgenHash: undefined,
    key,
    sectorBytes: 512,
  });
}
