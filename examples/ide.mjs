#!/usr/bin/env node
// The IDE disk without a processor: a bare loop reads a sector by programmed I/O.
//
//   node examples/ide.mjs disk.qcow2 0
import { createGraph, Machine } from 'vdisk';

const [image, sector = '0'] = process.argv.slice(2);
if (image === undefined) {
  console.error('usage: ide.mjs IMAGE [SECTOR]');
  process.exit(2);
}

/** Registers of the first channel. */
const DATA = 0x1f0;
const COUNT = 0x1f2;
const LBA = 0x1f3;
const DEVICE = 0x1f6;
const STATUS = 0x1f7;
const BUSY = 0x80;
const ERROR = 0x01;

try {
  const graph = createGraph();
  const machine = new Machine({ graph, type: 'pc' });
  await machine.start();
  const options = { 'node-name': 'disk' };
  const node = await graph.open({ filename: image, options, flags: { writable: true } });
  await machine.addDevice({ driver: 'ide-hd', bus: 'ide.0', drive: 'disk' }, 'keyval');
  await graph.release(node);

  const { ports } = machine;
  const lba = Number(sector);
  ports.write(COUNT, 1, 1);
  for (let i = 0; i < 3; i++) ports.write(LBA + i, 1, (lba >> (8 * i)) & 0xff);
  ports.write(DEVICE, 1, 0xe0 | (lba >> 24));
  ports.write(STATUS, 1, 0x20); // READ SECTORS
  while ((ports.read(STATUS, 1) & BUSY) !== 0) await new Promise((go) => setTimeout(go));
  if ((ports.read(STATUS, 1) & ERROR) !== 0) throw new Error(`sector ${sector} cannot be read`);
  const bytes = new Uint16Array(256).map(() => ports.read(DATA, 2));
  console.log(`sector ${sector}:`);
  process.stdout.write(new Uint8Array(bytes.buffer));

  await machine.close();
  await graph.close();
} catch (error) {
  console.error(`ide.mjs: ${error.message}`);
  process.exitCode = 1;
}
