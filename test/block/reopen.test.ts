// Goal: nodes change while they are open as with QEMU's blockdev-reopen: options, modes and
// children, all nodes or none. Method: the steps and texts of QEMU's iotest 245 on simulated
// files, through the library instead of QMP.
import { beforeEach, describe, expect, it } from 'vitest';
import { createImage, prepareCreate } from '../../src/block/create.js';
import { assertPermissions } from '../../src/block/permissions.js';
import { reopenNode } from '../../src/block/reopen.js';
import type { Backend, BlockGraph, BlockNode, NodeOptions } from '../../src/index.js';
import { Perm } from '../../src/index.js';
import {
  failure,
  FakeFiles,
  fakeHost,
  filled,
  readBytes,
  same,
  testGraph,
} from '../support/index.js';

const MiB = 1 << 20;

let files: FakeFiles;
let graph: BlockGraph;
const handles: BlockNode[] = [];

const hd = (i: number): NodeOptions => ({
  driver: 'qcow2',
  'node-name': `hd${i}`,
  file: { driver: 'file', filename: `/${i}`, 'node-name': `hd${i}-file` },
});

async function make(path: string, backing?: string): Promise<void> {
  const names = backing === undefined ? {} : { backingFile: backing, backingFormat: 'qcow2' };
  const request = { filename: path, format: 'qcow2', size: 3 * MiB, ...names };
  await createImage(graph, await prepareCreate(graph, request));
}

/** blockdev-add: a handle of the test keeps the node. */
async function add(options: NodeOptions): Promise<BlockNode> {
  const node = await graph.open({ options, flags: { writable: options['read-only'] !== true } });
  handles.push(node);
  return node;
}

const node = (name: string): BlockNode => graph.tryNode(name)!;

/** blockdev-reopen of one node. */
function reopen(options: NodeOptions, more: NodeOptions = {}): Promise<void> {
  const merged = { ...options, ...more };
  return graph.reopen([{ node: node(String(options['node-name'])), options: merged }]);
}

/** What a check of "nothing has changed" looks at. */
function snapshot(): object[] {
  return [...graph.nodes.values()].map((n) => ({
    name: n.name,
    flags: n.flags,
    readOnly: n.readOnly,
    detectZeroes: n.detectZeroes,
    limits: n.limits,
    options: n.explicitOptions,
    children: [...n.children.values()].map((c) => [c.name, c.node.name, c.perm, c.shared]),
    parents: n.parents.size,
    quiesced: n.quiesced,
  }));
}

beforeEach(async () => {
  files = new FakeFiles();
  graph = testGraph({ host: fakeHost({ files }) });
  handles.length = 0;
  await make('/0');
  await make('/1', '/0');
  await make('/2', '/1');
  for (const i of [0, 1, 2]) {
    const own = await graph.openBackend({
      options: { driver: 'qcow2', backing: null, file: { driver: 'file', filename: `/${i}` } },
      flags: { writable: true },
    });
    await own.write(i * MiB, filled(MiB, 0xa0 + i));
    await own.detach();
  }
});

describe('wrong parameters', () => {
  it('of a single node change nothing', async () => {
    await add(hd(0));
    const before = snapshot();
    await reopen(hd(0));
    await reopen(hd(0), { file: 'hd0-file' });
    const file = hd(0)['file'] as NodeOptions;
    const wrong: [NodeOptions, string][] = [
      [{ driver: 'raw' }, "Cannot change the option 'driver'"],
      [{ 'node-name': 'not-found' }, "Cannot change the option 'node-name'"],
      [{ file: 'not-found' }, "Cannot find device='' nor node-name='not-found'"],
      [{ file: { ...file, 'node-name': 'new' } }, "Cannot change the option 'node-name'"],
      [{ file: { ...file, driver: 'host_device' } }, "Cannot change the option 'driver'"],
      [{ file: { ...file, filename: '/1' } }, "Cannot change the option 'filename'"],
      [{ file: { ...file, aio: 'native' } }, "Cannot change the option 'aio'"],
      [{ file: { ...file, locking: 'off' } }, "Cannot change the option 'locking'"],
      [{ 'force-share': true }, "Cannot change the option 'force-share'"],
      [
        { 'detect-zeroes': 'unmap' },
        'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap',
      ],
    ];
    for (const [more, message] of wrong) {
      const item = { node: node('hd0'), options: { ...hd(0), ...more } };
      expect(await failure(graph.reopen([item]))).toBe(message);
    }
    expect(snapshot()).toEqual(
      before.map((n) => ({ ...n, options: expect.anything() as unknown })),
    );
  });

  it('about backing files change nothing', async () => {
    await add(hd(1));
    const backing = node('hd1').backing!.node;
    const file = { driver: 'file', filename: '/0' };
    const same0 = { driver: 'qcow2', file };
    expect(await failure(reopen(hd(1)))).toBe("backing is missing for 'hd1'");
    await reopen(hd(1), { backing: backing.name });
    expect(await failure(reopen(hd(1), { backing: 'not-found' }))).toBe(
      "Cannot find device='' nor node-name='not-found'",
    );
    await reopen(hd(1), { backing: same0 });
    for (const [more, message] of [
      [{ ...same0, 'node-name': 'new' }, "Cannot change the option 'node-name'"],
      [{ ...same0, driver: 'raw' }, "Cannot change the option 'driver'"],
      [{ ...same0, file: { ...file, driver: 'host_device' } }, "Cannot change the option 'driver'"],
    ] as const) {
      expect(await failure(reopen(hd(1), { backing: more }))).toBe(message);
    }
    expect(node('hd1').backing!.node).toBe(backing);
  });

  it('of other drivers', async () => {
    const children = ['hd0', 'hd1'];
    await add({ ...hd(0), backing: null });
    await add({ ...hd(1), backing: null });
    const quorum = { driver: 'quorum', 'node-name': 'q', children, 'vote-threshold': 2 };
    await add(quorum);
    expect(await failure(reopen(quorum))).toBe(
      "Block format 'quorum' used by node 'q' does not support reopening files",
    );
    expect(await failure(reopen(hd(0), { backing: 'q' }))).toBe(
      "Making 'q' a backing child of 'hd0' would create a cycle",
    );
    const null_ = { driver: 'null-co', 'node-name': 'root', size: 1024 };
    await add(null_);
    await reopen(null_);
    expect(await failure(reopen(null_, { size: 1 << 30 }))).toBe("Cannot change the option 'size'");
    const { size: _size, ...less } = null_;
    expect(await failure(reopen(less))).toBe("Option 'size' cannot be reset to its default value");
    files.put('/c', new Uint8Array());
    const debug = { driver: 'blkdebug', 'node-name': 'bd', config: '/c', image: hd(2) };
    await add({ ...debug, image: { ...hd(2), backing: null } });
    const image = { ...hd(2), backing: null };
    await reopen(debug, { image });
    expect(await failure(reopen(debug, { image: 'hd1' }))).toBe("Cannot change the option 'image'");
    expect(await failure(reopen(debug, { image, align: 4096 }))).toBe(
      "Cannot change the option 'align'",
    );
    const { config: _config, ...rest } = debug;
    expect(await failure(reopen(rest, { image }))).toBe(
      "Option 'config' cannot be reset to its default value",
    );
  });
});

describe('modes', () => {
  it('read-only and back, with the file behind it', async () => {
    const top = await add(hd(0));
    const opened = (): boolean => node('hd0-file').instance.length() !== undefined;
    await reopen(hd(0), { 'read-only': true });
    expect([top.readOnly, node('hd0-file').readOnly]).toEqual([true, true]);
    expect(opened()).toBe(true);
    await reopen(hd(0));
    expect([top.readOnly, node('hd0-file').readOnly]).toEqual([false, false]);
    const disk = await graph.openBackend(
      { reference: 'hd0' },
      { perm: Perm.write, shared: Perm.all },
    );
    await disk.write(0, filled(512, 9));
    expect(await failure(reopen(hd(0), { 'read-only': true }))).toBe(
      "Read-only block node 'hd0' cannot support read-write users",
    );
    expect(top.readOnly).toBe(false);
    await disk.write(0, filled(512, 8));
    await disk.flush();
  });

  it('cache modes reach the file, and locks stay held', async () => {
    await add(hd(0));
    const held = (): number[] =>
      [...files.locks.values()]
        .flat()
        .map((l) => l.at)
        .sort();
    const before = held();
    expect(before.length).toBeGreaterThan(0);
    await reopen(hd(0), { cache: { direct: true, 'no-flush': true } });
    expect(node('hd0').flags.cache).toEqual({ writeback: true, direct: true, noFlush: true });
    expect(node('hd0-file').limits.requestAlignment).toBe(512);
    expect(held()).toEqual(before);
    await reopen(hd(0));
    expect(node('hd0-file').flags.cache).toEqual({
      writeback: true,
      direct: false,
      noFlush: false,
    });
    expect(node('hd0-file').limits.requestAlignment).toBe(1);
  });

  it('detect-zeroes and discard, and back to the defaults', async () => {
    const top = await add(hd(0));
    await reopen(hd(0), { 'detect-zeroes': 'unmap', discard: 'unmap' });
    expect([top.detectZeroes, top.flags.unmap]).toEqual(['unmap', true]);
    await reopen(hd(0));
    expect([top.detectZeroes, top.flags.unmap]).toEqual(['off', false]);
  });

  it('the window of a raw image', async () => {
    files.put('/raw', 2 * MiB);
    files.disks.get('/raw')!.write(MiB, filled(MiB, 0xa1));
    const options = {
      driver: 'raw',
      'node-name': 'raw',
      file: { driver: 'file', filename: '/raw', 'node-name': 'raw-file' },
    };
    await add(options);
    await reopen(options, { offset: MiB });
    expect(node('raw').size).toBe(MiB);
    same(await readBytes(node('raw'), 0, MiB), new Uint8Array(MiB).fill(0xa1));
    await reopen(options);
    same(await readBytes(node('raw'), 0, MiB), new Uint8Array(MiB));
  });

  it('options that cannot change keep their values or are missed', async () => {
    const file = { driver: 'file', filename: '/0', locking: 'off', 'node-name': 'f' };
    const options = {
      driver: 'qcow2',
      'node-name': 'x',
      file: { ...file, 'x-check-cache-dropped': true },
    };
    await add(options);
    await reopen(options, { file: { ...file, 'x-check-cache-dropped': false } });
    await reopen(options, { file });
    expect(await failure(reopen(options, { file: { ...file, locking: 'on' } }))).toBe(
      "Cannot change the option 'locking'",
    );
    const { locking: _locking, ...without } = file;
    expect(await failure(reopen(options, { file: without }))).toBe(
      "Option 'locking' cannot be reset to its default value",
    );
  });

  it('options with the value that counts as the default need not be named again', async () => {
    const file = { driver: 'file', filename: '/0', aio: 'threads', 'node-name': 'f' };
    const options = { driver: 'qcow2', 'node-name': 'x', file };
    await add(options);
    const { aio: _aio, ...without } = file;
    await reopen(options, { file: without });
    await reopen(options);
    expect(await failure(reopen(options, { file: { ...file, aio: 'native' } }))).toBe(
      "Cannot change the option 'aio'",
    );
  });

  it('qemu-io style: what is not named stays', async () => {
    const top = await add({ ...hd(0), 'detect-zeroes': 'on' });
    await reopenNode(top, { flags: { cache: { writeback: true, direct: true, noFlush: false } } });
    expect(top.detectZeroes).toBe('on');
    expect(node('hd0-file').limits.requestAlignment).toBe(512);
    await reopenNode(top, { options: { 'read-only': 'on' } });
    expect(top.readOnly).toBe(true);
    expect(node('hd0-file').limits.requestAlignment).toBe(512);
    expect(await failure(reopenNode(top, { options: { foo: 1 } }))).toBe(
      "Cannot change the option 'foo'",
    );
  });
});

describe('children', () => {
  async function pattern(name: string): Promise<number[]> {
    const out: number[] = [];
    for (const i of [0, 1, 2]) out.push((await readBytes(node(name), i * MiB, 1))[0]!);
    return out;
  }

  it('backing files come, go, and are exchanged; loops are refused', async () => {
    const opts = [0, 1, 2].map((i) => ({ ...hd(i), backing: null }));
    for (const options of opts) await add(options);
    const set = (i: number, backing: string | null): Promise<void> => reopen(opts[i]!, { backing });
    expect(await pattern('hd0')).toEqual([0xa0, 0, 0]);
    await set(0, 'hd1');
    expect(await pattern('hd0')).toEqual([0xa0, 0xa1, 0]);
    await set(2, 'hd1');
    expect(await pattern('hd2')).toEqual([0, 0xa1, 0xa2]);
    await set(0, 'hd2');
    expect(await pattern('hd0')).toEqual([0xa0, 0xa1, 0xa2]);
    await set(2, null);
    expect(await pattern('hd0')).toEqual([0xa0, 0, 0xa2]);
    await set(1, 'hd2');
    await set(0, 'hd1');
    expect(await pattern('hd0')).toEqual([0xa0, 0xa1, 0xa2]);
    expect(await failure(set(2, 'hd1'))).toBe(
      "Making 'hd1' a backing child of 'hd2' would create a cycle",
    );
    expect(await failure(set(1, 'hd1'))).toBe(
      "Making 'hd1' a backing child of 'hd1' would create a cycle",
    );
    expect(await failure(reopen(opts[2]!, { file: 'hd0-file' }))).toBe(
      "Permission conflict on node 'hd0-file': permissions 'write, resize' are both required by " +
        "node 'hd0' (uses node 'hd0-file' as 'file' child) and unshared by node 'hd2' (uses node " +
        "'hd0-file' as 'file' child).",
    );
    await set(1, null);
    expect(await pattern('hd1')).toEqual([0, 0xa1, 0]);
    expect(await failure(reopen(hd(1)))).toBe("backing is missing for 'hd1'");
    for (const each of graph.nodes.values()) {
      assertPermissions(each);
      expect(each.quiesced).toBe(0);
    }
  });

  it('an own backing file that is let go closes, one that is frozen stays', async () => {
    await add(hd(1));
    const backing = node('hd1').backing!;
    backing.frozen = 'a job';
    expect(await failure(reopen(hd(1), { backing: null }))).toBe(
      `Cannot change frozen 'backing' link from 'hd1' to '${backing.node.name}'`,
    );
    backing.frozen = undefined;
    await reopen(hd(1), { backing: null });
    expect([...graph.nodes.keys()].sort()).toEqual(['hd1', 'hd1-file']);
    await add({ ...hd(0), backing: null });
    await reopen(hd(1), { backing: 'hd0' });
    expect(await failure(reopen(hd(1), { backing: hd(0) }))).toBe(
      "Cannot change the option 'backing.driver'",
    );
  });

  it('two images swap their files, which neither could alone', async () => {
    await add({ ...hd(0), backing: null });
    await add({ ...hd(2), backing: null });
    const one = graph.reopen([
      { node: node('hd0'), options: { ...hd(0), backing: null, file: 'hd2-file' } },
    ]);
    expect(await failure(one)).toContain("Permission conflict on node 'hd2-file'");
    const swap = (a: string, b: string): Promise<void> =>
      graph.reopen([
        { node: node('hd0'), options: { ...hd(0), backing: null, file: a } },
        { node: node('hd2'), options: { ...hd(2), backing: null, file: b } },
      ]);
    await swap('hd2-file', 'hd0-file');
    expect(node('hd0').file!.node.name).toBe('hd2-file');
    expect(node('hd2').file!.node.name).toBe('hd0-file');
    await swap('hd0-file', 'hd2-file');
    expect(node('hd0').file!.node.name).toBe('hd0-file');
  });

  it('filters are put in and taken out under a writer', async () => {
    files.put('/raw', MiB);
    const options = { driver: 'raw', 'node-name': 'raw', file: 'f' };
    await add({ driver: 'file', 'node-name': 'f', filename: '/raw' });
    await add(options);
    await add({ driver: 'blkdebug', 'node-name': 'bd', image: 'f' });
    const disk: Backend = await graph.openBackend(
      { reference: 'raw' },
      { perm: Perm.write | Perm.consistentRead, shared: Perm.all },
    );
    const writes: Promise<void>[] = [];
    for (let i = 0; i < 20; i++) {
      writes.push(disk.write(i * 4096, filled(4096, i + 1)));
      if (i === 5) await reopen(options, { file: 'bd' });
      if (i === 12) await reopen(options, { file: 'f' });
    }
    await Promise.all(writes);
    for (let i = 0; i < 20; i++) {
      expect((await readBytes(disk, i * 4096, 1))[0]).toBe(i + 1);
    }
    expect(node('raw').file!.node.name).toBe('f');
  });
});
