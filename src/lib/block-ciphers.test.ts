// Goal: Serpent, Twofish and CAST5 are what their specifications say. Method: published vectors:
// NESSIE's for Serpent, the tables of the Twofish paper, appendix B of RFC 2144.
import { describe, expect, it } from 'vitest';
import type { BlockCipher } from './block-cipher.js';
import { Cast5 } from './cast5.js';
import { Serpent } from './serpent.js';
import { Twofish } from './twofish.js';

const bytes = (hex: string): Uint8Array =>
  Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const hex = (data: Uint8Array): string =>
  Array.from(data, (b) => b.toString(16).padStart(2, '0')).join('');

function bothWays(cipher: BlockCipher, plain: string, secret: string): void {
  const data = new Uint8Array(cipher.blockBytes + 3);
  data.set(bytes(plain), 3);
  cipher.encryptBlock(data, 3);
  expect(hex(data.subarray(3))).toBe(secret);
  cipher.decryptBlock(data, 3);
  expect(hex(data)).toBe('000000' + plain);
}

const zero = '00'.repeat(16);

describe('block ciphers', () => {
  it.each([
    ['80' + '00'.repeat(23), zero, '9e274ead9b737bb21efcfca548602689'],
    ['80' + '00'.repeat(31), zero, 'a223aa1288463c0e2be38ebd825616c0'],
  ])('Serpent, key %s', (key, plain, secret) => {
    bothWays(new Serpent(bytes(key)), plain, secret);
  });

  it.each([
    [zero, zero, '9f589f5cf6122c32b6bfec2f2ae8c35a'],
    ['0123456789abcdeffedcba98765432100011223344556677', zero, 'cfd1d2e5a9be9cdf501f13b892bd2248'],
    [
      '0123456789abcdeffedcba987654321000112233445566778899aabbccddeeff',
      zero,
      '37527be0052334b89f0cfccae87cfa20',
    ],
  ])('Twofish, key %s', (key, plain, secret) => {
    bothWays(new Twofish(bytes(key)), plain, secret);
  });

  it('Serpent: a short key is one of 256 bits, filled up with a 1 and zeroes', () => {
    const key = '00112233445566778899aabbccddeeff';
    const data = new Uint8Array(16);
    new Serpent(bytes(key + '01' + '00'.repeat(15))).encryptBlock(data, 0);
    bothWays(new Serpent(bytes(key)), zero, hex(data));
  });

  it('CAST5', () => {
    const key = '0123456712345678234567893456789a';
    bothWays(new Cast5(bytes(key)), '0123456789abcdef', '238b4fe5847e44b2');
  });
});
