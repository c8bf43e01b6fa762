// isa-fdc and floppy driven by a driver in the test: sectors by DMA and byte by byte compared with
// the backend; formatting, media changes, wrong commands; registers at random.
import { describe, expect, it } from 'vitest';
import type { Backend } from '../../src/index.js';
import type { Machine } from '../../src/machine/machine.js';
import { readBytes, same, seededRandom } from '../support/index.js';
import type { TestMachine } from './support.js';
import { addDrive, settled, testMachine } from './support.js';

const DISK = 1440 * 1024;
const DATA = 0x2_0000;
const MSR = 0x3f4;
const FIFO = 0x3f5;

class Fdc {
  readonly #machine: Machine;
  constructor(machine: Machine) {
    this.#machine = machine;
  }

  in(port: number): number {
    return this.#machine.ports.read(port, 1);
  }

  out(port: number, value: number): void {
    this.#machine.ports.write(port, 1, value);
  }

  send(...bytes: number[]): void {
    for (const byte of bytes) {
      expect(this.in(MSR) & 0xc0, 'ready for a command').toBe(0x80);
      this.out(FIFO, byte);
    }
  }

  result(): number[] {
    const bytes: number[] = [];
    while ((this.in(MSR) & 0xd0) === 0xd0) bytes.push(this.in(FIFO));
    return bytes;
  }

  async ended(): Promise<number[]> {
    for (let i = 0; i < 20_000 && (this.in(MSR) & 0xf0) !== 0xd0; i++) await settled(1);
    return this.result();
  }

  /** Programs channel 2: to the guest's memory or from it. */
  dma(toMemory: boolean, bytes: number, address = DATA): void {
    this.out(0x0a, 6);
    this.out(0x0c, 0);
    this.out(0x0b, toMemory ? 0x46 : 0x4a);
    this.out(0x04, address & 255);
    this.out(0x04, (address >> 8) & 255);
    this.out(0x81, address >> 16);
    this.out(0x05, (bytes - 1) & 255);
    this.out(0x05, (bytes - 1) >> 8);
    this.out(0x0a, 2);
  }

  seek(cylinder: number, head = 0): void {
    this.send(0x0f, head << 2, cylinder);
    this.send(0x08);
    expect(this.result()).toEqual([0x20, cylinder]);
  }
}

async function floppy(
  properties: Record<string, string> = {},
  bytes = DISK,
): Promise<TestMachine & { fdc: Fdc; backend: Backend; random: ReturnType<typeof seededRandom> }> {
  const random = seededRandom();
  const test = await testMachine();
  const backend = await addDrive(test.graph, 'fd', { driver: 'memory', size: bytes });
  await test.machine.addDevice({ driver: 'floppy', drive: 'fd', ...properties }, 'keyval');
  return { ...test, fdc: new Fdc(test.machine), backend, random };
}

it('sectors go both ways by DMA, over both sides of a cylinder', async () => {
  const { machine, fdc, backend, random } = await floppy();
  for (let round = 0; round < 20; round++) {
    const cylinder = random.int(0, 79);
    const first = random.int(1, 18);
    const count = random.int(1, 36 - (first - 1));
    const data = random.bytes(512 * count);
    machine.writeMemory(DATA, data);
    fdc.dma(false, data.length);
    fdc.send(0xc5, 0, cylinder, 0, first, 2, 18, 0x1b, 0xff);
    const last = first - 1 + count - 1;
    expect(await fdc.ended()).toSatisfy(([st0, st1]: number[]) => {
      return st0 === (last >= 18 ? 4 : 0) && st1 === 0;
    });
    const at = 512 * (cylinder * 36 + first - 1);
    same(await readBytes(backend, at, data.length), data);
    machine.writeMemory(DATA, new Uint8Array(data.length));
    fdc.dma(true, data.length);
    fdc.send(0xe6, 0, cylinder, 0, first, 2, 18, 0x1b, 0xff);
    const [, , , c, h, r] = await fdc.ended();
    same(machine.readMemory(DATA, data.length), data);
    const next = last + 1;
    const wanted =
      next >= 36 ? [cylinder + 1, 0, 1] : [cylinder, next >= 18 ? 1 : 0, (next % 18) + 1];
    expect([c, h, r]).toEqual(wanted);
  }
});

it('sectors go both ways byte by byte', async () => {
  const { fdc, backend, random, machine } = await floppy();
  fdc.send(0x03, 0xaf, 0x03);
  const data = random.bytes(1024);
  fdc.send(0x45, 0, 7, 0, 3, 2, 4, 0x1b, 0xff);
  expect(fdc.in(MSR)).toBe(0xb0);
  for (const byte of data) fdc.out(FIFO, byte);
  expect((await fdc.ended()).slice(0, 3)).toEqual([0, 0, 0]);
  same(await readBytes(backend, 512 * (7 * 36 + 2), 1024), data);
  fdc.send(0x46, 0, 7, 0, 3, 2, 4, 0x1b, 0xff);
  await settled(20);
  expect(machine.interrupts.level(6)).toBe(true);
  const read = Uint8Array.from(data, () => fdc.in(FIFO));
  same(read, data);
  expect(fdc.result()).toHaveLength(7);
  expect(machine.interrupts.level(6)).toBe(false);
});

it('a track is formatted, and a scan finds what is on it', async () => {
  const { machine, fdc, backend } = await floppy();
  const ids = Array.from({ length: 18 }, (_, i) => [5, 1, i + 1, 2]).flat();
  machine.writeMemory(DATA, Uint8Array.from(ids));
  fdc.dma(false, ids.length);
  fdc.seek(5, 1);
  fdc.send(0x4d, 4, 2, 18, 0x54, 0xf6);
  expect((await fdc.ended()).slice(0, 3)).toEqual([4, 0, 0]);
  const track = await readBytes(backend, 512 * (5 * 36 + 18), 18 * 512);
  expect(track.every((byte) => byte === 0xf6)).toBe(true);
  for (const [code, byte, st2] of [
    [0x51, 0xf6, 0x08],
    [0x51, 0xf5, 0x04],
    [0x59, 0xf7, 0x00],
    [0x5d, 0xf5, 0x00],
  ] as const) {
    machine.writeMemory(DATA, new Uint8Array(512).fill(byte));
    fdc.dma(false, 512);
    fdc.send(code, 4, 5, 1, 1, 2, 1, 0x1b, 1);
    expect((await fdc.ended())[2]).toBe(st2);
  }
});

it('what cannot be carried out is refused: places, lengths, write protection', async () => {
  const { fdc, machine, graph } = await floppy();
  fdc.dma(true, 512);
  for (const [bytes, st0, st1] of [
    [[0x46, 0, 80, 0, 1, 2, 18, 0x1b, 0xff], 0x40, 0x04],
    [[0x46, 0, 0, 0, 19, 2, 19, 0x1b, 0xff], 0x40, 0x04],
    [[0x46, 0, 0, 0, 1, 3, 18, 0x1b, 0xff], 0x40, 0x04],
    [[0x46, 0, 0, 0, 0, 2, 18, 0x1b, 0xff], 0x40, 0x04],
    [[0x46, 1, 0, 0, 1, 2, 18, 0x1b, 0xff], 0x41, 0x01],
    [[0x45, 3, 0, 0, 1, 2, 18, 0x1b, 0xff], 0x43, 0x01],
  ] as const) {
    fdc.send(...bytes);
    expect((await fdc.ended()).slice(0, 2)).toEqual([st0, st1]);
  }
  await addDrive(graph, 'ro', { driver: 'memory', size: DISK, 'read-only': true }, false);
  await machine.addDevice({ driver: 'floppy', drive: 'ro' }, 'keyval');
  fdc.send(0x45, 1, 0, 0, 1, 2, 1, 0x1b, 0xff);
  expect((await fdc.ended()).slice(0, 2)).toEqual([0x41, 0x02]);
  fdc.send(0x04, 1);
  expect(fdc.result()).toEqual([0x79]);
});

it('the controller tells of itself, and keeps what LOCK holds over a reset', async () => {
  const { fdc, clock } = await floppy();
  const ask = (...bytes: number[]): number[] => {
    fdc.send(...bytes);
    return fdc.result();
  };
  expect(ask(0x10)).toEqual([0x90]);
  expect(ask(0x18)).toEqual([0x41]);
  expect(ask(0x1f)).toEqual([0x80]);
  expect(ask(0x13, 0, 0x57, 9)).toEqual([]);
  expect(ask(0x03, 0xdf, 0x02)).toEqual([]);
  expect(ask(0x12, 0x84)).toEqual([]);
  fdc.seek(11);
  expect(ask(0x0e)).toEqual([11, 0, 0, 0, 0xdf, 0x02, 0, 0x04, 0x57, 9]);
  expect(ask(0x94)).toEqual([0x10]);
  fdc.out(0x3f2, 0);
  expect(fdc.in(MSR)).toBe(0);
  fdc.out(0x3f2, 0x0c);
  expect(ask(0x0e).slice(7)).toEqual([0x84, 0x57, 9]);
  expect(ask(0x14)).toEqual([0]);
  fdc.out(0x3f4, 0x80);
  for (let unit = 0; unit < 4; unit++) expect(ask(0x08)[0]).toBe(0xc0 | unit);
  expect(ask(0x08)).toEqual([0x80]);
  expect(ask(0x07, 0)).toEqual([]);
  expect(ask(0x08)).toEqual([0x20, 0]);
  fdc.send(0x4a, 0);
  expect(fdc.in(MSR)).toBe(0x10);
  clock.moveTo(clock.now() + 100_000_000);
  expect(fdc.result()).toEqual([0, 0, 0, 0, 0, 1, 2]);
});

it('CVE-2015-3456 (VENOM): commands with too many bytes stay in their buffer', async () => {
  const { fdc } = await floppy();
  for (const code of [0x8e, 0x0a, 0x4e, 0x8f]) {
    fdc.out(FIFO, code);
    for (let i = 0; i < 4096; i++) fdc.out(FIFO, 0x3f);
    for (let i = 0; i < 4096; i++) fdc.in(FIFO);
    fdc.out(0x3f2, 0);
    fdc.out(0x3f2, 0x0c);
    for (let unit = 0; unit < 4; unit++) {
      fdc.send(0x08);
      fdc.result();
    }
    fdc.send(0x10);
    expect(fdc.result()).toEqual([0x90]);
  }
});

it('CVE-2021-3507: a transfer beyond the count of the DMA controller ends with it', async () => {
  const { fdc, machine } = await floppy();
  machine.writeMemory(DATA, new Uint8Array(4096).fill(0xee));
  fdc.dma(true, 700);
  fdc.send(0xe6, 0, 0, 0, 1, 2, 18, 0x1b, 0xff);
  await fdc.ended();
  const after = machine.readMemory(DATA, 4096);
  expect(after.subarray(0, 700).every((byte) => byte === 0)).toBe(true);
  expect(after.subarray(700).every((byte) => byte === 0xee)).toBe(true);
});

describe('drives', () => {
  it.each([
    [1440, {}, 0x40],
    [2880, {}, 0x50],
    [1200, {}, 0x20],
    [720, {}, 0x40],
    [360, {}, 0x20],
    [77, {}, 0x50],
    [720, { 'drive-type': '288' }, 0x50],
  ] as const)('%i KiB %o are told as %i', async (kib, properties, wanted) => {
    const { machine } = await floppy(properties, kib * 1024);
    expect(machine.cmos.bytes[0x10]).toBe(wanted);
  });

  it('wrong properties are refused with the texts of QEMU', async () => {
    const { machine, graph } = await testMachine();
    const add = (properties: Record<string, string>): Promise<unknown> =>
      machine.addDevice({ driver: 'floppy', ...properties }, 'keyval');
    await expect(add({ unit: '5' })).rejects.toThrow(
      "Can't create floppy unit 5, bus supports only 2 units",
    );
    await add({ unit: '1' });
    await expect(add({ unit: '1' })).rejects.toThrow('Floppy unit 1 is in use');
    await expect(add({ 'drive-type': '5' })).rejects.toThrow(
      "Parameter 'drive-type' does not accept value '5'",
    );
    const backend = await addDrive(graph, 'd', undefined);
    backend.onWriteError = 'stop';
    await expect(add({ drive: 'd' })).rejects.toThrow("fdc doesn't support drive option werror");
    await add({});
    await expect(add({})).rejects.toThrow("Can't create floppy unit 2, bus supports only 2 units");
  });
});

it('no sequence of accesses brings the controller down or goes outside the disk', async () => {
  const { machine, fdc, backend, random, clock } = await floppy();
  const ports = [
    0x3f2,
    0x3f3,
    0x3f4,
    FIFO,
    FIFO,
    FIFO,
    FIFO,
    0x3f7,
    4,
    5,
    8,
    0x0a,
    0x0b,
    0x0f,
    0x81,
  ];
  const codes = [
    0x46, 0xe6, 0x45, 0xc5, 0x4d, 0x0a, 0x0f, 0x16, 0x02, 0x11, 0x8e, 0x4e, 0x08, 0x0c,
  ];
  for (let i = 0; i < 20_000; i++) {
    const what = random.int(0, 9);
    if (what < 6) fdc.out(random.pick(ports), random.int(0, 255));
    else if (what < 7) fdc.in(random.int(0x3f0, 0x3f7));
    else if (what < 8) {
      fdc.out(0x3f2, 0x0c | random.int(0, 1));
      fdc.out(FIFO, random.pick(codes));
      for (const most of [7, 82, 1, 20, 2, 20, 255, 255]) fdc.out(FIFO, random.int(0, most));
      if (random.chance(0.5))
        fdc.dma(random.chance(0.5), random.int(1, 65536), random.int(0, 0xff_ffff));
    } else if (what < 9) clock.moveTo(clock.now() + 30_000_000);
    else await settled(random.int(0, 3));
  }
  await settled(20);
  machine.reset();
  fdc.out(0x0d, 0);
  fdc.dma(true, 512);
  fdc.send(0x46, 0, 0, 0, 1, 2, 1, 0x1b, 0xff);
  expect((await fdc.ended()).slice(0, 3)).toEqual([0, 0, 0]);
  expect(backend.size).toBe(DISK);
});
