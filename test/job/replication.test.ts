// Goal: a replicated disk is on the secondary machine what it was at the last checkpoint with what
// its own guest has written since, whatever the primary writes meanwhile; a failover leaves just
// that in one image; errors are told where they belong. Method: both ends on simulated files, a
// model of what each side must read, random writes, checkpoints and power cuts.
import { describe, expect, it } from 'vitest';
import { createImage, prepareCreate } from '../../src/block/create.js';
import type { Backend, NodeOptions } from '../../src/index.js';
import { Iov } from '../../src/index.js';
import { JobList } from '../../src/job/job-list.js';
import {
  checkpointReplication,
  checkReplication,
  startReplication,
  stopReplication,
} from '../../src/job/replication.js';
import type { Random } from '../support/index.js';
import {
  failure,
  failureCode,
  FakeFiles,
  fakeHost,
  filled,
  readBytes,
  same,
  seededRandom,
  testGraph,
} from '../support/index.js';
import { flags, guestPerms } from './support.js';

const KiB = 1024;
const BYTES = 768 * KiB;

const file = (filename: string): NodeOptions => ({ driver: 'file', filename });
const image = (name: string, backing: unknown): NodeOptions => ({
  driver: 'qcow2',
  'node-name': name,
  file: file(`/${name}`),
  backing,
});

/** Files of a secondary machine. */
async function makeFiles(random: Random): Promise<FakeFiles> {
  const files = new FakeFiles({ seed: random.uint32(), reorder: true });
  files.put('/disk', random.bytes(BYTES));
  for (const name of ['/active', '/hidden']) files.put(name, 0);
  const graph = testGraph({ host: fakeHost({ files }) });
  for (const filename of ['/active', '/hidden']) {
    await createImage(
      graph,
      await prepareCreate(graph, { filename, format: 'qcow2', size: BYTES }),
    );
  }
  return files;
}

async function secondary(files: FakeFiles, topId = 'end') {
  const host = fakeHost({ files });
  const graph = testGraph({ host, onWarning: () => undefined });
  const jobs = new JobList({ clock: host.clock });
  const options = { driver: 'raw', 'node-name': 'disk', file: file('/disk') };
  /** What the primary writes to. */
  const primary = await graph.openBackend({ options, flags }, guestPerms);
  const chain = image('active', image('hidden', 'disk'));
  const end = { driver: 'replication', 'node-name': 'end', mode: 'secondary', 'top-id': topId };
  const guest = await graph.openBackend({ options: { ...end, file: chain }, flags }, guestPerms);
  const close = async (): Promise<void> => {
    await jobs.close();
    await guest.detach();
    await primary.detach();
    await graph.close();
  };
  const until = async (reached: () => boolean): Promise<void> => {
    for (let i = 0; i < 5000 && !reached(); i++) await host.clock.advance(20);
    expect(reached()).toBe(true);
  };
  return { graph, jobs, primary, guest, close, until };
}

/** What both guests must read. */
class Model {
  readonly disk: Uint8Array;
  /** Of the secondary's guest. */
  view: Uint8Array;

  constructor(disk: Uint8Array) {
    this.disk = disk.slice();
    this.view = disk.slice();
  }

  async write(random: Random, to: Backend, content: Uint8Array): Promise<void> {
    const offset = random.int(0, BYTES - 1);
    const bytes = random.int(1, Math.min(BYTES - offset, random.pick([100, 5000, 200_000])));
    const kind = random.int(0, 9);
    const data = kind < 8 ? random.bytes(bytes) : new Uint8Array(bytes);
    if (kind < 8) await to.write(offset, Iov.of(data));
    else await to.writeZeroes(offset, bytes);
    content.set(data, offset);
  }

  checkpoint(): void {
    this.view = this.disk.slice();
  }
}

async function run(random: Random, made: Awaited<ReturnType<typeof secondary>>, model: Model) {
  for (let i = random.int(5, 25); i > 0; i--) {
    await Promise.all([
      model.write(random, made.primary, model.disk),
      model.write(random, made.guest, model.view),
    ]);
    if (random.chance(0.2)) {
      await checkpointReplication(made.graph, made.jobs);
      model.checkpoint();
    }
    if (random.chance(0.3)) same(await readBytes(made.guest, 0, BYTES), model.view, 'view');
  }
  same(await readBytes(made.guest, 0, BYTES), model.view, 'view');
  same(await readBytes(made.primary, 0, BYTES), model.disk, 'disk');
}

describe('a secondary end', () => {
  it.each([1, 2, 3])(
    'shows the last checkpoint and its own writes, then fails over (%i)',
    async () => {
      const random = seededRandom();
      const files = await makeFiles(random);
      const model = new Model(files.bytesOf('/disk'));
      const made = await secondary(files);
      const { graph, jobs, guest } = made;
      await startReplication(graph, jobs, 'secondary');
      await run(random, made, model);
      await stopReplication(graph, jobs, true);
      // The guest need not wait for what is brought down.
      await model.write(random, guest, model.view);
      same(await readBytes(guest, 0, BYTES), model.view, 'view');
      await made.until(() => guest.node.children.size === 1);
      expect(graph.tryNode('active')).toBe(undefined);
      await model.write(random, guest, model.view);
      same(await readBytes(guest, 0, BYTES), model.view, 'view');
      checkReplication(graph, jobs);
      expect(guest.node.file?.node.name).toBe('disk');
      await made.close();
      same(files.bytesOf('/disk'), model.view);
    },
  );

  it('goes back to what the primary wrote when it stops without a failover', async () => {
    const random = seededRandom();
    const files = await makeFiles(random);
    const model = new Model(files.bytesOf('/disk'));
    const made = await secondary(files);
    const { graph, jobs, guest } = made;
    await startReplication(graph, jobs, 'secondary');
    await run(random, made, model);
    await stopReplication(graph, jobs, false);
    same(await readBytes(guest, 0, BYTES), model.disk);
    expect(graph.tryNode('hidden')?.readOnly).toBe(true);
    expect([...graph.nodes.values()].every(({ opBlockers }) => opBlockers.size === 0)).toBe(true);
    // What is over does not begin again, and nothing more is wanted of it.
    await startReplication(graph, jobs, 'secondary');
    await checkpointReplication(graph, jobs);
    await stopReplication(graph, jobs, true);
    same(await readBytes(guest, 0, BYTES), model.disk);
    await made.close();
  });

  it('loses nothing that was flushed when the power fails', async () => {
    const random = seededRandom();
    for (let round = 0; round < 10; round++) {
      const files = await makeFiles(random);
      const model = new Model(files.bytesOf('/disk'));
      const made = await secondary(files);
      const { graph, jobs, guest, primary } = made;
      await startReplication(graph, jobs, 'secondary');
      await run(random, made, model);
      await primary.flush();
      await guest.flush();
      const fails = random.chance();
      if (fails) {
        await stopReplication(graph, jobs, true);
        await model.write(random, guest, model.view);
        await guest.flush();
        if (random.chance()) await made.until(() => graph.tryNode('active') === undefined);
      }
      const found = files.afterPowerCut(random);
      const after = testGraph({ host: fakeHost({ files: found }) });
      if (graph.tryNode('active') === undefined) same(found.bytesOf('/disk'), model.view);
      else {
        if (!fails) same(found.bytesOf('/disk'), model.disk, 'disk');
        // The chain opens, and shows the guest's disk once a failover has begun.
        const base = { driver: 'raw', file: file('/disk') };
        const options = image('active', image('hidden', base));
        const disk = await after.openBackend({ options });
        const view = await readBytes(disk, 0, BYTES);
        if (fails) same(view, model.view, 'view after the power cut');
        await disk.detach();
      }
      await made.close();
    }
  });

  it('keeps what is not in the secondary disk when a failover fails, and says so', async () => {
    const random = seededRandom();
    const files = await makeFiles(random);
    const model = new Model(files.bytesOf('/disk'));
    const made = await secondary(files);
    const { graph, jobs, guest } = made;
    await startReplication(graph, jobs, 'secondary');
    await run(random, made, model);
    // There is something to bring down, whatever the last step was.
    await guest.write(0, filled(512, 9));
    model.view.fill(9, 0, 512);
    files.inject({ op: 'write', path: '/disk', code: 'EIO', times: 1 });
    await stopReplication(graph, jobs, true);
    const failed = (): boolean => {
      try {
        checkReplication(graph, jobs);
        return false;
      } catch {
        return true;
      }
    };
    await made.until(failed);
    files.faults.splice(0);
    for (let i = 0; i < 20; i++) await model.write(random, guest, model.view);
    same(await readBytes(guest, 0, BYTES), model.view);
    await made.close();
  });

  it('tells what stands in its way, and then has changed nothing', async () => {
    const files = await makeFiles(seededRandom());
    const wrong = await secondary(files, 'nobody');
    const text = failure(startReplication(wrong.graph, wrong.jobs, 'secondary'));
    expect(await text).toBe('No top_bs or it is invalid');
    expect(wrong.graph.tryNode('hidden')?.readOnly).toBe(true);
    await wrong.close();
    const { graph, jobs, guest, close } = await secondary(files);
    const before = failure(checkpointReplication(graph, jobs));
    expect(await before).toBe('Block replication is not running');
    expect(await failure(stopReplication(graph, jobs, true))).toBe(
      'Block replication is not running',
    );
    expect(() => checkReplication(graph, jobs)).toThrow('Block replication is not running');
    expect(await failure(startReplication(graph, jobs, 'primary'))).toBe(
      "The parameter mode's value is invalid, needs 1, but got 0",
    );
    expect(await failureCode(readBytes(guest, 0, 512))).toBe('EIO');
    expect(await failureCode(guest.write(0, filled(512, 1)))).toBe('EIO');
    await startReplication(graph, jobs, 'secondary');
    const again = failure(startReplication(graph, jobs, 'secondary'));
    expect(await again).toBe('Block replication is running or done');
    expect(jobs.all).toEqual([]);
    await close();
  });

  it.each([
    [image('active', null), "Active disk doesn't have backing file"],
    [image('active', image('hidden', null)), "Hidden disk doesn't have backing file"],
    [
      image('active', image('hidden', { driver: 'memory', size: BYTES })),
      "The secondary disk doesn't have block backend",
    ],
  ])('needs its three disks (%#)', async (chain, text) => {
    const files = await makeFiles(seededRandom());
    const graph = testGraph({ host: fakeHost({ files }) });
    const end = { driver: 'replication', mode: 'secondary', 'top-id': 'end', 'node-name': 'end' };
    await graph.open({ options: { ...end, file: chain }, flags });
    const jobs = new JobList({ clock: graph.host.clock });
    expect(await failure(startReplication(graph, jobs, 'secondary'))).toBe(text);
  });
});

describe('a primary end', () => {
  it('passes requests while it runs, and keeps failures to itself', async () => {
    const files = new FakeFiles();
    files.put('/remote', BYTES);
    const graph = testGraph({ host: fakeHost({ files }) });
    const jobs = new JobList({ clock: graph.host.clock });
    const options = { driver: 'replication', mode: 'primary', file: file('/remote') };
    const disk = await graph.openBackend({ options, flags });
    expect(await failureCode(disk.write(0, filled(512, 1)))).toBe('EIO');
    await startReplication(graph, jobs, 'primary');
    await disk.write(0, filled(512, 2));
    same(files.bytesOf('/remote').subarray(0, 512), new Uint8Array(512).fill(2));
    checkReplication(graph, jobs);
    files.inject({ op: 'write', path: '/remote', code: 'EPIPE' });
    await disk.write(0, filled(512, 3));
    expect(() => checkReplication(graph, jobs)).toThrow('I/O error occurred');
    await checkpointReplication(graph, jobs);
    await stopReplication(graph, jobs, false);
    expect(await failureCode(disk.read(0, Iov.alloc(512)))).toBe('EIO');
    checkReplication(graph, jobs);
    await disk.detach();
  });

  it.each([
    [{}, 'Missing the option mode'],
    [{ mode: 'both' }, "The option mode's value should be primary or secondary"],
    [{ mode: 'secondary' }, 'Missing the option top-id'],
    [{ mode: 'primary', 'top-id': 'x' }, 'The primary side does not support option top-id'],
  ])('and a secondary one need their options: %j', async (own, text) => {
    const graph = testGraph();
    const below = { driver: 'null-co', size: 512 };
    const options = { driver: 'replication', file: below, ...own };
    expect(await failure(graph.open({ options, flags }))).toBe(text);
  });
});
