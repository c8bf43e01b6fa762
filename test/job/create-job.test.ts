// Goal: blockdev-create makes an image over a data file that holds a disk already, and leaves that
// as it is, also when the image grows: both show the same (QEMU's iotest 244). Method: simulated
// files.
import { expect, it } from 'vitest';
import { createWork } from '../../src/job/blockdev-create.js';
import { JobList } from '../../src/job/job-list.js';
import { FakeFiles, fakeHost, readBytes, testGraph } from '../support/index.js';

const SIZE = 1 << 20;

it('keeps what the data file of a qcow2 image holds', async () => {
  const files = new FakeFiles();
  const content = new Uint8Array(2 * SIZE).fill(42, 0, SIZE).fill(84, SIZE);
  files.put('/data', content);
  files.put('/meta', new Uint8Array(4096).fill(7));
  const host = fakeHost({ files });
  const graph = testGraph({ host });
  for (const name of ['data', 'meta']) {
    const options = { driver: 'file', 'node-name': name, filename: `/${name}` };
    await graph.open({ options, flags: { writable: true } });
  }
  const work = createWork(graph, {
    driver: 'qcow2',
    size: SIZE,
    file: 'meta',
    'data-file': 'data',
    'data-file-raw': true,
  });
  const job = await new JobList({ clock: host.clock }).create({
    id: 'create',
    work,
    autoDismiss: false,
  });
  job.start();
  await job.concluded;
  expect(job.errorText).toBeUndefined();
  const disk = await graph.openBackend({
    options: { driver: 'qcow2', file: 'meta', 'data-file': 'data' },
    flags: { writable: true },
  });
  expect(await readBytes(disk, 0, SIZE)).toEqual(content.subarray(0, SIZE));
  await disk.truncate(2 * SIZE, { exact: false });
  expect(await readBytes(disk, 0, 2 * SIZE)).toEqual(content);
  await disk.detach();
});
