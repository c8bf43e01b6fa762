// ide-hd behind the PIIX3: a driver in the test reads and writes by every kind of command and
// compares with the backend's bytes; then errors, resets, hostile tables and random registers.
import { deviceInfo } from '../../src/monitor/block-info.js';
import { describe, expect, it } from 'vitest';
import { readBytes, same, seededRandom, testSeed } from '../support/index.js';
import { Random } from '../support/random.js';
import {
  addDrive,
  addIdeDisk,
  DRDY,
  DRQ,
  ERR,
  IdeDriver,
  settled,
  testMachine,
} from './support.js';

const MiB = 1 << 20;

describe('data', () => {
  it.each([
    ['WRITE SECTORS', 0x30, 0x20, false, 1],
    ['WRITE SECTORS EXT', 0x34, 0x24, true, 1],
    ['WRITE MULTIPLE', 0xc5, 0xc4, false, 16],
    ['WRITE MULTIPLE EXT', 0x39, 0x29, true, 16],
    ['WRITE MULTIPLE FUA EXT', 0xce, 0x29, true, 16],
  ] as const)('%s stores what its counterpart reads', async (_name, write, read, wide, block) => {
    const test = await testMachine();
    const { backend } = await addIdeDisk(test, 8 * MiB);
    const ide = new IdeDriver(test.machine);
    const random = seededRandom();
    for (const count of [1, 2, 17, wide ? 300 : 255]) {
      const lba = random.int(0, 16384 - count);
      const data = random.bytes(count * 512);
      ide.command(write, lba, count, wide);
      expect(await ide.pioOut(data, block * 512)).toBe(0x50);
      same(await readBytes(backend, lba * 512, data.length), data);
      ide.command(read, lba, count, wide);
      same(await ide.pioIn(data.length, block * 512), data);
      expect(await ide.ready()).toBe(0x50);
    }
  });

  it.each([
    ['WRITE DMA', 0xca, 0xc8, false],
    ['WRITE DMA EXT', 0x35, 0x25, true],
    ['WRITE DMA FUA EXT', 0x3d, 0x25, true],
  ] as const)('%s moves scattered memory', async (_name, write, read, wide) => {
    const test = await testMachine();
    const { backend } = await addIdeDisk(test, 8 * MiB);
    const ide = new IdeDriver(test.machine);
    ide.enableDma();
    const random = seededRandom();
    const data = random.bytes(256 * 512);
    const regions: (readonly [number, number])[] = [];
    for (let left = data.length, at = 0x20_0000; left > 0;) {
      const bytes = Math.min(left, 2 * random.int(1, 0x4000));
      regions.push([at, bytes]);
      test.machine.writeMemory(at, data.subarray(data.length - left, data.length - left + bytes));
      at += bytes + 2 * random.int(0, 64);
      left -= bytes;
    }
    ide.table(regions);
    ide.command(write, 1000, 256, wide);
    expect(await ide.dma(false)).toBe(4);
    same(await readBytes(backend, 512_000, data.length), data);
    for (const [at, bytes] of regions) test.machine.writeMemory(at, new Uint8Array(bytes));
    ide.command(read, 1000, 256, wide);
    expect(await ide.dma(true)).toBe(4);
    let at = 0;
    for (const [address, bytes] of regions) {
      same(test.machine.readMemory(address, bytes), data.subarray(at, at + bytes));
      at += bytes;
    }
  });

  it('addresses by cylinder, head and sector reach the same sectors', async () => {
    const test = await testMachine();
    const { backend } = await addIdeDisk(test, 8 * MiB);
    const ide = new IdeDriver(test.machine);
    const data = seededRandom().bytes(512);
    ide.out(6, 0xa3);
    ide.out(2, 1);
    ide.out(3, 5);
    ide.out(4, 2);
    ide.out(5, 0);
    ide.out(7, 0x30);
    expect(await ide.pioOut(data)).toBe(0x50);
    same(await readBytes(backend, ((2 * 16 + 3) * 63 + 4) * 512, 512), data);
  });
});

describe('commands', () => {
  it('IDENTIFY tells names, geometry, sizes', async () => {
    const test = await testMachine();
    await addIdeDisk(test, 8 * MiB, {
      serial: 'abc',
      ver: 'v9',
      model: 'Disk',
      wwn: '0x5000c50015ea71aa',
    });
    const ide = new IdeDriver(test.machine);
    ide.command(0xec, 0, 0);
    const words = new Uint16Array((await ide.pioIn(512)).buffer);
    const text = (from: number, count: number): string =>
      [...words.subarray(from, from + count)]
        .map((w) => String.fromCharCode(w >> 8, w & 255))
        .join('')
        .trim();
    expect([text(10, 10), text(23, 4), text(27, 20)]).toEqual(['abc', 'v9', 'Disk']);
    expect([words[1], words[3], words[6]]).toEqual([16, 16, 63]);
    expect([words[60], words[61], words[100]]).toEqual([16384, 0, 16384]);
    expect([...words.subarray(108, 112)]).toEqual([0x5000, 0xc500, 0x15ea, 0x71aa]);
    expect(words[85]! & 0x20).toBe(0x20);
  });

  it('READ NATIVE MAX tells the last sector', async () => {
    const test = await testMachine();
    await addIdeDisk(test, 8 * MiB);
    const ide = new IdeDriver(test.machine);
    ide.command(0x27, 0, 0, true);
    expect(await ide.ready()).toBe(0x50);
    expect([ide.in(3), ide.in(4), ide.in(5)]).toEqual([0xff, 0x3f, 0]);
  });

  it('SMART tells that the disk is well, and its structures sum to zero', async () => {
    const test = await testMachine();
    await addIdeDisk(test, 8 * MiB);
    const ide = new IdeDriver(test.machine);
    const smart = (feature: number, low = 0): void => {
      ide.command(0xb0, 0xc24f00 + low, 1, false, feature);
    };
    for (const [feature, low] of [
      [0xd0, 0],
      [0xd1, 0],
      [0xd5, 1],
      [0xd5, 6],
    ] as const) {
      smart(feature, low);
      const data = await ide.pioIn(512);
      expect(data.reduce((sum, b) => (sum + b) & 255, 0)).toBe(0);
    }
    smart(0xda);
    expect(await ide.ready()).toBe(0x50);
    expect([ide.in(4), ide.in(5)]).toEqual([0x4f, 0xc2]);
    // Self-tests: every subcommand, those at the ends of the table too (CVE-2014-2894).
    for (let kind = 0; kind < 256; kind++) smart(0xd4, kind);
    smart(0xd9);
    smart(0xda);
    expect((await ide.ready()) & ERR).toBe(ERR);
  });

  it('DATA SET MANAGEMENT discards, and refuses ranges past the end', async () => {
    const test = await testMachine();
    const { backend } = await addIdeDisk(test, 8 * MiB);
    const ide = new IdeDriver(test.machine);
    ide.enableDma();
    ide.command(0x30, 100, 2);
    await ide.pioOut(seededRandom().bytes(1024));
    const ranges = new Uint8Array(512);
    const view = new DataView(ranges.buffer);
    view.setUint32(0, 100, true);
    view.setUint16(6, 1, true);
    test.machine.writeMemory(0x20_0000, ranges);
    ide.table([[0x20_0000, 512]]);
    ide.command(0x06, 0, 1, true, 1);
    expect(await ide.dma(false)).toBe(4);
    expect((await readBytes(backend, 51_200, 512)).every((b) => b === 0)).toBe(true);
    expect((await readBytes(backend, 51_712, 512)).some((b) => b !== 0)).toBe(true);
    view.setUint32(0, 16383, true);
    view.setUint16(6, 2, true);
    test.machine.writeMemory(0x20_0000, ranges);
    ide.table([[0x20_0000, 512]]);
    ide.command(0x06, 0, 1, true, 1);
    await ide.dma(false);
    expect([ide.in(7) & ERR, ide.in(1)]).toEqual([ERR, 4]);
  });

  it('refuses what is not on the disk: at its end, beyond it, far beyond it', async () => {
    const test = await testMachine();
    const { backend } = await addIdeDisk(test, 8 * MiB);
    const ide = new IdeDriver(test.machine);
    for (const [lba, count] of [
      [16384, 1],
      [16383, 2],
      [2 ** 47, 1],
      [2 ** 48 - 1, 65535],
    ] as const) {
      for (const code of [0x24, 0x34, 0x29, 0x39, 0x25, 0x35, 0x42]) {
        ide.command(code, lba, count, true);
        expect((await ide.ready()) & (ERR | DRQ)).toBe(ERR);
        expect(ide.in(1) & 4).toBe(4);
      }
    }
    expect(backend.size).toBe(8 * MiB);
  });

  it('packet commands are no disk commands', async () => {
    const test = await testMachine();
    await addIdeDisk(test, 8 * MiB);
    const ide = new IdeDriver(test.machine);
    for (const code of [0xa0, 0xa1, 0x08, 0xc0, 0xf9, 0x00]) {
      ide.command(code, 0, 1);
      expect((await ide.ready()) & ERR).toBe(ERR);
    }
  });
});

/** A raw disk over one that fails as told. */
function faulty(rules: readonly Record<string, unknown>[]): Record<string, unknown> {
  const image = { driver: 'memory', size: 8 * MiB };
  return { driver: 'raw', file: { driver: 'blkdebug', image, 'inject-error': rules } };
}

describe('errors and resets', () => {
  it('werror=stop stops the guest and repeats the write when it goes on', async () => {
    const test = await testMachine();
    const disk = await addDrive(
      test.graph,
      'disk0',
      faulty([{ event: 'write_aio', errno: 28, once: true }]),
    );
    const status = async (): Promise<unknown> => (await deviceInfo(disk))['io-status'];
    expect(await status()).toBeUndefined();
    await test.machine.addDevice({ driver: 'ide-hd', drive: 'disk0', werror: 'stop' }, 'keyval');
    expect(await status()).toBe('ok');
    const ide = new IdeDriver(test.machine);
    const data = seededRandom().bytes(512);
    ide.command(0x30, 7, 1);
    ide.writeData(data);
    await settled();
    expect(test.machine.isRunning).toBe(false);
    expect(test.machine.pauseReason).toBe('io-error');
    expect(await status()).toBe('nospace');
    expect(ide.in(7) & 0x80).toBe(0x80);
    expect(test.events.map(({ name }) => name)).toEqual(['BLOCK_IO_ERROR']);
    expect(test.events[0]?.data).toMatchObject({
      action: 'stop',
      nospace: true,
      operation: 'write',
    });
    test.machine.resume();
    expect(await ide.ready()).toBe(0x50);
    expect(await status()).toBe('ok');
    same(await readBytes(disk, 7 * 512, 512), data);
  });

  it('rerror=report tells the guest, and the address of the sector', async () => {
    const test = await testMachine();
    const disk = await addDrive(test.graph, 'disk0', faulty([{ event: 'read_aio', errno: 5 }]));
    const device = { driver: 'ide-hd', drive: 'disk0', werror: 'report' };
    await test.machine.addDevice(device, 'keyval');
    // No error lets the guest stand still.
    expect(await deviceInfo(disk)).toMatchObject({ 'io-status': undefined });
    const ide = new IdeDriver(test.machine);
    ide.command(0x20, 0x1234, 2);
    expect((await ide.ready()) & ERR).toBe(ERR);
    expect(ide.in(1) & 0x40).toBe(0x40);
    expect([ide.in(3), ide.in(4)]).toEqual([0x34, 0x12]);
  });

  it('a reset while a write is under way harms no other sector (CVE-2023-5088)', async () => {
    const test = await testMachine();
    const disk = await addDrive(
      test.graph,
      'disk0',
      faulty([{ event: 'write_aio', errno: 5, once: true }]),
    );
    await test.machine.addDevice({ driver: 'ide-hd', drive: 'disk0', werror: 'stop' }, 'keyval');
    const ide = new IdeDriver(test.machine);
    ide.enableDma();
    test.machine.writeMemory(0x20_0000, new Uint8Array(512).fill(0xee));
    ide.table([[0x20_0000, 512]]);
    ide.command(0xca, 9, 1);
    test.machine.ports.write(0xc000, 1, 1);
    await settled();
    expect(test.machine.isRunning).toBe(false);
    test.machine.ports.write(0x3f6, 1, 4);
    test.machine.ports.write(0x3f6, 1, 0);
    test.machine.resume();
    await settled();
    expect((await readBytes(disk, 0, 512)).every((b) => b === 0)).toBe(true);
    expect((await readBytes(disk, 9 * 512, 512)).every((b) => b === 0)).toBe(true);
    expect([ide.in(2), ide.in(3), ide.in(4), ide.in(5)]).toEqual([1, 1, 0, 0]);
    expect(ide.in(7)).toBe(DRDY | 0x10);
  });
});

describe('hostile guests', () => {
  it('tables without end, of zeroes, and aimed at registers end (CVE-2014-9718)', async () => {
    const test = await testMachine();
    const { backend } = await addIdeDisk(test, 64 * MiB);
    const ide = new IdeDriver(test.machine);
    ide.enableDma();
    for (const regions of [
      [[0, 0]],
      [[0xfee0_0000, 0]],
      [[0xffff_fffe, 2]],
      [[0xff_fffe, 0x1000]],
    ] as (readonly [number, number])[][]) {
      for (const mark of [true, false]) {
        ide.table(regions, mark);
        for (const code of [0x25, 0x35]) {
          ide.command(code, 0, 0, true);
          await ide.dma(code === 0x25);
          expect(await ide.ready()).toBe(0x50);
        }
      }
    }
    expect(backend.size).toBe(64 * MiB);
  });

  it('resets while requests are under way do not heap them up', async () => {
    const test = await testMachine();
    const slow = { driver: 'null-co', size: 64 << 20, 'latency-ns': 20_000_000 };
    const backend = await addDrive(test.graph, 'disk0', slow);
    await test.machine.addDevice({ driver: 'ide-hd', drive: 'disk0', bus: 'ide.0' }, 'keyval');
    const driver = new IdeDriver(test.machine);
    driver.enableDma();
    driver.table([[0x20_0000, 0x1_0000]]);
    for (let i = 0; i < 20; i++) {
      driver.command(0xc8, 0, 128);
      test.machine.ports.write(0xc000, 1, 9);
      expect(backend.inFlight).toBeLessThanOrEqual(4);
      if (i === 19) break;
      test.machine.ports.write(0x3f6, 1, 4);
      test.machine.ports.write(0x3f6, 1, 0);
      test.machine.ports.write(0xc000, 1, 0);
    }
    expect(backend.inFlight).toBe(4);
    await expect.poll(() => driver.in(7) & 0xc1, { timeout: 20_000 }).toBe(0x40);
  });

  it('SMART: every subcommand of EXECUTE OFFLINE ends (CVE-2014-2894)', async () => {
    const test = await testMachine();
    await addIdeDisk(test, 1 << 20);
    const driver = new IdeDriver(test.machine);
    for (let sub = 0; sub < 256; sub++) {
      driver.command(0xb0, 0xc2_4f_00 + sub, 0, false, 0xd4);
      const status = await driver.ready();
      expect(status & 0x88).toBe(0);
    }
  });

  it('reading on after the data ends gives zeroes (CVE-2015-5154)', async () => {
    const test = await testMachine();
    await addIdeDisk(test, 8 * MiB);
    const ide = new IdeDriver(test.machine);
    ide.command(0xec, 0, 0);
    await ide.pioIn(512);
    expect(ide.readData(4096).every((b) => b === 0)).toBe(true);
    ide.writeData(new Uint8Array(8192).fill(1));
    expect(await ide.ready()).toBe(0x50);
  });

  it('survives random accesses to every register', async () => {
    const seed = testSeed();
    const random = new Random(seed);
    const test = await testMachine();
    const { backend } = await addIdeDisk(test, MiB);
    const ide = new IdeDriver(test.machine);
    ide.enableDma();
    const { ports } = test.machine;
    for (let i = 0; i < 20_000; i++) {
      const size = random.pick([1, 2, 4] as const);
      const port = random.pick([0x1f0, 0x1f0, 0xc000, 0x3f6, 0x170]) + random.int(0, 7);
      if (random.chance(0.3)) ports.read(port, size);
      else if (port === 0x1f7 && random.chance(0.7)) {
        ports.write(
          port,
          1,
          random.pick([0x20, 0x24, 0xc4, 0x30, 0xca, 0xc8, 0x25, 0x35, 6, 0xb0]),
        );
      } else if (port === 0xc004) ports.write(port, 4, random.int(0, 0xff) * 4096);
      else ports.write(port, size, random.uint32());
      if (random.chance(0.02)) await settled(1);
      if (random.chance(0.001)) test.machine.reset();
      if (random.chance(0.001)) ide.enableDma();
    }
    expect(backend.size).toBe(MiB);
    test.machine.reset();
    await settled(20);
    ide.command(0x20, 0, 1);
    expect((await ide.pioIn(512)).length).toBe(512);
  });
});
