#!/usr/bin/env node
// Changes a disk that is in use: a writer goes on while an overlay is put on top of its image, and
// the disk is resized, counted and drawn; at the end all that was written is read back. Each step
// is a command of QMP as a typed call, what happens in between a typed event; no monitor is needed.
//
//   node examples/live.mjs disk.qcow2 overlay.qcow2 > graph.dot
import { setImmediate as turn } from 'node:timers/promises';
import { createBlockLayer, dotPicture, Iov } from 'vdisk';

const [image, overlay] = process.argv.slice(2);
if (overlay === undefined) {
  console.error('usage: live.mjs IMAGE OVERLAY');
  process.exit(2);
}

const layer = await createBlockLayer({ onWarning: (message) => console.error(message) });
layer.on('BLOCK_WRITE_THRESHOLD', (data) =>
  console.error(`64 KiB of ${data['node-name']} are full, by ${data['amount-exceeded']} bytes`),
);
await layer.execute('blockdev-add', {
  driver: 'qcow2',
  'node-name': 'base',
  file: { driver: 'file', filename: image },
});
await layer.execute('block-set-write-threshold', {
  'node-name': 'base',
  'write-threshold': 64 * 1024,
});

// A guest that writes all the time, and remembers what.
const disk = await layer.graph.openBackend({ reference: 'base' });
const BLOCK = 4096;
const BLOCKS = 256;
const written = new Uint8Array(BLOCKS);
let writes = 0;
let stopped = false;
async function write() {
  for (; !stopped; writes++) {
    const block = (writes * 7) % BLOCKS;
    written[block] = 1 + (writes % 255);
    await disk.write(block * BLOCK, Iov.of(new Uint8Array(BLOCK).fill(written[block])));
  }
}
const writer = write();
const until = async (count) => {
  while (writes < count) await turn();
};

// An overlay: what is written from here on goes there, and no write is lost on the way. A dirty
// bitmap begins to record at the same moment.
await until(100);
await layer.execute('transaction', {
  actions: [
    {
      type: 'blockdev-snapshot-sync',
      data: { 'node-name': 'base', 'snapshot-file': overlay, 'snapshot-node-name': 'top' },
    },
    { type: 'block-dirty-bitmap-add', data: { node: 'base', name: 'since' } },
  ],
});
await until(200);
await layer.execute('block_resize', { 'node-name': 'top', size: disk.size + 1024 * 1024 });
await until(600);

stopped = true;
await writer;
let wrong = 0;
for (let block = 0; block < BLOCKS; block++) {
  const data = new Uint8Array(BLOCK);
  await disk.read(block * BLOCK, Iov.of(data));
  if (!data.every((byte) => byte === written[block])) wrong++;
}
console.error(`${writes} writes, ${wrong} blocks are not what was written last`);
console.error(`the disk has ${disk.size} bytes now, on '${disk.node.name}'`);
const nodes = await layer.execute('query-named-block-nodes', { flat: true });
for (const node of nodes) console.error(`${node['node-name']}: ${node.drv}, ${node.file}`);
const graph = await layer.execute('x-debug-query-block-graph');
process.stdout.write(dotPicture(graph, new Map()));
await disk.detach();
await layer.close();
process.exitCode = wrong === 0 ? 0 : 1;
