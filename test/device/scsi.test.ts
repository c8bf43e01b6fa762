// SCSI disks and drives behind virtio-scsi-pci, as their controller asks them: data compared with
// the backend, what they tell of themselves, wrong and random commands, units that come and go.
import { expect, it } from 'vitest';
import type { ScsiOutcome } from '../../src/device/bus/scsi/bus.js';
import { ScsiBus } from '../../src/device/bus/scsi/bus.js';
import { tryTarget } from '../../src/device/bus/scsi/target.js';
import { Iov } from '../../src/index.js';
import { readBytes, same, seededRandom } from '../support/index.js';
import { addDrive, testMachine } from './support.js';
import type { TestMachine } from './support.js';

const DISK = 4 << 20;

interface Answer extends ScsiOutcome {
  readonly data: Uint8Array;
}

type Send = (
  cdb: readonly number[],
  room?: number,
  out?: Uint8Array,
  at?: string,
) => Promise<Answer>;

async function controller(): Promise<TestMachine & { bus: ScsiBus; send: Send }> {
  const test = await testMachine();
  await test.machine.addDevice({ driver: 'virtio-scsi-pci', id: 's' }, 'keyval');
  const bus = test.machine.buses.find((each) => each instanceof ScsiBus);
  if (!(bus instanceof ScsiBus)) throw new Error('there is no SCSI bus');
  const send: Send = async (cdb, room = 0, out = new Uint8Array(0), at = '0:0') => {
    const [target = 0, lun = 0] = at.split(':').map(Number);
    const unit = tryTarget(bus, 0, target, lun);
    if (unit === undefined) throw new Error('there is no target');
    const whole = new Uint8Array(32);
    whole.set(cdb);
    const data = new Uint8Array(room);
    const task = { cdb: whole, out: Iov.of(out), in: Iov.of(data) };
    const outcome = await unit.execute(task);
    return { ...outcome, data: data.subarray(0, outcome.bytes) };
  };
  return { ...test, bus, send };
}

async function disk(properties: Record<string, string> = {}) {
  const test = await controller();
  const backend = await addDrive(test.graph, 'd', { driver: 'memory', size: DISK });
  await test.machine.addDevice(
    { driver: 'scsi-hd', drive: 'd', id: 'hd', serial: 'abc', ...properties },
    'keyval',
  );
  await test.send([0]);
  return { ...test, backend };
}

const u32 = (value: number): number[] => [
  value >>> 24,
  (value >> 16) & 255,
  (value >> 8) & 255,
  value & 255,
];

it('blocks go both ways by commands of 6, 10, 12 and 16 bytes', async () => {
  const { backend, send } = await disk();
  const random = seededRandom();
  const forms = [
    (write: boolean, lba: number, count: number) => [
      write ? 0x0a : 0x08,
      lba >> 16,
      (lba >> 8) & 255,
      lba & 255,
      count,
    ],
    (write: boolean, lba: number, count: number) => [
      write ? 0x2a : 0x28,
      0,
      ...u32(lba),
      0,
      0,
      count,
    ],
    (write: boolean, lba: number, count: number) => [
      write ? 0xaa : 0xa8,
      0,
      ...u32(lba),
      0,
      0,
      0,
      count,
    ],
    (write: boolean, lba: number, count: number) => [
      write ? 0x8a : 0x88,
      0,
      0,
      0,
      0,
      0,
      ...u32(lba),
      0,
      0,
      0,
      count,
    ],
  ];
  for (const form of forms) {
    const lba = random.int(0, 8000);
    const count = random.int(1, 100);
    const data = random.bytes(512 * count);
    expect(await send(form(true, lba, count), 0, data)).toMatchObject({ status: 0 });
    same(await readBytes(backend, 512 * lba, data.length), data);
    same((await send(form(false, lba, count), data.length)).data, data);
    // Less room than is asked for gets what fits.
    same((await send(form(false, lba, count), 300)).data, data.subarray(0, 300));
  }
});

it('the first command after power-on or a reset hears of it', async () => {
  const { send, machine } = await disk();
  machine.reset();
  expect(await send([0])).toMatchObject({ status: 2, sense: { key: 6, asc: 0x29, ascq: 0 } });
  expect(await send([0])).toMatchObject({ status: 0 });
});

it('a disk tells its size, names, pages and limits', async () => {
  const { send } = await disk();
  expect([...(await send([0x25], 8)).data]).toEqual([...u32(DISK / 512 - 1), ...u32(512)]);
  const long = (await send([0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32], 32)).data;
  expect([...long.subarray(0, 12)]).toEqual([...u32(0), ...u32(DISK / 512 - 1), ...u32(512)]);
  const inquiry = (await send([0x12, 0, 0, 0, 36], 36)).data;
  expect(new TextDecoder().decode(inquiry.subarray(8))).toBe('QEMU    QEMU HARDDISK   2.5+');
  const serial = (await send([0x12, 1, 0x80, 0, 255], 255)).data;
  expect(new TextDecoder().decode(serial.subarray(4))).toBe('abc');
  const caching = (await send([0x1a, 0, 8, 0, 255], 255)).data;
  expect([caching[0], caching[12], caching[14]]).toEqual([31, 8, 4]);
  expect(await send([0x1a, 0, 0x3b, 0, 255], 255)).toMatchObject({
    status: 2,
    sense: { asc: 0x24 },
  });
});

it('MODE SELECT switches the write cache, not block sizes (CVE-2023-42467)', async () => {
  const { send, backend } = await disk();
  const page = Uint8Array.of(0, 0, 0, 0, 8, 18, 0, ...new Uint8Array(17));
  expect(await send([0x15, 0x10, 0, 0, page.length], 0, page)).toMatchObject({ status: 0 });
  expect(backend.writeCache).toBe(false);
  for (const size of [1, 255, 256]) {
    const block = Uint8Array.of(0, 0, 0, 8, 0, 0, 0, 0, 0, 0, size >> 8, size & 255);
    expect(await send([0x15, 0x10, 0, 0, 12], 0, block)).toMatchObject({ status: 2 });
  }
  expect((await send([0x25], 8)).data[6]).toBe(2);
});

it('UNMAP and WRITE SAME reach the backend, and stay on the disk', async () => {
  const { send, backend } = await disk();
  const ones = new Uint8Array(512 * 16).fill(1);
  await send([0x2a, 0, ...u32(0), 0, 0, 16], 0, ones);
  const list = Uint8Array.of(0, 22, 0, 16, 0, 0, 0, 0, ...u32(0), ...u32(8), ...u32(4), ...u32(0));
  expect(await send([0x42, 0, 0, 0, 0, 0, 0, 0, 24], 0, list)).toMatchObject({ status: 0 });
  same(await readBytes(backend, 512 * 8, 512 * 4), new Uint8Array(512 * 4));
  const block = new Uint8Array(512).fill(7);
  expect(await send([0x41, 0, ...u32(2), 0, 0, 3], 0, block)).toMatchObject({ status: 0 });
  same(await readBytes(backend, 1024, 1536), new Uint8Array(1536).fill(7));
  const last = DISK / 512;
  expect(await send([0x41, 0, ...u32(last), 0, 0, 1], 0, block)).toMatchObject({
    sense: { key: 5, asc: 0x21 },
  });
});

it('targets list their units, and tell of those that are not there', async () => {
  const { send, machine, graph } = await disk({ 'scsi-id': '3', lun: '0' }).catch(async () =>
    disk(),
  );
  await addDrive(graph, 'e', { driver: 'memory', size: DISK });
  await machine.addDevice({ driver: 'scsi-hd', drive: 'e', 'scsi-id': '5', lun: '300' }, 'keyval');
  const luns = (await send([0xa0, 0, 0, 0, 0, 0, ...u32(4096)], 4096, undefined, '5:300')).data;
  expect([...luns.subarray(0, 10)]).toEqual([0, 0, 0, 8, 0, 0, 0, 0, 0x41, 0x2c]);
  const none = await send([0x12, 0, 0, 0, 36], 36, undefined, '5:9');
  expect(none.data[0]).toBe(0x7f);
  expect(await send([0], 0, undefined, '5:9')).toMatchObject({ sense: { asc: 0x25 } });
});

it('a CD drive reads, refuses writes, and answers without a medium', async () => {
  const { send, machine, graph } = await controller();
  const random = seededRandom();
  const backend = await addDrive(graph, 'c', { driver: 'memory', size: 1 << 20 });
  const data = random.bytes(4096);
  await backend.setPerms({ perm: 2, shared: 31 });
  await backend.write(2048 * 5, Iov.of(data));
  await backend.setPerms({ perm: 0, shared: 31 });
  await machine.addDevice({ driver: 'scsi-cd', drive: 'c' }, 'keyval');
  await machine.addDevice({ driver: 'scsi-cd' }, 'keyval');
  expect(await send([0])).toMatchObject({ sense: { asc: 0x29 } });
  same((await send([0x28, 0, ...u32(5), 0, 0, 2], 4096)).data, data);
  expect(await send([0x2a, 0, ...u32(0), 0, 0, 1])).toMatchObject({ sense: { key: 7, asc: 0x27 } });
  await send([0], 0, undefined, '1:0');
  expect(await send([0], 0, undefined, '1:0')).toMatchObject({ sense: { key: 2, asc: 0x3a } });
  expect(await send([0x28, 0, ...u32(511), 0, 0, 2], 4096)).toMatchObject({ sense: { asc: 0x21 } });
});

it('a unit goes at once when it is asked to, and tells of it', async () => {
  const { machine, events, bus } = await disk();
  const device = machine.tryDevice('hd');
  await machine.requestRemoval(device!);
  expect(events.filter(({ name }) => name === 'DEVICE_DELETED')).toHaveLength(1);
  expect(bus.luns(0, 0)).toEqual([]);
});

it('random commands end, and never go outside the disk', async () => {
  const { send, backend } = await disk();
  const random = seededRandom();
  const codes = [
    0x08, 0x0a, 0x28, 0x2a, 0x88, 0x8a, 0x2f, 0x41, 0x93, 0x42, 0x12, 0x1a, 0x5a, 0x15, 0x55,
  ];
  for (let i = 0; i < 3000; i++) {
    const cdb = [...random.bytes(16)];
    if (random.chance(0.7)) cdb[0] = random.pick(codes);
    if (random.chance(0.7)) cdb.fill(0, 1, random.int(2, 9));
    const { status, data } = await send(
      cdb,
      random.int(0, 5000),
      random.bytes(random.int(0, 5000)),
    );
    expect([0, 2]).toContain(status);
    expect(data.length).toBeLessThanOrEqual(5000);
  }
  expect(backend.size).toBe(DISK);
});

it('virtio-scsi-pci has the number of transitional SCSI controllers', async () => {
  const { machine } = await testMachine();
  await machine.addDevice({ driver: 'virtio-scsi-pci', addr: '5' }, 'keyval');
  machine.ports.write(0xcf8, 4, 0x8000_2800);
  expect(machine.ports.read(0xcfc, 4)).toBe(0x1004_1af4);
});
