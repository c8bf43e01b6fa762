// Goal: what a disk holds is committed into its backing file while a guest has the disk open and
// does not tolerate other writers. Method: two images on simulated files; content of both.
import { expect, it } from 'vitest';
import { createImage, prepareCreate } from '../../src/block/create.js';
import { Perm } from '../../src/index.js';
import { commit } from '../../src/job/commit.js';
import {
  failureCode,
  FakeFiles,
  fakeHost,
  filled,
  readBytes,
  same,
  testGraph,
} from '../support/index.js';

const MiB = 1024 * 1024;

it('commits below a guest that shares nothing, and only then needs to be told', async () => {
  const graph = testGraph({ host: fakeHost({ files: new FakeFiles() }) });
  const make = async (filename: string, size: number, backingFile?: string): Promise<void> => {
    const below = backingFile === undefined ? {} : { backingFile, backingFormat: 'qcow2' };
    const request = { filename, format: 'qcow2', size, ...below };
    await createImage(graph, await prepareCreate(graph, request));
  };
  await make('/base', MiB);
  await make('/top', 2 * MiB, '/base');
  const perms = { perm: Perm.consistentRead | Perm.write, shared: Perm.consistentRead };
  const guest = await graph.openBackend({ filename: '/top', flags: { writable: true } }, perms);
  await guest.write(MiB - 4096, filled(8192, 7));
  expect(await failureCode(commit(guest))).toBe('EPERM');
  await commit(guest, { inUse: true });
  same(await readBytes(guest, MiB - 4096, 8192), new Uint8Array(8192).fill(7));
  expect(guest.node.backing?.node.readOnly).toBe(true);
  await guest.write(0, filled(512, 9));
  await guest.detach();
  const base = await graph.openBackend({ filename: '/base' });
  expect(base.size).toBe(2 * MiB);
  same(await readBytes(base, MiB - 4096, 8192), new Uint8Array(8192).fill(7));
  same(await readBytes(base, 0, 512), new Uint8Array(512));
  await base.detach();
  await graph.close();
});
