// Bridges: a device behind two of them is found by the numbers that the guest gives their buses,
// decodes only inside their windows, and comes and goes while the guest runs.
import { expect, it } from 'vitest';
import type { Machine } from '../../src/machine/machine.js';
import type { TestMachine } from './support.js';
import { addDrive, settled, testMachine } from './support.js';

const BAR = 0xf000_0000;

class Config {
  readonly #machine: Machine;
  constructor(machine: Machine) {
    this.#machine = machine;
  }

  #select(bus: number, slot: number, register: number): void {
    const address = 0x8000_0000 + bus * 0x1_0000 + slot * 0x800 + register;
    this.#machine.ports.write(0xcf8, 4, address);
  }

  read(bus: number, slot: number, register: number): number {
    this.#select(bus, slot, register);
    return this.#machine.ports.read(0xcfc, 4);
  }

  write(bus: number, slot: number, register: number, value: number): void {
    this.#select(bus, slot, register);
    this.#machine.ports.write(0xcfc, 4, value);
  }
}

async function chain(): Promise<TestMachine & { config: Config }> {
  const test = await testMachine({ type: 'q35' });
  const { machine, graph } = test;
  await addDrive(graph, 'd', { driver: 'memory', size: 1 << 20 });
  await machine.addDevice({ driver: 'pcie-root-port', id: 'p' }, 'keyval');
  await machine.addDevice({ driver: 'pcie-pci-bridge', bus: 'p', id: 'b' }, 'keyval');
  await machine.addDevice({ driver: 'virtio-blk-pci', bus: 'b', id: 'v', drive: 'd' }, 'keyval');
  const config = new Config(machine);
  config.write(0, 1, 0x18, 0x02_01_00);
  config.write(1, 0, 0x18, 0x02_02_01);
  return { ...test, config };
}

it('configuration cycles go through bridges by number', async () => {
  const { config } = await chain();
  expect(config.read(0, 1, 0)).toBe(0x000c_1b36);
  expect(config.read(1, 0, 0)).toBe(0x000e_1b36);
  expect(config.read(2, 1, 0)).toBe(0x1001_1af4);
  expect(config.read(3, 1, 0)).toBe(0xffff_ffff);
  config.write(0, 1, 0x18, 0x00_00_00);
  expect(config.read(2, 1, 0)).toBe(0xffff_ffff);
});

it('registers answer inside the windows of all bridges, and nowhere else', async () => {
  const { machine, config } = await chain();
  const answers = (): boolean => machine.mmio.isMapped(BAR);
  config.write(2, 1, 0x20, BAR);
  config.write(2, 1, 0x04, 6);
  expect(answers()).toBe(false);
  const window = 0xf000_f000;
  for (const [bus, slot] of [
    [0, 1],
    [1, 0],
  ] as const) {
    config.write(bus, slot, 0x20, window);
    config.write(bus, slot, 0x04, 7);
  }
  expect(answers()).toBe(true);
  config.write(0, 1, 0x20, 0xf100_f100);
  expect(answers()).toBe(false);
  config.write(0, 1, 0x20, window);
  expect(answers()).toBe(true);
  config.write(1, 0, 0x04, 0);
  expect(answers()).toBe(false);
});

it('a device behind bridges goes when the guest ejects it, or at a reset', async () => {
  const { machine, events, graph } = await chain();
  const device = machine.tryDevice('v');
  await machine.requestRemoval(device!);
  expect(machine.ports.read(0xcc4, 4)).toBe(0);
  // A virtio device tells of the part that it has as well, which has no id.
  const gone = (): unknown[] => events.flatMap(({ data }) => data['device'] ?? []);
  machine.ports.write(0xcc8, 4, 2);
  await settled();
  expect(events).toEqual([]);
  // Buses are numbered in their order: the root's, the port's, the bridge's.
  const numbers = [0, 1, 2, 3].filter((number) => {
    machine.ports.write(0xcd0, 4, number);
    return machine.ports.read(0xcc4, 4) === 2;
  });
  expect(numbers).toEqual([2]);
  machine.ports.write(0xcd0, 4, 2);
  machine.ports.write(0xcc8, 4, 2);
  await settled();
  expect(gone()).toEqual(['v']);
  await addDrive(graph, 'e', { driver: 'memory', size: 1 << 20 });
  await machine.addDevice({ driver: 'virtio-blk-pci', bus: 'b', id: 'w', drive: 'e' }, 'qmp', true);
  machine.ports.write(0xcd0, 4, 2);
  expect([machine.ports.read(0xcc0, 4), machine.ports.read(0xcc0, 4)]).toEqual([2, 0]);
  await machine.requestRemoval(machine.tryDevice('b')!);
  machine.reset();
  await settled();
  expect(gone()).toEqual(['v', 'w', 'b']);
  expect(machine.tryDevice('w')).toBeUndefined();
});

it('what cannot come or go while the guest runs is refused with the texts of QEMU', async () => {
  const { machine, graph } = await chain();
  await addDrive(graph, 'e', { driver: 'memory', size: 1 << 20 });
  const add = (properties: Record<string, string>): Promise<unknown> =>
    machine.addDevice(properties, 'qmp', true);
  await expect(add({ driver: 'virtio-blk-pci', drive: 'e', bus: 'pcie.0' })).rejects.toThrow(
    "Bus 'pcie.0' does not support hotplugging",
  );
  await expect(add({ driver: 'ide-hd', drive: 'e', bus: 'ide.0' })).rejects.toThrow(
    "Bus 'ide.0' does not support hotplugging",
  );
  const port = machine.tryDevice('p');
  await expect(machine.requestRemoval(port!)).rejects.toThrow('does not support hotplugging');
});
