/**
 * Anti-forensic information splitter (LUKS On-Disk Format Specification 1.2.3,
 * section 2.4): a key spread over `stripes` blocks such that losing any of them
 * loses the key.
 */
import type { HashName, HostCrypto } from '../../host/crypto.js';
import type { RandomSource } from '../../host/host.js';
import { hashSizes } from './sector-cipher.js';

function xorInto(target: Uint8Array, source: Uint8Array): void {
  for (let i = 0; i < target.byteLength; i++) target[i] = (target[i] ?? 0) ^ (source[i] ?? 0);
}

/** Hashes each digest-sized piece of `block` with its index in front, in place. */
function diffuse(crypto: HostCrypto, hash: HashName, block: Uint8Array): void {
  const size = hashSizes[hash];
  const index = new Uint8Array(4);
  const view = new DataView(index.buffer);
  for (let at = 0, i = 0; at < block.byteLength; at += size, i++) {
    view.setUint32(0, i);
    const piece = block.subarray(at, Math.min(at + size, block.byteLength));
    piece.set(crypto.hash(hash, [index, piece]).subarray(0, piece.byteLength));
  }
}

/** Splits `key` into `stripes` blocks of its own length. */
export function afSplit(
  crypto: HostCrypto,
  random: RandomSource,
  hash: HashName,
  key: Uint8Array,
  stripes: number,
): Uint8Array {
  const n = key.byteLength;
  const out = new Uint8Array(n * stripes);
  random.fill(out.subarray(0, n * (stripes - 1)));
  const block = new Uint8Array(n);
  for (let s = 0; s < stripes - 1; s++) {
    xorInto(block, out.subarray(s * n, (s + 1) * n));
    diffuse(crypto, hash, block);
  }
  const last = out.subarray((stripes - 1) * n);
  last.set(key);
  xorInto(last, block);
  return out;
}

/** The key of `n` bytes that was split into `split`. */
export function afMerge(
  crypto: HostCrypto,
  hash: HashName,
  split: Uint8Array,
  n: number,
): Uint8Array {
  const stripes = split.byteLength / n;
  const block = new Uint8Array(n);
  for (let s = 0; s < stripes - 1; s++) {
    xorInto(block, split.subarray(s * n, (s + 1) * n));
    diffuse(crypto, hash, block);
  }
  xorInto(block, split.subarray((stripes - 1) * n));
  return block;
}
