// Goal: format raw shows its file, or a window of it, and guards guessed images.
// Method: files on a simulated host, looked at beside the graph.
import { describe, expect, it } from 'vitest';
import type { NodeOptions } from '../../src/index.js';
import { nodeStatus } from '../../src/index.js';
import type { FakeHost } from '../support/index.js';
import {
  failure,
  failureCode,
  fakeHost,
  filled,
  readBytes,
  seededRandom,
  testGraph,
} from '../support/index.js';

const MiB = 1 << 20;
const writable = { writable: true };
const raw = (own: NodeOptions = {}): NodeOptions => ({
  driver: 'raw',
  file: { driver: 'file', filename: '/d' },
  ...own,
});

function hostWith(content: Uint8Array | number): FakeHost {
  const host = fakeHost();
  host.files.put('/d', content);
  return host;
}

describe('window', () => {
  it('reads and writes at its offset and ends at its size', async () => {
    const random = seededRandom();
    const content = random.bytes(8192);
    const host = hostWith(content);
    const graph = testGraph({ host });
    const disk = await graph.openBackend({
      options: raw({ offset: 1000, size: 2048 }),
      flags: writable,
    });
    expect(disk.size).toBe(2048);
    expect(await readBytes(disk, 0, 2048)).toEqual(content.slice(1000, 3048));
    await disk.write(2000, filled(48, 7));
    expect(await failureCode(disk.write(2001, filled(48, 7)))).toBe('EIO');
    content.fill(7, 3000, 3048);
    expect(host.files.bytesOf('/d')).toEqual(content);
  });

  it('zeroes and discards stay inside', async () => {
    const host = hostWith(new Uint8Array(8192).fill(1));
    const graph = testGraph({ host });
    const disk = await graph.openBackend({
      options: raw({ offset: '1k', size: '2k', discard: 'unmap' }),
      flags: writable,
    });
    await disk.writeZeroes(0, 512);
    await disk.discard(1024, 1024);
    const expected = new Uint8Array(8192).fill(1);
    expected.fill(0, 1024, 1536).fill(0, 2048, 3072);
    expect(host.files.bytesOf('/d')).toEqual(expected);
  });

  it.each([
    [
      { offset: 2 * MiB },
      'Offset (2097152) cannot be greater than size of the containing file (1048576)',
    ],
    [
      { offset: 512, size: MiB },
      'The sum of offset (512) and size (1048576) has to be smaller or equal to the ' +
        ' actual size of the containing file (1048576)',
    ],
    [{ size: 100 }, 'Specified size is not multiple of 512'],
    [{ foo: 1 }, "Block format 'raw' does not support the option 'foo'"],
  ])('refuses %j', async (own, message) => {
    const graph = testGraph({ host: hostWith(MiB) });
    expect(await failure(graph.open({ options: raw(own) }))).toBe(message);
    expect(graph.nodes.size).toBe(0);
  });

  it('resizes the file behind an offset, and not at all with a size', async () => {
    const host = hostWith(MiB);
    const graph = testGraph({ host });
    const moved = await graph.openBackend({ options: raw({ offset: 512 }), flags: writable });
    await moved.truncate(2 * MiB);
    expect(host.files.bytesOf('/d').length).toBe(2 * MiB + 512);
    await moved.detach();
    const fixed = await graph.openBackend({ options: raw({ size: 512 }), flags: writable });
    expect(await failure(fixed.truncate(1024))).toBe('Cannot resize fixed-size raw disks');
  });

  it('tells where data and holes are in the file', async () => {
    const host = hostWith(4 * MiB);
    host.files.disks.get('/d')?.write(MiB, filled(MiB, 1));
    const graph = testGraph({ host });
    const node = await graph.open({ options: raw({ offset: MiB / 2 }) });
    const hole = await nodeStatus(node, 0, node.size, true);
    expect(hole).toMatchObject({ bytes: MiB / 2, zero: true, data: false, offset: MiB / 2 });
    const data = await nodeStatus(node, MiB / 2, node.size, true);
    expect(data).toMatchObject({ bytes: MiB, zero: false, data: true, offset: MiB });
    expect(data.file?.driver.name).toBe('file');
    await graph.release(node);
  });
});

describe('a guessed format', () => {
  const foreign = new Uint8Array(512);
  foreign.set([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3]);

  async function guessed(host: FakeHost) {
    const warnings: string[] = [];
    // A catalogue of its own, so that this test does not depend on which formats there are.
    const { drivers } = testGraph();
    const other = {
      ...drivers.find((d) => d.name === 'raw')!,
      name: 'other',
      probe: (head: Uint8Array) => (head[0] === 0x51 && head[1] === 0x46 ? 100 : 0),
    };
    const kept = drivers.filter((d) => d.kind === 'protocol' || d.name === 'raw');
    const graph = testGraph({
      host,
      drivers: [...kept, other],
      onWarning: (message) => warnings.push(message),
    });
    return { disk: await graph.openBackend({ filename: '/d', flags: writable }), warnings };
  }

  it('is told once, when the image is writable', async () => {
    const { disk, warnings } = await guessed(hostWith(MiB));
    expect(disk.node.driver.name).toBe('raw');
    expect(warnings).toEqual([
      "WARNING: Image format was not specified for '/d' and probing guessed raw.\n" +
        '         Automatically detecting the format is dangerous for raw images, write ' +
        'operations on block 0 will be restricted.\n' +
        "         Specify the 'raw' format explicitly to remove the restrictions.",
    ]);
    const graph = testGraph({ host: hostWith(MiB), onWarning: (m) => warnings.push(m) });
    await graph.openBackend({ filename: '/d' });
    expect(warnings.length).toBe(1);
  });

  it('keeps a guest from making its first sector look like another format', async () => {
    const host = hostWith(MiB);
    const { disk } = await guessed(host);
    const { Iov } = await import('../../src/index.js');
    const whole = Iov.of(foreign);
    expect(await failureCode(disk.write(0, whole))).toBe('EPERM');
    expect(await failureCode(disk.write(0, whole.slice(0, 8)))).toBe('EPERM');
    const long = new Uint8Array(65536);
    long.set(foreign);
    expect(await failureCode(disk.write(0, Iov.of(long)))).toBe('EPERM');
    // In two steps: the second one completes the magic.
    await disk.write(1, whole.slice(1, 100));
    expect(await failureCode(disk.write(0, whole.slice(0, 1)))).toBe('EPERM');
    expect(host.files.bytesOf('/d')[0]).toBe(0);
    await disk.write(512, whole);
    await disk.write(0, filled(512, 1));
    expect(host.files.bytesOf('/d')[0]).toBe(1);
  });

  it('is not guarded when the user named it', async () => {
    const host = hostWith(MiB);
    const graph = testGraph({ host });
    const disk = await graph.openBackend({ options: raw(), flags: writable });
    const { Iov } = await import('../../src/index.js');
    await disk.write(0, Iov.of(foreign));
    expect(host.files.bytesOf('/d').subarray(0, 4)).toEqual(foreign.subarray(0, 4));
  });
});
