// Goal: blockdev-create makes an image over a data file that holds a disk already, and leaves that
// as it is, also when the image grows: both show the same (QEMU's iotest 244). Method: simulated
// files.
import { describe, expect, it } from 'vitest';
import { createWork } from '../../src/job/blockdev-create.js';
import { JobList } from '../../src/job/job-list.js';
import type { NodeOptions } from '../../src/index.js';
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
  expect(Buffer.compare(await readBytes(disk, 0, SIZE), content.subarray(0, SIZE))).toBe(0);
  await disk.truncate(2 * SIZE, { exact: false });
  expect(Buffer.compare(await readBytes(disk, 0, 2 * SIZE), content)).toBe(0);
  await disk.detach();
});

/** Creates over a file that holds something; what the job says went wrong. */
async function createOver(files: FakeFiles, options: NodeOptions): Promise<string | undefined> {
  files.put('/over', new Uint8Array(8192).fill(7));
  const host = fakeHost({ files });
  const secret = async (): Promise<Uint8Array> => new TextEncoder().encode('a passphrase');
  const graph = testGraph({ host, secret });
  const file = { driver: 'file', 'node-name': 'f', filename: '/over' };
  await graph.open({ options: file, flags: { writable: true } });
  const work = createWork(graph, { ...options, file: 'f' });
  const jobs = new JobList({ clock: host.clock });
  const job = await jobs.create({ id: 'create', work, autoDismiss: false });
  job.start();
  await job.concluded;
  await graph.close();
  return job.errorText;
}

describe('old formats', () => {
  it.each<[NodeOptions, NodeOptions]>([
    [{ driver: 'qcow', size: SIZE }, {}],
    [{ driver: 'qcow', size: SIZE, 'backing-file': 'x' }, { backing: null }],
    [
      { driver: 'qcow', size: SIZE, encrypt: { format: 'qcow', 'key-secret': 's' } },
      { encrypt: { format: 'aes', 'key-secret': 's' } },
    ],
    [{ driver: 'parallels', size: SIZE }, {}],
    [{ driver: 'parallels', size: SIZE, 'cluster-size': 65536 }, {}],
  ])('are made over what was there: %j', async (options, more) => {
    const files = new FakeFiles();
    expect(await createOver(files, options)).toBeUndefined();
    const secret = async (): Promise<Uint8Array> => new TextEncoder().encode('a passphrase');
    const graph = testGraph({ host: fakeHost({ files }), secret });
    const disk = await graph.openBackend({
      options: { driver: options['driver']!, file: { driver: 'file', filename: '/over' }, ...more },
    });
    expect(disk.size).toBe(SIZE);
    expect(Buffer.compare(await readBytes(disk, 0, SIZE), new Uint8Array(SIZE))).toBe(0);
    await disk.detach();
    await graph.close();
  });

  it.each<[NodeOptions, string]>([
    [{ driver: 'parallels', size: 513 }, 'Image size must be a multiple of 512 bytes'],
    [
      { driver: 'parallels', size: SIZE, 'cluster-size': 1000 },
      'Cluster size must be a multiple of 512 bytes',
    ],
    [{ driver: 'qcow', size: 0 }, 'Image size is too small, cannot be zero length'],
    [
      { driver: 'qcow', size: SIZE, encrypt: { format: 'luks', 'key-secret': 's' } },
      'Unsupported encryption format',
    ],
  ])("are refused in QEMU's words: %j", async (options, message) => {
    expect(await createOver(new FakeFiles(), options)).toBe(message);
  });
});
