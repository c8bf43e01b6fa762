/** Hot helpers: native where the addon is there and the bytes are worth the call. */
import { crc32c as crc32cScript } from '../../lib/crc32c.js';
import { isZeroBytes } from '../../lib/iov.js';
import { countPlain, equalCounts } from '../../lib/table-scan.js';
import type { Hot } from '../host.js';
import { tryNative } from './native-binding.js';

/** A call into the addon costs about as much as looking at this many bytes. */
const WORTH_BYTES = 1024;

export const nodeHot: Hot = {
  isZero(b) {
    const n = b.byteLength;
    // Most data differs from zero at one of these places.
    if (n < WORTH_BYTES || b[0] !== 0 || b[n - 1] !== 0 || b[n >> 1] !== 0) return isZeroBytes(b);
    return tryNative()?.isZero(b) ?? isZeroBytes(b);
  },
  crc32c(b, seed = 0) {
    if (b.byteLength < WORTH_BYTES) return crc32cScript(b, seed);
    return tryNative()?.crc32c(b, seed) ?? crc32cScript(b, seed);
  },
  countPlain: (...args) => (tryNative()?.countPlain ?? countPlain)(...args),
  equalCounts: (...args) => (tryNative()?.equalCounts ?? equalCounts)(...args),
  equal: (a, b) => Buffer.compare(a, b) === 0,
};
