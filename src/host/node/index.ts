/** The host that Node runs on, as one record of ports. */
import type { Host } from '../host.js';
import { nodeClock } from './clock.js';
import { nodeCompression } from './compression.js';
import { nodeFiles } from './files.js';
import { nodeHot } from './hot.js';
import { nodeRandom } from './random.js';

const host: Host = {
  files: nodeFiles,
  compression: nodeCompression,
  loadCrypto: async () => {
    const [{ nodeCrypto }, bulk] = await Promise.all([
      import('./crypto.js'),
      import('./bulk-cipher.js'),
    ]);
    return nodeCrypto(bulk);
  },
  loadSockets: async () => (await import('./sockets.js')).nodeSockets,
  clock: nodeClock,
  random: nodeRandom,
  hot: nodeHot,
};

/** The one host of this process. */
export function nodeHost(): Host {
  return host;
}
