/** AES of the addon, in the modes XTS and CBC, as the crypto port's bulk ciphers. */
import type { BulkCipher, CbcIv } from '../crypto.js';
import { tryNativeEngine } from './files.js';
import { Op } from './native-engine.js';
import type { NativeEngine, Target } from './native-engine.js';
import type { NativeSectorKey } from './native-binding.js';

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

/** Bytes of the keys of AES. */
const aesKeys = [16, 24, 32];

const decryption = new CipherTarget(0);
const encryption = new CipherTarget(1);

function check(data: Uint8Array, sectorBytes: number): void {
  if (sectorBytes <= 0 || sectorBytes % 16 !== 0 || data.byteLength % sectorBytes !== 0) {
    throw new RangeError('AES: whole sectors of whole blocks only');
  }
}

/** The cipher of a key schedule over `engine`. */
function bulkCipher(engine: NativeEngine, schedule: NativeSectorKey): BulkCipher {
  const { binding } = engine;
  const address = binding.keyAddress(schedule);
  const run = (
    data: Uint8Array,
    sectorBytes: number,
    firstSector: number,
    target: Target,
  ): Promise<void> | void => {
    check(data, sectorBytes);
    if (data.byteLength <= INLINE_BYTES) {
      binding.sectorCrypt(schedule, data, sectorBytes, firstSector, target === encryption);
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

/** AES-XTS; undefined where the addon is not there or `key`, both halves, has another length. */
export function tryNativeXts(key: Uint8Array): BulkCipher | undefined {
  if (key.byteLength !== 32 && key.byteLength !== 64) return undefined;
  const engine = tryNativeEngine();
  if (engine === undefined) return undefined;
  return bulkCipher(engine, engine.binding.xtsKey(key, false));
}

/** AES-CBC with the IV rule `iv`, or undefined where the addon is not there or a key is odd. */
export function tryNativeCbc(key: Uint8Array, iv: CbcIv): BulkCipher | undefined {
  const ivKey = typeof iv === 'string' ? new Uint8Array(0) : iv.essiv;
  if (!aesKeys.includes(key.byteLength) || ![0, ...aesKeys].includes(ivKey.byteLength)) {
    return undefined;
  }
  const engine = tryNativeEngine();
  if (engine === undefined) return undefined;
  return bulkCipher(engine, engine.binding.cbcKey(key, iv !== 'plain', ivKey, false));
}
