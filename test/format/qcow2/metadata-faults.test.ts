// Goal: whichever single write, flush or change of length fails, of whatever structure, the caller
// is told, and the image is clean or has leaks only, with all that was acknowledged.
// Method: one and the same work on an image of each kind, of which every operation on a file is
// known; one of them fails with EIO or ENOSPC, alone or with all that follow. Each kind of
// structure must have been met. VDISK_FAULTS=all fails each operation instead of a choice.
import { describe, expect, it } from 'vitest';
import { HostError } from '../../../src/host/file.js';
import { FakeFiles, Random, seededRandom } from '../../support/index.js';
import type { FakeOp } from '../../support/fake-files.js';
import { FaultyWork } from './faulty-work.js';
import { judge } from './power-judge.js';
import type { Structure } from './structures.js';
import { Structures } from './structures.js';
import type { Shape, TestImage } from './support.js';
import { imagePath, makeImage } from './support.js';

const KiB = 1024;
const size = 200 * KiB;
const clusterSize = 4 * KiB;
/** What the fixed fields of the header are written as. */
const SECTOR = 512;
const small = { size, clusterSize };

const shapes: readonly Shape[] = [
  { ...small, name: 'version 3 over a backing file', create: 'cluster_size=4k', backing: size },
  { ...small, name: 'version 2', create: 'cluster_size=4k,compat=0.10', version: 2 },
  {
    name: '512-byte clusters, 64-bit refcounts',
    create: 'cluster_size=512,refcount_bits=64',
    size: 100 * KiB,
    clusterSize: 512,
  },
  { ...small, name: 'lazy refcounts', create: 'cluster_size=4k,lazy_refcounts=on' },
  {
    name: 'extended L2 entries, zstd',
    create: 'cluster_size=16k,extended_l2=on,compression_type=zstd',
    size: 400 * KiB,
    clusterSize: 16 * KiB,
    backing: 300 * KiB,
  },
  {
    ...small,
    name: 'external data file',
    create: 'cluster_size=4k,data_file=/data',
    dataFile: true,
    snapshots: 'none',
  },
  {
    ...small,
    name: 'raw external data file',
    create: 'cluster_size=4k,data_file=/data,data_file_raw=on',
    dataFile: true,
    snapshots: 'none',
  },
  { ...small, name: '2-bit refcounts', create: 'cluster_size=4k,refcount_bits=2', snapshots: 2 },
  {
    ...small,
    name: 'LUKS',
    // A short key, and with it a short header: each image is copied and unlocked many times.
    create: 'cluster_size=4k,encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc',
    encrypt: 'luks',
  },
];

interface Operation {
  readonly op: FakeOp;
  readonly path: string;
  readonly offset: number;
  readonly bytes: number;
}

const changing = new Set<FakeOp>(['write', 'flush', 'truncate', 'zero', 'punch', 'allocate']);

/** Kinds of operations, for the count of what was reached: `write of L1 table`, `flush`, … */
type Kind = string;

interface Plan {
  readonly operations: readonly Operation[];
  readonly kinds: readonly Kind[];
}

/** An image of a shape, made once: LUKS takes its time. */
const made = new Map<string, TestImage>();

async function start(shape: Shape): Promise<FaultyWork> {
  let image = made.get(shape.name);
  if (image === undefined) made.set(shape.name, (image = await makeImage(shape, new Random(1))));
  const files = new FakeFiles();
  for (const path of image.files.disks.keys()) files.put(path, image.files.bytesOf(path));
  return new FaultyWork({ ...image, files }, new Random(2));
}

/** The work without faults: each operation, and which structure it meant. */
async function rehearse(shape: Shape): Promise<Plan> {
  const work = await start(shape);
  const operations: Operation[] = [];
  const states: Structures[] = [];
  work.image.files.onOp = (op, path, offset, bytes) => {
    if (!changing.has(op)) return;
    operations.push({ op, path, offset, bytes });
    // What the file holds after the operation before.
    states.push(new Structures(work.image.files.bytesOf(imagePath)));
  };
  await work.run();
  work.image.files.onOp = undefined;
  expect(work.told).toEqual([]);
  states.push(new Structures(work.image.files.bytesOf(imagePath)));
  const kinds = operations.map((o, i) => kindOf(o, states, i));
  return { operations, kinds };
}

/** New things are named by a table only later: the next state that knows the place counts. */
function kindOf(o: Operation, states: readonly Structures[], i: number): Kind {
  if (
    o.op === 'write' &&
    o.path === imagePath &&
    o.offset + o.bytes > SECTOR &&
    o.offset < SECTOR
  ) {
    return 'write of header extensions';
  }
  if (o.op === 'flush' || o.op === 'truncate') return `${o.op} of ${o.path}`;
  if (o.path !== imagePath) return `${o.op} of the data file`;
  let found: Structure | undefined;
  for (let at = i + 1; at < states.length && found === undefined; at++) {
    found = states[at]!.at(o.offset);
  }
  return `${o.op} of ${found ?? states[i]!.at(o.offset) ?? 'nothing'}`;
}

interface Fault {
  readonly nth: number;
  readonly code: 'EIO' | 'ENOSPC';
  /** Everything after it fails, too. */
  readonly forGood: boolean;
  /** qemu-img looks at what is left, too. */
  readonly withQemu: boolean;
}

/** Whether the operation that failed was the one of the plan, and whether it was told. */
async function failAt(
  shape: Shape,
  plan: Plan,
  fault: Fault,
  random: Random,
): Promise<readonly string[]> {
  const work = await start(shape);
  const { files } = work.image;
  let n = 0;
  let met: Operation | undefined;
  files.onOp = (op, path, offset, bytes) => {
    if (!changing.has(op)) return;
    const at = n++;
    if (at === fault.nth) met = { op, path, offset, bytes };
    if (at === fault.nth || (fault.forGood && at > fault.nth)) throw new HostError(fault.code);
  };
  await work.run();
  files.onOp = undefined;
  expect(met).toEqual(plan.operations[fault.nth]);
  await judge(work, random, fault.withQemu);
  return work.told;
}

/**
 * Failures that need not be told: zeroes are written in another way then, holes stay filled, and a
 * file that cannot be grown ahead or cut when it is closed has another length.
 */
const mayBeSilent = /^(?:zero|punch|allocate|truncate) /;

type Way = readonly ['EIO' | 'ENOSPC', boolean];
const fewWays: readonly (readonly Way[])[] = [
  [
    ['EIO', false],
    ['ENOSPC', true],
  ],
  [
    ['EIO', true],
    ['ENOSPC', false],
  ],
];
const allWays = fewWays.flat();

function choose(plan: Plan, random: Random): Fault[] {
  const faults: Fault[] = [];
  const isAll = process.env['VDISK_FAULTS'] === 'all';
  const byKind = new Map<Kind, number[]>();
  plan.kinds.forEach((kind, i) => byKind.set(kind, [...(byKind.get(kind) ?? []), i]));
  for (const places of byKind.values()) {
    const looked = random.int(0, 1);
    let i = 0;
    for (const [code, forGood] of isAll ? allWays : random.pick(fewWays)) {
      const chosen = isAll ? places : [random.pick(places)];
      const withQemu = i++ === looked;
      for (const nth of chosen) faults.push({ nth, code, forGood, withQemu });
    }
  }
  return faults;
}

const structures: readonly (Structure | 'the data file')[] = [
  'L1 table',
  'L2 table',
  'LUKS header',
  'LUKS key material',
  'bitmap data',
  'bitmap directory',
  'bitmap table',
  'data',
  'header',
  'header extensions',
  'refcount block',
  'refcount table',
  'snapshot L1 table',
  'snapshot table',
  'the data file',
];

/** Structures whose writes failed in any of the tests. */
const met = new Set<Kind>();

describe('a failing operation', () => {
  it.each(shapes)('$name', { timeout: 3_600_000 }, async (shape) => {
    const random = seededRandom();
    const plan = await rehearse(shape);
    const silent = new Set<string>();
    for (const fault of choose(plan, random)) {
      const kind = plan.kinds[fault.nth]!;
      const { op, offset, bytes } = plan.operations[fault.nth]!;
      const what = `${kind} at ${offset}+${bytes}, ${op} ${fault.nth}: ${JSON.stringify(fault)}`;
      const told = await failAt(shape, plan, fault, random).catch((e: unknown) => {
        throw new Error(what, { cause: e });
      });
      if (told.length === 0 && !mayBeSilent.test(kind)) silent.add(what);
      met.add(kind);
    }
    expect([...silent]).toEqual([]);
  });

  it('was met in each structure', () => {
    const written = [...met].flatMap((kind) => /^write of (.*)$/.exec(kind)?.[1] ?? []);
    expect(written.sort()).toEqual(expect.arrayContaining([...structures]));
    expect([...met]).toContain('flush of /t.qcow2');
    expect([...met]).toContain('flush of /data');
  });
});
