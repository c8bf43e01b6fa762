// Goal: a machine goes back to a snapshot of all its disks and its RAM; whatever fails while one is
// made, no disk has it and the guest runs on. Method: one machine with two images over a simulated
// host, with writes to one of them that fail from any place on.
import { describe, expect, it } from 'vitest';
import { BlockError } from '../../src/block/errors.js';
import { createImage, prepareCreate } from '../../src/block/create.js';
import { nodeHost } from '../../src/host/node/index.js';
import type { Backend, BlockGraph } from '../../src/index.js';
import { Perm } from '../../src/index.js';
import { Machine } from '../../src/machine/machine.js';
import type { RunState } from '../../src/monitor/machine.js';
import type { MigrationHost } from '../../src/monitor/migration/migration.js';
import { MachineSnapshots } from '../../src/monitor/migration/snapshots.js';
import {
  failure,
  failureCode,
  FakeFiles,
  fakeHost,
  filled,
  readBytes,
  testGraph,
} from '../support/index.js';

const MiB = 1 << 20;

class Whole implements MigrationHost {
  readonly events: string[] = [];
  readonly uuid = '';
  readonly autostart = true;
  readonly snapshots = new MachineSnapshots(this, () => false);
  runState: RunState = 'running';

  constructor(
    readonly graph: BlockGraph,
    readonly machine: Machine,
    readonly disks: readonly [Backend, Backend],
  ) {}

  emit(name: string): void {
    this.events.push(name);
  }

  exclusively<T>(work: () => Promise<T>): Promise<T> {
    return work();
  }

  halt(state: RunState): void {
    if (this.runState === 'running') this.events.push('STOP');
    this.runState = state;
  }

  proceed(): void {
    this.events.push('RESUME');
    this.runState = 'running';
  }

  complain(text: string): void {
    this.events.push(text);
  }

  incomingFailed(): void {
    this.events.push('gone');
  }

  async names(): Promise<string[][]> {
    const all = await this.snapshots.list();
    return all.map(({ snapshots }) => snapshots.map(({ name }) => name));
  }
}

async function whole(): Promise<Whole> {
  const host = { ...fakeHost({ files: new FakeFiles() }), clock: nodeHost().clock };
  const graph = testGraph({ host });
  const open = async (name: string): Promise<Backend> => {
    const filename = `/${name}`;
    const wanted = { filename, format: 'qcow2', size: 4 * MiB };
    await createImage(graph, await prepareCreate(graph, wanted));
    const file = { driver: 'file', filename };
    return graph.openBackend(
      { options: { driver: 'qcow2', 'node-name': name, file }, flags: { writable: true } },
      {
        perm: Perm.consistentRead | Perm.write,
        shared: Perm.consistentRead,
        name: `${name}-drive`,
      },
    );
  };
  const disks = [await open('a'), await open('b')] as const;
  const machine = new Machine({ graph, type: 'pc', ramBytes: 4 * MiB });
  await machine.start();
  return new Whole(graph, machine, disks);
}

function ramByte({ machine }: Whole, address: number): number | undefined {
  const out = new Uint8Array(1);
  machine.ram.read(address, out);
  return out[0];
}

describe('a snapshot of a machine', () => {
  it('brings RAM and all disks back, and the guest runs as before', async () => {
    const vm = await whole();
    for (const disk of vm.disks) await disk.write(0, filled(MiB, 0x11));
    vm.machine.ram.write(0x12345, Uint8Array.of(1));
    await vm.snapshots.save('s', {}, true);
    expect(vm.events.splice(0)).toEqual(['STOP', 'RESUME']);
    for (const disk of vm.disks) await disk.write(0, filled(MiB, 0x22));
    vm.machine.ram.write(0x12345, Uint8Array.of(2));
    vm.machine.ram.write(0x54321, Uint8Array.of(3));
    vm.runState = 'paused';
    await vm.snapshots.load('s', {});
    expect([vm.runState, vm.events]).toEqual(['paused', []]);
    expect([ramByte(vm, 0x12345), ramByte(vm, 0x54321)]).toEqual([1, 0]);
    for (const disk of vm.disks) {
      expect(await readBytes(disk, MiB - 4, 4)).toEqual(new Uint8Array(4).fill(0x11));
    }
  });

  it('replaces one of its name, or is refused; it is deleted from all disks', async () => {
    const vm = await whole();
    await vm.snapshots.save('s', {}, true);
    await vm.snapshots.save('s', {}, true);
    expect(await vm.names()).toEqual([['s'], ['s']]);
    expect(await failure(vm.snapshots.save('s', {}, false))).toBe(
      "Snapshot 's' already exists in one or more devices",
    );
    await vm.snapshots.delete('s');
    expect(await vm.names()).toEqual([[], []]);
  });

  it('needs a state that is whole; else nothing changes', async () => {
    const vm = await whole();
    await vm.snapshots.save('s', {}, true);
    const [first] = vm.disks;
    await first.node.instance.snapshots?.delete(undefined, 's');
    const text = "Snapshot 's' does not exist in one or more devices";
    expect(await failure(vm.snapshots.load('s', {}))).toBe(text);
    const other = { vmStateSize: 4096, vmClockNsec: 0n, icount: -1n, dateSec: 0, dateNsec: 0 };
    await first.node.instance.snapshots?.create({ ...other, name: 's' });
    await first.write(0, filled(512, 0x44));
    vm.events.length = 0;
    expect(await failureCode(vm.snapshots.load('s', {}))).toBe('EINVAL');
    expect([vm.runState, vm.events]).toEqual(['running', []]);
    expect(await readBytes(first, 0, 4)).toEqual(new Uint8Array(4).fill(0x44));
  });

  it('is refused when the guest has used a device', async () => {
    const vm = await whole();
    vm.machine.ports.read(0x70, 1);
    expect(await failure(vm.snapshots.save('s', {}, true))).toBe(
      "State blocked by non-migratable device 'chipset'",
    );
  });

  it('is on no disk when there is no space for the state, or for one of them', async () => {
    for (const place of ['state', 'second disk'] as const) {
      const vm = await whole();
      vm.machine.ram.write(0, new Uint8Array(2 * MiB).fill(7));
      const [a, b] = vm.disks;
      const full = async (): Promise<never> => Promise.reject(new BlockError('ENOSPC'));
      const { instance } = a.node;
      const { snapshots } = b.node.instance;
      if (place === 'state') instance.writeVmState = full;
      else if (snapshots !== undefined) snapshots.create = full;
      expect(await failure(vm.snapshots.save('s', {}, true))).toContain('No space left');
      expect(await vm.names()).toEqual([[], []]);
      expect([vm.runState, vm.events]).toEqual(['running', ['STOP', 'RESUME']]);
      for (const disk of vm.disks) {
        const lines: string[] = [];
        await disk.node.instance.check?.({
          fixLeaks: false,
          fixErrors: false,
          report: (line) => lines.push(line),
        });
        expect(lines).toEqual([]);
      }
    }
  });

  it('leaves the older one of its name when a disk cannot have the new one', async () => {
    const vm = await whole();
    for (const disk of vm.disks) await disk.write(0, filled(MiB, 0x11));
    await vm.snapshots.save('s', {}, true);
    for (const disk of vm.disks) await disk.write(0, filled(MiB, 0x22));
    const [a, b] = vm.disks.map(({ node }) => node.instance.snapshots);
    if (a === undefined || b === undefined) throw new Error('no snapshots');
    const create = b.create.bind(b);
    b.create = async () => Promise.reject(new BlockError('ENOSPC'));
    expect(await failure(vm.snapshots.save('s', {}, true))).toBe(
      "Error while creating snapshot on 'b': No space left on device",
    );
    expect(await vm.names()).toEqual([['s'], ['s']]);
    // What was made cannot be taken back either: the first error is told, the rest is done.
    const remove = a.delete.bind(a);
    a.delete = async () => Promise.reject(new BlockError('EIO'));
    b.create = async (wanted) => {
      await create(wanted);
      throw new BlockError('ENOSPC');
    };
    expect(await failure(vm.snapshots.save('s', {}, true))).toBe(
      "Error while creating snapshot on 'b': No space left on device",
    );
    expect(await vm.names()).toEqual([['s', 's'], ['s']]);
    a.delete = remove;
    await a.delete('2', undefined);
    await vm.snapshots.load('s', {});
    for (const disk of vm.disks) {
      expect(await readBytes(disk, 0, 4)).toEqual(new Uint8Array(4).fill(0x11));
    }
  });
});
