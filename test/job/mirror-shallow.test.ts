// Goal: a shallow mirror (`top`, `none`) to a target whose backing file comes at the end leaves
// nothing of that hidden: a cluster is copied whole before it is written in part. And who has come
// to the disk meanwhile goes along. Method: simulated files, clusters larger than the bitmap's
// unit, random writes of a guest at random moments, and the target read with its backing file.
import { describe, expect, it } from 'vitest';
import { createImage, prepareCreate } from '../../src/block/create.js';
import type { BlockNode } from '../../src/block/node.js';
import { Iov } from '../../src/index.js';
import { JobList } from '../../src/job/job-list.js';
import { startMirror } from '../../src/job/mirror.js';
import {
  failure,
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
const BYTES = 1024 * KiB + 512;

async function lab(clusterSize: number) {
  const random = seededRandom();
  const files = new FakeFiles({ seed: random.uint32(), reorder: true });
  const host = fakeHost({ files });
  const graph = testGraph({ host, onWarning: () => undefined });
  const model = random.bytes(BYTES);
  files.put('/base', model);
  files.put('/top', 0);
  files.put('/target', 0);
  const over = { format: 'qcow2', size: BYTES, backingFile: '/base', backingFormat: 'raw' };
  for (const filename of ['/top', '/target']) {
    const values = filename === '/target' ? { cluster_size: clusterSize } : {};
    await createImage(graph, await prepareCreate(graph, { filename, ...over, values }));
  }
  const open = (name: string, own: Record<string, unknown> = {}): Promise<BlockNode> => {
    const file = { driver: 'file', filename: `/${name}` };
    const options = { driver: 'qcow2', 'node-name': name, file, ...own };
    return graph.open({ options, flags });
  };
  const source = await open('top');
  const target = await open('target', { backing: null });
  const disk = await graph.openBackend({ reference: 'top', flags }, guestPerms);
  const jobs = new JobList({ clock: host.clock });
  const write = async (): Promise<void> => {
    const offset = random.int(0, BYTES - 1);
    const data = random.bytes(random.int(1, Math.min(BYTES - offset, random.pick([600, 70_000]))));
    await disk.write(offset, Iov.of(data));
    model.set(data, offset);
  };
  const until = async (reached: () => boolean): Promise<void> => {
    for (let i = 0; i < 5000 && !reached(); i++) await host.clock.advance(20);
    expect(reached()).toBe(true);
  };
  return { graph, random, model, source, target, disk, jobs, write, until };
}

describe('a target that gets its backing file at the end', () => {
  it.each([
    ['top', 'background'],
    ['top', 'write-blocking'],
    ['none', 'background'],
    ['none', 'write-blocking'],
  ] as const)('shows all that the disk does (%s, %s)', async (sync, copyMode) => {
    const made = await lab(128 * KiB);
    const { graph, random, source, target, jobs, write, until, model } = made;
    for (let i = 0; i < 5; i++) await write();
    const granularity = random.pick([512, 4096, 64 * KiB]);
    const options = { source, target, sync, copyMode, granularity, backing: 'source' } as const;
    const job = await startMirror(jobs, { id: 'j', ...options });
    const writing = (async () => {
      for (let i = 0; i < 5; i++) await write();
    })();
    await until(() => job.isReady);
    await writing;
    for (let i = 0; i < 5; i++) await write();
    // Without a pivot the old disk stays, and `none` leaves its data there.
    const pivots = sync === 'top';
    if (pivots) await job.complete();
    else await job.cancelByUser(false);
    await until(() => job.status === 'null');
    expect(made.disk.node).toBe(pivots ? target : source);
    const copy = await graph.openBackend({ reference: 'target' });
    same(await readBytes(copy, 0, BYTES), model, 'target');
    await copy.detach();
  });
});

describe('who came to the disk after the job', () => {
  it('goes along to the target', async () => {
    const { graph, source, target, disk, jobs, until, model } = await lab(64 * KiB);
    const job = await startMirror(jobs, { id: 'j', source, target, sync: 'full' });
    const late = await graph.openBackend({ reference: 'top' });
    await until(() => job.isReady);
    await disk.write(0, filled(512, 3));
    model.fill(3, 0, 512);
    await job.complete();
    await until(() => job.status === 'null');
    expect([disk.node, late.node]).toEqual([target, target]);
    same(await readBytes(late, 0, BYTES), model);
    await late.detach();
  });

  it('keeps the disk when it cannot have the target, and the job fails', async () => {
    const { graph, source, target, disk, jobs, until } = await lab(64 * KiB);
    const keeps = { driver: 'blkdebug', 'node-name': 'keeps', image: 'target' };
    const unshared = ['consistent-read'];
    await graph.open({ options: { ...keeps, 'unshare-child-perms': unshared }, flags });
    const job = await startMirror(jobs, { id: 'j', source, target, sync: 'full' });
    const reads = { driver: 'blkdebug', 'node-name': 'reads', image: 'top' };
    await graph.open({ options: { ...reads, 'take-child-perms': ['consistent-read'] } });
    await until(() => job.isReady);
    await job.complete();
    await until(() => job.status === 'null');
    expect(job.errorText).toBe('Operation not permitted');
    expect(disk.node).toBe(source);
    expect([...graph.nodes.keys()]).toEqual(expect.arrayContaining(['top', 'reads', 'keeps']));
  });
});

describe('a child of a quorum', () => {
  async function quorum() {
    const { graph, jobs, until } = await lab(64 * KiB);
    const children = ['a', 'b', 'c'].map((name) => ({
      ...{ driver: 'memory', size: BYTES, 'node-name': name },
    }));
    const own = { driver: 'quorum', 'node-name': 'q', 'vote-threshold': 2 };
    const source = await graph.open({ options: { ...own, children }, flags });
    const options = { driver: 'memory', size: BYTES, 'node-name': 'repaired' };
    const target = await graph.open({ options, flags });
    const replaces = graph.nodes.get('b');
    const job = await startMirror(jobs, { id: 'j', source, target, sync: 'full', replaces });
    await until(() => job.isReady);
    return { graph, job, until, source, target };
  }

  it('gives its place to a copy of the quorum', async () => {
    const { job, until, source, target } = await quorum();
    await job.complete();
    await until(() => job.status === 'null');
    expect([...source.children.values()].map(({ node }) => node.name)).toEqual([
      'a',
      target.name,
      'c',
    ]);
  });

  it('keeps it when somebody else reads it by then', async () => {
    const { graph, job, until, source } = await quorum();
    const reader = await graph.openBackend({ reference: 'b' });
    await job.complete();
    await until(() => job.status === 'null');
    expect(job.errorText).toBe('Operation not permitted');
    expect([...source.children.values()].map(({ node }) => node.name)).toEqual(['a', 'b', 'c']);
    await reader.detach();
    expect(await failure(job.complete())).toContain('cannot accept command verb');
  });
});
