// ich9-ahci driven by a driver in the test: data by PIO, DMA and queued commands compared with the
// backend; errors; command lists, regions and registers at random.
import { expect, it } from 'vitest';
import type { Backend } from '../../src/index.js';
import type { Machine } from '../../src/machine/machine.js';
import { readBytes, same, seededRandom } from '../support/index.js';
import type { TestMachine } from './support.js';
import { addDrive, settled, testMachine } from './support.js';

const MiB = 1 << 20;
const BAR = 0xe000_0000;
const LIST = 0x10_0000;
const FIS = 0x10_1000;
const TABLE = 0x10_2000;
const DATA = 0x20_0000;

class Ahci {
  readonly machine: Machine;

  constructor(machine: Machine) {
    this.machine = machine;
    const config = (register: number, size: 2 | 4, value: number): void => {
      machine.ports.write(0xcf8, 4, 0x8000_fa00 + register);
      machine.ports.write(0xcfc, size, value);
    };
    config(0x24, 4, BAR);
    config(0x04, 2, 6);
    this.restart();
  }

  reg(offset: number): number {
    return this.machine.mmio.read(BAR + offset, 4);
  }

  set(offset: number, value: number): void {
    this.machine.mmio.write(BAR + offset, 4, value);
  }

  restart(): void {
    this.set(0x118, 0x06);
    this.set(0x100, LIST);
    this.set(0x108, FIS);
    this.set(0x110, 0xffff_ffff);
    this.set(0x130, 0xffff_ffff);
    this.set(0x114, 0xffff_ffff);
    this.set(0x118, 0x16);
    this.set(0x118, 0x17);
  }

  /** Builds a command in a slot; regions are [address, bytes]. */
  build(
    slot: number,
    code: number,
    lba: number,
    count: number,
    regions: readonly (readonly [number, number])[],
    write = false,
  ): void {
    const table = TABLE + 0x1000 * slot;
    const fis = new Uint8Array(64);
    const queued = code === 0x60 || code === 0x61;
    const sectors = queued ? slot << 3 : count;
    fis.set([0x27, 0x80, code, queued ? count : 0, lba & 255, (lba >> 8) & 255, (lba >> 16) & 255]);
    fis.set([0x40, (lba / 2 ** 24) & 255, 0, 0, queued ? count >> 8 : 0, sectors, sectors >> 8], 7);
    this.machine.writeMemory(table, fis);
    regions.forEach(([address, bytes], i) => {
      const view = new DataView(new ArrayBuffer(16));
      view.setUint32(0, address, true);
      view.setUint32(12, bytes - 1, true);
      this.machine.writeMemory(table + 0x80 + 16 * i, new Uint8Array(view.buffer));
    });
    const header = new DataView(new ArrayBuffer(32));
    header.setUint32(0, 5 | (write ? 0x40 : 0) | (regions.length * 0x1_0000), true);
    header.setUint32(8, table, true);
    this.machine.writeMemory(LIST + 32 * slot, new Uint8Array(header.buffer));
  }

  /** Issues slots and waits until they are done; gives PxIS. */
  async issue(slots: number, queued = false): Promise<number> {
    if (queued) this.set(0x134, slots);
    this.set(0x138, slots);
    for (let i = 0; i < 1000; i++) {
      const open = (this.reg(0x138) | this.reg(0x134)) & slots;
      if (open === 0 || (this.reg(0x110) & 0x4000_0000) !== 0) break;
      await settled(1);
    }
    const is = this.reg(0x110);
    this.set(0x110, is);
    this.set(0x08, 1);
    return is;
  }
}

interface AhciTest extends TestMachine {
  readonly ahci: Ahci;
  readonly backend: Backend;
}

async function ahciMachine(): Promise<AhciTest> {
  const test = await testMachine({ type: 'q35' });
  const backend = await addDrive(test.graph, 'disk0', { driver: 'memory', size: 8 * MiB });
  await test.machine.addDevice({ driver: 'ide-hd', drive: 'disk0', bus: 'ide.0' }, 'keyval');
  return { ...test, ahci: new Ahci(test.machine), backend };
}

it.each([
  ['DMA', 0xca, 0xc8, 1, 1],
  ['DMA EXT', 0x35, 0x25, 1, 1],
  ['PIO of several sectors', 0x34, 0x24, 3, 3],
  ['queued commands', 0x61, 0x60, 8, 8],
] as const)('%s: reads what it wrote', async (_name, write, read, writeIs, readIs) => {
  const { ahci, backend, machine } = await ahciMachine();
  const random = seededRandom();
  const queued = write === 0x61;
  for (const count of [2, 3, 128]) {
    const data = random.bytes(count * 512);
    const lba = random.int(0, 16384 - count);
    const half = 512 + 2 * random.int(0, 100);
    const regions = [
      [DATA, half],
      [DATA + MiB, data.length - half],
    ] as const;
    machine.writeMemory(DATA, data.subarray(0, half));
    machine.writeMemory(DATA + MiB, data.subarray(half));
    ahci.build(3, write, lba, count, regions, true);
    expect(await ahci.issue(8, queued)).toBe(writeIs);
    same(await readBytes(backend, lba * 512, data.length), data);
    machine.writeMemory(DATA, new Uint8Array(half));
    machine.writeMemory(DATA + MiB, new Uint8Array(data.length - half));
    ahci.build(3, read, lba, count, regions);
    expect(await ahci.issue(8, queued)).toBe(readIs);
    same(machine.readMemory(DATA, half), data.subarray(0, half));
    same(machine.readMemory(DATA + MiB, data.length - half), data.subarray(half));
  }
});

it('32 queued writes at once all reach their sectors', async () => {
  const { ahci, backend, machine } = await ahciMachine();
  const data = seededRandom().bytes(32 * 4096);
  machine.writeMemory(DATA, data);
  for (let i = 0; i < 32; i++)
    ahci.build(i, 0x61, 8 * (31 - i), 8, [[DATA + 4096 * i, 4096]], true);
  expect((await ahci.issue(0xffff_ffff, true)) & 0x4000_0000).toBe(0);
  expect([ahci.reg(0x134), ahci.reg(0x138)]).toEqual([0, 0]);
  for (let i = 0; i < 32; i++) {
    const want = data.subarray(4096 * i, 4096 * (i + 1));
    same(await readBytes(backend, 4096 * (31 - i), 4096), want);
  }
});

it('an error halts the port until it is started anew (CVE-2016-1568)', async () => {
  const { ahci } = await ahciMachine();
  for (const code of [0x25, 0x60]) {
    ahci.build(0, code, 16384, 1, [[DATA, 512]]);
    expect((await ahci.issue(1, code === 0x60)) & 0x4000_0000).toBe(0x4000_0000);
    expect(ahci.reg(0x120) & 1).toBe(1);
    ahci.restart();
    ahci.build(0, 0x25, 0, 1, [[DATA, 512]]);
    expect(await ahci.issue(1)).toBe(1);
  }
});

it('regions that are too short end the command', async () => {
  const { ahci } = await ahciMachine();
  ahci.build(0, 0x25, 0, 8, [[DATA, 512]]);
  expect(await ahci.issue(1)).toBe(0x0100_0001);
  ahci.build(0, 0x25, 0, 8, []);
  expect(await ahci.issue(1)).toBe(0x0100_0001);
});

it('starts with no list, and with one that is no memory (CVE-2016-2197)', async () => {
  const { ahci } = await ahciMachine();
  for (const base of [0, BAR, 0xffff_fc00]) {
    ahci.set(0x118, 6);
    ahci.set(0x100, base);
    ahci.set(0x108, base);
    ahci.set(0x118, 0x17);
    ahci.set(0x134, 0xffff_ffff);
    ahci.set(0x138, 0xffff_ffff);
    await settled();
  }
  ahci.restart();
  ahci.build(0, 0xec, 0, 0, [[DATA, 512]]);
  expect(await ahci.issue(1)).toBe(3);
});

it('survives lists, tables and registers at random', async () => {
  const { ahci, machine, backend } = await ahciMachine();
  const random = seededRandom();
  const codes = [0x20, 0x24, 0x25, 0x35, 0x60, 0x61, 0xec, 0xa0, 0xc8, 0xca, 0x06, 0xb0, 0xe7];
  for (let i = 0; i < 3000; i++) {
    const what = random.int(0, 9);
    if (what < 4) {
      const regions = Array.from({ length: random.int(0, 4) }, () => {
        const address = random.pick([DATA, BAR, LIST, 0xff_f000, TABLE, 0xffff_f000]);
        return [address, random.int(1, 70_000)] as const;
      });
      const lba = random.chance(0.8) ? random.int(0, 16000) : random.uint32();
      ahci.build(random.int(0, 31), random.pick(codes), lba, random.int(0, 300), regions);
    } else if (what < 6) ahci.set(0x138, random.uint32() & random.uint32());
    else if (what < 7) ahci.set(0x134, random.uint32() & random.uint32());
    else if (what < 8) machine.writeMemory(LIST + random.int(0, 0x3000), random.bytes(8));
    else if (what < 9) machine.mmio.write(BAR + 4 * random.int(0, 0x60), 4, random.uint32());
    else
      machine.mmio.write(
        BAR + random.int(0, 0xfff),
        random.pick([1, 2, 4] as const),
        random.uint32(),
      );
    if (random.chance(0.1)) await settled(1);
    if (random.chance(0.03)) ahci.restart();
  }
  await settled(20);
  machine.reset();
  const again = new Ahci(machine);
  again.build(0, 0x25, 0, 1, [[DATA, 512]]);
  expect(await again.issue(1)).toBe(1);
  expect(backend.size).toBe(8 * MiB);
});
