// Goal: image locks keep users of one file apart as QEMU's do.
// Method: two graphs over one simulated host with locks; the bytes held are compared with those
// that QEMU 10's tools take (seen with strace), the messages with theirs.
import { describe, expect, it } from 'vitest';
import type { Backend, OpenFlags } from '../../src/index.js';
import { Perm } from '../../src/index.js';
import { failure, FakeFiles, fakeHost, testGraph } from '../support/index.js';

const all = Perm.all;

class Machine {
  readonly files = new FakeFiles();

  constructor() {
    this.files.put('/d', 1 << 20);
  }

  open(
    flags: Partial<OpenFlags>,
    perm: number,
    shared: number,
    options: Record<string, unknown> = {},
  ): Promise<Backend> {
    const graph = testGraph({ host: fakeHost({ files: this.files }) });
    return graph.openBackend(
      { options: { driver: 'file', filename: '/d', ...options }, flags },
      { perm, shared },
    );
  }

  held(): number[] {
    const locks = [...this.files.locks.values()].flat();
    expect(locks.every((l) => !l.exclusive)).toBe(true);
    return locks.map((l) => l.at).sort((a, b) => a - b);
  }
}

describe('bytes that are locked', () => {
  const cases: [string, Partial<OpenFlags>, number, number, number[]][] = [
    ['a reader that shares all', {}, Perm.consistentRead, all, [100]],
    [
      'a writer that shares all',
      { writable: true },
      Perm.consistentRead | Perm.write,
      all,
      [100, 101],
    ],
    [
      "a format's file",
      { writable: true },
      Perm.consistentRead | Perm.write | Perm.resize,
      all & ~(Perm.write | Perm.resize),
      [100, 101, 103, 201, 203],
    ],
    ['no I/O but no other writer', {}, 0, all & ~(Perm.write | Perm.resize), [201, 203]],
    ['nothing', {}, 0, all, []],
  ];
  it.each(cases)('%s', async (_name, flags, perm, shared, bytes) => {
    const machine = new Machine();
    const disk = await machine.open(flags, perm, shared);
    expect(machine.held()).toEqual(bytes);
    await disk.detach();
    expect(machine.held()).toEqual([]);
  });

  it('none with locking=off', async () => {
    const machine = new Machine();
    await machine.open({ writable: true }, all, 0, { locking: 'off' });
    expect(machine.held()).toEqual([]);
  });
});

describe('conflicts', () => {
  const hint = 'Is another process using the image [/d]?';

  it('name what is refused, and leave the locks as they were', async () => {
    const machine = new Machine();
    const writer = await machine.open({ writable: true }, Perm.write, all & ~Perm.write);
    const held = machine.held();
    const second = machine.open({ writable: true }, Perm.write, all);
    await expect(second).rejects.toMatchObject({ message: 'Failed to get "write" lock', hint });
    const reader = machine.open({}, Perm.consistentRead, all & ~Perm.write);
    await expect(reader).rejects.toMatchObject({
      message: 'Failed to get shared "write" lock',
      hint,
    });
    expect(machine.held()).toEqual(held);
    await writer.detach();
    await machine.open({ writable: true }, Perm.write, all);
  });

  it('force-share reads beside a writer', async () => {
    const machine = new Machine();
    await machine.open({ writable: true }, Perm.write, Perm.consistentRead);
    await machine.open({ forceShare: true }, Perm.consistentRead, all);
  });

  it('locking=on is refused where there are no locks, auto does without', async () => {
    const files = new FakeFiles({ without: ['locks'] });
    files.put('/d', 512);
    const graph = testGraph({ host: fakeHost({ files }) });
    const options = { driver: 'file', filename: '/d' };
    await graph.openBackend({ options });
    expect(await failure(graph.openBackend({ options: { ...options, locking: 'on' } }))).toBe(
      'locking=on was specified, but file locks are not available on this host',
    );
  });
});

describe('auto-read-only', () => {
  it('opens for writing when a writer comes, and goes back; locks follow', async () => {
    const machine = new Machine();
    const opens: string[] = [];
    machine.files.onOp = (op) => opens.push(op);
    const graph = testGraph({ host: fakeHost({ files: machine.files }) });
    const node = await graph.open({
      options: { driver: 'file', filename: '/d' },
      flags: { writable: true, autoReadOnly: true },
    });
    expect(opens).toEqual(['open']);
    const backend = await graph.openBackend(
      { reference: node.name },
      { perm: Perm.write | Perm.consistentRead, shared: all & ~Perm.write },
    );
    expect(opens).toEqual(['open', 'open']);
    expect(machine.held()).toEqual([100, 101, 201]);
    await backend.writeZeroes(0, 512);
    await backend.detach();
    expect(opens.filter((op) => op === 'open').length).toBe(3);
    expect(machine.held()).toEqual([]);
    await graph.release(node);
  });
});
