// Goal: whatever is done with jobs and the graph below a disk that guests write, no byte is lost.
// Method: writers that know what each block holds run all the time; jobs of all kinds are started,
// paused, slowed down, hit by faults, cancelled, completed, and images, bitmaps and exports come
// and go at random. Each finished backup, and each mirror that ends without a pivot, is compared
// with what the disk held. In the end the image is opened anew and compared.
// Rounds with new seeds follow each other for 20 s; `npm run fuzz -- jobs` goes on for 10 minutes,
// with `--seconds N` for so long. A failure names the seed of its round: `--seed N --seconds 1` is
// that one round. Its deeds are the same then; how they meet the guests' requests is the host's to
// say, so a rare failure may need some tries.
import { expect, it } from 'vitest';
import { Random, tempDir, testSeed } from '../support/index.js';
import { World } from './job-world.js';

type Deed = (world: World) => Promise<unknown>;

const policies = ['report', 'ignore', 'stop', 'enospc', 'auto'];
const errorsOf = (world: World): Record<string, unknown> => ({
  'on-source-error': world.random.pick(policies),
  'on-target-error': world.random.pick(policies.slice(0, 4)),
});

async function overlay(world: World): Promise<void> {
  const { active } = world;
  if (world.chain().length > 6) return;
  const name = await world.addImage({ below: active });
  await world.try('blockdev-snapshot', { node: active, overlay: name });
}

async function stream(world: World): Promise<void> {
  const { random } = world;
  const chain = world.chain();
  const device = random.chance(0.7) ? chain[0] : random.pick(chain);
  const under = chain.slice(chain.indexOf(device ?? '') + 1);
  const base = random.chance(0.5) && under.length > 0 ? random.pick(under) : undefined;
  const to = base === undefined ? {} : { 'base-node': base, 'backing-file': world.path(base) };
  const args = { ...world.jobOptions(), device, 'on-error': random.pick(policies), ...to };
  await world.start('block-stream', args, { kind: 'stream' });
}

async function commit(world: World): Promise<void> {
  const { random } = world;
  const chain = world.chain();
  const base = random.pick(chain);
  const above = chain.slice(0, chain.indexOf(base));
  const top = random.chance(0.4) ? chain[0] : random.pick(above.length === 0 ? chain : above);
  const isActive = top === chain[0];
  await world.start(
    'block-commit',
    {
      ...world.jobOptions(),
      device: world.disk.node.name,
      'top-node': top,
      'base-node': base,
      'on-error': random.pick(policies),
      ...(isActive ? {} : { 'backing-file': world.path(base) }),
    },
    { kind: isActive ? 'active commit' : 'commit' },
  );
}

async function mirror(world: World): Promise<void> {
  const { random } = world;
  const [source, under] = world.chain();
  const sync = under === undefined ? 'full' : random.pick(['full', 'top']);
  const format = sync === 'full' ? random.pick(['raw', 'qcow2'] as const) : 'qcow2';
  const on = sync === 'full' ? { below: undefined } : { below: under, attach: true };
  const target = await world.addImage({ ...on, format });
  const granularity = random.chance() ? {} : { granularity: random.pick([4096, 65536, 1048576]) };
  const buffer = random.chance() ? {} : { 'buf-size': random.pick([4096, 65536, 4194304]) };
  await world.start(
    'blockdev-mirror',
    {
      ...world.jobOptions(),
      device: source,
      target,
      sync,
      'copy-mode': random.pick(['background', 'write-blocking']),
      ...granularity,
      ...buffer,
      ...errorsOf(world),
    },
    { kind: 'mirror', target, source: source ?? '' },
  );
}

/** A backup of the moment, or the first of a series of incremental ones. */
async function backup(world: World): Promise<void> {
  const { random } = world;
  const node = world.active;
  const target = await world.addImage({
    below: undefined,
    format: random.pick(['raw', 'qcow2'] as const),
  });
  const options = { ...world.jobOptions(), ...errorsOf(world), device: node, target };
  const bitmap = world.fresh('b');
  const starts = world.series === undefined && random.chance(0.7);
  await world.guests.whilePaused(async (model) => {
    // A job may have pivoted meanwhile.
    if (world.active !== node) return;
    const expected = model.slice();
    if (!starts) {
      await world.start(
        'blockdev-backup',
        { ...options, sync: 'full' },
        { kind: 'backup', target, expected },
      );
      world.forgetIfMoved(options['job-id'], node);
      return;
    }
    const actions = [
      { type: 'block-dirty-bitmap-add', data: { node, name: bitmap, granularity: 65536 } },
      { type: 'blockdev-backup', data: { ...options, sync: 'full' } },
    ];
    if (!(await world.try('transaction', { actions }, 'start series'))) return;
    const series = { node, bitmap, target, hasFull: false };
    world.series = series;
    const done = (failed: boolean): void => {
      series.hasFull = !failed;
      if (failed && world.series === series) world.series = undefined;
    };
    world.jobs.set(options['job-id'], { kind: 'first backup', target, expected, done });
    world.forgetIfMoved(options['job-id'], node);
  });
}

async function incremental(world: World): Promise<void> {
  const { series } = world;
  if (series === undefined) return backup(world);
  const { node, bitmap, target } = series;
  // The one before is to be judged before its target changes.
  const isBusy = [...world.jobs.values()].some((job) => job.target === target);
  if (!series.hasFull || isBusy) return;
  const args = { device: node, target, sync: 'incremental', bitmap };
  const options = { ...world.jobOptions(), ...errorsOf(world), ...args };
  await world.guests.whilePaused(async (model) => {
    if (world.active !== node) {
      // What is written now goes by the bitmap.
      world.series = undefined;
      return;
    }
    const running = { kind: 'incremental backup', target, expected: model.slice() };
    await world.start('blockdev-backup', options, running);
    world.forgetIfMoved(options['job-id'], node);
  });
}

/** What is done to a job, by its state; the more often it stands here the more often. */
const verbs: Readonly<Record<string, readonly string[]>> = {
  running: ['job-pause', 'speed', 'speed', 'speed', 'change', 'job-cancel'],
  paused: ['job-resume', 'job-resume', 'job-resume', 'speed', 'job-cancel'],
  ready: ['job-complete', 'job-complete', 'job-pause', 'speed', 'change', 'job-cancel'],
  standby: ['job-resume', 'job-resume', 'job-complete', 'force'],
  pending: ['job-finalize', 'job-finalize', 'job-finalize', 'job-cancel'],
};
const anyVerb = [...new Set(Object.values(verbs).flat()), 'job-dismiss'];

async function steer(world: World): Promise<void> {
  const { random } = world;
  const jobs = await world.query();
  if (jobs.length === 0) return;
  const { id, status } = random.pick(jobs);
  const usual = verbs[status] ?? anyVerb;
  const verb = random.pick(random.chance(0.9) ? usual : anyVerb);
  // Most jobs are to get somewhere.
  if (verb === 'job-cancel' && random.chance(0.7)) return;
  if (verb === 'speed') {
    const speed = random.pick([0, 65536, 1048576, 67108864]);
    await world.try('block-job-set-speed', { device: id, speed });
  } else if (verb === 'change') {
    await world.try('block-job-change', { id, type: 'mirror', 'copy-mode': 'write-blocking' });
  } else if (verb === 'force') await world.try('block-job-cancel', { device: id, force: true });
  else if (verb !== 'job-dismiss' || status !== 'concluded') await world.try(verb, { id });
}

/** A mirror that is ready ends without a pivot: its target is a copy of that moment. */
async function endMirror(world: World): Promise<void> {
  const ready = (await world.query()).filter(({ status }) => status === 'ready');
  const mine = ready.find(({ id }) => world.jobs.get(id)?.kind === 'mirror');
  if (mine === undefined) return;
  const { id } = mine;
  const { target = '', source = '' } = world.jobs.get(id) ?? {};
  await world.guests.whilePaused(async (model) => {
    if (!world.chain().includes(source)) return;
    if (!(await world.try('block-job-cancel', { device: id }, 'end mirror'))) return;
    world.jobs.set(id, { kind: 'ended mirror', target, expected: model.slice() });
    for (let left = 2000; world.jobs.has(id); left--) {
      if (left === 0)
        throw new Error(`mirror does not end: ${JSON.stringify(await world.query())}`);
      for (const job of await world.query()) {
        if (job.id !== id) continue;
        if (job.status === 'pending') await world.try('job-finalize', { id });
        if (job.status === 'standby') await world.try('job-resume', { id });
        if (job.status === 'ready')
          await world.try('block-job-set-speed', { device: id, speed: 0 });
      }
      await world.reap();
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  });
}

async function exported(world: World): Promise<void> {
  const { random } = world;
  const node = { 'node-name': world.active, writable: random.chance() };
  if (!(await world.try('block-export-add', { id: 'e', type: 'nbd', ...node }))) {
    await world.try('block-export-del', { id: 'e', mode: 'hard' });
  }
}

async function reopen(world: World): Promise<void> {
  const [active, under] = world.chain();
  const options = {
    driver: world.format(active ?? ''),
    'node-name': active,
    file: world.disk.node.graph.tryNode(active ?? '')?.file?.node.name,
    backing: under ?? null,
    'l2-cache-size': world.random.pick([65536, 1048576]),
  };
  await world.try('blockdev-reopen', { options: [options] });
}

async function bitmap(world: World): Promise<void> {
  const args = { node: world.active, name: 'extra' };
  if (await world.try('block-dirty-bitmap-add', args)) return;
  await world.try('block-dirty-bitmap-remove', args);
}

/** The more often one stands here the more often it is done. */
const deeds: readonly Deed[] = [
  ...[overlay, overlay, stream, stream, commit, commit, mirror, mirror, backup],
  ...[incremental, incremental, endMirror, endMirror, exported, reopen, bitmap],
  ...Array.from({ length: 18 }, () => steer),
];

async function round(seed: number): Promise<World> {
  const random = new Random(seed);
  // By the seed alone, so that a round is the same in the suite and on demand.
  const steps = random.int(60, 300);
  const world = new World(random, tempDir());
  await world.begin();
  for (let i = 0; i < steps; i++) {
    const deed = random.pick(deeds);
    try {
      await inTime(world, async () => {
        await deed(world);
        await world.reap();
        if (random.chance(0.2)) await world.sweep();
        world.guests.throwIfFailed();
      });
    } catch (e) {
      throw new Error(`step ${String(i)}, ${deed.name}`, { cause: e });
    }
    await new Promise((resolve) => setTimeout(resolve, random.int(0, 15)));
  }
  await inTime(world, () => world.end());
  return world;
}

/** Far more than any step takes; what takes longer waits for something that never comes. */
const STUCK_MS = 90_000;

async function inTime(world: World, work: () => Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error(`stuck after\n${world.history.slice(-40).join('\n')}\n${world.picture()}`));
    }, STUCK_MS);
  });
  try {
    await Promise.race([work(), late]);
  } finally {
    clearTimeout(timer);
  }
}

/** In the suite 20 s; on demand as long as one likes. */
const seconds = Number(process.env['VDISK_FUZZ_SECONDS'] ?? 20);

it('guests lose nothing while jobs come, fail and go', { timeout: 0 }, async () => {
  const first = Number(process.env['VDISK_FUZZ_SEED'] ?? testSeed());
  const until = performance.now() + seconds * 1000;
  let seed = first;
  for (; seed === first || performance.now() < until; seed++) {
    try {
      const { counts, guests } = await round(seed);
      console.log(`seed ${String(seed)}:`, guests.writes, JSON.stringify(counts));
      expect(guests.writes).toBeGreaterThan(100);
    } catch (e) {
      const repeat = `npm run fuzz -- jobs --seed ${String(seed)} --seconds 1`;
      throw new Error(`${repeat} does the same again`, { cause: e });
    }
  }
  console.log(`seeds ${String(first)} to ${String(seed - 1)}`);
});
