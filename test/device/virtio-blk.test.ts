// virtio-blk-pci driven by a driver in the test, over modern and legacy registers: data compared
// with the backend; write cache, discard, resize; rings and requests that break the rules.
import { expect, it } from 'vitest';
import type { Backend } from '../../src/index.js';
import { Iov } from '../../src/index.js';
import type { Machine } from '../../src/machine/machine.js';
import { readBytes, same, seededRandom } from '../support/index.js';
import type { TestMachine } from './support.js';
import { addDrive, settled, testMachine } from './support.js';

const MiB = 1 << 20;
const SIZE = 16;
const RING = 0x10_0000;
const BAR = 0xe000_0000;

/** The software side of one device in slot 4, with one queue in use. */
class Driver {
  readonly machine: Machine;
  readonly isModern: boolean;
  used = 0;
  avail = 0;

  constructor(machine: Machine, isModern: boolean) {
    this.machine = machine;
    this.isModern = isModern;
    const config = (register: number, size: 1 | 2 | 4, value: number): void => {
      machine.ports.write(0xcf8, 4, 0x8000_2000 + register);
      machine.ports.write(0xcfc, size, value);
    };
    config(0x10, 4, 0xc000);
    config(0x14, 4, 0xe010_0000);
    config(0x20, 4, BAR);
    config(0x04, 2, 7);
  }

  /** Negotiates all features but event indexes, and puts the ring at RING. */
  start(): void {
    const { mmio, ports } = this.machine;
    machineZero(this.machine);
    this.used = 0;
    this.avail = 0;
    if (!this.isModern) {
      ports.write(0xc012, 1, 0);
      ports.write(0xc012, 1, 3);
      ports.write(0xc004, 4, ports.read(0xc000, 4) & ~(1 << 29));
      ports.write(0xc00e, 2, 0);
      ports.write(0xc008, 4, RING / 4096);
      ports.write(0xc012, 1, 7);
      return;
    }
    const common = (at: number, size: 1 | 2 | 4, value: number): void => {
      mmio.write(BAR + at, size, value);
    };
    common(0x14, 1, 0);
    common(0x14, 1, 3);
    common(0x00, 4, 0);
    const low = mmio.read(BAR + 4, 4);
    common(0x08, 4, 0);
    common(0x0c, 4, low & ~(1 << 29));
    common(0x08, 4, 1);
    common(0x0c, 4, 1);
    common(0x14, 1, 11);
    expect(mmio.read(BAR + 0x14, 1)).toBe(11);
    common(0x16, 2, 0);
    common(0x18, 2, SIZE);
    common(0x20, 4, RING);
    common(0x28, 4, RING + this.availAt);
    common(0x30, 4, RING + this.usedAt);
    common(0x1c, 2, 1);
    common(0x14, 1, 15);
  }

  /** Entries of the ring: a legacy driver takes the size that the device has. */
  get size(): number {
    return this.isModern ? SIZE : 256;
  }

  get availAt(): number {
    return 16 * this.size;
  }

  get usedAt(): number {
    return Math.ceil((this.availAt + 6 + 2 * this.size) / 4096) * 4096;
  }

  descriptor(at: number, address: number, bytes: number, flags: number, next: number): void {
    const raw = new DataView(new ArrayBuffer(16));
    raw.setUint32(0, address, true);
    raw.setUint32(8, bytes, true);
    raw.setUint16(12, flags, true);
    raw.setUint16(14, next, true);
    this.machine.writeMemory(RING + 16 * at, new Uint8Array(raw.buffer));
  }

  offer(head: number): void {
    const word = (at: number, value: number): void => {
      this.machine.writeMemory(RING + this.availAt + at, Uint8Array.of(value & 255, value >> 8));
    };
    word(4 + 2 * (this.avail % this.size), head);
    this.avail = (this.avail + 1) & 0xffff;
    word(2, this.avail);
  }

  kick(): void {
    if (this.isModern) this.machine.mmio.write(BAR + 0x3000, 2, 0);
    else this.machine.ports.write(0xc010, 2, 0);
  }

  get usedIndex(): number {
    const raw = this.machine.readMemory(RING + this.usedAt + 2, 2);
    return raw[0]! | (raw[1]! << 8);
  }

  /** One request of header, data and status; gives the status. */
  async request(
    type: number,
    sector: number,
    data: Uint8Array,
    toDevice: boolean,
  ): Promise<number> {
    const header = new DataView(new ArrayBuffer(16));
    header.setUint32(0, type, true);
    header.setUint32(8, sector % 2 ** 32, true);
    header.setUint32(12, Math.floor(sector / 2 ** 32), true);
    this.machine.writeMemory(0x20_0000, new Uint8Array(header.buffer));
    this.machine.writeMemory(0x20_1000, Uint8Array.of(0xff));
    if (toDevice) this.machine.writeMemory(0x30_0000, data);
    this.descriptor(0, 0x20_0000, 16, 1, data.length === 0 ? 2 : 1);
    this.descriptor(1, 0x30_0000, data.length, toDevice ? 1 : 3, 2);
    this.descriptor(2, 0x20_1000, 1, 2, 0);
    this.offer(0);
    this.kick();
    const wanted = (this.used + 1) & 0xffff;
    for (let i = 0; i < 1000 && this.usedIndex !== wanted; i++) await settled(1);
    expect(this.usedIndex).toBe(wanted);
    this.used = wanted;
    if (!toDevice) data.set(this.machine.readMemory(0x30_0000, data.length));
    return this.machine.readMemory(0x20_1000, 1)[0]!;
  }
}

function machineZero(machine: Machine): void {
  machine.writeMemory(RING, new Uint8Array(0x1_0000));
}

interface BlkTest extends TestMachine {
  readonly driver: Driver;
  readonly backend: Backend;
}

async function blkMachine(modern: boolean, more: Record<string, string> = {}): Promise<BlkTest> {
  const test = await testMachine();
  const backend = await addDrive(test.graph, 'disk0', { driver: 'memory', size: 8 * MiB });
  await test.machine.addDevice(
    { driver: 'virtio-blk-pci', drive: 'disk0', addr: '4', id: 'v0', ...more },
    'keyval',
  );
  const driver = new Driver(test.machine, modern);
  driver.start();
  return { ...test, driver, backend };
}

it.each([true, false])('reads what it wrote (modern: %s)', async (modern) => {
  const { driver, backend } = await blkMachine(modern);
  const random = seededRandom();
  for (let i = 0; i < 40; i++) {
    const data = random.bytes(512 * random.int(1, 64));
    const sector = random.int(0, 16384 - data.length / 512);
    expect(await driver.request(1, sector, data, true)).toBe(0);
    same(await readBytes(backend, sector * 512, data.length), data);
    const back = new Uint8Array(data.length);
    expect(await driver.request(0, sector, back, false)).toBe(0);
    same(back, data);
  }
  expect(await driver.request(4, 0, new Uint8Array(0), true)).toBe(0);
});

it('discards, writes zeroes, tells its serial number', async () => {
  const { driver, backend } = await blkMachine(true, { serial: 'abc' });
  await backend.write(0, Iov.of(new Uint8Array(4096).fill(7)));
  const range = (sector: number, count: number, flags: number): Uint8Array => {
    const view = new DataView(new ArrayBuffer(16));
    view.setUint32(0, sector, true);
    view.setUint32(8, count, true);
    view.setUint32(12, flags, true);
    return new Uint8Array(view.buffer);
  };
  expect(await driver.request(11, 0, range(0, 2, 0), true)).toBe(0);
  expect(await driver.request(13, 0, range(4, 1, 1), true)).toBe(0);
  const got = await readBytes(backend, 0, 4096);
  const sevens = Array.from({ length: 8 }, (_, i) => got[i * 512] === 7);
  expect(sevens).toEqual([false, false, true, true, false, true, true, true]);
  // Unknown flags, unmap of a discard: unsupported. Past the end, too long: errors.
  expect(await driver.request(11, 0, range(0, 1, 1), true)).toBe(2);
  expect(await driver.request(13, 0, range(0, 1, 2), true)).toBe(2);
  expect(await driver.request(13, 0, range(16383, 2, 0), true)).toBe(1);
  expect(await driver.request(11, 0, range(0, 0xffff_ffff, 0), true)).toBe(1);
  const two = new Uint8Array(32);
  expect(await driver.request(13, 0, two, true)).toBe(2);
  const id = new Uint8Array(20);
  expect(await driver.request(8, 0, id, false)).toBe(0);
  expect(String.fromCharCode(...id.subarray(0, 4))).toBe('abc\0');
});

it('requests that are no whole sectors or not on the disk fail (CVE-2011-1750)', async () => {
  const { driver, backend } = await blkMachine(true);
  for (const [sector, bytes] of [
    [0, 513],
    [16384, 512],
    [16383, 1024],
    [2 ** 54, 512],
    [2 ** 63, 512],
  ] as const) {
    expect(await driver.request(1, sector, new Uint8Array(bytes), true)).toBe(1);
    expect(await driver.request(0, sector, new Uint8Array(bytes), false)).toBe(1);
  }
  expect(backend.size).toBe(8 * MiB);
  expect(await driver.request(99, 0, new Uint8Array(0), true)).toBe(2);
});

it('the guest switches the write cache, and sees the disk change its length', async () => {
  const { driver, backend, machine } = await blkMachine(true);
  machine.mmio.write(BAR + 0x2000 + 32, 1, 0);
  expect(backend.writeCache).toBe(false);
  machine.mmio.write(BAR + 0x2000 + 32, 1, 1);
  expect(backend.writeCache).toBe(true);
  await backend.setPerms({ ...backend.perms, perm: backend.perms.perm | 8 });
  await backend.truncate(4 * MiB);
  expect(machine.mmio.read(BAR + 0x2000, 4)).toBe(8192);
  expect(machine.mmio.read(BAR + 0x1000, 1) & 2).toBe(2);
  expect(await driver.request(0, 8192, new Uint8Array(512), false)).toBe(1);
});

it.each([
  [
    'a loop',
    (d: Driver): void => {
      d.descriptor(0, 0x20_0000, 16, 1, 0);
    },
  ],
  [
    'no bytes',
    (d: Driver): void => {
      d.descriptor(0, 0x20_0000, 0, 0, 0);
    },
  ],
  [
    'no status',
    (d: Driver): void => {
      d.descriptor(0, 0x20_0000, 16, 0, 0);
    },
  ],
  [
    'a next that is none',
    (d: Driver): void => {
      d.descriptor(0, 0x20_0000, 16, 1, 999);
    },
  ],
  [
    'writable before readable',
    (d: Driver): void => {
      d.descriptor(0, 0x20_0000, 16, 3, 1);
      d.descriptor(1, 0x20_0000, 16, 0, 0);
    },
  ],
  [
    'an indirect table of an odd length',
    (d: Driver): void => {
      d.descriptor(0, 0x20_0000, 17, 4, 0);
    },
  ],
  [
    'an indirect table of zeroes',
    (d: Driver): void => {
      d.descriptor(0, 0x60_0000, 64, 4, 0);
    },
  ],
  [
    'an indirect table in itself',
    (d: Driver): void => {
      d.descriptor(0, RING, 256, 4, 0);
    },
  ],
] as const)('%s: the device needs a reset, and works after it', async (_name, make) => {
  const { driver, machine } = await blkMachine(true);
  make(driver);
  driver.offer(0);
  driver.kick();
  await settled();
  expect(driver.usedIndex).toBe(0);
  expect(machine.mmio.read(BAR + 0x14, 1) & 0x40).toBe(0x40);
  driver.start();
  expect(await driver.request(0, 0, new Uint8Array(512), false)).toBe(0);
});

it('requests that describe too much wait, over resets, too (CVE-2016-5403)', async () => {
  const test = await testMachine();
  const slow = { driver: 'null-co', size: 1024 * MiB, 'latency-ns': 20_000_000 };
  const backend = await addDrive(test.graph, 'disk0', slow);
  await test.machine.addDevice({ driver: 'virtio-blk-pci', drive: 'disk0', addr: '4' }, 'keyval');
  const driver = new Driver(test.machine, false);
  const each = 16 * MiB;
  let most = 0;
  for (let round = 0; round < 5; round++) {
    driver.start();
    // Eight reads of 16 MiB, each eight times into the same 2 MiB.
    for (let i = 0; i < 8; i++) {
      const head = 10 * i;
      driver.descriptor(head, 0x20_0000, 16, 1, head + 1);
      for (let k = 1; k <= 8; k++)
        driver.descriptor(head + k, 0x40_0000, each / 8, 3, head + k + 1);
      driver.descriptor(head + 9, 0x21_0000 + i, 1, 2, 0);
      driver.offer(head);
    }
    driver.kick();
    most = Math.max(most, backend.inFlight);
    await settled(2);
  }
  expect(most).toBe(4);
  await expect.poll(() => driver.usedIndex, { timeout: 20_000 }).toBe(8);
});

it('survives rings and registers at random', async () => {
  const { driver, machine, backend } = await blkMachine(true);
  const random = seededRandom();
  for (let i = 0; i < 3000; i++) {
    const what = random.int(0, 9);
    if (what < 4) {
      const address = random.pick([0x20_0000, RING, BAR, 0xfff0_0000, 0x30_0000, 0xff_fff0]);
      const bytes = random.pick([1, 16, 512, 4096, 0x7fff_ffff, 0, 64]);
      const isBig = bytes === 0x7fff_ffff && random.chance(0.95);
      driver.descriptor(
        random.int(0, 15),
        address,
        isBig ? 512 : bytes,
        random.int(0, 7),
        random.int(0, 17),
      );
    } else if (what < 6) {
      machine.writeMemory(
        0x20_0000,
        random.chance() ? Uint8Array.of(random.int(0, 14)) : random.bytes(16),
      );
    } else if (what < 8) {
      driver.offer(random.int(0, 17));
      driver.kick();
    } else if (what < 9) {
      machine.mmio.write(
        BAR + random.int(0, 0x40),
        random.pick([1, 2, 4] as const),
        random.uint32(),
      );
    } else
      machine.ports.write(
        0xc000 + random.int(0, 40),
        random.pick([1, 2, 4] as const),
        random.uint32(),
      );
    if (random.chance(0.1)) await settled(1);
    if (random.chance(0.02)) driver.start();
  }
  await settled(20);
  machine.reset();
  const again = new Driver(machine, true);
  again.start();
  expect(await again.request(0, 0, new Uint8Array(512), false)).toBe(0);
  expect(backend.size).toBe(8 * MiB);
});
