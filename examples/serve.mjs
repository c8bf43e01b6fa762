#!/usr/bin/env node
// Serves a disk image to NBD clients on a Unix socket until it is interrupted.
//
//   node examples/serve.mjs disk.qcow2 /run/disk.sock
//   qemu-img info 'nbd+unix:///?socket=/run/disk.sock'
import { createGraph, NbdExport, NbdServer, nodeHost } from 'vdisk';

const [image, path] = process.argv.slice(2);
if (path === undefined) {
  console.error('usage: serve.mjs IMAGE SOCKET');
  process.exit(2);
}

const host = nodeHost();
const graph = createGraph();
const backend = await graph.openBackend({ filename: image, flags: { writable: true } });
const server = new NbdServer({ sockets: await host.loadSockets(), clock: host.clock });
server.add(new NbdExport({ name: '', backend, writable: true, multiConn: true }));
await server.listen({ type: 'unix', path });
console.log(`${image}: ${backend.size} bytes at ${path}`);

process.once('SIGINT', async () => {
  // Requests that have begun are finished and answered; then the image is closed.
  await server.close();
  await backend.close();
  await graph.close();
});
