// A machine with memory disks, and a driver of its IDE channels, for tests of devices.
import { onTestFinished } from 'vitest';
import { Backend } from '../../src/block/backend.js';
import { Perm } from '../../src/block/types.js';
import type { Device } from '../../src/device/bus/device.js';
import type { Backend as BackendType, BlockGraph } from '../../src/index.js';
import { SteppedClock } from '../../src/machine/clock.js';
import type { MachineInit } from '../../src/machine/machine.js';
import { Machine } from '../../src/machine/machine.js';
import { testGraph } from '../support/index.js';

export interface TestMachine {
  readonly machine: Machine;
  readonly graph: BlockGraph;
  readonly clock: SteppedClock;
  readonly events: { readonly name: string; readonly data: Readonly<Record<string, unknown>> }[];
}

/** A started machine that ends with the test. */
export async function testMachine(init: Partial<MachineInit> = {}): Promise<TestMachine> {
  const graph = init.graph ?? testGraph();
  const clock = new SteppedClock();
  const events: { name: string; data: Readonly<Record<string, unknown>> }[] = [];
  const machine = new Machine({
    graph,
    type: 'pc',
    ramBytes: 16 << 20,
    clock,
    emit: (name, data) => {
      events.push({ name, data });
    },
    ...init,
  });
  await machine.start();
  onTestFinished(async () => {
    machine.resume();
    await machine.close();
  });
  return { machine, graph, clock, events };
}

/** A drive named `name` over a node; undefined: empty. */
export async function addDrive(
  graph: BlockGraph,
  name: string,
  options: Record<string, unknown> | undefined,
  writable = true,
): Promise<BackendType> {
  const backend = new Backend({ graph, name, perm: 0, shared: Perm.all });
  if (options !== undefined) {
    const node = await graph.open({ options, flags: { writable, unmap: true } });
    await backend.attach(node);
    await graph.release(node);
  }
  graph.backends.set(name, backend);
  onTestFinished(async () => {
    await backend.close();
  });
  return backend;
}

/** A memory disk of `bytes` bytes as an IDE disk on the primary channel. */
export async function addIdeDisk(
  { machine, graph }: TestMachine,
  bytes: number,
  properties: Record<string, string> = {},
): Promise<{ readonly backend: BackendType; readonly device: Device }> {
  const backend = await addDrive(graph, 'disk0', { driver: 'memory', size: bytes });
  const device = await machine.addDevice(
    { driver: 'ide-hd', drive: 'disk0', bus: 'ide.0', ...properties },
    'keyval',
  );
  return { backend, device };
}

/** Lets everything that is under way end. */
export async function settled(turns = 8): Promise<void> {
  for (let i = 0; i < turns; i++) {
    await new Promise<void>((resolve) => {
      setImmediate(resolve);
    });
  }
}

export const BSY = 0x80;
export const DRDY = 0x40;
export const DRQ = 0x08;
export const ERR = 0x01;

/** The software side of the primary channel. */
export class IdeDriver {
  readonly #machine: Machine;
  readonly #unit: number;

  constructor(machine: Machine, unit = 0) {
    this.#machine = machine;
    this.#unit = unit;
  }

  in(register: number): number {
    return this.#machine.ports.read(0x1f0 + register, 1);
  }

  out(register: number, value: number): void {
    this.#machine.ports.write(0x1f0 + register, 1, value);
  }

  /** Loads the registers and writes the command. */
  command(code: number, lba: number, count: number, wide = false, feature = 0): void {
    this.out(6, 0xe0 | (this.#unit << 4) | (wide ? 0 : Math.floor(lba / 2 ** 24) & 15));
    if (wide) {
      this.out(1, feature >> 8);
      this.out(2, count >> 8);
      this.out(3, Math.floor(lba / 2 ** 24) & 255);
      this.out(4, Math.floor(lba / 2 ** 32) & 255);
      this.out(5, Math.floor(lba / 2 ** 40) & 255);
    }
    this.out(1, feature & 255);
    this.out(2, count & 255);
    this.out(3, lba & 255);
    this.out(4, (lba >> 8) & 255);
    this.out(5, (lba >> 16) & 255);
    this.out(7, code);
  }

  /** Waits until BSY is clear and gives the status. */
  async ready(): Promise<number> {
    for (let i = 0; i < 10_000; i++) {
      const status = this.#machine.ports.read(0x3f6, 1);
      if ((status & BSY) === 0) return this.in(7);
      await settled(1);
    }
    throw new Error('the drive stays busy');
  }

  readData(words: number): Uint8Array {
    const out = new Uint8Array(2 * words);
    for (let i = 0; i < words; i++) {
      const value = this.#machine.ports.read(0x1f0, 2);
      out[2 * i] = value & 255;
      out[2 * i + 1] = value >> 8;
    }
    return out;
  }

  writeData(data: Uint8Array): void {
    for (let i = 0; i < data.length; i += 2) {
      this.#machine.ports.write(0x1f0, 2, data[i]! | (data[i + 1]! << 8));
    }
  }

  /** Reads all blocks of a PIO command. */
  async pioIn(bytes: number, block = 512): Promise<Uint8Array> {
    const out = new Uint8Array(bytes);
    for (let at = 0; at < bytes; at += block) {
      const status = await this.ready();
      if ((status & (ERR | DRQ)) !== DRQ) throw new Error(`status ${status.toString(16)}`);
      out.set(this.readData(Math.min(block, bytes - at) / 2), at);
    }
    return out;
  }

  /** Writes all blocks of a PIO command; gives the status at its end. */
  async pioOut(data: Uint8Array, block = 512): Promise<number> {
    for (let at = 0; at < data.length; at += block) {
      const status = await this.ready();
      if ((status & (ERR | DRQ)) !== DRQ) throw new Error(`status ${status.toString(16)}`);
      this.writeData(data.subarray(at, Math.min(at + block, data.length)));
    }
    return this.ready();
  }

  /** Switches the IDE function on with bus mastering at port 0xc000. */
  enableDma(): void {
    const { ports } = this.#machine;
    const config = (register: number, size: 2 | 4, value: number): void => {
      ports.write(0xcf8, 4, 0x8000_0900 + register);
      ports.write(0xcfc, size, value);
    };
    config(0x20, 4, 0xc000);
    config(0x04, 2, 5);
  }

  /** Writes a table of regions at 1 MiB: [address, bytes] each. */
  table(regions: readonly (readonly [number, number])[], endMark = true): void {
    const raw = new Uint8Array(8 * regions.length);
    const view = new DataView(raw.buffer);
    regions.forEach(([address, bytes], i) => {
      view.setUint32(8 * i, address, true);
      const last = endMark && i === regions.length - 1 ? 0x8000_0000 : 0;
      view.setUint32(8 * i + 4, ((bytes & 0xffff) | last) >>> 0, true);
    });
    this.#machine.writeMemory(0x10_0000, raw);
    this.#machine.ports.write(0xc004, 4, 0x10_0000);
  }

  /** Starts the engine and waits until the command ended; gives the engine's status. */
  async dma(toMemory: boolean): Promise<number> {
    const { ports } = this.#machine;
    ports.write(0xc002, 1, 6);
    ports.write(0xc000, 1, toMemory ? 9 : 1);
    await this.ready();
    const status = ports.read(0xc002, 1) & 7;
    ports.write(0xc000, 1, 0);
    return status;
  }
}
