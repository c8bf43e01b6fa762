// Goal: a disk that ends inside a compressed cluster grows over a longer backing file and shows
// zeroes behind its old end, with subclusters, too. Method: simulated files.
import { expect, it } from 'vitest';
import { createImage, prepareCreate } from '../../../src/block/create.js';
import { Req } from '../../../src/block/types.js';
import { FakeFiles, fakeHost, filled, readBytes, same, testGraph } from '../../support/index.js';

const KiB = 1024;

it.each(['extended_l2=on', 'extended_l2=off'])('%s', async (text) => {
  const files = new FakeFiles();
  files.put('/base', new Uint8Array(512 * KiB).fill(3));
  const graph = testGraph({ host: fakeHost({ files }) });
  const request = {
    filename: '/top',
    format: 'qcow2',
    size: 96 * KiB,
    backingFile: '/base',
    backingFormat: 'raw',
    optionTexts: [text],
  };
  await createImage(graph, await prepareCreate(graph, request));
  const disk = await graph.openBackend({ filename: '/top', flags: { writable: true } });
  await disk.write(64 * KiB, filled(32 * KiB, 7), Req.compressed);
  await disk.truncate(256 * KiB, { exact: false, zeroFill: true });
  const expected = new Uint8Array(256 * KiB).fill(3, 0, 64 * KiB).fill(7, 64 * KiB, 96 * KiB);
  same(await readBytes(disk, 0, 256 * KiB), expected);
  const how = { fixLeaks: false, fixErrors: false, report: (): undefined => undefined };
  expect(await disk.node.instance.check?.(how)).toMatchObject({ corruptions: 0, leaks: 0 });
  await disk.close();
  await graph.close();
});
