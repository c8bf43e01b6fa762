// Goal: two machines use one image in turn, as in a migration over shared storage: the one that has
// it active writes, the other sees what was written once it is its turn, and never both at once.
// Method: two graphs over one simulated host with locks, compared with a model of the disk.
import { describe, expect, it } from 'vitest';
import {
  activateAll,
  activateNode,
  inactivateAll,
  inactivateNode,
} from '../../src/block/activity.js';
import { addBitmap } from '../../src/block/bitmaps.js';
import { createImage, prepareCreate } from '../../src/block/create.js';
import type { Backend, BlockGraph, BlockNode } from '../../src/index.js';
import { Perm } from '../../src/index.js';
import { Iov } from '../../src/lib/iov.js';
import {
  failure,
  failureCode,
  FakeFiles,
  fakeHost,
  filled,
  readBytes,
  same,
  seededRandom,
  testGraph,
} from '../support/index.js';

const MiB = 1 << 20;
const size = 4 * MiB;

interface Side {
  readonly graph: BlockGraph;
  readonly node: BlockNode;
  readonly disk: Backend;
}

async function pair(format: string): Promise<[Side, Side]> {
  const files = new FakeFiles();
  const host = fakeHost({ files });
  const maker = testGraph({ host });
  await createImage(maker, await prepareCreate(maker, { filename: '/d', format, size }));
  const open = async (inactive: boolean): Promise<Side> => {
    const graph = testGraph({ host });
    const disk = await graph.openBackend(
      {
        options: { driver: format, file: { driver: 'file', filename: '/d' } },
        flags: { writable: true, inactive },
      },
      { perm: Perm.consistentRead | Perm.write, shared: Perm.consistentRead, name: 'd' },
    );
    return { graph, node: disk.node, disk };
  };
  return [await open(false), await open(true)];
}

describe('an image that goes from machine to machine', () => {
  it('is given up again when its format cannot be read, and taken once it can', async () => {
    const [a, b] = await pair('qcow2');
    await a.disk.write(0, filled(MiB, 0x11));
    await inactivateAll(a.graph);
    const raw = await testGraph({ host: a.graph.host }).openBackend(
      { options: { driver: 'file', filename: '/d', locking: 'off' }, flags: { writable: true } },
      { perm: Perm.consistentRead | Perm.write, shared: Perm.all, name: 'raw' },
    );
    const magic = await readBytes(raw, 0, 4);
    await raw.write(0, filled(4, 0));
    for (const take of [() => activateNode(b.node), () => activateAll(b.graph)]) {
      expect(await failure(take())).toContain('Could not reopen qcow2 layer');
      expect(b.node.isActive).toBe(false);
      expect(b.node.file?.node.isActive).toBe(false);
    }
    await raw.write(0, Iov.of(magic));
    await raw.close();
    // The other side can have it: no lock was left.
    await activateAll(a.graph);
    expect(await readBytes(a.disk, 0, 4)).toEqual(new Uint8Array(4).fill(0x11));
    await inactivateAll(a.graph);
    const giveUp = await activateNode(b.node);
    expect(await readBytes(b.disk, 0, 4)).toEqual(new Uint8Array(4).fill(0x11));
    await giveUp();
    expect([b.node.isActive, b.node.file?.node.isActive]).toEqual([false, false]);
    await activateAll(a.graph);
  });

  it('stays active when another one cannot be given up', async () => {
    const [a] = await pair('qcow2');
    const writer = await a.graph.openBackend(
      { options: { driver: 'null-co', 'node-name': 'n' }, flags: { writable: true } },
      { perm: Perm.write, shared: Perm.all },
    );
    expect(await failureCode(inactivateAll(a.graph))).toBe('EPERM');
    expect([...a.graph.nodes.values()].every((node) => node.isActive)).toBe(true);
    await a.disk.write(0, filled(512, 0x33));
    await writer.close();
    await inactivateAll(a.graph);
    expect(a.node.isActive).toBe(false);
  });

  it('shows the other side what was written, and keeps both apart', async () => {
    const [a, b] = await pair('qcow2');
    await a.disk.write(0, filled(MiB, 0x11));
    expect(await failureCode(b.disk.write(0, filled(512, 1)))).toBe('EPERM');
    expect(await failure(activateAll(b.graph))).toContain('Failed to get');
    expect(b.node.isActive).toBe(false);
    await inactivateAll(a.graph);
    expect(a.node.isActive).toBe(false);
    expect(await failureCode(a.disk.write(0, filled(512, 1)))).toBe('EPERM');
    await activateAll(b.graph);
    expect(await readBytes(b.disk, MiB - 512, 1024)).toEqual(
      Uint8Array.from({ length: 1024 }, (_, i) => (i < 512 ? 0x11 : 0)),
    );
    expect(await failure(activateAll(a.graph))).toContain('Failed to get');
    await b.disk.write(2 * MiB, filled(MiB, 0x22));
    await inactivateAll(b.graph);
    await activateAll(a.graph);
    same(await readBytes(a.disk, 2 * MiB, MiB), new Uint8Array(MiB).fill(0x22));
  });

  it('takes persistent bitmaps along and leaves others', async () => {
    const [a, b] = await pair('qcow2');
    const init = { granularity: 65536, enabled: true };
    await addBitmap(a.node, 'kept', { ...init, persistent: true });
    await addBitmap(a.node, 'mine', { ...init, persistent: false });
    await a.disk.write(MiB, filled(65536, 1));
    await inactivateAll(a.graph);
    expect([...a.node.dirtyBitmaps.keys()]).toEqual(['mine']);
    await activateAll(b.graph);
    expect(b.node.dirtyBitmaps.get('kept')?.dirtyBytes).toBe(65536);
    await b.disk.write(0, filled(65536, 1));
    await inactivateAll(b.graph);
    await activateAll(a.graph);
    expect(a.node.dirtyBitmaps.get('kept')?.dirtyBytes).toBe(131072);
  });

  it('is not given up under a writer that does not know of it', async () => {
    const [a] = await pair('qcow2');
    const file = a.node.file!.node;
    expect(await failure(inactivateNode(file))).toBe('Node has active parent node');
    const writer = await a.graph.openBackend(
      { options: { driver: 'null-co', 'node-name': 'n' }, flags: { writable: true } },
      { perm: Perm.write, shared: Perm.all },
    );
    expect(await failureCode(inactivateNode(writer.node))).toBe('EPERM');
    await writer.close();
    await inactivateNode(a.node);
    expect(file.isActive).toBe(false);
    await activateNode(a.node);
    expect(file.isActive).toBe(true);
  });

  it.each(['qcow2', 'raw', 'qed', 'vdi', 'vmdk', 'vhdx', 'vpc', 'parallels'])(
    'of format %s stays equal to a model over many turns',
    async (format) => {
      const rnd = seededRandom();
      const sides = await pair(format);
      const model = new Uint8Array(size);
      for (let turn = 0; turn < 8; turn++) {
        const [has, other] = turn % 2 === 0 ? sides : [sides[1], sides[0]];
        for (let i = 0; i < 6; i++) {
          const at = rnd.int(0, size / 512 - 256) * 512;
          const bytes = rnd.int(1, 255) * 512;
          model.fill(turn * 16 + i + 1, at, at + bytes);
          await has.disk.write(at, filled(bytes, turn * 16 + i + 1));
        }
        await inactivateAll(has.graph);
        await activateAll(other.graph);
        same(await readBytes(other.disk, 0, size), model);
      }
    },
  );
});
