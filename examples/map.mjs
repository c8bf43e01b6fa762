#!/usr/bin/env node
// Walks over the allocation map of an image and its backing files.
//
//     node examples/map.mjs disk.qcow2
//
// Prints each range with what it holds and where that is stored, and the sums.
import { allocationMap, createGraph } from 'vdisk';

const [filename] = process.argv.slice(2);
if (filename === undefined) {
  console.error('usage: map.mjs FILENAME');
  process.exit(1);
}

/** What a range of the image is. */
function kindOf(extent) {
  if (extent.compressed) return 'compressed';
  if (extent.zero) return extent.data ? 'zero, allocated' : 'zero';
  return extent.data ? 'data' : 'nothing';
}

const graph = createGraph();
try {
  const disk = await graph.openBackend({ filename });
  const sums = new Map();
  for await (const extents of allocationMap(disk.node)) {
    for (const extent of extents) {
      const kind = kindOf(extent);
      const where =
        extent.offset === undefined ? '' : ` at ${extent.offset} of ${extent.file.filename}`;
      console.log(`${extent.start} +${extent.length}: ${kind}, depth ${extent.depth}${where}`);
      sums.set(kind, (sums.get(kind) ?? 0) + extent.length);
    }
  }
  for (const [kind, bytes] of sums) console.log(`${kind}: ${bytes} bytes`);
  await disk.close();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await graph.close();
}
