/**
 * Block ciphers that hosts lack (Serpent, Twofish, CAST5) in the modes ecb, cbc and ctr. XTS is
 * made from ecb in sector-cipher.ts.
 */
import type { CipherMode, CipherName, HostCipher, HostCrypto } from '../../host/crypto.js';
import type { BlockCipher } from '../../lib/block-cipher.js';
import { Cast5 } from '../../lib/cast5.js';
import { Serpent } from '../../lib/serpent.js';
import { Twofish } from '../../lib/twofish.js';

/** The host's cipher, or else one made here; undefined when there is neither. */
export function tryCipher(
  crypto: HostCrypto,
  name: CipherName,
  mode: CipherMode,
  key: Uint8Array,
): HostCipher | undefined {
  const native = crypto.tryCipher(name, mode, key);
  if (native !== undefined || mode === 'xts') return native;
  const block = blockCipher(name, key);
  return block === undefined ? undefined : inMode(block, mode);
}

function blockCipher(name: CipherName, key: Uint8Array): BlockCipher | undefined {
  switch (name.split('-')[0]) {
    case 'serpent':
      return new Serpent(key);
    case 'twofish':
      return new Twofish(key);
    case 'cast5':
      return new Cast5(key);
    default:
      return undefined;
  }
}

function inMode(cipher: BlockCipher, mode: 'ecb' | 'cbc' | 'ctr'): HostCipher {
  if (mode === 'cbc') return cbc(cipher);
  if (mode === 'ctr') return ctr(cipher);
  const n = cipher.blockBytes;
  return {
    encrypt: (data) => {
      for (let at = 0; at < data.byteLength; at += n) cipher.encryptBlock(data, at);
    },
    decrypt: (data) => {
      for (let at = 0; at < data.byteLength; at += n) cipher.decryptBlock(data, at);
    },
  };
}

function cbc(cipher: BlockCipher): HostCipher {
  const n = cipher.blockBytes;
  return {
    encrypt: (data, iv) => {
      for (let at = 0; at < data.byteLength; at += n) {
        for (let i = 0; i < n; i++) data[at + i]! ^= at === 0 ? iv[i]! : data[at - n + i]!;
        cipher.encryptBlock(data, at);
      }
    },
    decrypt: (data, iv) => {
      // From the back, so that the cipher text before each block is still there.
      for (let at = data.byteLength - n; at >= 0; at -= n) {
        cipher.decryptBlock(data, at);
        for (let i = 0; i < n; i++) data[at + i]! ^= at === 0 ? iv[i]! : data[at - n + i]!;
      }
    },
  };
}

/** The counter is the whole block, big-endian, and begins with the IV. */
function ctr(cipher: BlockCipher): HostCipher {
  const n = cipher.blockBytes;
  const run = (data: Uint8Array, iv: Uint8Array): void => {
    const counter = iv.slice();
    const pad = new Uint8Array(n);
    for (let at = 0; at < data.byteLength; at += n) {
      pad.set(counter);
      cipher.encryptBlock(pad, 0);
      for (let i = 0; i < n && at + i < data.byteLength; i++) data[at + i]! ^= pad[i]!;
      for (let i = n - 1; i >= 0; i--) {
        counter[i] = counter[i]! + 1;
        if (counter[i] !== 0) break;
      }
    }
  };
  return { encrypt: run, decrypt: run };
}
