/** AES-XTS of the addon as the crypto port's bulk cipher. */
import type { BulkCipher } from '../crypto.js';
import { tryNativeEngine } from './files.js';
import { Op } from './native-engine.js';
import type { NativeEngine, Target } from './native-engine.js';

/** More goes to a thread of the pool: at several GB/s less is done before one wakes up. */
const INLINE_BYTES = 64 * 1024;

/** Stands for the file that a request belongs to; its fd carries the direction. */
class CipherTarget implements Target {
  readonly code = 0;
  readonly cached = false;
  readonly maxBatch = 0;
  queued = 0;
  batch = 0;
  inFlight = 0;
  constructor(readonly fd: number) {}
  idle(): void {
    // Nobody closes a cipher.
  }
}

const decryption = new CipherTarget(0);
const encryption = new CipherTarget(1);

function check(data: Uint8Array, sectorBytes: number): void {
  if (sectorBytes <= 0 || sectorBytes % 16 !== 0 || data.byteLength % sectorBytes !== 0) {
    throw new RangeError('XTS: whole sectors of whole blocks only');
  }
}

/** The cipher for `key` (both halves, 32 or 64 bytes) over `engine`. */
export function bulkXts(engine: NativeEngine, key: Uint8Array): BulkCipher {
  const { binding } = engine;
  const schedule = binding.xtsKey(key, false);
  const address = binding.xtsAddress(schedule);
  const run = (
    data: Uint8Array,
    sectorBytes: number,
    firstSector: number,
    target: Target,
  ): Promise<void> | void => {
    check(data, sectorBytes);
    if (data.byteLength <= INLINE_BYTES) {
      binding.xtsCrypt(schedule, data, sectorBytes, firstSector, target === encryption);
      return;
    }
    const bytes = data.byteLength;
    return new Promise((resolve) => {
      // The closure keeps the schedule alive, the request the data.
      const settle = (): void => {
        resolve(void schedule);
      };
      engine.operate(target, Op.xts, sectorBytes, bytes, address, firstSector, data, settle);
    });
  };
  return {
    encrypt: (data, sectorBytes, first) => run(data, sectorBytes, first, encryption),
    decrypt: (data, sectorBytes, first) => run(data, sectorBytes, first, decryption),
  };
}

/** The same, or undefined where the addon is not there or the key has another length. */
export function tryNativeXts(key: Uint8Array): BulkCipher | undefined {
  if (key.byteLength !== 32 && key.byteLength !== 64) return undefined;
  const engine = tryNativeEngine();
  return engine === undefined ? undefined : bulkXts(engine, key);
}
