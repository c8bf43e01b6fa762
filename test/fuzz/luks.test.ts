// Goal: no LUKS volume, however broken, crashes vdisk, keeps it busy without end, or is changed by
// a reader. Method: mutations of sound volumes, from seeds that are the same in each run.
import { createLuks, luksDefaults } from '../../src/block/crypto/luks.js';
import type { LuksCreateOptions } from '../../src/block/crypto/luks.js';
import { nodeCrypto } from '../../src/host/node/crypto.js';
import type { FakeFiles } from '../support/index.js';
import { Random } from '../support/index.js';
import type { FuzzShape } from './format-fuzz.js';
import { fuzzSecret, fuzzTests } from './format-fuzz.js';

const KiB = 1024;
/** The fields, the first slots, and all slots. */
const places = [
  [0, 208],
  [100, 112],
  [160, 304],
  [208, 592],
] as const;

function volume(options: Partial<LuksCreateOptions>): FuzzShape {
  const prepare = async (files: FakeFiles): Promise<void> => {
    const random = new Random(5);
    let now = 0;
    // Everything seems to take long, so the password gets the fewest rounds.
    const clock = { now: () => (now += 1e6), after: () => () => undefined };
    const fill = (out: Uint8Array): void => out.set(random.bytes(out.length));
    const host = { crypto: nodeCrypto(), random: { fill }, clock };
    const bytes = new Uint8Array(3 * 1024 * KiB);
    const storage = {
      read: async (at: number, out: Uint8Array) =>
        void out.set(bytes.subarray(at, at + out.length)),
      write: async (at: number, data: Uint8Array) => void bytes.set(data, at),
      flush: async () => undefined,
    };
    const made = { ...luksDefaults(options), iterTimeMs: 1 };
    const { payloadOffset } = await createLuks(host, storage, fuzzSecret, made);
    files.put('/f/disk', bytes.slice(0, payloadOffset + 512 * KiB));
  };
  return { format: 'luks', create: '', size: 0, places, prepare, open: { 'key-secret': 's' } };
}

// Each is opened with a password, which takes its time.
const few = { each: 20, tests: 2 };

const shapes = [
  volume({}),
  volume({ cipher: 'aes-128', mode: 'cbc', ivgen: 'essiv', ivgenHash: 'sha256' }),
  volume({ cipher: 'aes-192', mode: 'ctr', hash: 'sha1' }),
];

fuzzTests('luks', shapes, few);
