// Goal: the SCRIPTS processor of lsi53c895a moves a disk's blocks, and no script harms the host.
// Method: programs are put into guest memory and started by registers; data are compared with the
// backend. Attacks: scripts without end, scripts that write themselves or the chip's registers,
// tables out of RAM, requests after an abort or a reset, random registers and programs.
import { expect, it } from 'vitest';
import type { Backend } from '../../src/index.js';
import { Iov } from '../../src/index.js';
import { readBytes, same, seededRandom } from '../support/index.js';
import type { TestMachine } from './support.js';
import { addDrive, settled, testMachine } from './support.js';

const DISK = 1 << 20;
const RAM = 16 << 20;
const REGISTERS = 0xe100_0000;
const OWN_RAM = 0xe101_0000;
const PROGRAM = 0x10_0000;
const MESSAGE = 0x11_0000;
const CDB = 0x11_0100;
const STATUS = 0x11_0200;
const DATA = 0x12_0000;

const ISTAT = 0x14;
const DSTAT = 0x0c;
const DSP = 0x2c;
const SIST0 = 0x42;
const UNEXPECTED_DISCONNECT = 0x04;
const MISMATCH = 0x80;
const ILLEGAL = 0x01;
const BY_SCRIPT = 0x04;

// Instructions: [word, address].
type Code = readonly (readonly number[])[];
const SELECT: readonly number[] = [0x4100_0000, 0];
const moveOut = (phase: number, bytes: number, at: number): number[] => [
  ((phase << 24) | bytes) >>> 0,
  at,
];
const identify = moveOut(6, 1, MESSAGE);
const command = (bytes: number): number[] => moveOut(2, bytes, CDB);
const takeStatus = [0x0300_0001, STATUS];
const takeMessage = [0x0700_0001, STATUS + 1];
const WAIT_DISCONNECT = [0x4800_0000, 0];
const stop = (why: number): number[] => [0x9808_0000, why];
const jump = (to: number): number[] => [0x8008_0000, to];
const memoryMove = (bytes: number, from: number, to: number): number[] => [
  (0xc000_0000 | bytes) >>> 0,
  from,
  to,
];
const storeRegister = (register: number, value: number): number[] => [
  (0x7800_0000 | (register << 16) | (value << 8)) >>> 0,
  0,
];

interface Lsi extends TestMachine {
  readonly backend: Backend;
  /** Maps the function and lets it reach memory. */
  enable(): void;
  read(register: number, size?: 1 | 4): number;
  write(register: number, value: number, size?: 1 | 4): void;
  put(at: number, bytes: Iterable<number>): void;
  /** Puts a program somewhere and starts it. */
  run(code: Code, at?: number): void;
  /** Waits until an interrupt: DSTAT, SIST0, SIST1 and DSPS. */
  ended(): Promise<{ dstat: number; sist0: number; sist1: number; dsps: number }>;
}

async function lsi(): Promise<Lsi> {
  const test = await testMachine({ ramBytes: RAM });
  const { machine, graph } = test;
  await machine.addDevice({ driver: 'lsi53c895a', id: 's', addr: '4.0' }, 'keyval');
  const backend = await addDrive(graph, 'd', { driver: 'memory', size: DISK });
  await machine.addDevice({ driver: 'scsi-hd', drive: 'd', bus: 's.0', id: 'hd' }, 'keyval');
  const config = (register: number, size: 2 | 4, value: number): void => {
    machine.ports.write(0xcf8, 4, 0x8000_2000 + register);
    machine.ports.write(0xcfc, size, value);
  };
  const enable = (): void => {
    config(0x14, 4, REGISTERS);
    config(0x18, 4, OWN_RAM);
    config(0x04, 2, 7);
  };
  enable();
  const { mmio } = machine;
  const read: Lsi['read'] = (register, size = 1) => mmio.read(REGISTERS + register, size);
  const write: Lsi['write'] = (register, value, size = 1) => {
    mmio.write(REGISTERS + register, size, value);
  };
  const put: Lsi['put'] = (at, bytes) => {
    machine.writeMemory(at, Uint8Array.from(bytes));
  };
  const run: Lsi['run'] = (code, at = PROGRAM) => {
    put(at, new Uint8Array(Uint32Array.from(code.flat()).buffer));
    write(DSP, at, 4);
  };
  const ended: Lsi['ended'] = async () => {
    for (let i = 0; i < 1000 && (read(ISTAT) & 3) === 0; i++) await settled(1);
    if ((read(ISTAT) & 3) === 0) throw new Error('the script does not end');
    return {
      dstat: read(DSTAT) & 0x7f,
      sist0: read(SIST0),
      sist1: read(SIST0 + 1),
      dsps: read(0x30, 4),
    };
  };
  put(MESSAGE, [0x80]);
  const all = { ...test, backend, enable, read, write, put, run, ended };
  // The first command hears of power-on.
  put(CDB, [0, 0, 0, 0, 0, 0]);
  run([SELECT, identify, command(6), takeStatus, takeMessage, WAIT_DISCONNECT, stop(1)]);
  await ended();
  return all;
}

const memory = ({ machine }: Lsi, at: number, bytes: number): Uint8Array =>
  machine.readMemory(at, bytes);

/** A program that carries out the command of ten bytes with its data. */
const whole = (phase: number, bytes: number, at = DATA): Code => [
  SELECT,
  identify,
  command(10),
  moveOut(phase, bytes, at),
  takeStatus,
  takeMessage,
  WAIT_DISCONNECT,
  stop(0x77),
];
const rw = (code: number, lba: number, count: number): number[] => [
  code,
  0,
  0,
  0,
  lba >> 8,
  lba & 255,
  0,
  0,
  count,
  0,
];
const good = { dstat: BY_SCRIPT, sist0: 0, sist1: 0, dsps: 0x77 };

it('scripts read and write blocks, from guest memory and from the chip’s own', async () => {
  const test = await lsi();
  const random = seededRandom();
  const content = random.bytes(DISK);
  await test.backend.write(0, Iov.of(content));
  test.put(CDB, rw(0x28, 100, 5));
  test.run(whole(1, 5 * 512));
  expect(await test.ended()).toEqual(good);
  same(memory(test, DATA, 5 * 512), content.subarray(51_200, 51_200 + 5 * 512));
  expect([...memory(test, STATUS, 2)]).toEqual([0, 0]);

  const data = random.bytes(3 * 512);
  test.put(DATA, data);
  test.put(CDB, rw(0x2a, 7, 3));
  test.run(whole(0, 3 * 512));
  expect(await test.ended()).toEqual(good);
  content.set(data, 7 * 512);
  same(await readBytes(test.backend, 0, DISK), content);

  // The program in the chip's RAM, the block through it, and by pieces.
  test.put(CDB, rw(0x28, 7, 1));
  const code = [
    SELECT,
    identify,
    command(10),
    moveOut(1, 200, OWN_RAM + 4096),
    moveOut(1, 312, OWN_RAM + 4296),
    takeStatus,
    takeMessage,
    WAIT_DISCONNECT,
    memoryMove(512, OWN_RAM + 4096, DATA + 8192),
    stop(0x77),
  ];
  for (const [i, value] of code.flat().entries()) {
    test.machine.mmio.write(OWN_RAM + 4 * i, 4, value);
  }
  test.write(DSP, OWN_RAM, 4);
  expect(await test.ended()).toEqual(good);
  same(memory(test, DATA + 8192, 512), data.subarray(0, 512));
});

it('jumps wait for the phase, by tables and by relative ways', async () => {
  const test = await lsi();
  await test.backend.write(0, Iov.of(new Uint8Array(512).fill(0x5a)));
  test.put(CDB, rw(0x28, 0, 1));
  // A table at DSA: identification, then message, command and data.
  const table = [0, 1, MESSAGE, 10, CDB, 512, DATA];
  test.put(0x13_0000, new Uint8Array(Uint32Array.from(table).buffer));
  test.write(0x10, 0x13_0000, 4);
  test.run([
    [0x4300_0000, 0],
    [0x1600_0000, 4],
    [0x1200_0000, 12],
    // Status at once: only when the disk is done it is known that there are data first.
    [0x838a_0000, 16],
    [0x1100_0000, 20],
    jump(PROGRAM + 7 * 8),
    stop(0xbad),
    takeStatus,
    takeMessage,
    WAIT_DISCONNECT,
    stop(0x77),
  ]);
  expect(await test.ended()).toEqual(good);
  same(memory(test, DATA, 512), new Uint8Array(512).fill(0x5a));
});

it('registers: arithmetic, load and store, calls, timers, single steps, interrupts', async () => {
  const test = await lsi();
  test.put(DATA, [1, 2, 3, 4]);
  test.write(0x34, 0xf0);
  test.run([
    [0x7e34_2000, 0], // SCRATCHA0 + 0x20: a carry
    [0x80a0_0000, 8], // not taken: the carry is set
    [0x7f35_0100, 0], // with the carry
    [0xe135_0001, DATA + 3], // load SCRATCHA1
    [0xe034_0004, DATA + 8], // store all four
    [0x8808_0000, PROGRAM + 8 * 8], // call
    [0x9818_0000, 5], // interrupt on the fly
    stop(0x77),
    [0x9008_0000, 0], // return
  ]);
  expect(await test.ended()).toMatchObject({ dstat: BY_SCRIPT, dsps: 0x77 });
  expect([...memory(test, DATA + 8, 4)]).toEqual([0x10, 4, 0, 0]);
  expect(test.read(ISTAT) & 4).toBe(4);
  test.write(ISTAT, 4);
  expect(test.read(ISTAT)).toBe(0);
  test.run([[0xe032_0004, DATA]]);
  expect((await test.ended()).dstat).toBe(ILLEGAL);
  test.run([[0xa008_0000, 0]]);
  expect((await test.ended()).dstat).toBe(ILLEGAL);
  test.write(0x49, 1);
  expect((await test.ended()).sist1).toBe(2);
  test.write(0x3b, 0x10);
  test.run([jump(PROGRAM)]);
  expect((await test.ended()).dstat).toBe(8);
});

it('a target that is not there, a wrong phase, too much data, a command that fails', async () => {
  const test = await lsi();
  test.run([[0x4103_0000, 0], stop(1)]);
  expect((await test.ended()).sist1).toBe(4);
  test.run([identify]);
  expect((await test.ended()).sist0).toBe(UNEXPECTED_DISCONNECT);
  test.run([SELECT, takeStatus]);
  expect((await test.ended()).sist0).toBe(MISMATCH);
  test.write(ISTAT, 0x40);
  test.write(ISTAT, 0);
  // The same as a jump.
  test.write(0x56, 0xc0);
  test.write(0xc4, PROGRAM + 24, 4);
  test.run([SELECT, takeStatus, stop(1), stop(2)]);
  expect(await test.ended()).toMatchObject({ dstat: BY_SCRIPT, dsps: 2 });
  test.write(ISTAT, 0x40);
  test.write(ISTAT, 0);
  test.put(CDB, rw(0x28, 0, 1));
  test.run(whole(1, 1000));
  expect((await test.ended()).sist0).toBe(MISMATCH);
  expect(test.read(0x24, 4) & 0xff_ffff).toBe(488);
  test.run([takeStatus, takeMessage, WAIT_DISCONNECT, stop(0x77)]);
  expect(await test.ended()).toEqual(good);
  // Past the end: no data; its sense is there once.
  test.put(CDB, rw(0x28, 4000, 1));
  test.run([SELECT, identify, command(10), takeStatus, takeMessage, WAIT_DISCONNECT, stop(0x77)]);
  expect(await test.ended()).toEqual(good);
  expect(memory(test, STATUS, 1)[0]).toBe(2);
  test.put(CDB, [3, 0, 0, 0, 18, 0]);
  test.run(whole(1, 18));
  expect(await test.ended()).toEqual(good);
  expect([2, 12].map((i) => memory(test, DATA, 18)[i])).toEqual([5, 0x21]);
  // More than the longest transfer is refused, not allocated.
  test.put(CDB, [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]);
  test.run([SELECT, identify, command(16), takeStatus, takeMessage, WAIT_DISCONNECT, stop(0x77)]);
  expect(await test.ended()).toEqual(good);
  expect(memory(test, STATUS, 1)[0]).toBe(2);
});

it('negotiation is refused, and a wait for reselection ends with a signal', async () => {
  const test = await lsi();
  test.put(MESSAGE, [0xc0, 0x20, 9, 1, 3, 1, 25, 15]);
  test.put(CDB, [0, 0, 0, 0, 0, 0]);
  test.run([
    SELECT,
    moveOut(6, 8, MESSAGE),
    takeMessage,
    command(6),
    takeStatus,
    [0x0700_0001, STATUS + 2],
    WAIT_DISCONNECT,
    [0x5000_0000, PROGRAM + 80],
    stop(1),
    stop(1),
    stop(0x77),
  ]);
  await settled();
  expect(test.read(ISTAT) & 3).toBe(0);
  expect([...memory(test, STATUS, 3)]).toEqual([0, 7, 0]);
  test.write(ISTAT, 0x20);
  expect(await test.ended()).toEqual(good);
  expect(test.read(0x1a) & 0x40).toBe(0x40);
  expect(test.read(0x1a) & 0x40).toBe(0);
});

it('scripts without end are stopped: jumps, great moves, tables, commands', async () => {
  const test = await lsi();
  const loops: Code[] = [
    [jump(PROGRAM)],
    [[0x8088_0000, 0xff_fff8]],
    [memoryMove(0xff_ffff, 0, 0xff_0000), jump(PROGRAM)],
    [[0x4000_0000, 0], command(10), WAIT_DISCONNECT, jump(PROGRAM)],
    [[0x8000_0000, 0], jump(PROGRAM)],
  ];
  test.put(CDB, [0x2a, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0]);
  for (const code of loops) {
    test.write(ISTAT, 0x40);
    test.write(ISTAT, 0);
    test.run(code);
    expect((await test.ended()).sist0).toBe(UNEXPECTED_DISCONNECT);
    expect(test.read(ISTAT) & 8).toBe(0);
  }
});

it('asking the disk for ever leaves the host its turns, and ends by an abort', async () => {
  const test = await lsi();
  test.put(CDB, rw(0x28, 0, 1));
  const loop = whole(1, 512).slice(0, -1);
  test.run([...loop, jump(PROGRAM)]);
  await settled(50);
  expect(test.read(ISTAT) & 3).toBe(0);
  test.write(ISTAT, 0x80);
  expect((await test.ended()).dstat & 0x10).toBe(0x10);
  test.write(ISTAT, 0);
  await settled(50);
  expect(test.read(ISTAT) & 3).toBe(0);
});

it('a script that writes itself runs what it wrote', async () => {
  const test = await lsi();
  const words = new Uint8Array(Uint32Array.from(stop(0x77)).buffer);
  test.put(DATA, words);
  test.run([memoryMove(8, DATA, PROGRAM + 12), stop(1)]);
  expect(await test.ended()).toEqual(good);
  // Every instruction overwritten by the next copy of itself: it ends all the same.
  test.run([memoryMove(0x1_0000, PROGRAM, PROGRAM + 12)]);
  expect((await test.ended()).sist0 | 1).not.toBe(1);
});

it('registers are out of reach of DMA, and a script’s writes start no second run', async () => {
  const test = await lsi();
  test.put(DATA, [0x40, 0, 0, 0]);
  test.run([
    memoryMove(1, DATA, REGISTERS + ISTAT),
    memoryMove(4, DATA, REGISTERS + DSP),
    memoryMove(256, REGISTERS, DATA + 256),
    stop(0x77),
  ]);
  expect(await test.ended()).toEqual(good);
  same(memory(test, DATA + 256, 256), new Uint8Array(256));
  // Data of a command likewise.
  test.put(CDB, rw(0x28, 0, 1));
  test.run(whole(1, 512, REGISTERS));
  expect(await test.ended()).toEqual(good);
  // Registers that a script writes: start, jump, reset of the bus and of the chip.
  test.run([storeRegister(0x3b, 4), storeRegister(0x3b, 0), stop(0x77)]);
  expect(await test.ended()).toEqual(good);
  test.run([[0xe12c_0004, DATA + 512], stop(1), stop(0x77)]);
  await test.ended();
  test.run([SELECT, storeRegister(1, 8), stop(1)]);
  expect((await test.ended()).sist0).toBe(2);
  test.run([storeRegister(ISTAT, 0x40), stop(1)]);
  await settled();
  expect(test.read(ISTAT)).toBe(0);
});

it('tables and programs out of RAM read as zeroes and end', async () => {
  const test = await lsi();
  for (const dsa of [RAM - 2, 0x7fff_fff0, 0xffff_fffc]) {
    test.write(ISTAT, 0x40);
    test.write(ISTAT, 0);
    test.write(0x10, dsa, 4);
    test.run([SELECT, [0x1600_0000, 0], [0x1200_0000, 0x7f_ffff], [0x1000_0000, 0x80_0000]]);
    const { sist0, dstat } = await test.ended();
    expect(sist0 | dstat).not.toBe(0);
  }
  for (const at of [RAM - 4, 0xffff_fff8, 0xffff_fffc]) {
    test.write(ISTAT, 0x40);
    test.write(ISTAT, 0);
    test.write(DSP, at, 4);
    expect((await test.ended()).sist0).toBe(UNEXPECTED_DISCONNECT);
  }
});

it('what is under way at an abort, a reset or a removal is not heard of again', async () => {
  const test = await lsi();
  const { backend } = test;
  await backend.write(0, Iov.of(new Uint8Array(4096).fill(0x11)));
  const ways: (() => unknown)[] = [
    () => {
      test.write(ISTAT, 0x40);
      test.write(ISTAT, 0);
    },
    () => {
      test.write(1, 8);
      test.write(1, 0);
    },
    () => {
      test.machine.reset();
    },
  ];
  for (const way of ways) {
    test.enable();
    test.put(MESSAGE, [0x80]);
    test.put(DATA, new Uint8Array(512).fill(0xee));
    test.put(CDB, rw(0x28, 0, 1));
    test.run(whole(1, 512));
    await way();
    await settled(20);
    same(memory(test, DATA, 512), new Uint8Array(512).fill(0xee));
    test.read(DSTAT);
    test.read(SIST0);
  }
  same(await readBytes(backend, 0, 4096), new Uint8Array(4096).fill(0x11));
  test.enable();
  // The disk goes with a read under way: the command ends by itself, the next finds nobody.
  test.put(CDB, rw(0x28, 0, 1));
  test.run(whole(1, 512));
  const disk = [...test.machine.devices].find(({ id }) => id === 'hd');
  if (disk === undefined) throw new Error('there is no disk');
  await test.machine.removeDevice(disk);
  await test.ended();
  test.write(ISTAT, 0x40);
  test.write(ISTAT, 0);
  test.run(whole(1, 512));
  expect((await test.ended()).sist1).toBe(4);
});

it('a message that aborts ends a write before the disk hears of it', async () => {
  const test = await lsi();
  for (const code of [6, 12, 13, 14]) {
    test.put(MESSAGE, [0x80]);
    test.put(MESSAGE + 8, [code]);
    test.put(CDB, rw(0x2a, 0, 1));
    test.put(DATA, new Uint8Array(512).fill(0x33));
    test.run([
      SELECT,
      identify,
      command(10),
      moveOut(0, 256, DATA),
      [0x5800_0008, 0],
      moveOut(6, 1, MESSAGE + 8),
      moveOut(0, 256, DATA),
      stop(1),
    ]);
    expect((await test.ended()).sist0).toBe(UNEXPECTED_DISCONNECT);
    expect(test.read(ISTAT) & 8).toBe(0);
  }
  same(await readBytes(test.backend, 0, 512), new Uint8Array(512));
});

it('random registers and programs harm nothing', { timeout: 60_000 }, async () => {
  const test = await lsi();
  const random = seededRandom();
  const fence = random.bytes(4096);
  for (let round = 0; round < 150; round++) {
    const code = Array.from({ length: 24 }, () => {
      const kind = random.pick([0x00, 0x01, 0x02, 0x03, 0x06, 0x07, 0x10, 0x41, 0x48, 0x58, 0x78]);
      const wild = random.pick([kind, random.int(0, 255), 0x80, 0xc0, 0xe0, 0xe1]);
      const word = ((wild << 24) | (random.uint32() & random.pick([0xff, 0x3ff, 0xf_ffff]))) >>> 0;
      const near = PROGRAM + random.int(0, 64) * 4;
      return [word, random.pick([near, DATA, CDB, OWN_RAM, REGISTERS, random.uint32()])];
    });
    test.put(CDB, random.bytes(16));
    test.run([SELECT, identify, command(random.pick([6, 10, 16])), ...code]);
    for (let i = 0; i < 20; i++) {
      const register = random.int(0, 255);
      if (random.chance()) test.read(register);
      else test.write(register, random.int(0, 255));
    }
    if (random.chance(0.3)) await settled(2);
    test.write(ISTAT, 0x40);
    test.write(ISTAT, 0);
    test.put(MESSAGE, [0x80]);
  }
  await settled(20);
  // It works as before.
  await test.backend.write(0, Iov.of(fence));
  test.put(CDB, rw(0x28, 0, 8));
  for (let i = 0; i < 2; i++) {
    test.run([SELECT, identify, command(10), takeStatus, takeMessage, WAIT_DISCONNECT, stop(1)]);
    await test.ended();
    test.write(ISTAT, 0x40);
    test.write(ISTAT, 0);
  }
  test.run(whole(1, 4096));
  expect(await test.ended()).toEqual(good);
  same(memory(test, DATA, 4096), fence);
});

it('wrong properties are refused by name', async () => {
  const test = await lsi();
  const { machine, graph } = test;
  await addDrive(graph, 'e', { driver: 'memory', size: DISK });
  const add = (options: Record<string, string>): Promise<unknown> =>
    machine.addDevice({ driver: 'scsi-hd', drive: 'e', bus: 's.0', ...options }, 'keyval');
  await expect(add({ 'scsi-id': '8' })).rejects.toThrow('bad scsi device id: 8');
  await expect(add({ lun: '1' })).rejects.toThrow('bad scsi device lun: 1');
  await expect(add({ channel: '1' })).rejects.toThrow('bad scsi channel id: 1');
  await expect(add({ 'scsi-id': '0', lun: '0' })).rejects.toThrow(
    'lun already used by another device',
  );
  await expect(machine.addDevice({ driver: 'lsi', nosuch: '1' }, 'keyval')).rejects.toThrow(
    "Property 'lsi53c895a.nosuch' not found",
  );
  await expect(machine.addDevice({ driver: 'lsi', addr: 'zz' }, 'keyval')).rejects.toThrow('addr');
  for (let i = 1; i < 7; i++) {
    await addDrive(graph, `f${i}`, { driver: 'memory', size: 512 });
    await machine.addDevice({ driver: 'scsi-hd', drive: `f${i}`, bus: 's.0' }, 'keyval');
  }
  await expect(add({})).rejects.toThrow('no free target');
});
