// Goal: quorum votes as QEMU's does, repairs, and tells. Method: three simulated files that are
// damaged one by one; texts from QEMU 10.
import { describe, expect, it } from 'vitest';
import type { Backend, BlockGraph, NodeOptions } from '../../src/index.js';
import {
  failure,
  failureCode,
  FakeFiles,
  fakeHost,
  filled,
  readBytes,
  same,
  testGraph,
} from '../support/index.js';

const MiB = 1 << 20;

interface Lab {
  readonly graph: BlockGraph;
  readonly files: FakeFiles;
  readonly events: { name: string; data: Readonly<Record<string, unknown>> }[];
  readonly open: (own?: NodeOptions, n?: number) => Promise<Backend>;
}

function lab(): Lab {
  const files = new FakeFiles();
  const events: Lab['events'] = [];
  const graph = testGraph({
    host: fakeHost({ files }),
    onEvent: (name, data) => events.push({ name, data }),
  });
  for (const path of ['/0', '/1', '/2']) files.put(path, MiB);
  const open = (own: NodeOptions = {}, n = 3): Promise<Backend> => {
    const children = Array.from({ length: n }, (_, i) => ({
      driver: 'raw',
      'node-name': `child${i}`,
      file: { driver: 'file', filename: `/${i}` },
    }));
    return graph.openBackend({
      options: { driver: 'quorum', 'node-name': 'q', 'vote-threshold': 2, children, ...own },
      flags: { writable: true, unmap: true },
    });
  };
  return { graph, files, events, open };
}

describe('reads', () => {
  it('give what most hold, tell who does not, and repair if asked', async () => {
    for (const repair of [false, true]) {
      const { files, events, open } = lab();
      const disk = await open({ 'rewrite-corrupted': repair });
      await disk.write(0, filled(8192, 5));
      files.disks.get('/1')!.write(1000, filled(1, 9));
      same(await readBytes(disk, 512, 1024), new Uint8Array(1024).fill(5));
      expect(events).toEqual([
        {
          name: 'QUORUM_REPORT_BAD',
          data: { type: 'read', 'node-name': 'child1', 'sector-num': 1, 'sectors-count': 2 },
        },
      ]);
      expect(files.bytesOf('/1')[1000]).toBe(repair ? 5 : 9);
      await disk.detach();
    }
  });

  it('fail where no two agree', async () => {
    const { files, events, open } = lab();
    const disk = await open();
    for (const i of [0, 1, 2]) files.disks.get(`/${i}`)!.write(0, filled(1, i + 1));
    expect(await failureCode(readBytes(disk, 0, 512))).toBe('EIO');
    expect(events).toContainEqual({
      name: 'QUORUM_FAILURE',
      data: { reference: 'q', 'sector-num': 0, 'sectors-count': 1 },
    });
  });

  it('do without a child that fails, and without two cannot', async () => {
    const { files, events, open } = lab();
    const disk = await open();
    await disk.write(0, filled(512, 5));
    files.inject({ op: 'read', path: '/0', code: 'EIO' });
    same(await readBytes(disk, 0, 512), new Uint8Array(512).fill(5));
    expect(events[0]).toMatchObject({ data: { error: 'Input/output error', type: 'read' } });
    files.inject({ op: 'read', path: '/2', code: 'EIO' });
    expect(await failureCode(readBytes(disk, 0, 512))).toBe('EIO');
  });

  it('in fifo order take the first that works', async () => {
    const { files, open } = lab();
    const disk = await open({ 'read-pattern': 'fifo' });
    await disk.write(0, filled(512, 5));
    files.disks.get('/1')!.write(0, filled(512, 6));
    same(await readBytes(disk, 0, 512), new Uint8Array(512).fill(5));
    files.inject({ op: 'read', path: '/0', code: 'EIO' });
    same(await readBytes(disk, 0, 512), new Uint8Array(512).fill(6));
  });

  it('with blkverify fail at a difference of two', async () => {
    const { files, open } = lab();
    const disk = await open({ blkverify: true }, 2);
    await disk.write(0, filled(512, 5));
    await readBytes(disk, 0, 512);
    files.disks.get('/1')!.write(0, filled(1, 6));
    expect(await failureCode(readBytes(disk, 0, 512))).toBe('EIO');
  });
});

describe('writes', () => {
  it('succeed when enough children do', async () => {
    const { files, events, open } = lab();
    const disk = await open();
    files.inject({ op: 'write', path: '/2', code: 'ENOSPC' });
    await disk.write(0, filled(512, 5));
    expect(events[0]).toMatchObject({ data: { type: 'write', 'node-name': 'child2' } });
    files.inject({ op: 'write', path: '/1', code: 'ENOSPC' });
    expect(await failureCode(disk.write(0, filled(512, 6)))).toBe('ENOSPC');
    files.inject({ op: 'flush', path: '/0', code: 'EIO' });
    files.inject({ op: 'flush', path: '/1', code: 'EIO' });
    expect(await failureCode(disk.flush())).toBe('EIO');
  });
});

describe('members', () => {
  it('any may go, the first too, and one may come while the disk is used', async () => {
    const { files, graph, open } = lab();
    const disk = await open({ 'vote-threshold': 1 });
    await disk.write(0, filled(512, 5));
    const { members } = disk.node.instance;
    await members!.remove(disk.node.children.get('children.0')!);
    expect([...disk.node.children.keys()]).toEqual(['children.1', 'children.2']);
    expect(graph.tryNode('child0')).toBeUndefined();
    same(await readBytes(disk, 0, 512), new Uint8Array(512).fill(5));
    await disk.truncate(2 * MiB);
    expect(disk.size).toBe(2 * MiB);
    expect(['/0', '/1', '/2'].map((path) => files.bytesOf(path).byteLength)).toEqual([
      MiB,
      2 * MiB,
      2 * MiB,
    ]);
    expect(disk.node.filename).toMatch(/^json:.*"\/1".*"\/2"/);

    files.put('/3', 2 * MiB);
    const file = { driver: 'file', filename: '/3' };
    const options = { driver: 'raw', 'node-name': 'child3', file };
    await members!.add(await graph.open({ options, flags: { writable: true } }));
    await disk.write(MiB, filled(512, 6));
    same(files.bytesOf('/3').subarray(MiB, MiB + 512), new Uint8Array(512).fill(6));
    same(files.bytesOf('/0').subarray(0, 512), new Uint8Array(512).fill(5));
  });

  it('none may stand on the quorum', async () => {
    const { graph, open } = lab();
    const disk = await open();
    const above = await graph.open({
      options: { driver: 'raw', 'node-name': 'above', file: 'q' },
      flags: { writable: true },
    });
    expect(await failure(disk.node.instance.members!.add(above))).toBe(
      "Making 'above' a children.3 child of 'q' would create a cycle",
    );
    expect([...disk.node.children.keys()]).toEqual(['children.0', 'children.1', 'children.2']);
    await disk.write(0, filled(512, 6));
  });
});

describe('options', () => {
  it.each([
    [{ children: undefined }, 'Number of provided children must be 1 or more'],
    [{ 'vote-threshold': undefined }, "Parameter 'vote-threshold' expects a value >= 1"],
    [{ 'vote-threshold': 4 }, 'threshold may not exceed children count'],
    [{ 'read-pattern': 'foo' }, 'Please set read-pattern as fifo or quorum'],
    [
      { blkverify: true },
      'blkverify=on can only be set if there are exactly two files and vote-threshold is 2',
    ],
    [{ children: { 0: 'a', 2: 'b' } }, 'Option children is not a valid array'],
    [
      { children: { 0: 'nosuch' }, 'vote-threshold': 1 },
      "Cannot find device='nosuch' nor node-name='nosuch'",
    ],
    [{ foo: 1 }, "Block format 'quorum' does not support the option 'foo'"],
  ])('%j is refused', async (own, message) => {
    const { graph, open } = lab();
    expect(await failure(open(own))).toBe(message);
    expect(graph.nodes.size).toBe(0);
  });

  it('children of different lengths are no quorum', async () => {
    const { files, open } = lab();
    files.put('/1', 2 * MiB);
    expect(await failureCode(open())).toBe('EIO');
  });

  it('the name lists the children', async () => {
    const { open } = lab();
    const disk = await open({ 'vote-threshold': 1 }, 2);
    const parsed = JSON.parse(disk.node.filename.slice('json:'.length)) as NodeOptions;
    expect(parsed).toEqual({
      driver: 'quorum',
      'vote-threshold': 1,
      children: ['/0', '/1'].map((filename) => ({
        driver: 'raw',
        file: { driver: 'file', filename },
      })),
    });
  });
});
