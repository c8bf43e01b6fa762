// What drivers do to devices, with faults: requests are built as each device wants them, and some
// of their fields then get other values.
import type { Machine } from '../../src/machine/machine.js';
import type { Random } from '../support/index.js';

/** A base address register: the function's place, its space, base, and how long it is. */
export interface FuzzBar {
  readonly bus: number;
  readonly devfn: number;
  readonly index: number;
  readonly space: 'ports' | 'mmio';
  readonly base: number;
  readonly bytes: number;
}

export interface Hostile {
  readonly machine: Machine;
  readonly random: Random;
  readonly bars: readonly FuzzBar[];
  /** An address that a structure may name. */
  readonly address: () => number;
  readonly length: () => number;
}

export const RAM = 4 << 20;
export const AREA = 0x10_0000;
export const AREAS = 64;
/** Where the structures of each driver are. */
const Place = { virtio: AREA, ahci: AREA + 0x1_0000, ide: AREA + 0x1_8000, lsi: AREA + 0x2_0000 };
const FAULT = 0.04;

export const opcodes = [
  ...[0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x1a, 0x1b, 0x1e, 0x23, 0x25, 0x28, 0x2a, 0x2f, 0x35],
  ...[0x41, 0x42, 0x43, 0x46, 0x4a, 0x51, 0x55, 0x5a, 0x88, 0x8a, 0x93, 0x9e, 0xa0, 0xa8, 0xad],
  ...[0xbd, 0xbe, 0xff],
];

/** A number, or now and then another. */
function or(g: Hostile, value: number, other: () => number = () => g.random.uint32()): number {
  return g.random.chance(FAULT) ? other() : value;
}

function put(g: Hostile, address: number, bytes: Uint8Array | readonly number[]): void {
  g.machine.writeMemory(address, Uint8Array.from(bytes));
}

/** Little-endian words of 32 bits. */
function words(g: Hostile, address: number, values: readonly number[]): void {
  const view = new DataView(new ArrayBuffer(4 * values.length));
  values.forEach((value, i) => {
    view.setUint32(4 * i, value, true);
  });
  put(g, address, new Uint8Array(view.buffer));
}

/** A command of SCSI, with small numbers at some places: addresses, lengths, flags. */
function cdb({ random }: Hostile): number[] {
  if (random.chance(0.1)) return [random.pick(opcodes), ...random.bytes(15)];
  const out = new Array<number>(16).fill(0);
  out[0] = random.pick([...opcodes, 0x28, 0x2a, 0x88, 0x8a, 0x28, 0x2a]);
  for (let i = random.int(0, 3); i > 0; i--)
    out[random.pick([2, 4, 5, 8, 9, 13])] = random.int(0, 15);
  out[8] = random.int(0, 8);
  return out;
}

// --- virtio

function virtioBars({ bars }: Hostile): FuzzBar[] {
  return bars.filter(({ bytes }) => bytes === 0x4000);
}

function queuePlace(bar: FuzzBar, queue: number): number {
  const which = bar.bus === 1 ? 3 : ({ 7: 1, 10: 2 }[bar.devfn >> 3] ?? 0);
  return Place.virtio + 0x4000 * which + 0x1000 * queue;
}

/** The device is set up as drivers do it. */
export function startVirtio(g: Hostile): void {
  const { machine, random } = g;
  const bar = random.pick(virtioBars(g));
  const set = (at: number, size: 1 | 2 | 4, value: number): void => {
    machine.mmio.write(bar.base + at, size, value);
  };
  set(0x14, 1, 0);
  set(0x14, 1, 3);
  set(0x08, 4, 0);
  set(0x0c, 4, random.pick([0xffff_ffff, 0xffff_ffff & ~(1 << 29), random.uint32()]));
  set(0x08, 4, 1);
  set(0x0c, 4, 1);
  set(0x14, 1, 11);
  for (let queue = 0; queue < 3; queue++) {
    const at = queuePlace(bar, queue);
    put(g, at, new Uint8Array(0x800));
    set(0x16, 2, queue);
    set(0x18, 2, 16);
    set(0x20, 4, or(g, at, g.address));
    set(0x28, 4, or(g, at + 0x200, g.address));
    set(0x30, 4, or(g, at + 0x400, g.address));
    set(0x1a, 2, random.int(0, 2));
    set(0x1c, 2, 1);
  }
  set(0x14, 1, 15);
}

/** A request in a queue, and a kick. */
export function offerVirtio(g: Hostile): void {
  const { machine, random } = g;
  const bar = random.pick(virtioBars(g));
  const isScsi = bar.bus === 0 && bar.devfn >> 3 === 7;
  const isMouse = bar.devfn >> 3 === 10;
  const queue = isScsi ? random.pick([0, 1, 2, 2, 2]) : isMouse ? random.int(0, 1) : 0;
  const at = queuePlace(bar, queue);
  const head = random.int(0, 4) * 3;
  const header = at + 0x600 + head * 64;
  const toGuest = random.chance();
  const descriptor = (i: number, address: number, bytes: number, flags: number): void => {
    const base = at + 16 * (head + i);
    const next = or(g, head + i + 1, () => random.int(0, 20));
    words(g, base, [or(g, address, g.address), 0, or(g, bytes, g.length), 0]);
    const bits = or(g, flags, () => random.int(0, 7));
    put(g, base + 12, [bits, 0, next & 255, next >> 8]);
  };
  const data = g.address();
  const length = 512 * random.int(1, 16);
  if (isScsi && queue < 2) {
    put(g, header, [0, 0, 0, 0, random.int(0, 8), 0, 0, 0, 1, random.int(0, 2), 0x40, 0]);
    descriptor(0, header, 24, 1);
    descriptor(1, header + 32, 5, 2);
  } else if (isScsi) {
    put(g, header, [1, random.int(0, 1), 0x40, 0, 0, 0, 0, 0, ...random.bytes(11), ...cdb(g)]);
    descriptor(0, header, 51, 1);
    descriptor(1, toGuest ? header + 64 : data, toGuest ? 108 : length, toGuest ? 3 : 1);
    descriptor(2, toGuest ? data : header + 64, toGuest ? length : 108, 2);
  } else {
    const type = toGuest ? random.pick([0, 0, 0, 8]) : random.pick([1, 1, 4, 11, 13, 99]);
    words(g, header, [type, 0, or(g, random.int(0, 4096)), or(g, 0)]);
    if (type > 8) words(g, data, [random.int(0, 4096), 0, random.int(0, 64), random.int(0, 1)]);
    descriptor(0, header, 16, 1);
    descriptor(1, data, type > 8 ? 16 : length, toGuest ? 3 : 1);
    descriptor(2, header + 32, 1, 2);
  }
  if (random.chance(0.1)) {
    // The same table, by way of another descriptor.
    words(g, at + 16 * 15, [or(g, at + 16 * head, g.address), 0, or(g, 48, g.length), 4]);
    for (let i = 0; i < 3; i++) put(g, at + 16 * (head + i) + 14, [i + 1, 0]);
  }
  const raw = machine.readMemory(at + 0x202, 2);
  const index = raw[0]! | (raw[1]! << 8);
  const next = or(g, index + 1, () => random.int(0, 65535));
  put(g, at + 0x204 + 2 * (index % 16), [random.chance(0.1) ? 15 : head, 0]);
  put(g, at + 0x202, [next & 255, (next >> 8) & 255]);
  machine.mmio.write(bar.base + 0x3000 + 4 * queue, 2, queue);
}

// --- AHCI

/** Commands in slots of a port of the AHCI controller, which is started first. */
export function issueAhci(g: Hostile, commands: readonly number[]): void {
  const { machine, random, bars } = g;
  const base = bars.find(({ devfn, index }) => devfn >> 3 === 5 && index === 5)?.base;
  if (base === undefined) return;
  const port = random.int(0, 2);
  const list = Place.ahci + 0x2000 * port;
  const set = (at: number, value: number): void => {
    machine.mmio.write(base + 0x100 + 0x80 * port + at, 4, value >>> 0);
  };
  if (random.chance(0.3)) {
    set(0x18, 6);
    set(0x00, or(g, list, g.address));
    set(0x08, or(g, list + 0x1000, g.address));
    set(0x30, 0xffff_ffff);
    set(0x10, 0xffff_ffff);
    set(0x18, 0x17);
  }
  let slots = 0;
  let queued = 0;
  for (let i = random.int(1, 6); i > 0; i--) {
    const slot = random.int(0, 31);
    const table = Place.ahci + 0x6000 + 0x100 * slot;
    const code = random.pick([...commands, 0x60, 0x61, 0x60, 0x61, 0x25, 0x35, 0xa0]);
    const isQueued = code === 0x60 || code === 0x61;
    const count = random.int(0, 16);
    const [low, high] = [isQueued ? slot << 3 : count, isQueued ? count : 0];
    const lba = [random.int(0, 255), random.int(0, 15), or(g, 0), 0x40, or(g, 0), 0, 0];
    put(g, table, [0x27, or(g, 0x80), code, high, ...lba, 0, low, 0, 0, random.int(0, 255)]);
    put(g, table + 0x40, cdb(g));
    const regions = random.int(0, 4);
    for (let region = 0; region < regions; region++) {
      words(g, table + 0x80 + 16 * region, [g.address(), or(g, 0), 0, or(g, g.length() - 1)]);
    }
    const flags = 5 | (code === 0xa0 ? 0x20 : 0) | (random.chance() ? 0x40 : 0);
    words(g, list + 32 * slot, [
      or(g, flags | (regions << 16)),
      0,
      or(g, table, g.address),
      or(g, 0),
    ]);
    slots |= 1 << slot;
    if (isQueued) queued |= 1 << slot;
  }
  set(0x34, or(g, queued));
  set(0x38, or(g, slots));
}

// --- IDE

/** A command of an IDE unit by its registers, with a table for its bus master. */
export function issueIde(g: Hostile, commands: readonly number[]): void {
  const { machine, random, bars } = g;
  const { ports } = machine;
  const channel = random.int(0, 1);
  const base = channel === 0 ? 0x1f0 : 0x170;
  const master = bars.find(({ devfn }) => devfn === 9);
  ports.write(base + 6, 1, random.pick([0xa0, 0xe0, 0xe0, 0xe0, 0xf0, 0x40]));
  for (const [at, most] of [
    [1, 3],
    [2, 16],
    [3, 255],
    [4, 15],
    [5, 0],
  ] as const) {
    ports.write(base + at, 1, or(g, random.int(0, most)));
  }
  const code = random.pick([...commands, 0xc8, 0xca, 0xc8, 0xca, 0x20, 0x30, 0xa0]);
  ports.write(base + 7, 1, code);
  if (random.chance(0.5)) {
    // A packet, data that is written, or data that is read.
    for (const word of cdb(g).slice(0, 6)) ports.write(base, 2, word);
    for (let i = random.int(0, 300); i > 0; i--) ports.read(base, 2);
  }
  if (random.chance(0.2)) for (let i = 0; i < 256; i++) ports.write(base, 2, random.int(0, 65535));
  if (master === undefined) return;
  const table = Place.ide + 0x400 * channel;
  for (let i = 0; i < 8; i++) {
    const last = random.chance(0.3) ? 0x8000_0000 : 0;
    words(g, table + 8 * i, [g.address(), ((g.length() & 0xfffe) | last) >>> 0]);
  }
  const at = master.base + 8 * channel;
  ports.write(at + 4, 4, or(g, table, g.address));
  ports.write(at, 1, random.pick([1, 9, 9, 1, 0]));
}

// --- floppy

/** A command of the floppy controller, byte by byte, with its DMA channel set up. */
export function issueFloppy(g: Hostile): void {
  const { ports } = g.machine;
  const { random } = g;
  const out = (port: number, value: number): void => {
    ports.write(port, 1, value);
  };
  out(0x3f2, or(g, 0x1c | random.int(0, 1)));
  for (const [port, value] of [
    [0x0a, 6],
    [0x0c, 0],
    [0x0b, random.pick([0x46, 0x4a, 0x56, 0x5a, 0x42])],
    [0x04, random.int(0, 255)],
    [0x04, random.int(0, 255)],
    [0x81, random.int(0, 0x41)],
    [0x05, 0xff],
    [0x05, random.int(0, 4)],
    [0x0a, 2],
  ] as const) {
    out(port, or(g, value));
  }
  const cylinder = random.int(0, 79);
  const codes = [0x46, 0xe6, 0x45, 0xc5, 0x4d, 0x0a, 0x07, 0x0f, 0x16, 0x11, 0x8e, 0x4e, 0x46];
  for (const value of [0x0f, 0, cylinder, 0x08]) out(0x3f5, value);
  for (let i = 0; i < 2; i++) ports.read(0x3f5, 1);
  out(0x3f5, random.pick(codes));
  for (const value of [0, cylinder, 0, random.int(1, 18), 2, 18, 0x1b, 0xff])
    out(0x3f5, or(g, value));
  if (random.chance(0.3)) for (let i = 0; i < 600; i++) ports.read(0x3f5, 1);
}

// --- LSI

/** A program of the SCRIPTS processor that asks the disk for something. */
export function runScripts(g: Hostile): void {
  const { machine, random, bars } = g;
  const registers = bars.find(({ devfn, index }) => devfn >> 3 === 8 && index === 1);
  if (registers === undefined) return;
  const at = Place.lsi;
  put(g, at + 0x800, [0xc0, ...cdb(g), 0, 0]);
  const random32 = (): number => random.uint32();
  const code = [
    [0x4000_0000, at],
    [0x0600_0001, at + 0x800],
    [0x0200_0000 | random.pick([6, 10, 12, 16]), at + 0x801],
    [random.chance() ? 0x0100_0000 | g.length() : g.length() & 0xff_ffff, g.address()],
    [0x0300_0001, at + 0x820],
    [0x0700_0001, at + 0x821],
    [0x4800_0000, 0],
    [0x9808_0000, 1],
  ];
  if (random.chance(0.3)) {
    const extra = (random.pick([0x80, 0x88, 0xc0, 0xe0, 0x78, 0x7c, 0x60, 0x41]) << 24) >>> 0;
    code.splice(random.int(0, 7), 0, [extra | random.int(0, 0xffff), g.address()]);
  }
  words(
    g,
    at,
    code.flat().map((word) => or(g, word >>> 0, random32)),
  );
  if (random.chance(0.2)) {
    machine.mmio.write(registers.base + 0x14, 1, 0x40);
    machine.mmio.write(registers.base + 0x14, 1, 0);
  }
  machine.mmio.write(registers.base + 0x2c, 4, or(g, at, g.address));
}
