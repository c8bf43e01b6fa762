// Goal: what commands do to a graph that is in use: all of it or nothing, and no request of a
// guest is lost. Method: a monitor in this process over files; bytes are read back through the
// guests' backends.
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Backend } from '../../src/block/backend.js';
import { Perm } from '../../src/block/types.js';
import { binPath, filled, readBytes, runOk, settle, tempDir } from '../support/index.js';
import type { Client, Message } from './support.js';
import { TestMonitor } from './support.js';

const MiB = 1024 * 1024;
const ALL = Perm.consistentRead | Perm.write;

let monitor: TestMonitor;
let client: Client;
let dir: string;

beforeEach(async () => {
  dir = tempDir();
  monitor = new TestMonitor();
  client = await monitor.connect();
  await runOk(binPath('vdisk-img'), ['create', '-q', '-f', 'qcow2', at('a.qcow2'), '1M']);
  await client.ok('blockdev-add', qcow2('a', 'a.qcow2'));
});

afterEach(async () => {
  await monitor.close();
});

const at = (name: string): string => join(dir, name);
const qcow2 = (name: string, file: string, more: Message = {}): Message => ({
  driver: 'qcow2',
  'node-name': name,
  file: { driver: 'file', filename: at(file) },
  ...more,
});

/** A guest of a node, as an export is. */
async function guest(node: string): Promise<Backend> {
  const graph = monitor.graph;
  const backend = new Backend({ graph, name: '', perm: ALL, shared: Perm.all & ~Perm.resize });
  const found = await graph.open({ reference: node });
  await backend.attach(found);
  await graph.release(found);
  return backend;
}

const nodes = async (): Promise<Message[]> =>
  (await client.ok('query-named-block-nodes', { flat: true })) as Message[];

const bitmapsOf = async (name: string): Promise<Record<string, unknown>> => {
  const node = (await nodes()).find((each) => each['node-name'] === name);
  const list = (node?.['dirty-bitmaps'] ?? []) as Message[];
  return Object.fromEntries(list.map((each) => [String(each['name']), each['count']]));
};

describe('transactions', () => {
  const act = (type: string, data: Message): Message => ({ type, data });
  const abort = act('abort', {});

  it('that fail leave bitmaps, nodes and bytes as they were', async () => {
    const disk = await guest('a');
    await client.ok('block-dirty-bitmap-add', { node: 'a', name: 'x' });
    await client.ok('block-dirty-bitmap-add', { node: 'a', name: 'y' });
    await disk.write(0, filled(65536, 1));
    await client.ok('block-dirty-bitmap-clear', { node: 'a', name: 'y' });
    await disk.write(MiB / 2, filled(65536, 2));
    // How much the metadata takes on the host is not told to guests.
    const told = async (): Promise<string> =>
      JSON.stringify(await nodes()).replace(/"actual-size":\d+|"virtual-size":\d{6},/g, '');
    const before = await told();
    const named = { node: 'a', name: 'x' };
    const sync = {
      'node-name': 'a',
      'snapshot-file': at('over.qcow2'),
      'snapshot-node-name': 'over',
    };
    const lists: Message[][] = [
      [act('block-dirty-bitmap-clear', named), abort],
      [act('block-dirty-bitmap-disable', named), abort],
      [act('block-dirty-bitmap-remove', named), abort],
      [act('block-dirty-bitmap-add', { node: 'a', name: 'z' }), abort],
      [act('block-dirty-bitmap-merge', { node: 'a', target: 'y', bitmaps: ['x'] }), abort],
      [act('block-dirty-bitmap-merge', { node: 'a', target: 'y', bitmaps: ['x', 'q'] })],
      [act('blockdev-snapshot-sync', sync), abort],
      [act('blockdev-snapshot-internal-sync', { device: 'a', name: 's' }), abort],
    ];
    for (const actions of lists) {
      expect(await client.execute('transaction', { actions })).toHaveProperty('error');
      expect(await told(), JSON.stringify(actions)).toBe(before);
    }
    expect(await bitmapsOf('a')).toEqual({ x: 131072, y: 65536 });
    await disk.write(65536, filled(512, 3));
    expect(await readBytes(disk, 65536, 512)).toEqual(new Uint8Array(512).fill(3));
    await disk.close();
  });

  it('take a snapshot and begin to record at the same moment', async () => {
    const disk = await guest('a');
    let stop = false as boolean;
    let writes = 0;
    const writer = (async (): Promise<void> => {
      while (!stop) {
        await disk.write((writes % 16) * 65536, filled(4096, writes % 251));
        writes++;
      }
    })();
    await settle();
    await client.ok('transaction', {
      actions: [
        act('blockdev-snapshot-sync', {
          'node-name': 'a',
          'snapshot-file': at('over.qcow2'),
          'snapshot-node-name': 'over',
        }),
        act('block-dirty-bitmap-add', { node: 'over', name: 'since' }),
      ],
    });
    expect(monitor.printed[0]).toMatch(/^Formatting '.*over\.qcow2', fmt=qcow2 .*size=1048576/);
    const early = writes;
    while (writes < early + 40) await settle();
    stop = true;
    await writer;
    expect(disk.node.name).toBe('over');
    expect(monitor.graph.tryNode('a')?.readOnly).toBe(true);
    // What the bitmap records is what the overlay holds.
    const over = monitor.graph.tryNode('over');
    const bitmap = over?.dirtyBitmaps.get('since');
    for (let offset = 0; offset < MiB; offset += 65536) {
      const status = await over?.blockStatus(offset, 65536);
      expect([offset, bitmap?.has(offset)]).toEqual([offset, status?.allocated]);
    }
    await disk.close();
  });
});

describe('permissions', () => {
  it('of two writers that do not share are refused in QEMU’s words', async () => {
    const graph = monitor.graph;
    const found = await graph.open({ reference: 'a' });
    const own = new Backend({ graph, name: 'mine', perm: ALL, shared: Perm.consistentRead });
    await own.attach(found);
    await graph.release(found);
    await monitor.exports.startServer({
      addr: { type: 'unix', path: at('nbd') },
      'handshake-max-seconds': 10,
      'max-connections': 100,
    });
    const args = { type: 'nbd', id: 'e', 'node-name': 'a', writable: true };
    const { error } = (await client.execute('block-export-add', args)) as { error: Message };
    expect(error['desc']).toBe(
      "Permission conflict on node 'a': permissions 'write' are both required by an unnamed " +
        "block device (uses node 'a' as 'root' child) and unshared by block device 'mine' (uses " +
        "node 'a' as 'root' child).",
    );
    expect(await client.ok('query-block-exports')).toEqual([]);
    await own.close();
  });

  it('a backing file is not to be touched on its own', async () => {
    await runOk(binPath('vdisk-img'), ['create', '-q', '-f', 'qcow2', at('b.qcow2'), '1M']);
    await client.ok('blockdev-add', qcow2('b', 'b.qcow2', { backing: 'a' }));
    const busy = {
      error: {
        class: 'GenericError',
        desc: "Node 'a' is busy: node is used as backing hd of 'b'",
      },
    };
    expect(await client.execute('block_resize', { 'node-name': 'a', size: 512 })).toEqual(busy);
    expect(await client.execute('blockdev-del', { 'node-name': 'a' })).toEqual(busy);
    await client.ok('blockdev-del', { 'node-name': 'b' });
    await client.ok('blockdev-del', { 'node-name': 'a' });
    expect(await nodes()).toEqual([]);
  });
});

describe('write thresholds', () => {
  it('are told once, with what exceeded them', async () => {
    const disk = await guest('a');
    const set = { 'node-name': 'a', 'write-threshold': 65536 };
    await client.ok('block-set-write-threshold', set);
    await disk.write(0, filled(65536, 1));
    await disk.write(60000, filled(8192, 1));
    await disk.write(MiB / 2, filled(8192, 1));
    await settle();
    expect(client.events().map((each) => [each['event'], each['data']])).toEqual([
      [
        'BLOCK_WRITE_THRESHOLD',
        { 'node-name': 'a', 'amount-exceeded': 2656, 'write-threshold': 65536 },
      ],
    ]);
    expect((await nodes())[0]).toMatchObject({ write_threshold: 0 });
    await disk.close();
  });
});
