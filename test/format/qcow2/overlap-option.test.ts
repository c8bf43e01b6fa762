// Goal: contradicting options for overlap checks are refused with QEMU's text. Method: an image in
// a simulated file, opened with dotted options in both orders.
import { expect, it } from 'vitest';
import { createImage, prepareCreate } from '../../../src/block/create.js';
import { FakeFiles, fakeHost, testGraph } from '../../support/index.js';

it('overlap-check and its template must agree', async () => {
  const graph = testGraph({ host: fakeHost({ files: new FakeFiles({}) }) });
  const make = { filename: '/a', format: 'qcow2', values: { size: 65536 } };
  await createImage(graph, await prepareCreate(graph, make));
  const plain = { driver: 'qcow2', 'file.driver': 'file', 'file.filename': '/a' };
  const text =
    "Conflicting values for qcow2 options 'overlap-check' ('constant') and " +
    "'overlap-check.template' ('all')";
  const one = { 'overlap-check': 'constant' };
  const other = { 'overlap-check.template': 'all' };
  for (const options of [
    { ...plain, ...one, ...other },
    { ...plain, ...other, ...one },
  ]) {
    await expect(graph.openBackend({ options })).rejects.toThrow(text);
  }
  const same = { ...plain, ...one, 'overlap-check.template': 'constant' };
  await (await graph.openBackend({ options: same })).detach();
});
