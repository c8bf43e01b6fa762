// What a guest asks of a device, and the block layer by itself, at full speed:
// `node bench/guest.mjs WHO IMAGE FORMAT read|write COUNT DEPTH` executes COUNT requests of 4 KiB,
// DEPTH of them at a time, and prints `in S seconds`. WHO is `layer` (a backend of the block
// layer, called from here), `virtio-blk` or `ahci`: then a guest of a few lines, without a
// processor, fills the rings in memory, takes the interrupts, and gives the next requests.
import { Backend, createGraph, Iov, Machine, Perm } from '../dist/index.js';

const BYTES = 4096;
const BAR = 0xe000_0000;
const RING = 0x10_0000;
const DATA = 0x100_0000;
const [who, filename, format, write, countText, depthText] = process.argv.slice(2);
const isWrite = write === 'write';
const count = Number(countText);
const depth = Number(depthText);

/** Blocks in an order without pattern. */
function nextBlock(state, blocks) {
  state.at = (state.at + 389 * 77) % blocks;
  return state.at;
}

async function open() {
  const graph = createGraph();
  const file = { driver: 'file', filename, aio: 'io_uring' };
  const cache = { direct: false, 'no-flush': false };
  const options = { driver: format, 'node-name': 'disk', file, cache };
  const node = await graph.open({ options, flags: { writable: true } });
  return { graph, node, blocks: node.size / BYTES };
}

async function layer() {
  const { graph, node, blocks } = await open();
  const perm = Perm.consistentRead | Perm.write;
  const backend = new Backend({ graph, name: '', perm, shared: Perm.all });
  await backend.attach(node);
  // As in a guest: whole pages, at which the host's copies have another speed than elsewhere.
  const memory = new Uint8Array(64 << 20).subarray(DATA, DATA + BYTES * depth);
  const state = { at: 0 };
  let left = count;
  const start = performance.now();
  await Promise.all(
    Array.from({ length: depth }, async (_, i) => {
      const iov = Iov.of(memory.subarray(BYTES * i, BYTES * (i + 1)));
      while (left-- > 0) {
        const offset = BYTES * nextBlock(state, blocks);
        await (isWrite ? backend.write(offset, iov) : backend.read(offset, iov));
      }
    }),
  );
  return performance.now() - start;
}

async function makeMachine(type, device) {
  const { graph, blocks } = await open();
  const machine = new Machine({ graph, type, ramBytes: 64 << 20 });
  await machine.start();
  await machine.addDevice({ ...device, drive: 'disk' }, 'keyval');
  const view = (address, bytes) => {
    const ram = machine.ram.tryView(address, bytes);
    return new DataView(ram.buffer, ram.byteOffset, bytes);
  };
  const config = (devfn, register, bytes, value) => {
    machine.ports.write(0xcf8, 4, 0x8000_0000 + devfn * 256 + register);
    machine.ports.write(0xcfc, bytes, value);
  };
  return { machine, blocks, view, config };
}

/** Calls `serve` at each interrupt until it says that all is done; how long that took, in ms. */
function untilDone(machine, serve, begin) {
  const start = performance.now();
  return new Promise((resolve, reject) => {
    machine.interrupts.onChange = (_input, level) => {
      if (!level) return;
      try {
        if (serve()) resolve(performance.now() - start);
      } catch (e) {
        reject(e);
      }
    };
    begin();
  });
}

const QUEUE = 256;
const AVAILABLE = RING + 16 * QUEUE;
const USED = RING + 0x2000;
const HEADERS = RING + 0x1_0000;
const STATUSES = RING + 0x2_0000;

/** Switches the device on: flush, indirect descriptors, event indexes, one queue. */
function startVirtio({ machine, config }) {
  config(8, 0x60, 4, 0x0b0b0b0b);
  config(0x20, 0x20, 4, BAR);
  config(0x20, 0x04, 2, 6);
  for (const [at, bytes, value] of [
    [0x14, 1, 3],
    [0x08, 4, 0],
    [0x0c, 4, (1 << 29) | (1 << 28) | (1 << 9)],
    [0x08, 4, 1],
    [0x0c, 4, 1],
    [0x14, 1, 11],
    [0x16, 2, 0],
    [0x18, 2, QUEUE],
    [0x20, 4, RING],
    [0x28, 4, AVAILABLE],
    [0x30, 4, USED],
    [0x1c, 2, 1],
    [0x14, 1, 15],
  ]) {
    machine.mmio.write(BAR + at, bytes, value);
  }
}

/** Three descriptors for each request, which stay as they are. */
function fillTable(view) {
  const table = view(RING, 16 * QUEUE);
  const header = view(HEADERS, 16 * depth);
  const describe = (at, address, bytes, flags) => {
    table.setUint32(16 * at, address, true);
    table.setUint32(16 * at + 8, bytes, true);
    table.setUint16(16 * at + 12, flags, true);
    table.setUint16(16 * at + 14, at + 1, true);
  };
  for (let i = 0; i < depth; i++) {
    header.setUint32(16 * i, isWrite ? 1 : 0, true);
    describe(3 * i, HEADERS + 16 * i, 16, 1);
    describe(3 * i + 1, DATA + BYTES * i, BYTES, isWrite ? 1 : 3);
    describe(3 * i + 2, STATUSES + i, 1, 2);
  }
  return header;
}

async function virtio() {
  const made = await makeMachine('pc', { driver: 'virtio-blk-pci', addr: '4.0' });
  const { machine, blocks, view } = made;
  const { mmio } = machine;
  startVirtio(made);
  const header = fillTable(view);
  const avail = view(AVAILABLE, 6 + 2 * QUEUE);
  const ring = view(USED, 6 + 8 * QUEUE);
  const status = view(STATUSES, depth);
  const state = { at: 0 };
  let given = 0;
  let taken = 0;
  const give = (slot) => {
    header.setUint32(16 * slot + 8, (nextBlock(state, blocks) * BYTES) / 512, true);
    status.setUint8(slot, 0xff);
    avail.setUint16(4 + 2 * (given % QUEUE), 3 * slot, true);
    given++;
  };
  const kick = (from) => {
    avail.setUint16(2, given & 0xffff, true);
    const event = ring.getUint16(4 + 8 * QUEUE, true);
    const isWanted = ((given - event - 1) & 0xffff) < ((given - from) & 0xffff);
    if (isWanted) mmio.write(BAR + 0x3000, 2, 0);
  };
  const serve = () => {
    mmio.read(BAR + 0x1000, 1);
    const from = given;
    while ((taken & 0xffff) !== ring.getUint16(2, true)) {
      const slot = ring.getUint32(4 + 8 * (taken % QUEUE), true) / 3;
      if (status.getUint8(slot) !== 0) throw new Error('a request failed');
      taken++;
      if (given < count) give(slot);
      // Asks for an interrupt at the next one.
      avail.setUint16(4 + 2 * QUEUE, taken & 0xffff, true);
    }
    if (given !== from) kick(from);
    return taken === count;
  };
  return untilDone(machine, serve, () => {
    for (let i = 0; i < depth; i++) give(i);
    kick(0);
  });
}

/** Switches the first port on, and fills a command table for each slot. */
function startAhci({ view, config }, set) {
  for (let i = 0; i < 4; i++) config(0xf8, 0x60 + i, 1, 0x0b);
  config(0xfa, 0x24, 4, BAR);
  config(0xfa, 0x04, 2, 6);
  const tables = RING + 0x1_0000;
  set(0x04, 0x8000_0002);
  set(0x118, 0x06);
  set(0x100, RING);
  set(0x108, RING + 0x1000);
  set(0x110, 0xffff_ffff);
  set(0x114, 0xffff_ffff);
  set(0x118, 0x17);
  set(0x110, 0xffff_ffff);
  set(0x08, 1);
  const list = view(RING, 32 * 32);
  const table = view(tables, 256 * 32);
  for (let i = 0; i < depth; i++) {
    list.setUint32(32 * i, 5 | (isWrite ? 0x40 : 0) | 0x1_0000, true);
    list.setUint32(32 * i + 8, tables + 256 * i, true);
    table.setUint32(256 * i, isWrite ? 0x0861_8027 : 0x0860_8027, true);
    table.setUint8(256 * i + 12, i << 3);
    table.setUint32(256 * i + 0x80, DATA + BYTES * i, true);
    table.setUint32(256 * i + 0x8c, BYTES - 1, true);
  }
  return table;
}

async function ahci() {
  const made = await makeMachine('q35', { driver: 'ide-hd', bus: 'ide.0' });
  const { machine, blocks } = made;
  const { mmio } = machine;
  const reg = (at) => mmio.read(BAR + at, 4);
  const set = (at, value) => mmio.write(BAR + at, 4, value >>> 0);
  const table = startAhci(made, set);
  const state = { at: 0 };
  let given = 0;
  let taken = 0;
  let open = 0;
  const give = (slots) => {
    for (let left = slots; left !== 0; left &= left - 1) {
      const slot = 31 - Math.clz32(left & -left);
      const lba = (nextBlock(state, blocks) * BYTES) / 512;
      table.setUint32(256 * slot + 4, (lba & 0xff_ffff) | 0x4000_0000, true);
      table.setUint32(256 * slot + 8, lba >>> 24, true);
    }
    open |= slots;
    set(0x134, slots);
    set(0x138, slots);
  };
  const serve = () => {
    const is = reg(0x110);
    if ((is & 0x4000_0000) !== 0) throw new Error('a request failed');
    set(0x110, is);
    set(0x08, 1);
    const done = open & ~reg(0x134);
    open &= ~done;
    let again = 0;
    for (let left = done; left !== 0; left &= left - 1) {
      taken++;
      if (given < count) {
        given++;
        again |= left & -left;
      }
    }
    if (again !== 0) give(again);
    return taken === count;
  };
  return untilDone(machine, serve, () => {
    given = depth;
    give(depth === 32 ? -1 : (1 << depth) - 1);
  });
}

const ms = await { layer, 'virtio-blk': virtio, ahci }[who]();
console.log(`in ${(ms / 1000).toFixed(4)} seconds, ${Math.round(count / (ms / 1000))} a second`);
process.exit(0);
