// Goal: streams and commits lose nothing that a guest writes meanwhile, however they end, and a
// power cut in the middle leaves an image that opens and holds what was flushed. Method: rounds on
// simulated disks, each with a chain of three images, a guest that remembers what it wrote, and one
// job that is paused, slowed down, failed, cancelled or completed at random; at random operations
// of the disks the power is cut on a copy. Seeds are printed; VDISK_ROUNDS=… makes more rounds.
import { expect, it } from 'vitest';
import type { BlockGraph } from '../../src/block/graph.js';
import type { BlockNode } from '../../src/block/node.js';
import { skipFilters } from '../../src/block/status.js';
import { nodeHost } from '../../src/host/node/index.js';
import type { Backend } from '../../src/index.js';
import { createGraph, createImage, Perm, prepareCreate } from '../../src/index.js';
import { startStream } from '../../src/job/block-stream.js';
import { startActiveCommit } from '../../src/job/commit-active.js';
import { startCommit } from '../../src/job/commit-job.js';
import { JobList } from '../../src/job/job-list.js';
import type { Job } from '../../src/job/job.js';
import type { Random } from '../support/index.js';
import { FakeFiles, fakeHost, filled, readBytes, seededRandom } from '../support/index.js';

const CLUSTER = 4096;
const CLUSTERS = 96;
const SIZE = CLUSTER * CLUSTERS;
const names = ['base', 'mid', 'top'] as const;

function graphOver(files: FakeFiles): BlockGraph {
  return createGraph({ host: { ...fakeHost({ files }), clock: nodeHost().clock } });
}

/** What each cluster may hold: the value of the last flush, and all that were written since. */
class Model {
  readonly now = new Uint8Array(CLUSTERS);
  #durable: Set<number>[] = [];

  constructor(other?: Model) {
    this.#durable = Array.from(
      { length: CLUSTERS },
      (_, i) => new Set(other === undefined ? [0] : other.#durable[i]),
    );
  }

  write(at: number, value: number): void {
    this.now[at] = value;
    this.#durable[at]?.add(value);
  }

  /** Everything that `before` told was written is durable now; later writes stay open. */
  flushed(before: Uint8Array, since: readonly Set<number>[]): void {
    this.#durable.forEach((set, i) => {
      set.clear();
      set.add(before[i] ?? 0);
      for (const value of since[i] ?? []) set.add(value);
    });
  }

  allows(at: number, value: number): boolean {
    return this.#durable[at]?.has(value) === true;
  }
}

async function makeChain(graph: BlockGraph, random: Random, model: Model): Promise<void> {
  let below: string | undefined;
  for (const name of names) {
    // A short base grows; a short middle one hides what a longer base holds behind its end.
    const size = name === 'top' ? SIZE : SIZE - CLUSTER * random.int(0, 8);
    const backing = below === undefined ? {} : { backingFile: below, backingFormat: 'qcow2' };
    const request = { filename: `/${name}`, format: 'qcow2', size, optionTexts, ...backing };
    await createImage(graph, await prepareCreate(graph, request));
    const disk = await graph.openBackend({ filename: `/${name}`, flags: { writable: true } });
    if (name !== 'base') model.now.fill(0, size / CLUSTER);
    for (let i = 0; i < 30; i++) {
      const at = random.int(0, size / CLUSTER - 1);
      const value = random.int(1, 250);
      await disk.write(at * CLUSTER, filled(CLUSTER, value));
      model.write(at, value);
    }
    // Where this image ends the ones above see zeroes, whatever lies below.
    for (let at = size / CLUSTER; at < CLUSTERS; at++) model.write(at, 0);
    await disk.flush();
    await disk.detach();
    below = `/${name}`;
  }
}

const optionTexts = ['cluster_size=4k'];

/** Writes whole clusters, so that it never reads what a fault hits. */
class Guest {
  stopped = false;
  #since: Set<number>[] | undefined;

  constructor(
    readonly disk: Backend,
    readonly model: Model,
    readonly random: Random,
  ) {}

  async run(): Promise<void> {
    while (!this.stopped) {
      if (this.random.chance(0.15)) await this.#flush();
      else await this.#write();
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  async #write(): Promise<void> {
    const at = this.random.int(0, CLUSTERS - 1);
    const value = this.random.chance(0.2) ? 0 : this.random.int(1, 250);
    this.model.write(at, value);
    this.#since?.[at]?.add(value);
    if (value === 0) await this.disk.writeZeroes(at * CLUSTER, CLUSTER);
    else await this.disk.write(at * CLUSTER, filled(CLUSTER, value));
  }

  async #flush(): Promise<void> {
    const before = this.model.now.slice();
    this.#since = Array.from({ length: CLUSTERS }, () => new Set<number>());
    await this.disk.flush();
    this.model.flushed(before, this.#since);
    this.#since = undefined;
  }
}

async function checkDisk(disk: Backend, allows: (at: number, v: number) => boolean): Promise<void> {
  const bytes = await readBytes(disk, 0, SIZE);
  for (let at = 0; at < CLUSTERS; at++) {
    const cluster = bytes.subarray(at * CLUSTER, (at + 1) * CLUSTER);
    // A power cut tears a write in two: each sector is judged on its own.
    const values = [...new Set(cluster)];
    if (values.every((value) => allows(at, value))) continue;
    const odd = values.join();
    const may = Array.from({ length: 256 }, (_, v) => v).filter((v) => allows(at, v));
    const name = disk.node.filename;
    throw new Error(`cluster ${String(at)} of ${name} holds ${odd}, allowed are ${may.join()}`);
  }
}

async function checkImage(node: BlockNode): Promise<void> {
  const result = await node.instance.check?.({
    fixErrors: false,
    fixLeaks: false,
    report: () => undefined,
  });
  expect(result?.corruptions ?? 0, `corruptions of ${node.filename}`).toBe(0);
}

type Kind = 'stream' | 'stream to base' | 'commit' | 'active commit';

async function start(
  kind: Kind,
  graph: BlockGraph,
  jobs: JobList,
  nodes: Readonly<Record<(typeof names)[number], BlockNode>>,
  options: { readonly speed: number },
): Promise<Job> {
  const { base, mid, top } = nodes;
  const common = { id: 'j', onError: 'stop', autoDismiss: false, ...options } as const;
  if (kind === 'commit') return startCommit(graph, jobs, { ...common, node: top, top: mid, base });
  if (kind === 'active commit') return startActiveCommit(graph, jobs, { ...common, top, base });
  const to = kind === 'stream' ? {} : { base };
  return startStream(graph, jobs, { ...common, node: top, ...to });
}

/** Disturbs a job until it is over. */
async function steer(job: Job, random: Random, cancels: boolean): Promise<void> {
  let over = false;
  void job.concluded.then(() => {
    over = true;
  });
  for (let i = 0; !over; i++) {
    await new Promise((resolve) => setTimeout(resolve, 1));
    const unfinished = ['running', 'paused', 'ready', 'standby'].includes(job.status);
    if (!unfinished || job.hasEnded) continue;
    const dice = random.float();
    if (job.isUserPaused) job.resumeByUser();
    else if (dice < 0.3) job.pauseByUser();
    else if (dice < 0.5) job.setSpeed(random.pick([0, SIZE * 20, SIZE * 100]));
    else if (cancels && i > 3 && random.chance(0.2)) await job.cancelByUser(random.chance());
    else if (job.isReady && random.chance(0.3)) await job.complete();
  }
}

interface Cut {
  readonly files: FakeFiles;
  readonly model: Model;
}

async function judgeCut({ files, model }: Cut): Promise<void> {
  const graph = graphOver(files);
  const disk = await graph.openBackend({ filename: '/top', flags: { writable: true } });
  await checkDisk(disk, (at, value) => model.allows(at, value));
  await checkImage(disk.node);
  await disk.detach();
  await graph.close();
}

async function round(kind: Kind, random: Random): Promise<void> {
  const files = new FakeFiles({ seed: random.uint32() });
  const model = new Model();
  const graph = graphOver(files);
  await makeChain(graph, random, model);
  const since = Array.from({ length: CLUSTERS }, () => new Set<number>());
  model.flushed(model.now.slice(), since);
  const open = (name: string, backing: string | undefined): Promise<BlockNode> =>
    graph.open({
      options: {
        driver: 'qcow2',
        'node-name': name,
        file: { driver: 'file', filename: `/${name}` },
        ...(backing === undefined ? {} : { backing }),
      },
      flags: { writable: true },
    });
  const base = await open('base', undefined);
  const mid = await open('mid', 'base');
  const top = await open('top', 'mid');
  const disk = await graph.openBackend(
    { reference: 'top', flags: { writable: true } },
    { perm: Perm.consistentRead | Perm.write, shared: Perm.all },
  );
  const jobs = new JobList({ clock: graph.host.clock });
  const guest = new Guest(disk, model, random);
  const writing = guest.run();

  const cuts: Cut[] = [];
  let next = random.int(1, 60);
  files.onOp = (op): void => {
    if (op === 'read' || op === 'extent' || --next > 0 || cuts.length >= 6) return;
    if (skipFilters(disk.node) !== top) return;
    next = random.int(1, 60);
    cuts.push({ files: files.afterPowerCut(random), model: new Model(model) });
  };
  const speed = random.pick([0, SIZE * 20]);
  const job = await start(kind, graph, jobs, { base, mid, top }, { speed });
  if (random.chance(0.4)) {
    files.inject({ op: 'read', path: random.pick(['/base', '/mid']), code: 'EIO', times: 1 });
  }
  await steer(job, random, random.chance(0.4));
  files.onOp = undefined;
  files.faults.length = 0;
  guest.stopped = true;
  await writing;

  await checkDisk(disk, (at, value) => model.now[at] === value);
  const image = skipFilters(disk.node);
  const pivots = kind === 'active commit' && job.error === undefined && image === base;
  expect(image === top || pivots, `${kind}: the disk is ${image.name}`).toBe(true);
  await disk.flush();
  await jobs.close();
  await disk.detach();
  for (const node of [top, mid, base]) await graph.release(node);
  expect([...graph.nodes.keys()]).toEqual([]);
  await graph.close();

  const again = graphOver(files);
  const filename = pivots ? '/base' : '/top';
  const back = await again.openBackend({ filename, flags: { writable: true } });
  await checkDisk(back, (at, value) => model.now[at] === value);
  await checkImage(back.node);
  await back.detach();
  await again.close();
  for (const cut of cuts) await judgeCut(cut);
}

const rounds = Number(process.env['VDISK_ROUNDS'] ?? 6);

it.each(['stream', 'stream to base', 'commit', 'active commit'] as const)(
  'a guest loses nothing while there is a %s',
  { timeout: 240_000 },
  async (kind) => {
    const random = seededRandom();
    for (let i = 0; i < rounds; i++) await round(kind, random);
  },
);
