#!/usr/bin/env node
// Changes a disk that is in use: a writer goes on while an overlay is put on top of its image, the
// image is limited, counted, resized and drawn. No monitor is needed: the same as typed calls.
//
//   node examples/live.mjs disk.qcow2 overlay.qcow2 > graph.dot
import { setImmediate as turn } from 'node:timers/promises';
import {
  appendNode,
  createGraph,
  createImage,
  describeGraph,
  dotPicture,
  Iov,
  prepareCreate,
  setLimits,
} from 'vdisk';

const [image, overlay] = process.argv.slice(2);
if (overlay === undefined) {
  console.error('usage: live.mjs IMAGE OVERLAY');
  process.exit(2);
}

// What nodes tell of by themselves arrives as events, named as in QMP.
const graph = createGraph({
  onEvent: (name, data) => console.error(`event ${name}: ${JSON.stringify(data)}`),
});
const disk = await graph.openBackend({
  filename: image,
  options: { 'node-name': 'base' },
  flags: { writable: true },
});
disk.name = 'disk';
graph.backends.set('disk', disk);
disk.node.writeThreshold = 64 * 1024;
disk.node.onThreshold = (excess) => console.error(`64 KiB are full, by ${excess} bytes`);

// A guest that writes all the time, and counts what it does.
let stopped = false;
async function write() {
  for (let block = 0; !stopped; block++) {
    const data = Iov.of(new Uint8Array(4096).fill(1 + (block % 255)));
    const begun = disk.accounting.begin();
    await disk.write((block % 256) * 4096, data);
    disk.accounting.done('write', data.bytes, begun);
  }
}
const writer = write();
const until = async (writes) => {
  while (disk.accounting.write.operations < writes) await turn();
};

await until(100);
setLimits(disk, { 'iops-total': 100_000 }, undefined, 'disk');

// An overlay: what is written from here on goes there, and no write is lost on the way.
const { size } = disk;
const request = { filename: overlay, format: 'qcow2', size, backing: 'ignore' };
await createImage(
  graph,
  await prepareCreate(graph, { ...request, backingFile: image, backingFormat: 'qcow2' }),
);
const top = await graph.open({
  filename: overlay,
  options: { driver: 'qcow2', 'node-name': 'top' },
  flags: { writable: true, noBacking: true },
});
const resume = await graph.drainAll();
await appendNode(top, graph.tryNode('base'));
resume();
await until(200);

// Another length, while nothing is in flight.
await graph.drainBegin(top);
await top.truncate(size + 1024 * 1024, { exact: false });
graph.drainEnd(top);
await until(300);

stopped = true;
await writer;
const { operations, bytes } = disk.accounting.write;
console.error(`${operations === bytes / 4096 ? 'all' : 'NOT all'} writes were counted`);
console.error(`the disk has ${disk.size} bytes now, on '${disk.node.name}'`);
process.stdout.write(dotPicture(describeGraph(graph), new Map()));
await graph.release(top);
await disk.close();
await graph.close();
