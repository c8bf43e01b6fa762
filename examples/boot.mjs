#!/usr/bin/env node
// Boots a guest from a disk image and prints what it sends to its first serial port, until it
// switches itself off. The processor is the npm package v86, firmware the system's SeaBIOS.
//
//   node examples/boot.mjs disk.qcow2
import { createGraph, createMachine } from 'vdisk';

const [image] = process.argv.slice(2);
if (image === undefined) {
  console.error('usage: boot.mjs IMAGE');
  process.exit(2);
}

try {
  const graph = createGraph();
  let end;
  const off = new Promise((resolve) => (end = resolve));
  const ramBytes = 128 * 1024 * 1024;
  const { machine, processor } = await createMachine({ graph, ramBytes, onPowerOff: end });
  const options = { 'node-name': 'disk' };
  const node = await graph.open({ filename: image, options, flags: { writable: true } });
  await machine.addDevice({ driver: 'ide-hd', bus: 'ide.0', drive: 'disk' }, 'keyval');
  // The device holds it from now on.
  await graph.release(node);
  processor.serial[0].onByte = (byte) => process.stdout.write(new Uint8Array([byte]));
  machine.begin();
  await off;
  await machine.close();
  await graph.close();
} catch (error) {
  console.error(`boot.mjs: ${error.message}`);
  process.exitCode = 1;
}
