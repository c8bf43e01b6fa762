// Goal: each field of a LUKS header that is out of its range gets one clear line, at once, and
// nothing is written; the texts are QEMU's where it has one. Method: one field of a sound volume is
// changed; the same volume is given to qemu-img.
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { createLuks, luksDefaults, openLuks } from '../../../src/block/crypto/luks.js';
import { decodeLuksHeader } from '../../../src/block/crypto/luks-header.js';
import { nodeCrypto } from '../../../src/host/node/crypto.js';
import { nodeHost } from '../../../src/host/node/index.js';
import { createGraph } from '../../../src/index.js';
import { failure, requiresQemu10, run, tempDir } from '../../support/index.js';

const host = { ...nodeHost(), crypto: nodeCrypto() };
const password = new TextEncoder().encode('pw');
const SLOT = 208;

type Change = (view: DataView, bytes: Uint8Array) => void;

const u32 =
  (at: number, value: number): Change =>
  (view) => {
    view.setUint32(at, value);
  };
const text =
  (at: number, value: string): Change =>
  (_view, bytes) => {
    bytes.fill(0, at, at + 32).set(new TextEncoder().encode(value), at);
  };
const endless = 'a'.repeat(32);

/** What QEMU says as well. */
const shared: readonly (readonly [string, Change, string])[] = [
  ['version 2', (view) => void view.setUint16(6, 2), 'LUKS version 2 is not supported'],
  ['version 0', (view) => void view.setUint16(6, 0), 'LUKS version 0 is not supported'],
  ['cipher without end', text(8, endless), 'LUKS header cipher name is not NUL terminated'],
  ['mode without end', text(40, endless), 'LUKS header cipher mode is not NUL terminated'],
  ['hash without end', text(72, endless), 'LUKS header hash spec is not NUL terminated'],
  ['des', text(8, 'des'), "Algorithm 'des' with key size 32 bytes not supported"],
  ['a property', text(8, 'toString'), "Algorithm 'toString' with key size 32 bytes not supported"],
  ['unknown mode', text(40, 'gcm-plain64'), "Cipher mode 'gcm' not supported"],
  ['no IVs', text(40, 'xts'), "Unexpected cipher mode string format 'xts'"],
  ['unknown IVs', text(40, 'xts-random'), "IV generator 'random' not supported"],
  ['unknown ESSIV hash', text(40, 'cbc-essiv:foo'), "Hash algorithm 'foo' not supported"],
  ['unknown hash', text(72, 'whirlpool'), "Hash algorithm 'whirlpool' not supported"],
  ['hash: a property', text(72, 'constructor'), "Hash algorithm 'constructor' not supported"],
  ['no hash', text(72, ''), "Hash algorithm '' not supported"],
  ['no key', u32(108, 0), "Algorithm 'aes' with key size 0 bytes not supported"],
  ['payload over the header', u32(104, 0), 'LUKS payload is overlapping with the header'],
  ['payload in the header', u32(104, 7), 'LUKS payload is overlapping with the header'],
  ['payload over keys', u32(104, 1000), 'Keyslot 1 is overlapping with the encrypted payload'],
  ['no iterations', u32(164, 0), 'LUKS key iteration count is zero'],
  ['none for a slot', u32(SLOT + 4, 0), 'Keyslot 0 iteration count is zero'],
  ['a state', u32(SLOT, 1), 'Keyslot 0 state (active/disable) is corrupted'],
  ['no stripes', u32(SLOT + 44, 0), 'Keyslot 0 is corrupted (stripes 0 != 4000)'],
  ['stripes of no use', u32(SLOT + 48 + 44, 7), 'Keyslot 1 is corrupted (stripes 7 != 4000)'],
  ['keys over the header', u32(SLOT + 40, 0), 'Keyslot 0 is overlapping with the LUKS header'],
  ['keys over data', u32(SLOT + 40, 5000), 'Keyslot 0 is overlapping with the encrypted payload'],
  ['keys over keys', u32(SLOT + 88, 520), 'Keyslots 1 and 2 are overlapping in the header'],
];

/** What overflows or is left to time and memory elsewhere. */
const own: readonly (readonly [string, Change, string])[] = [
  ['a key of 4 GiB', u32(108, 0xffff_ffff), "Algorithm 'aes' with key size 2147483647 bytes"],
  ['4 G stripes', u32(SLOT + 44, 0xffff_ffff), 'Keyslot 0 is corrupted (stripes 4294967295'],
  ['keys at 2 TiB', u32(SLOT + 40, 0xffff_ffff), 'Keyslot 0 is overlapping with the encrypted'],
  ['payload at 2 TiB', u32(104, 0xffff_ffff), 'payload is overlapping with the end of the file'],
  ['payload past the end', u32(104, 0x8000), 'payload is overlapping with the end of the file'],
  ['no hash of ESSIV', text(40, 'cbc-essiv'), 'Missing IV generator hash specification'],
];

let sound = new Uint8Array();

beforeAll(async () => {
  const bytes = new Uint8Array(3 * 1024 * 1024);
  const storage = memory(bytes);
  const options = luksDefaults({ iterTimeMs: 1 });
  await createLuks(host, storage, password, options);
  sound = bytes;
});

function memory(bytes: Uint8Array) {
  return {
    read: async (at: number, out: Uint8Array) => void out.set(bytes.subarray(at, at + out.length)),
    write: async (at: number, data: Uint8Array) => void bytes.set(data, at),
    flush: async () => undefined,
  };
}

function changed(change: Change): Uint8Array {
  const bytes = sound.slice();
  change(new DataView(bytes.buffer), bytes);
  return bytes;
}

/** What `info` says, which needs no password. */
async function opening(path: string): Promise<string> {
  const graph = createGraph({ host: nodeHost() });
  try {
    const options = { driver: 'luks', file: { driver: 'file', filename: path } };
    return await failure(graph.openBackend({ options, flags: { noIo: true } }));
  } finally {
    await graph.close();
  }
}

describe('headers of LUKS that cannot be', () => {
  it.each([...shared, ...own])('%s', async (_name, change, why) => {
    const path = join(tempDir(), 'volume');
    writeFileSync(path, changed(change));
    const said = await opening(path);
    expect(said).toContain(why);
    expect(said).not.toContain('\n');
  });

  it.each<[string, Change, string]>([
    ['a slot', u32(SLOT + 4, 0xffff_ffff), 'iteration count of keyslot 0 is 4294967295, expected'],
    ['the master key', u32(164, 0x7fff_ffff), 'iteration count of the master key is 2147483647'],
  ])('hours of rounds for %s are refused at once', async (_name, change, why) => {
    expect(await failure(openLuks(host, memory(changed(change)), password))).toContain(why);
  });

  it('files that end within the header or its keys', async () => {
    const path = join(tempDir(), 'volume');
    writeFileSync(path, sound);
    truncateSync(path, 8192);
    expect(await opening(path)).toBe('LUKS payload is overlapping with the end of the file');
    truncateSync(path, 100);
    expect(await opening(path)).toMatch(/^Algorithm 'aes' with key size 0 bytes not supported$/);
    truncateSync(path, 0);
    expect(await opening(path)).toBe('Volume is not in LUKS format');
  });

  it('a header of its own may leave the payload at 0, one in front of it may not', () => {
    const bytes = changed(u32(104, 0));
    expect(decodeLuksHeader(bytes, true).payloadOffsetSectors).toBe(0);
    expect(() => decodeLuksHeader(bytes)).toThrow('LUKS payload is overlapping with the header');
  });
});

requiresQemu10('qemu-img')('texts that QEMU has', () => {
  it('are the same for LUKS', async () => {
    const cwd = tempDir();
    for (const [name, change, why] of shared) {
      writeFileSync(join(cwd, 'i'), changed(change));
      const { stderr } = await run('qemu-img', ['info', '-f', 'luks', 'i'], { cwd });
      expect(stderr, name).toContain(`qemu-img: Could not open 'i': ${why}\n`);
    }
  });
});
