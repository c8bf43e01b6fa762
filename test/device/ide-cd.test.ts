// ide-cd behind the PIIX3: packet commands by PIO and DMA compared with the medium's bytes; tray,
// change of media, and packets at random.
import { expect, it } from 'vitest';
import type { Backend } from '../../src/index.js';
import { Iov } from '../../src/index.js';
import { same, seededRandom } from '../support/index.js';
import type { Random } from '../support/random.js';
import {
  addDrive,
  DRQ,
  ERR,
  IdeDriver,
  settled,
  testMachine,
  type TestMachine,
} from './support.js';

const BLOCKS = 500;

interface CdTest extends TestMachine {
  readonly ide: IdeDriver;
  readonly backend: Backend;
  readonly data: Uint8Array;
}

async function cdMachine(): Promise<CdTest> {
  const test = await testMachine();
  const random = seededRandom();
  const data = random.bytes(BLOCKS * 2048);
  const node = await test.graph.open({
    options: { driver: 'memory', size: data.length, 'node-name': 'disc' },
    flags: { writable: true },
  });
  await node.write(0, Iov.of(data));
  const backend = await addDrive(test.graph, 'cd0', undefined);
  await backend.attach(node);
  await test.machine.addDevice({ driver: 'ide-cd', drive: 'cd0', id: 'dev0' }, 'keyval');
  const ide = new IdeDriver(test.machine);
  return { ...test, ide, backend, data };
}

/** Sends a packet; gives the status after it. */
async function packet(ide: IdeDriver, cdb: readonly number[], limit = 0xfffe): Promise<number> {
  ide.out(1, 0);
  ide.out(4, limit & 255);
  ide.out(5, limit >> 8);
  ide.out(7, 0xa0);
  const bytes = new Uint8Array(12);
  bytes.set(cdb);
  ide.writeData(bytes);
  return ide.ready();
}

/** Takes all bursts of a packet's answer. */
async function answer(ide: IdeDriver): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  while (((await ide.ready()) & DRQ) !== 0) {
    const bytes = ide.in(4) | (ide.in(5) << 8);
    parts.push(ide.readData(Math.ceil(bytes / 2)).subarray(0, bytes));
  }
  return Iov.from(parts).flatten();
}

async function senseKey(ide: IdeDriver): Promise<readonly number[]> {
  await packet(ide, [3, 0, 0, 0, 18]);
  const sense = await answer(ide);
  return [sense[2]! & 15, sense[12]!];
}

const readCdb = (lba: number, count: number): number[] => {
  const view = new DataView(new ArrayBuffer(12));
  view.setUint8(0, 0xa8);
  view.setUint32(2, lba);
  view.setUint32(6, count);
  return [...new Uint8Array(view.buffer)];
};

it('READ(12) by PIO gives the blocks for every limit of bursts', async () => {
  const { ide, data } = await cdMachine();
  for (const limit of [2, 512, 2047, 2048, 5120, 0xfffe, 0xffff]) {
    const count = limit === 2 ? 1 : 70;
    await packet(ide, readCdb(13, count), limit);
    same(await answer(ide), data.subarray(13 * 2048, (13 + count) * 2048), `limit ${limit}`);
    expect([await ide.ready(), ide.in(2)]).toEqual([0x50, 3]);
  }
});

it('READ(12) by DMA gives the blocks', async () => {
  const { ide, data, machine } = await cdMachine();
  ide.enableDma();
  ide.table([
    [0x20_0000, 0x8000],
    [0x40_0000, 0],
    [0x60_0000, 0],
    [0x61_0000, 100 * 2048 - 0x28000],
  ]);
  ide.out(1, 1);
  ide.out(7, 0xa0);
  ide.writeData(Uint8Array.from(readCdb(200, 100)));
  expect(await ide.dma(true)).toBe(4);
  const got = Iov.from([
    machine.readMemory(0x20_0000, 0x8000),
    machine.readMemory(0x40_0000, 0x1_0000),
    machine.readMemory(0x60_0000, 100 * 2048 - 0x18000),
  ]).flatten();
  same(got, data.subarray(200 * 2048, 300 * 2048));
});

it('addresses past the end, -1 included, are refused (CVE-2020-29443)', async () => {
  const { ide } = await cdMachine();
  for (const [lba, count] of [
    [BLOCKS, 1],
    [BLOCKS - 1, 2],
    [0xffff_ffff, 1],
    [0, 0xffff_ffff],
  ] as const) {
    expect((await packet(ide, readCdb(lba, count))) & ERR).toBe(ERR);
    expect(ide.in(1) >> 4).toBe(5);
    expect(await senseKey(ide)).toEqual([5, 0x21]);
  }
  const readCd = [0xbe, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0xf8];
  expect((await packet(ide, readCd)) & ERR).toBe(ERR);
});

it('a new medium is told: none, changed, ready', async () => {
  const { ide, backend, graph, events } = await cdMachine();
  expect((await packet(ide, [0])) & ERR).toBe(0);
  backend.user?.moveTray(true);
  await backend.detach();
  backend.user?.mediumChanged(false);
  expect((await packet(ide, [0])) & ERR).toBe(ERR);
  expect(await senseKey(ide)).toEqual([2, 0x3a]);
  await backend.attach(graph.tryNode('disc')!);
  backend.user?.mediumChanged(true);
  backend.user?.moveTray(false);
  await packet(ide, [0]);
  expect(await senseKey(ide)).toEqual([2, 0x3a]);
  await packet(ide, [0]);
  expect(await senseKey(ide)).toEqual([6, 0x28]);
  expect((await packet(ide, [0])) & ERR).toBe(0);
  expect(events.map(({ name, data }) => [name, data['id'], data['tray-open']])).toEqual([
    ['DEVICE_TRAY_MOVED', 'dev0', true],
    ['DEVICE_TRAY_MOVED', 'dev0', false],
  ]);
});

it('a locked tray stays shut for the guest', async () => {
  const { ide, backend } = await cdMachine();
  await packet(ide, [0x1e, 0, 0, 0, 1]);
  expect(backend.user?.isLocked).toBe(true);
  expect((await packet(ide, [0x1b, 0, 0, 0, 2])) & ERR).toBe(ERR);
  await packet(ide, [0x1e, 0, 0, 0, 0]);
  expect((await packet(ide, [0x1b, 0, 0, 0, 2])) & ERR).toBe(0);
  expect(backend.user?.isTrayOpen).toBe(true);
});

it('disk commands are refused with the signature (CVE-2015-6855)', async () => {
  const { ide } = await cdMachine();
  for (const code of [0x20, 0xec]) {
    ide.command(code, 0, 1);
    expect((await ide.ready()) & ERR).toBe(ERR);
    expect([ide.in(4), ide.in(5)]).toEqual([0x14, 0xeb]);
  }
  for (const code of [0xf8, 0x27, 0xc8, 0x30, 0xb0]) {
    ide.command(code, 0, 1);
    expect((await ide.ready()) & ERR).toBe(ERR);
  }
});

it('survives packets at random, with every operation code', async () => {
  const { ide, machine } = await cdMachine();
  const random: Random = seededRandom();
  for (let i = 0; i < 2000; i++) {
    const cdb = [...random.bytes(12)];
    cdb[0] = random.chance(0.2)
      ? random.int(0, 255)
      : random.pick([0x28, 0xa8, 0xbe, 0x43, 0xad, 0x5a, 0x4a]);
    if (random.chance()) cdb.fill(0, 2, random.int(3, 8));
    ide.out(1, random.int(0, 1));
    ide.out(4, random.int(0, 255));
    ide.out(5, random.int(0, 255));
    ide.out(7, 0xa0);
    ide.writeData(Uint8Array.from(cdb));
    await settled(1);
    ide.readData(random.int(0, 3000));
    if (random.chance(0.3)) {
      machine.ports.write(0x3f6, 1, 4);
      machine.ports.write(0x3f6, 1, 0);
    }
  }
  machine.reset();
  await settled();
  await packet(ide, [0x25]);
  expect([...(await answer(ide))]).toEqual([0, 0, 1, 0xf3, 0, 0, 8, 0]);
});
