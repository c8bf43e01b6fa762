// A hostile guest over a machine with every device: registers, configuration space and structures
// in memory get values from a seed. What must hold: no access throws, none keeps the host busy, no
// disk grows, RAM's neighbours are out of reach, and after a reset each device does its work.
import type { Machine } from '../../src/machine/machine.js';
import { Machine as MachineClass } from '../../src/machine/machine.js';
import { SteppedClock } from '../../src/machine/clock.js';
import type { BlockGraph } from '../../src/index.js';
import { Backend, createGraph } from '../../src/index.js';
import { Perm } from '../../src/block/types.js';
import { Random } from '../support/index.js';
import { IdeDriver } from '../device/support.js';
import type { FuzzBar, Hostile } from './devices-drivers.js';
import {
  AREA,
  AREAS,
  issueAhci,
  issueFloppy,
  issueIde,
  offerVirtio,
  opcodes,
  RAM,
  runScripts,
  startVirtio,
} from './devices-drivers.js';

const MiB = 1 << 20;
const DISK = 2 * MiB;
/** Where BARs are put: memory from here on, one MiB each; ports from there on, 256 each. */
const MEMORY_BARS = 0xe000_0000;
const PORT_BARS = 0xc000;
/** No single access may keep the host busy for longer. */
const MOST_MS = 30_000;
const OPERATIONS = 2000;

export interface HostileGuest extends Hostile {
  readonly graph: BlockGraph;
  readonly clock: SteppedClock;
  readonly backends: readonly Backend[];
  /** Functions that are there: the first word of configuration cycles. */
  readonly functions: readonly number[];
  readonly close: () => Promise<void>;
}

type Properties = Readonly<Record<string, unknown>>;

const devices: readonly (readonly [Properties, string | undefined])[] = [
  [{ driver: 'ide-hd', bus: 'ide.0' }, 'memory'],
  [{ driver: 'ide-cd', bus: 'ide.1' }, 'memory'],
  [{ driver: 'floppy' }, 'memory'],
  [{ driver: 'ahci', id: 'sata', addr: '5' }, undefined],
  [{ driver: 'ide-hd', bus: 'sata.0' }, 'memory'],
  [{ driver: 'ide-cd', bus: 'sata.1' }, 'memory'],
  [{ driver: 'virtio-blk-pci', addr: '6', 'num-queues': '2', 'queue-size': '16' }, 'memory'],
  [{ driver: 'virtio-scsi-pci', id: 'vs', addr: '7' }, undefined],
  [{ driver: 'scsi-hd', bus: 'vs.0' }, 'memory'],
  [{ driver: 'scsi-cd', bus: 'vs.0' }, 'memory'],
  [{ driver: 'lsi53c895a', id: 'lsi', addr: '8' }, undefined],
  [{ driver: 'scsi-hd', bus: 'lsi.0' }, 'memory'],
  [{ driver: 'pci-bridge', id: 'bridge', addr: '9', chassis_nr: '1' }, undefined],
  [{ driver: 'virtio-blk-pci', bus: 'bridge', addr: '1', 'queue-size': '16' }, 'memory'],
  [{ driver: 'virtio-mouse-pci', addr: 'a' }, undefined],
];

async function drive(graph: BlockGraph, name: string): Promise<Backend> {
  const backend = new Backend({ graph, name, perm: 0, shared: Perm.all });
  const bytes = name === 'd2' ? 1_474_560 : DISK;
  const options = { driver: 'memory', size: bytes };
  const node = await graph.open({ options, flags: { writable: true, unmap: true } });
  await backend.attach(node);
  await graph.release(node);
  graph.backends.set(name, backend);
  return backend;
}

export async function hostileGuest(seed: number): Promise<HostileGuest> {
  const graph = createGraph();
  const clock = new SteppedClock();
  const machine = new MachineClass({ graph, type: 'pc', ramBytes: RAM, clock });
  await machine.start();
  const backends: Backend[] = [];
  for (const [i, [properties, kind]] of devices.entries()) {
    const name = `d${String(i)}`;
    if (kind !== undefined) backends.push(await drive(graph, name));
    const more = kind === undefined ? {} : { drive: name };
    await machine.addDevice({ ...properties, ...more }, 'keyval');
  }
  const { functions, bars } = place(machine);
  const random = new Random(seed);
  return {
    graph,
    machine,
    clock,
    random,
    address: () => anAddress(random, bars),
    length: () => aLength(random),
    backends,
    functions,
    bars,
    async close(): Promise<void> {
      machine.abandon();
      await machine.close();
      for (const backend of backends) await backend.close();
      await graph.close();
    },
  };
}

/** What firmware does: gives BARs their addresses and the bridge its windows, switches all on. */
function place(machine: Machine): Pick<HostileGuest, 'functions' | 'bars'> {
  const functions: number[] = [];
  const bars: FuzzBar[] = [];
  const config = (word: number, value: number): void => {
    machine.ports.write(0xcf8, 4, word);
    machine.ports.write(0xcfc, 4, value);
  };
  const peek = (word: number): number => {
    machine.ports.write(0xcf8, 4, word);
    return machine.ports.read(0xcfc, 4);
  };
  let ports = PORT_BARS;
  let memory = MEMORY_BARS;
  config(0x8000_4818, 0x0001_0100);
  config(0x8000_481c, 0x0000_f0c0);
  config(0x8000_4820, 0xe7f0_e000);
  config(0x8000_4804, 7);
  for (const bus of [0, 1]) {
    for (let devfn = 0; devfn < 256; devfn++) {
      const word = (0x8000_0000 | (bus << 16) | (devfn << 8)) >>> 0;
      if ((peek(word) & 0xffff) === 0xffff) continue;
      functions.push(word);
      if (bus === 0 && devfn === 0x48) continue;
      for (let at = 0x10; at < 0x28; at += 4) {
        config(word + at, 0xffff_ffff);
        const size = peek(word + at);
        if (size === 0) continue;
        const isPort = (size & 1) === 1;
        const isLong = (size & 7) === 4;
        const bytes = (~(size & (isPort ? ~3 : ~15)) + 1) & (isPort ? 0xffff : -1);
        config(word + at, isPort ? ports : memory);
        bars.push({
          ...{ bus, devfn, index: (at - 0x10) / 4 },
          space: isPort ? 'ports' : 'mmio',
          base: isPort ? ports : memory,
          bytes: bytes >>> 0,
        });
        if (isPort) ports += 0x100;
        else memory += MiB;
        // The upper half of an address.
        if (isLong) config(word + (at += 4), 0);
      }
      config(word + 4, 7);
    }
  }
  return { functions, bars };
}

const knownPorts = [
  ...[0x1f0, 0x1f1, 0x1f2, 0x1f3, 0x1f4, 0x1f5, 0x1f6, 0x1f7, 0x3f6],
  ...[0x170, 0x171, 0x172, 0x173, 0x174, 0x175, 0x176, 0x177, 0x376],
  ...[0x3f2, 0x3f3, 0x3f4, 0x3f5, 0x3f5, 0x3f5, 0x3f5, 0x3f7],
  ...[0x04, 0x05, 0x08, 0x0a, 0x0b, 0x0c, 0x0d, 0x0f, 0x81, 0xd0, 0xd4, 0xd6],
  ...[0xae00, 0xae04, 0xae08, 0xae0c, 0xae10, 0xafe0, 0xafe2, 0xb2, 0x510, 0x511, 0x514, 0x518],
  ...[0x70, 0x71, 0xcf8, 0xcfc],
];

const commands = [
  ...[0x20, 0x30, 0x24, 0x34, 0x25, 0x35, 0xc8, 0xca, 0xc4, 0xc5, 0xc6, 0x40, 0x42, 0x06, 0xb0],
  ...[0xec, 0xa0, 0xa1, 0x08, 0xe7, 0xea, 0xef, 0x91, 0x90, 0xf8, 0x27, 0x60, 0x61, 0xe0],
  ...[0x46, 0xe6, 0x45, 0xc5, 0x4d, 0x0a, 0x8e, 0x4e, 0x0f, 0x07, 0x13, 0x18, 0x94],
];

/** An address that a structure may name: an area, the end of RAM, registers, nothing. */
function anAddress(random: Random, bars: readonly FuzzBar[]): number {
  const area = AREA + 4096 * random.int(0, AREAS - 1);
  const bar = random.pick(bars).base;
  const choices = [area, area, area, area + 16 * random.int(0, 255), RAM - random.int(0, 600), bar];
  return random.chance(0.93) ? random.pick(choices) : random.pick([0, 0xffff_fff0, 0xfee0_0000]);
}

function aLength(random: Random): number {
  const usual = [1, 16, 19, 12, 31, 64, 512, 513, 2048, 4096, 65536, 0, random.int(0, 9000)];
  return random.chance(0.97) ? random.pick(usual) : random.uint32();
}

/** Fills part of an area with what some device takes for its structures. */
function structure(guest: HostileGuest): void {
  const { machine, random } = guest;
  const raw = new Uint8Array(random.pick([16, 32, 64, 256]));
  const view = new DataView(raw.buffer);
  const kind = random.int(0, 6);
  for (let at = 0; at + 16 <= raw.length; at += 16) {
    if (kind === 0) {
      // Descriptors of a virtqueue, or regions of AHCI.
      view.setUint32(at, guest.address(), true);
      view.setUint32(at + 8, guest.length(), true);
      view.setUint16(at + 12, random.int(0, 7), true);
      view.setUint16(at + 14, random.int(0, 17), true);
    } else if (kind === 1) {
      // Rings: indexes and heads.
      for (let i = 0; i < 16; i += 2) view.setUint16(at + i, random.int(0, 17), true);
    } else if (kind === 2) {
      // Headers of command lists, and regions of bus masters.
      view.setUint32(at, random.pick([5, 0x45, 0x25]) | (random.int(0, 4) << 16), true);
      view.setUint32(at + 8, guest.address(), true);
      view.setUint32(at + 4, random.int(0, 0x1_ffff) | (random.chance() ? 0x8000_0000 : 0), true);
    } else if (kind === 3) {
      // A command FIS, or a request of virtio.
      raw.set([0x27, 0x80, random.pick(commands), random.int(0, 255), random.int(0, 255)], at);
      if (random.chance()) view.setUint32(at, random.pick([0, 1, 4, 8, 11, 13, 99]), true);
      view.setUint32(at + 8, random.chance(0.8) ? random.int(0, 5000) : random.uint32(), true);
    } else if (kind === 4) {
      // A command of SCSI, and its address before it.
      raw.set([1, random.int(0, 2), 0x40, 0], at);
      raw.set([random.pick(opcodes), ...random.bytes(7)], at + 8);
    } else if (kind === 5) {
      // Instructions of the SCRIPTS processor.
      const code = random.pick([0x00, 0x01, 0x02, 0x06, 0x07, 0x41, 0x48, 0x58, 0x78, 0x80, 0xc0]);
      view.setUint32(at, (code << 24) | guest.length(), true);
      view.setUint32(at + 4, guest.address(), true);
    } else random.fill(raw.subarray(at, at + 16));
  }
  machine.writeMemory(AREA + 4096 * random.int(0, AREAS - 1) + 16 * random.int(0, 200), raw);
}

function aValue(guest: HostileGuest): number {
  const { random } = guest;
  const what = random.int(0, 5);
  if (what < 2) return random.int(0, 255);
  if (what === 2) return guest.address();
  if (what === 3) return random.pick(commands);
  return what === 4 ? (1 << random.int(0, 31)) >>> 0 : random.uint32();
}

/** A write or a read of a register. */
function access(guest: HostileGuest): void {
  const { machine, random, bars } = guest;
  const size = random.pick([1, 1, 2, 4, 4] as const);
  const { space, base, bytes } = random.chance(0.4)
    ? ({ space: 'ports', base: random.pick(knownPorts), bytes: 1 } as const)
    : random.pick(bars);
  let offset = Math.min(bytes - 1, random.int(0, random.chance(0.7) ? 0x60 : bytes - 1));
  if (space === 'mmio' && random.chance(0.3)) offset = random.pick([0x3000, 0x3004, 0x138, 0x134]);
  const target = machine[space];
  if (random.chance(0.15)) target.read(base + offset, size);
  else target.write(base + offset, size, aValue(guest));
}

async function host(guest: HostileGuest): Promise<void> {
  const { machine, random, clock } = guest;
  const what = random.int(0, 20);
  if (what === 0) clock.moveTo(clock.now() + random.int(0, 50_000_000));
  else if (what === 1 && random.chance(0.1)) machine.reset();
  else if (what === 2) {
    const devices = [...machine.devices].filter(({ type }) => type.hotpluggable);
    const leaving = random.chance(0.1) ? random.pick(devices) : undefined;
    if (leaving !== undefined) await machine.requestRemoval(leaving);
  } else {
    for (let i = random.int(1, 4); i > 0; i--) {
      await new Promise<void>((resolve) => void setImmediate(resolve));
    }
  }
}

const configRegisters = [0x04, 0x0c, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30, 0x3c];

async function step(guest: HostileGuest): Promise<void> {
  const { machine, random, functions } = guest;
  const what = random.int(0, 99);
  if (what < 20) access(guest);
  else if (what < 26) structure(guest);
  else if (what < 36) issueIde(guest, commands);
  else if (what < 42) issueFloppy(guest);
  else if (what < 45) startVirtio(guest);
  else if (what < 65) offerVirtio(guest);
  else if (what < 75) issueAhci(guest, commands);
  else if (what < 84) runScripts(guest);
  else if (what < 85) {
    const register = random.chance() ? random.pick(configRegisters) : random.int(0, 255) & ~3;
    machine.ports.write(0xcf8, 4, random.pick(functions) + register);
    machine.ports.write(0xcfc + random.int(0, 3), random.pick([1, 2, 4] as const), aValue(guest));
    // Else nothing would be reached for the rest of the time.
    if (random.chance(0.8)) place(machine);
  } else await host(guest);
}

/** One guest from a seed. Throws what it found. */
export async function fuzzGuest(seed: number): Promise<void> {
  const guest = await hostileGuest(seed);
  const { machine, backends } = guest;
  const lengths = backends.map((backend) => backend.size);
  for (let i = 0; i < OPERATIONS; i++) {
    const before = performance.now();
    await step(guest);
    const ms = performance.now() - before;
    if (ms > MOST_MS) throw new Error(`operation ${String(i)} took ${String(ms)} ms`);
  }
  for (let i = 0; i < 20; i++) await new Promise<void>((resolve) => void setImmediate(resolve));
  backends.forEach((backend, i) => {
    const is = backend.isInserted ? backend.size : lengths[i];
    if (is !== lengths[i]) throw new Error(`disk ${String(i)} has ${String(is)} bytes`);
  });
  machine.resume();
  machine.reset();
  await stillWorks(guest);
  await guest.close();
}

/** The first disk gives its sectors. */
async function stillWorks({ machine }: HostileGuest): Promise<void> {
  const driver = new IdeDriver(machine);
  driver.command(0x20, 5, 1);
  await driver.pioIn(512);
}
