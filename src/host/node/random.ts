/** Random port over Web Crypto, which Node loads at the first use. */
import type { RandomSource } from '../host.js';

/** getRandomValues refuses more in one call. */
const MOST_BYTES = 65536;

export const nodeRandom: RandomSource = {
  fill(out) {
    for (let at = 0; at < out.byteLength; at += MOST_BYTES) {
      const part = new Uint8Array(Math.min(MOST_BYTES, out.byteLength - at));
      globalThis.crypto.getRandomValues(part);
      out.set(part, at);
    }
  },
};
