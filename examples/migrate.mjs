#!/usr/bin/env node
// Moves the storage of a running guest to another process, which serves an empty image by NBD:
//
//   node examples/serve.mjs target.raw /run/target.sock &
//   node examples/migrate.mjs disk.qcow2 /run/target.sock
//
// The guest writes all the time; after the pivot its writes go to the other process.
import { setImmediate as turn } from 'node:timers/promises';
import { createGraph, DiskJobs, Iov, Perm } from 'vdisk';

const [image, path] = process.argv.slice(2);
if (path === undefined) {
  console.error('usage: migrate.mjs IMAGE SOCKET');
  process.exit(2);
}

const graph = createGraph();
const jobs = new DiskJobs(graph);
// A mirrored disk keeps its length: the guest does not ask for changing it.
const disk = await graph.openBackend(
  { filename: image, flags: { writable: true } },
  { perm: Perm.consistentRead | Perm.write, shared: Perm.all },
);
const target = await graph.open({
  options: { driver: 'nbd', server: { type: 'unix', path }, export: '' },
  flags: { writable: true },
});

let writes = 0;
let stopped = false;
async function guest() {
  for (; !stopped; writes++) {
    const at = ((writes * 7919) % (disk.size / 4096)) * 4096;
    await disk.write(at, Iov.of(new Uint8Array(4096).fill(1 + (writes % 255))));
    await turn();
  }
}
const writer = guest();

// Writes go to both disks, so that however fast the guest is, they become equal.
const mirror = await jobs.mirror({
  source: disk.node,
  target,
  sync: 'full',
  copyMode: 'write-blocking',
});
for await (const { done, total, left } of mirror.untilReady()) {
  console.error(`${done} of ${total} bytes, ${left} left`);
}
await mirror.complete();
console.log(`the disk is '${disk.node.driver.name}' now`);

const seen = writes;
while (writes < seen + 100) await turn();
stopped = true;
await writer;
await disk.flush();
console.log(`${writes} writes, ${writes - seen} of them after the pivot`);

await disk.close();
await graph.release(target);
await graph.close();
