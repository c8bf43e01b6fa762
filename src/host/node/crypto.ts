/** The crypto port over node:crypto (OpenSSL). */
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  getCiphers,
  getHashes,
  pbkdf2 as pbkdf2Callback,
} from 'node:crypto';
import type {
  BulkCipher,
  CbcIv,
  CipherMode,
  CipherName,
  HashName,
  HostCipher,
  HostCrypto,
} from '../crypto.js';
import { HostError } from '../file.js';

/** OpenSSL's name of a cipher and mode; ECB of two-key XTS takes a key of double length. */
function opensslName(name: CipherName, mode: CipherMode): string | undefined {
  const base: Partial<Record<CipherName, string>> = {
    'aes-128': 'aes-128',
    'aes-192': 'aes-192',
    'aes-256': 'aes-256',
    des: 'des',
    '3des': 'des-ede3',
    'cast5-128': 'cast5',
    sm4: 'sm4',
  };
  const found = base[name];
  if (found === undefined) return undefined;
  if (name === '3des' && mode === 'ecb') return found;
  return `${found}-${mode}`;
}

let ciphers: Set<string> | undefined;
let hashes: Set<string> | undefined;

function hashName(name: HashName): string {
  return name === 'ripemd160' ? 'rmd160' : name;
}

class NodeCipher implements HostCipher {
  readonly #name: string;
  readonly #key: Uint8Array;

  constructor(name: string, key: Uint8Array) {
    this.#name = name;
    this.#key = key;
  }

  encrypt(data: Uint8Array, iv: Uint8Array): void {
    const cipher = createCipheriv(this.#name, this.#key, iv.byteLength === 0 ? null : iv);
    cipher.setAutoPadding(false);
    data.set(cipher.update(data));
  }

  decrypt(data: Uint8Array, iv: Uint8Array): void {
    const cipher = createDecipheriv(this.#name, this.#key, iv.byteLength === 0 ? null : iv);
    cipher.setAutoPadding(false);
    data.set(cipher.update(data));
  }
}

/** What the addon has, where it is loaded. */
export interface BulkCiphers {
  readonly tryNativeXts: (key: Uint8Array) => BulkCipher | undefined;
  readonly tryNativeCbc: (key: Uint8Array, iv: CbcIv) => BulkCipher | undefined;
}

/** `bulk`: the addon's ciphers. */
export function nodeCrypto(bulk?: BulkCiphers): HostCrypto {
  return {
    hasHash: (name) => (hashes ??= new Set(getHashes())).has(hashName(name)),
    hash: (name, pieces) => {
      try {
        const h = createHash(hashName(name));
        for (const p of pieces) h.update(p);
        return new Uint8Array(h.digest());
      } catch (cause) {
        throw new HostError('ENOTSUP', `Hash algorithm '${name}' is not supported`, { cause });
      }
    },
    pbkdf2: (name, password, salt, iterations, bytes) =>
      new Promise((resolve, reject) => {
        pbkdf2Callback(password, salt, iterations, bytes, hashName(name), (error, key) => {
          if (error === null) resolve(new Uint8Array(key));
          else reject(error);
        });
      }),
    tryCipher: (name, mode, key) => {
      const full = opensslName(name, mode);
      ciphers ??= new Set(getCiphers());
      if (full === undefined || !ciphers.has(full)) return undefined;
      try {
        const cipher = new NodeCipher(full, Uint8Array.from(key));
        // The legacy ciphers are listed but may be switched off: try once.
        cipher.encrypt(new Uint8Array(16), new Uint8Array(ivBytes(name, mode)));
        return cipher;
      } catch {
        return undefined;
      }
    },
    tryBulkXts: (key) => bulk?.tryNativeXts(key),
    tryBulkCbc: (key, iv) => bulk?.tryNativeCbc(key, iv),
  };
}

function ivBytes(name: CipherName, mode: CipherMode): number {
  if (mode === 'ecb') return 0;
  return name === 'des' || name === '3des' || name === 'cast5-128' ? 8 : 16;
}
