/** The host that Node runs on, as one record of ports. */
import { crc32c } from '../../lib/crc32c.js';
import { isZeroBytes } from '../../lib/iov.js';
import type { Host } from '../host.js';
import { nodeClock } from './clock.js';
import { nodeCompression } from './compression.js';
import { fsFiles } from './fs-files.js';
import { nodeRandom } from './random.js';

let host: Host | undefined;

/** The one host of this process. */
export function nodeHost(): Host {
  return (host ??= {
    files: fsFiles(),
    compression: nodeCompression,
    loadCrypto: async () => (await import('./crypto.js')).nodeCrypto(),
    clock: nodeClock,
    random: nodeRandom,
    hot: { isZero: isZeroBytes, crc32c },
  });
}
