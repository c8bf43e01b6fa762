#!/usr/bin/env node
// Converts an image and shows how far it is.
//
//     node examples/convert.mjs SOURCE TARGET [FORMAT [OPTIONS]]
//     node examples/convert.mjs disk.raw disk.qcow2 qcow2 cluster_size=128k
//
// The same as `vdisk-img convert -O FORMAT -o OPTIONS SOURCE TARGET`.
import { convert, createGraph, Operation } from 'vdisk';

const [source, target, format = 'qcow2', options] = process.argv.slice(2);
if (target === undefined) {
  console.error('usage: convert.mjs SOURCE TARGET [FORMAT [OPTIONS]]');
  process.exit(1);
}

const graph = createGraph();
const cancel = new AbortController();
process.once('SIGINT', () => cancel.abort());
try {
  const disk = await graph.openBackend({ filename: source });
  const operation = new Operation((onProgress) =>
    convert({
      graph,
      sources: [disk],
      target: { filename: target, format, optionTexts: options === undefined ? [] : [options] },
      signal: cancel.signal,
      onProgress,
    }),
  );
  for await (const { done, total, bytesPerSecond, secondsLeft } of operation) {
    const percent = total === 0 ? 100 : (done / total) * 100;
    const rate = (bytesPerSecond / 2 ** 20).toFixed(0);
    const left = secondsLeft === undefined ? '' : `, ${secondsLeft.toFixed(0)} s left`;
    console.log(`${percent.toFixed(1)} % of ${total} bytes, ${rate} MiB/s${left}`);
  }
  await operation.result;
  await disk.close();
  console.log(`${target} is written`);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  await graph.close();
}
