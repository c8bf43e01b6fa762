/** Port: cryptographic primitives of the host; block/crypto builds encrypted images on them. */

/** Hashes by QEMU's names (QCryptoHashAlgo). */
export type HashName =
  'md5' | 'sha1' | 'sha224' | 'sha256' | 'sha384' | 'sha512' | 'ripemd160' | 'sm3';

/** Block ciphers with key size by QEMU's names (QCryptoCipherAlgo). */
export type CipherName =
  | 'aes-128'
  | 'aes-192'
  | 'aes-256'
  | 'des'
  | '3des'
  | 'cast5-128'
  | 'serpent-128'
  | 'serpent-192'
  | 'serpent-256'
  | 'twofish-128'
  | 'twofish-192'
  | 'twofish-256'
  | 'sm4';

export type CipherMode = 'ecb' | 'cbc' | 'xts' | 'ctr';

/** A cipher with its key; calls are synchronous and keep no state between them. */
export interface HostCipher {
  /** Transforms `data` (a multiple of the block size) in place. `iv` is empty for ecb. */
  encrypt(data: Uint8Array, iv: Uint8Array): void;
  decrypt(data: Uint8Array, iv: Uint8Array): void;
}

/** IVs of CBC: the sector's number in 32 or 64 bits, the latter encrypted with a key (ESSIV). */
export type CbcIv = 'plain' | 'plain64' | { readonly essiv: Uint8Array };

/** Whole runs of sectors; each has its IV by its number. */
export interface BulkCipher {
  /** Transforms `data` in place; its first sector has number `firstSector`. */
  encrypt(data: Uint8Array, sectorBytes: number, firstSector: number): Promise<void> | void;
  decrypt(data: Uint8Array, sectorBytes: number, firstSector: number): Promise<void> | void;
}

export interface HostCrypto {
  hasHash(name: HashName): boolean;
  /** The digest of the pieces joined. Throws HostError ENOTSUP for a hash the host lacks. */
  hash(name: HashName, pieces: readonly Uint8Array[]): Uint8Array;
  /** PBKDF2 with HMAC (RFC 8018), off the event loop. */
  pbkdf2(
    name: HashName,
    password: Uint8Array,
    salt: Uint8Array,
    iterations: number,
    bytes: number,
  ): Promise<Uint8Array>;
  /** The cipher with this key, or undefined when the host has no such cipher or mode. */
  tryCipher(name: CipherName, mode: CipherMode, key: Uint8Array): HostCipher | undefined;
  /** AES in XTS mode with IVs of 64 bits, fast; `key` holds both halves. Undefined: none here. */
  tryBulkXts(key: Uint8Array): BulkCipher | undefined;
  /** A fast way for AES in CBC mode; undefined if there is none. */
  tryBulkCbc(key: Uint8Array, iv: CbcIv): BulkCipher | undefined;
}
