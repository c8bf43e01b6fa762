#!/usr/bin/env node
// Opens an image of any format and reads from it.
//
//     node examples/read.mjs disk.qcow2 [OFFSET [BYTES]]
//
// Prints what the image is, and the bytes as a hex dump (default: the first 512).
import { createGraph, Iov } from 'vdisk';

const [filename, offset = '0', bytes = '512'] = process.argv.slice(2);
if (filename === undefined) {
  console.error('usage: read.mjs FILENAME [OFFSET [BYTES]]');
  process.exit(1);
}

const graph = createGraph();
try {
  // The format is guessed from the content. Say { filename, options: { driver: 'raw' } } when you
  // know it: the content of a raw image is its user's, who could make it look like another format.
  const disk = await graph.openBackend({ filename });
  console.log(`${filename}: ${disk.node.driver.name}, ${disk.size} bytes`);

  const start = Number(offset);
  const buffer = new Uint8Array(Math.min(Number(bytes), Math.max(0, disk.size - start)));
  await disk.read(start, Iov.of(buffer));
  for (let at = 0; at < buffer.length; at += 16) {
    const row = buffer.subarray(at, at + 16);
    const hex = Array.from(row, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
    const text = Array.from(row, (byte) =>
      byte >= 32 && byte < 127 ? String.fromCharCode(byte) : '.',
    ).join('');
    console.log(`${(start + at).toString(16).padStart(8, '0')}  ${hex.padEnd(47)}  ${text}`);
  }
  await disk.close();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await graph.close();
}
