/** The host that a web page or worker is, as one record of ports. */
import { crc32c } from '../../lib/crc32c.js';
import { isZeroBytes } from '../../lib/iov.js';
import { countPlain, equalCounts } from '../../lib/table-scan.js';
import type { Host } from '../host.js';
import { blobFiles } from './blob-files.js';
import { webCompression } from './compression.js';

/** Longest run that one call of the web's random source fills. */
const RANDOM_PIECE = 65_536;

/** A host with `files` as its file system (read-only); sockets and ciphers are not there. */
export function webHost(files: ReadonlyMap<string, Blob> = new Map()): Host {
  return {
    files: blobFiles(files),
    compression: webCompression,
    clock: {
      now: () => performance.now(),
      after: (delayMs, fn) => {
        const timer = setTimeout(fn, delayMs);
        return () => {
          clearTimeout(timer);
        };
      },
    },
    random: {
      fill: (out) => {
        for (let at = 0; at < out.byteLength; at += RANDOM_PIECE) {
          const piece = new Uint8Array(Math.min(RANDOM_PIECE, out.byteLength - at));
          crypto.getRandomValues(piece);
          out.set(piece, at);
        }
      },
    },
    hot: { isZero: isZeroBytes, crc32c, countPlain, equalCounts },
  };
}
