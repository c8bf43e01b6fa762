// Goal: while key slots are added, erased and overwritten, a power cut at any point, or a failure
// of any write or flush, leaves a volume that the passwords open which were valid before and are to
// be valid afterwards, with the same key; after a failure the amendment can be tried again.
// Method: amendments on a simulated file, at its beginning (luks) and behind it (qcow2); after each
// operation of the file the power is cut, sectors lost and torn from the seed, or the operation
// fails, alone or with all that follow; then the volume is opened.
import { describe, expect, it } from 'vitest';
import type { LuksHost, LuksStorage, LuksVolume } from '../../src/block/crypto/luks.js';
import { createLuks, luksDefaults, openLuks } from '../../src/block/crypto/luks.js';
import { nodeCrypto } from '../../src/host/node/crypto.js';
import { HostError } from '../../src/host/file.js';
import { Iov } from '../../src/index.js';
import { FakeFiles, Random, seededRandom } from '../support/index.js';

const PATH = '/volume';
const BYTES = 4 * 1024 * 1024;
/** Cuts for each operation of the file. */
const STATES = 1;

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

/** How a step changes the slots. */
interface Step {
  /** Passwords of which each opens the volume, however far the step came. */
  readonly kept: readonly string[];
  /** One of these does in any case. */
  readonly either: readonly string[];
  readonly run: (volume: LuksVolume) => Promise<void>;
}

const how = { iterTimeMs: 1, force: false };
const overwrite = { iterTimeMs: 1, force: true };
const steps: readonly Step[] = [
  { kept: ['a'], either: [], run: (v) => v.addPassword(secret('b'), how) },
  // The slot whose fields two sectors share.
  { kept: ['a', 'b'], either: [], run: (v) => v.addPassword(secret('c'), { ...how, slot: 6 }) },
  { kept: ['b', 'c'], either: [], run: (v) => v.erasePassword(secret('a')) },
  { kept: ['c'], either: [], run: (v) => v.eraseSlot(1) },
  { kept: ['c'], either: [], run: (v) => v.addPassword(secret('d'), { ...how, slot: 7 }) },
  { kept: ['d'], either: [], run: (v) => v.eraseSlot(6) },
  {
    kept: [],
    either: ['d', 'e'],
    run: (v) => v.addPassword(secret('e'), { ...overwrite, slot: 7 }),
  },
  { kept: ['e'], either: [], run: (v) => v.addPassword(secret('f'), { ...how, slot: 2 }) },
];
/** What opens the volume after all steps, and what does not. */
const valid = ['e', 'f'];
const gone = ['a', 'b', 'c', 'd'];

interface Volume {
  readonly files: FakeFiles;
  readonly machine: LuksHost;
  readonly at: number;
  readonly volume: LuksVolume;
  /** The probe as the volume's key encrypts it. */
  readonly want: Uint8Array;
}

/** A volume with the password `a`; a short key makes a short header, which is copied often. */
async function makeVolume(random: Random, at: number): Promise<Volume> {
  const files = new FakeFiles({ seed: random.uint32() });
  files.put(PATH, BYTES);
  const machine = host(random);
  const options = luksDefaults({ iterTimeMs: 1, cipher: 'aes-128', mode: 'cbc' });
  await createLuks(machine, await storage(files, at), secret('a'), options);
  return openVolume(machine, files.bytesOf(PATH), random, at);
}

async function openVolume(
  machine: LuksHost,
  bytes: Uint8Array,
  random: Random,
  at: number,
  password = 'a',
): Promise<Volume> {
  const files = new FakeFiles({ seed: random.uint32() });
  files.put(PATH, bytes);
  const volume = await openLuks(machine, await storage(files, at), secret(password));
  const want = probe.slice();
  await volume.cipher.encrypt(want, 7);
  return { files, machine, at, volume, want };
}

async function opens(from: Volume, files: FakeFiles, name: string): Promise<boolean> {
  const store = await storage(files, from.at);
  const opened = await openLuks(from.machine, store, secret(name)).catch(() => undefined);
  if (opened === undefined) return false;
  const got = probe.slice();
  await opened.cipher.encrypt(got, 7);
  expect(got).toEqual(from.want);
  return true;
}

async function judge(from: Volume, files: FakeFiles, step: Step, what: string): Promise<void> {
  for (const name of step.kept) expect(await opens(from, files, name), what).toBe(true);
  if (step.either.length === 0) return;
  const found = [];
  for (const name of step.either) if (await opens(from, files, name)) found.push(name);
  expect(found, what).not.toEqual([]);
}

async function judgeEnd(from: Volume, files: FakeFiles): Promise<void> {
  for (const name of valid) expect(await opens(from, files, name), name).toBe(true);
  for (const name of gone) expect(await opens(from, files, name), name).toBe(false);
}

const places = [
  ['luks', 0],
  ['qcow2', 3 * 65536],
] as const;

describe('power cuts while keys are amended', () => {
  it.each(places)('%s', { timeout: 120_000 }, async (_name, at) => {
    const random = seededRandom();
    const made = await makeVolume(random, at);
    const { files, volume } = made;
    const cuts: { readonly files: FakeFiles; readonly step: Step }[] = [];
    for (const step of steps) {
      const cut = (): void => {
        for (let i = 0; i < STATES; i++) cuts.push({ files: files.afterPowerCut(random), step });
      };
      files.onOp = (op) => {
        if (op !== 'read') cut();
      };
      await step.run(volume);
      cut();
    }
    files.onOp = undefined;
    expect(cuts.length).toBeGreaterThan(40);
    for (const [i, { files: after, step }] of cuts.entries()) {
      await judge(made, after, step, `cut ${i}`);
    }
    await judgeEnd(made, files);
  });
});

describe('failures while keys are amended', () => {
  /** What the file holds before each step, and how many operations the step is. */
  async function rehearse(made: Volume): Promise<{ bytes: Uint8Array; operations: number }[]> {
    const states = [];
    for (const step of steps) {
      const bytes = made.files.bytesOf(PATH);
      let operations = 0;
      made.files.onOp = (op) => {
        if (op !== 'read') operations++;
      };
      await step.run(made.volume);
      states.push({ bytes, operations });
    }
    made.files.onOp = undefined;
    return states;
  }

  /** One operation of a step fails, alone (then the step is tried again) or with all others. */
  async function failAt(from: Volume, at: number, nth: number, forGood: boolean): Promise<void> {
    const { files, volume } = from;
    const step = steps[at]!;
    const what = `step ${at}, operation ${nth}${forGood ? ' and all others' : ''}`;
    let n = 0;
    files.onOp = (op) => {
      if (op === 'read') return;
      if (n++ === nth || (forGood && n > nth)) throw new HostError(n % 2 === 0 ? 'EIO' : 'ENOSPC');
    };
    await expect(step.run(volume), what).rejects.toThrow();
    files.onOp = undefined;
    const random = new Random(nth);
    await judge(from, forGood ? files.afterPowerCut(random) : files, step, what);
    if (forGood) return;
    // An error after the slot was erased durably leaves only its old material.
    await step.run(volume).catch((e: unknown) => {
      expect(String(e)).toMatch(/already erased|No keyslots match/);
    });
    for (const name of steps[at + 1]?.kept ?? valid) {
      expect(await opens(from, files, name), `${what}, again`).toBe(true);
    }
  }

  it.each(places)('%s', { timeout: 240_000 }, async (_name, at) => {
    const random = seededRandom();
    const made = await makeVolume(random, at);
    let count = 0;
    for (const [i, { bytes, operations }] of (await rehearse(made)).entries()) {
      const password = [...steps[i]!.kept, ...steps[i]!.either][0]!;
      for (let nth = 0; nth < operations; nth++, count++) {
        const from = await openVolume(made.machine, bytes, random, at, password);
        await failAt(from, i, nth, random.chance());
      }
    }
    expect(count).toBeGreaterThan(35);
  });
});
