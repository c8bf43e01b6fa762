// Goal: after a stream or a commit the header above names the format of the new backing file, and
// with backing-mask-protocol `raw` for a node of a bare protocol. Method: a chain over such a node
// in simulated files; the header is read by opening the image again.
import { expect, it } from 'vitest';
import { createImage, Perm, prepareCreate } from '../../src/index.js';
import { startStream } from '../../src/job/block-stream.js';
import { startCommit } from '../../src/job/commit-job.js';
import { JobList } from '../../src/job/job-list.js';
import { FakeFiles, fakeHost, testGraph } from '../support/index.js';

const SIZE = 65536;

it.each([
  ['stream', false, 'file'],
  ['stream', true, 'raw'],
  ['commit', false, 'file'],
  ['commit', true, 'raw'],
] as const)('%s, masked: %s: %s', async (kind, maskProtocol, expected) => {
  const files = new FakeFiles();
  files.put('/base', new Uint8Array(SIZE));
  const host = fakeHost({ files });
  const graph = testGraph({ host });
  for (const [filename, backingFile] of [
    ['/mid', '/base'],
    ['/top', '/mid'],
  ] as const) {
    const backing = { backingFile, backingFormat: backingFile === '/base' ? 'raw' : 'qcow2' };
    const request = { filename, format: 'qcow2', size: SIZE, ...backing };
    await createImage(graph, await prepareCreate(graph, request));
  }
  const image = (name: string, backing: object): object => ({
    driver: 'qcow2',
    'node-name': name,
    file: { driver: 'file', filename: `/${name}` },
    backing,
  });
  const bare = { driver: 'file', 'node-name': 'base', filename: '/base' };
  const disk = await graph.openBackend(
    { options: { ...image('top', image('mid', bare)) }, flags: { writable: true } },
    { perm: Perm.consistentRead | Perm.write, shared: Perm.all },
  );
  const jobs = new JobList({ clock: host.clock });
  const node = disk.node;
  const base = graph.tryNode('base')!;
  const common = { id: 'j', maskProtocol };
  const job =
    kind === 'stream'
      ? await startStream(graph, jobs, { ...common, node, base })
      : await startCommit(graph, jobs, { ...common, node, top: graph.tryNode('mid')!, base });
  await job.concluded;
  expect(job.errorText).toBeUndefined();
  await disk.detach();
  const again = testGraph({ host });
  const top = await again.open({ filename: '/top', options: { backing: null } });
  expect([top.backingFile, top.backingFormat]).toEqual(['/base', expected]);
});
