// Goal: while key slots are added and erased, a power cut at any point leaves a volume that one of
// the passwords opens which were valid before and are to be valid afterwards, with the same key.
// Method: amendments on a simulated file, at its beginning (luks) and behind it (qcow2); after each
// operation of the file the power is cut, sectors lost and torn from the seed; then it is opened.
import { describe, expect, it } from 'vitest';
import type { LuksHost, LuksStorage } from '../../src/block/crypto/luks.js';
import { createLuks, luksDefaults, openLuks } from '../../src/block/crypto/luks.js';
import { nodeCrypto } from '../../src/host/node/crypto.js';
import { Iov } from '../../src/index.js';
import type { Random } from '../support/index.js';
import { FakeFiles, failureCode, seededRandom } from '../support/index.js';

const PATH = '/volume';
const BYTES = 4 * 1024 * 1024;
/** Cuts for each operation of the file. */
const STATES = 2;

/** A clock on which everything takes long: so each password gets the fewest rounds. */
function host(random: Random): LuksHost {
  let now = 0;
  const clock = { now: () => (now += 1e6), after: () => () => undefined };
  const fill = (out: Uint8Array): void => out.set(random.bytes(out.length));
  return { crypto: nodeCrypto(), random: { fill }, clock };
}

async function storage(files: FakeFiles, at: number): Promise<LuksStorage> {
  const file = await files.open(PATH, { writable: true, direct: false, engine: 'node-fs' });
  return {
    read: async (offset, out) => void (await file.read(at + offset, Iov.of(out))),
    write: (offset, data) => file.write(at + offset, Iov.of(data)),
    flush: () => file.flush(),
  };
}

const secret = (name: string): Uint8Array => new TextEncoder().encode(name);
const probe = Uint8Array.from({ length: 512 }, (_, i) => i);

describe('power cuts while keys are amended', () => {
  it.each([
    ['luks', 0],
    ['qcow2', 3 * 65536],
  ])('%s', { timeout: 120_000 }, async (_name, at) => {
    const random = seededRandom();
    const files = new FakeFiles({ seed: random.uint32() });
    files.put(PATH, BYTES);
    const machine = host(random);
    const options = luksDefaults({ iterTimeMs: 1 });
    await createLuks(machine, await storage(files, at), secret('a'), options);
    files.put(PATH, files.bytesOf(PATH));
    const volume = await openLuks(machine, await storage(files, at), secret('a'));
    const want = probe.slice();
    await volume.cipher.encrypt(want, 7);
    /** Passwords of which each opens it, whatever happens. */
    let sure: string[] = ['a'];
    const cuts: { readonly files: FakeFiles; readonly sure: readonly string[] }[] = [];
    const cut = (): void => {
      for (let i = 0; i < STATES; i++) cuts.push({ files: files.afterPowerCut(random), sure });
    };
    files.onOp = (op) => {
      if (op !== 'read') cut();
    };
    const how = { iterTimeMs: 1, force: false };
    const steps: readonly [string[], () => Promise<void>][] = [
      [['a'], () => volume.addPassword(secret('b'), how)],
      [['a', 'b'], () => volume.addPassword(secret('c'), { ...how, slot: 6 })],
      [['b', 'c'], () => volume.erasePassword(secret('a'), false)],
      [['c'], () => volume.eraseSlot(1, false)],
      [['c'], () => volume.addPassword(secret('d'), { ...how, slot: 7 })],
      [['d'], () => volume.eraseSlot(6, false)],
    ];
    for (const [kept, step] of steps) {
      sure = kept;
      await step();
      cut();
    }
    files.onOp = undefined;
    expect(cuts.length).toBeGreaterThan(50);
    for (const { files: after, sure: names } of cuts) {
      const store = await storage(after, at);
      for (const name of names) {
        const opened = await openLuks(machine, store, secret(name));
        const got = probe.slice();
        await opened.cipher.encrypt(got, 7);
        expect(got).toEqual(want);
      }
    }
    const last = await storage(files, at);
    for (const gone of ['a', 'b', 'c']) {
      expect(await failureCode(openLuks(machine, last, secret(gone)))).toBe('EPERM');
    }
  });
});
