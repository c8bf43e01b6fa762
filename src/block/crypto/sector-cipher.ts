/**
 * Encryption of sectors: a cipher, a mode and a rule for initialisation vectors
 * (IV generators `plain`, `plain64` and `essiv` of dm-crypt and LUKS1).
 */
import type {
  BulkCipher,
  CbcIv,
  CipherMode,
  CipherName,
  HashName,
  HostCipher,
  HostCrypto,
} from '../../host/crypto.js';
import { BlockError } from '../errors.js';
import { tryCipher } from './soft-cipher.js';

export type IvGenerator = 'plain' | 'plain64' | 'essiv';

/** Bytes of a key as the user counts it (one half of an XTS key) and of a cipher block. */
export const cipherSizes: Readonly<Record<CipherName, { key: number; block: number }>> = {
  'aes-128': { key: 16, block: 16 },
  'aes-192': { key: 24, block: 16 },
  'aes-256': { key: 32, block: 16 },
  des: { key: 8, block: 8 },
  '3des': { key: 24, block: 8 },
  'cast5-128': { key: 16, block: 8 },
  'serpent-128': { key: 16, block: 16 },
  'serpent-192': { key: 24, block: 16 },
  'serpent-256': { key: 32, block: 16 },
  'twofish-128': { key: 16, block: 16 },
  'twofish-192': { key: 24, block: 16 },
  'twofish-256': { key: 32, block: 16 },
  sm4: { key: 16, block: 16 },
};

/** Digest sizes in bytes. */
export const hashSizes: Readonly<Record<HashName, number>> = {
  md5: 16,
  sha1: 20,
  sha224: 28,
  sha256: 32,
  sha384: 48,
  sha512: 64,
  ripemd160: 20,
  sm3: 32,
};

export interface SectorCipherSpec {
  readonly cipher: CipherName;
  readonly mode: CipherMode;
  /** Absent where the mode takes no IV (ecb). */
  readonly ivgen: IvGenerator | undefined;
  /** Hash of the key for `essiv`. */
  readonly ivgenHash: HashName | undefined;
  /** The key; for XTS both halves. */
  readonly key: Uint8Array;
  /** Bytes of a sector: the unit of the IV. */
  readonly sectorBytes: number;
}

/** Transforms whole sectors in place; `firstSector` is the number of the first one. */
export interface SectorCipher {
  readonly sectorBytes: number;
  encrypt(data: Uint8Array, firstSector: number): Promise<void> | void;
  decrypt(data: Uint8Array, firstSector: number): Promise<void> | void;
}

/** Bytes of key material that a cipher takes in a mode: XTS needs two keys. */
export function keyBytes(cipher: CipherName, mode: CipherMode): number {
  return cipherSizes[cipher].key * (mode === 'xts' ? 2 : 1);
}

/** Builds the cipher; throws ENOTSUP, naming it, where the host lacks a part. */
export function sectorCipher(crypto: HostCrypto, spec: SectorCipherSpec): SectorCipher {
  const plain = spec.ivgen === 'plain64';
  if (spec.mode === 'xts' && plain && spec.cipher.startsWith('aes-')) {
    const bulk = crypto.tryBulkXts(spec.key);
    if (bulk !== undefined) return bulkSectors(bulk, spec.sectorBytes);
  }
  if (spec.mode === 'cbc' && spec.cipher.startsWith('aes-')) {
    const bulk = crypto.tryBulkCbc(spec.key, cbcIv(crypto, spec));
    if (bulk !== undefined) return bulkSectors(bulk, spec.sectorBytes);
  }
  const cipher = modeCipher(crypto, spec);
  const ivBytes = spec.mode === 'ecb' ? 0 : cipherSizes[spec.cipher].block;
  const fillIv = ivFiller(crypto, spec);
  const run = (data: Uint8Array, first: number, encrypt: boolean): void => {
    const iv = new Uint8Array(ivBytes);
    if (ivBytes === 0) {
      // Nothing tells one sector from another: all at once.
      if (encrypt) cipher.encrypt(data, iv);
      else cipher.decrypt(data, iv);
      return;
    }
    for (let at = 0, n = first; at < data.byteLength; at += spec.sectorBytes, n++) {
      const sector = data.subarray(at, at + spec.sectorBytes);
      fillIv(iv, n);
      if (encrypt) cipher.encrypt(sector, iv);
      else cipher.decrypt(sector, iv);
    }
  };
  return {
    sectorBytes: spec.sectorBytes,
    encrypt: (data, first) => {
      run(data, first, true);
    },
    decrypt: (data, first) => {
      run(data, first, false);
    },
  };
}

/** With a hash that gives no key of AES, ESSIV has none: then the slow way says so. */
function cbcIv(crypto: HostCrypto, spec: SectorCipherSpec): CbcIv {
  if (spec.ivgen !== 'essiv') return spec.ivgen ?? 'plain';
  const hash = spec.ivgenHash;
  return { essiv: hash === undefined ? new Uint8Array(1) : crypto.hash(hash, [spec.key]) };
}

function bulkSectors(bulk: BulkCipher, sectorBytes: number): SectorCipher {
  return {
    sectorBytes,
    encrypt: (data, first) => bulk.encrypt(data, sectorBytes, first),
    decrypt: (data, first) => bulk.decrypt(data, sectorBytes, first),
  };
}

function modeCipher(crypto: HostCrypto, spec: SectorCipherSpec): HostCipher {
  const direct = tryCipher(crypto, spec.cipher, spec.mode, spec.key);
  if (direct !== undefined) return direct;
  if (spec.mode === 'xts' && cipherSizes[spec.cipher].block === 16) {
    const half = spec.key.byteLength / 2;
    const data = tryCipher(crypto, spec.cipher, 'ecb', spec.key.subarray(0, half));
    const tweak = tryCipher(crypto, spec.cipher, 'ecb', spec.key.subarray(half));
    if (data !== undefined && tweak !== undefined) return xtsOverEcb(data, tweak);
  }
  throw new BlockError(
    'ENOTSUP',
    `Algorithm '${spec.cipher}' with ${spec.mode.toUpperCase()} mode not supported`,
  );
}

/** XTS (IEEE 1619) over a 128-bit block cipher, for sectors of whole blocks. */
export function xtsOverEcb(data: HostCipher, tweak: HostCipher): HostCipher {
  const none = new Uint8Array(0);
  const run = (sector: Uint8Array, iv: Uint8Array, encrypt: boolean): void => {
    const tweaks = tweakBlocks(tweak, iv, sector.byteLength);
    for (let i = 0; i < sector.byteLength; i++) sector[i] = (sector[i] ?? 0) ^ (tweaks[i] ?? 0);
    if (encrypt) data.encrypt(sector, none);
    else data.decrypt(sector, none);
    for (let i = 0; i < sector.byteLength; i++) sector[i] = (sector[i] ?? 0) ^ (tweaks[i] ?? 0);
  };
  return {
    encrypt: (sector, iv) => {
      run(sector, iv, true);
    },
    decrypt: (sector, iv) => {
      run(sector, iv, false);
    },
  };
}

function tweakBlocks(tweak: HostCipher, iv: Uint8Array, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  const block = iv.slice();
  tweak.encrypt(block, new Uint8Array(0));
  for (let at = 0; at < bytes; at += 16) {
    out.set(block, at);
    let carry = 0;
    for (let i = 0; i < 16; i++) {
      const v = block[i] ?? 0;
      block[i] = (v << 1) | carry;
      carry = v >>> 7;
    }
    if (carry !== 0) block[0] = (block[0] ?? 0) ^ 0x87;
  }
  return out;
}

/** Sets `iv` for a sector: its number little-endian, 32 or 64 bits, or that encrypted (essiv). */
function ivFiller(crypto: HostCrypto, spec: SectorCipherSpec): (iv: Uint8Array, n: number) => void {
  const number = (iv: Uint8Array, sector: number): void => {
    iv.fill(0);
    const view = new DataView(iv.buffer, iv.byteOffset, iv.byteLength);
    view.setUint32(0, sector >>> 0, true);
    if (spec.ivgen !== 'plain' && iv.byteLength >= 8) {
      view.setUint32(4, Math.floor(sector / 2 ** 32), true);
    }
  };
  if (spec.ivgen !== 'essiv') return number;
  const cipher = essivCipher(crypto, spec);
  const none = new Uint8Array(0);
  return (iv, sector) => {
    number(iv, sector);
    cipher.encrypt(iv, none);
  };
}

/** ESSIV: the IV is the sector number encrypted with a hash of the key. */
function essivCipher(crypto: HostCrypto, spec: SectorCipherSpec): HostCipher {
  const hash = spec.ivgenHash;
  if (hash === undefined) {
    throw new BlockError('EINVAL', 'Hash algorithm must be specified for ESSIV IV generator');
  }
  const salt = crypto.hash(hash, [spec.key]);
  const family = spec.cipher.split('-')[0] ?? '';
  const fits = (Object.keys(cipherSizes) as CipherName[]).filter(
    (name) => name.split('-')[0] === family && cipherSizes[name].key === salt.byteLength,
  );
  const name = fits[0];
  const cipher = name === undefined ? undefined : tryCipher(crypto, name, 'ecb', salt);
  if (cipher === undefined) {
    throw new BlockError(
      'ENOTSUP',
      `No ${family.toUpperCase()} cipher with key size ${String(salt.byteLength)} available`,
    );
  }
  return cipher;
}
