// Goal: options of jobs that say what is copied, and what is left, do what they say: unmap and
// on-source-error of a mirror, discard-source of a backup, base and bottom of a stream. Method:
// jobs on simulated files; the target, what it has allocated, and the source are looked at.
import { describe, expect, it } from 'vitest';
import { nodeStatus } from '../../src/block/status.js';
import { createImage, Perm, prepareCreate } from '../../src/index.js';
import { createBackup } from '../../src/job/backup.js';
import { startStream } from '../../src/job/block-stream.js';
import type { Job } from '../../src/job/job.js';
import { JobList } from '../../src/job/job-list.js';
import { startMirror } from '../../src/job/mirror.js';
import { FakeFiles, fakeHost, filled, readBytes, same, testGraph } from '../support/index.js';
import type { Lab } from './support.js';
import { contentOf, flags, makeLab } from './support.js';

const MiB = 1024 * 1024;
const C = 65536;

/** Lets time pass until something holds. */
async function until(made: Lab, what: string, reached: () => boolean): Promise<void> {
  for (let i = 0; i < 5000 && !reached(); i++) await made.clock.advance(20);
  if (!reached()) throw new Error(`never ${what}; events: ${made.events.join(' ')}`);
}

async function complete(made: Lab, job: Job): Promise<void> {
  await until(made, 'ready', () => job.isReady);
  await job.complete();
  await until(made, 'over', () => job.status === 'null');
}

describe('unmap of a mirror', () => {
  it.each([
    [true, false],
    [false, true],
  ])('%s: zeroes keep the clusters of the target: %s', async (unmap, keeps) => {
    const made = await makeLab({ format: 'qcow2' });
    const { graph, jobs, source, target } = made;
    const old = await graph.openBackend({ reference: 'target', flags });
    await old.write(0, filled(MiB, 9));
    await old.detach();
    await made.guest.writeZeroes(0, MiB);
    const job = await startMirror(jobs, { id: 'j', source, target, sync: 'full', unmap });
    await complete(made, job);
    const { zero, offset } = await nodeStatus(target, 0, MiB, true);
    expect([zero, offset !== undefined]).toEqual([true, keeps]);
    same(await contentOf(made), new Uint8Array(MiB));
  });
});

describe('on-source-error of a mirror', () => {
  // What fails is read again in pieces first.
  const broken = { op: 'read', path: '/source', code: 'EIO', times: 2 } as const;

  it('report: ends the job, and the disk stays', async () => {
    const made = await makeLab();
    const { jobs, source, target } = made;
    const how = { id: 'j', source, target, sync: 'full', autoDismiss: false } as const;
    made.files.inject({ ...broken });
    const job = await startMirror(jobs, { ...how, onSourceError: 'report' });
    await until(made, 'over', () => job.status === 'concluded');
    expect(job.errorText).toBe('Input/output error');
    expect(made.guest.node).toBe(source);
  });

  it('stop: waits for a client, and copies all when it goes on', async () => {
    const made = await makeLab();
    const { jobs, source, target } = made;
    made.files.inject({ ...broken });
    const how = { id: 'j', source, target, sync: 'full', onSourceError: 'stop' } as const;
    const job = await startMirror(jobs, how);
    await until(made, 'stopped', () => job.isUserPaused);
    job.resumeByUser();
    await complete(made, job);
    same(await contentOf(made), made.old);
  });

  it('ignore: tries again', async () => {
    const made = await makeLab();
    const { jobs, source, target } = made;
    made.files.inject({ ...broken, times: 4 });
    const how = { id: 'j', source, target, sync: 'full', onSourceError: 'ignore' } as const;
    await complete(made, await startMirror(jobs, how));
    expect(made.events).toContain('BLOCK_JOB_ERROR');
    same(await contentOf(made), made.old);
  });
});

it.each([
  [true, 0],
  [false, MiB],
])(
  'discard-source of a backup, %s: %i bytes of the source are left',
  async (discardSource, left) => {
    const made = await makeLab();
    const { jobs, source, target } = made;
    const job = await createBackup(jobs, { id: 'j', source, target, sync: 'full', discardSource });
    job.start();
    await until(made, 'over', () => job.status === 'null');
    same(await contentOf(made), made.old);
    const kept = (await contentOf(made, 'source')).filter((byte, i) => byte === made.old[i]);
    // Some bytes of any disk are zeroes.
    if (left > 0) expect(kept.length).toBe(left);
    else expect(kept.length).toBeLessThan(MiB / 64);
  },
);

describe('a stream', () => {
  /** What each image of a chain of four holds alone: cluster `i` of image `i`. */
  const names = ['a', 'b', 'c', 'd'] as const;

  it.each([
    ['no end', {}, ['a', 'b', 'c', 'd'], undefined],
    ['base', { base: 'b' }, ['c', 'd'], 'b'],
    ['bottom', { bottom: 'b' }, ['b', 'c', 'd'], 'a'],
  ] as const)('with %s copies what is above it, which falls out', async (_, end, held, below) => {
    const host = fakeHost({ files: new FakeFiles() });
    const graph = testGraph({ host });
    let options: Record<string, unknown> | undefined;
    for (const [i, name] of names.entries()) {
      const over = i === 0 ? {} : { backingFile: `/${names[i - 1]!}`, backingFormat: 'qcow2' };
      const request = { filename: `/${name}`, format: 'qcow2', size: 4 * C, ...over };
      await createImage(graph, await prepareCreate(graph, request));
      const disk = await graph.openBackend({ filename: `/${name}`, flags: { writable: true } });
      await disk.write(i * C, filled(C, i + 1));
      await disk.detach();
      const file = { driver: 'file', filename: `/${name}` };
      const backing = options === undefined ? {} : { backing: options };
      options = { driver: 'qcow2', 'node-name': name, file, ...backing };
    }
    const perms = { perm: Perm.consistentRead | Perm.write, shared: Perm.all };
    const disk = await graph.openBackend({ options: options!, flags: { writable: true } }, perms);
    const ends: Record<string, string> = end;
    const limits = Object.entries(ends).map(([key, name]) => [key, graph.tryNode(name)!] as const);
    const how = { id: 'j', node: disk.node, ...Object.fromEntries(limits) };
    const job = await startStream(graph, new JobList({ clock: host.clock }), how);
    await job.concluded;
    expect(job.errorText).toBeUndefined();
    const own: string[] = [];
    for (const [i, name] of names.entries()) {
      if ((await nodeStatus(disk.node, i * C, C, true)).allocated) own.push(name);
    }
    expect(own).toEqual(held);
    expect(disk.node.backing?.node.name).toBe(below);
    const content = new Uint8Array(4 * C).map((_byte, at) => 1 + Math.floor(at / C));
    same(await readBytes(disk, 0, 4 * C), content);
    await disk.detach();
  });
});
