// Goal: an image that was created is there after a power cut, whole and empty. Method: simulated
// disks that lose all that was not flushed, right after the creation.
import { expect, it } from 'vitest';
import { Random, same, readBytes } from '../../support/index.js';
import type { Shape } from './support.js';
import { check, makeImage, openImage } from './support.js';

const KiB = 1024;
const base = { size: 300 * KiB, clusterSize: 64 * KiB };
const shapes: readonly Shape[] = [
  { ...base, name: 'plain', create: '' },
  { ...base, name: 'version 2', create: 'compat=0.10' },
  { ...base, name: 'preallocated', create: 'preallocation=metadata' },
  { ...base, name: 'preallocated in full', create: 'preallocation=full' },
  { ...base, name: 'with a data file', create: 'data_file=/data,data_file_raw=on' },
  { ...base, name: 'LUKS', create: '', encrypt: 'luks' },
];

it.each(shapes)('$name', async (shape) => {
  const image = await makeImage(shape, new Random(1));
  const files = image.files.afterPowerCut(undefined, 'none');
  const { backend } = await openImage({ ...image, files });
  expect(await check(backend)).toMatchObject({ corruptions: 0, leaks: 0 });
  const content = await readBytes(backend, 0, backend.size);
  same(content, new Uint8Array(shape.size));
});
