#!/usr/bin/env node
// Backs up a disk that is in use: all of it first, then only what was written since. A bitmap
// remembers what that is; the second backup is an overlay of the first.
//
//   node examples/incremental-backup.mjs disk.qcow2 full.qcow2 changes.qcow2
import { setImmediate as turn } from 'node:timers/promises';
import { addBitmap, createGraph, createImage, DiskJobs, Iov, prepareCreate } from 'vdisk';

const [image, full, changes] = process.argv.slice(2);
if (changes === undefined) {
  console.error('usage: incremental-backup.mjs IMAGE FULL CHANGES');
  process.exit(2);
}

const graph = createGraph();
const jobs = new DiskJobs(graph);
const disk = await graph.openBackend({ filename: image, flags: { writable: true } });
const source = disk.node;

/** Makes a qcow2 image, above `backing` if that is given, and opens it alone. */
async function target(filename, backing) {
  const below = backing === undefined ? {} : { backingFile: backing, backingFormat: 'qcow2' };
  const request = { filename, format: 'qcow2', size: disk.size, ...below };
  await createImage(graph, await prepareCreate(graph, request));
  return graph.open({
    filename,
    options: { driver: 'qcow2' },
    flags: { writable: true, noBacking: true },
  });
}

/** Waits for a job and shows how far it is. */
async function follow(job) {
  for await (const { done, total, left, bytesPerSecond } of job) {
    const rate = `${(bytesPerSecond / 1e6).toFixed(1)} MB/s`;
    console.error(`${job.id}: ${done} of ${total} bytes, ${left} left, ${rate}`);
  }
}

// A guest that writes all the time.
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

// From here on the bitmap notes what is written; the backup takes it over at its own beginning.
const bitmap = await addBitmap(source, 'since-backup', { persistent: false, enabled: true });
const first = await target(full);
await follow(await jobs.backup({ id: 'full', source, target: first, sync: 'full', bitmap }));
await graph.release(first);

const seen = writes;
while (writes < seen + 100) await turn();
stopped = true;
await writer;

const second = await target(changes, full);
await follow(await jobs.backup({ id: 'changes', source, target: second, sync: 'bitmap', bitmap }));
await graph.release(second);

console.log(`${writes} writes; ${bitmap.dirtyBytes} bytes are not in a backup`);
await disk.close();
await graph.close();
