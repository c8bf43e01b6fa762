// The processor v86 in our machine: SeaBIOS finds each kind of disk, boots from it, and what the
// boot sector says arrives at the serial port; power-off and reset do what they say.
import { expect, it, onTestFinished } from 'vitest';
import { Backend } from '../../src/block/backend.js';
import { Perm } from '../../src/block/types.js';
import type { BlockGraph, GuestMachine, MachineOptions } from '../../src/index.js';
import { createMachine, Iov } from '../../src/index.js';
import { testGraph } from '../support/index.js';
import { bootDisk, requiresFirmware } from '../support/guest.js';

/** A memory disk as a node named `disk`. */
async function addDisk(graph: BlockGraph, content: Uint8Array): Promise<void> {
  const options = { driver: 'memory', size: content.length, 'node-name': 'disk' };
  const node = await graph.open({ options, flags: { writable: true } });
  const backend = new Backend({ graph, name: '', perm: Perm.write, shared: Perm.all });
  await backend.attach(node);
  await backend.write(0, Iov.of(content));
  await backend.setPerms({ perm: 0, shared: Perm.all });
  onTestFinished(() => backend.close());
}

interface Guest extends GuestMachine {
  /** What came out of the first serial port. */
  said(this: void): string;
  /** Resolves when the guest has switched itself off. */
  readonly off: Promise<void>;
}

async function guest(graph: BlockGraph, options: Partial<MachineOptions> = {}): Promise<Guest> {
  let end: () => void = () => undefined;
  const off = new Promise<void>((resolve) => (end = resolve));
  const made = await createMachine({ graph, ramBytes: 32 << 20, onPowerOff: end, ...options });
  const bytes: number[] = [];
  made.processor.serial[0]!.onByte = (byte): void => void bytes.push(byte);
  onTestFinished(async () => {
    await made.machine.close();
  }, 30_000);
  return { ...made, off, said: () => String.fromCharCode(...bytes) };
}

requiresFirmware()('SeaBIOS on the processor v86', () => {
  it.each([
    ['ide-hd', [{ driver: 'ide-hd', bus: 'ide.0', drive: 'disk' }]],
    ['ahci', [{ driver: 'ahci' }, { driver: 'ide-hd', bus: 'ide.2', drive: 'disk' }]],
    ['virtio-blk-pci', [{ driver: 'virtio-blk-pci', drive: 'disk' }]],
  ])(
    'boots from %s; the guest speaks and switches itself off',
    async (_name, devices) => {
      const graph = testGraph();
      await addDisk(graph, bootDisk('hello from the boot sector'));
      const { machine, off, said } = await guest(graph);
      for (const device of devices) await machine.addDevice(device, 'keyval');
      machine.begin();
      await off;
      expect(said()).toBe('hello from the boot sector');
      expect(machine.pauseReason).toBe('shutdown');
    },
    120_000,
  );

  it('a reset starts the guest again, and a paused one stands still', async () => {
    const graph = testGraph();
    await addDisk(graph, bootDisk('again '));
    let count = 0;
    const { machine, off, said } = await guest(graph, {
      isPaused: true,
      onPowerOff: () => {
        count++;
        if (count > 1) return;
        machine.reset();
        machine.resume();
      },
    });
    void off;
    await machine.addDevice({ driver: 'ide-hd', bus: 'ide.0', drive: 'disk' }, 'keyval');
    machine.begin();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(said()).toBe('');
    machine.resume();
    await expect.poll(() => count, { timeout: 120_000 }).toBe(2);
    expect(said()).toBe('again again ');
  }, 120_000);

  it('refuses what cannot be by name', async () => {
    const graph = testGraph();
    await expect(createMachine({ graph, ramBytes: 2 ** 31 })).rejects.toThrow('2 GiB');
    await expect(createMachine({ graph, firmware: { bios: 'nowhere.bin' } })).rejects.toThrow(
      "Could not find firmware 'nowhere.bin'",
    );
    const linux = { kernel: new Uint8Array(4096) };
    await expect(createMachine({ graph, linux })).rejects.toThrow('no bzImage');
  });
});
