// Goal: a data file that an image names is a path of the host and nothing else, so that a crafted
// image reaches no server, no descriptor and no other driver; loops of backing files end at once;
// nothing is changed. Method: names are written into images byte by byte, in simulated files.
import { expect, it } from 'vitest';
import { failure, fakeHost, Random, readBytes, testGraph } from '../../support/index.js';
import type { TestImage } from './support.js';
import { imagePath, makeImage } from './support.js';

const CLUSTER = 64 * 1024;
const EXTENSION_DATA_FILE = 0x44415441;

/** An image whose header names `name` as its data file. */
async function withDataFile(name: string): Promise<TestImage> {
  const shape = { name: '', create: 'data_file=/data', size: 1 << 20, clusterSize: CLUSTER };
  const image = await makeImage(shape, new Random(1));
  const bytes = image.files.bytesOf(imagePath);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = view.getUint32(100);
  while (view.getUint32(at) !== EXTENSION_DATA_FILE) at += 8 + ((view.getUint32(at + 4) + 7) & ~7);
  const text = new TextEncoder().encode(name);
  bytes.fill(0, at, CLUSTER);
  view.setUint32(at, EXTENSION_DATA_FILE);
  view.setUint32(at + 4, text.length);
  bytes.set(text, at + 8);
  image.files.put(imagePath, bytes);
  image.files.put('/secret', new Uint8Array(1 << 20).fill(7));
  return image;
}

/** An image whose header names `name` as its backing file. */
async function withBacking(name: string): Promise<TestImage> {
  const shape = { name: '', create: '', size: 1 << 20, clusterSize: CLUSTER };
  const image = await makeImage(shape, new Random(1));
  const bytes = image.files.bytesOf(imagePath);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = new TextEncoder().encode(name);
  view.setBigUint64(8, 4096n);
  view.setUint32(16, text.length);
  bytes.set(text, 4096);
  image.files.put(imagePath, bytes);
  return image;
}

function open(image: TestImage, writable = true, options = {}) {
  const graph = testGraph({ host: fakeHost({ files: image.files }) });
  const file = { driver: 'file', filename: imagePath };
  return graph.openBackend({ options: { driver: 'qcow2', file, ...options }, flags: { writable } });
}

const notPaths = [
  'json:{"driver":"nbd","host":"127.0.0.1","port":"1"}',
  'json:{"driver":"file","filename":"/secret"}',
  'json:{"driver":"null-co","size":1048576}',
  'nbd://127.0.0.1:1/x',
  'nbd+unix:///?socket=/secret',
  'fd:0',
  'file:/secret',
  'host_device:/dev/zero',
  'blkdebug::/secret',
];

it.each(notPaths)('data file %s is a path, and is not there', async (name) => {
  const image = await withDataFile(name);
  const before = image.files.bytesOf(imagePath);
  for (const writable of [false, true]) {
    const why = `Could not open '${name}': No such file or directory`;
    expect(await failure(open(image, writable))).toBe(why);
  }
  expect(Buffer.compare(image.files.bytesOf(imagePath), before)).toBe(0);
  expect([...image.files.counts.values()].reduce((a, b) => a + b, 0)).toBeLessThan(100);
});

it('a path that looks like a protocol opens the file of that name', async () => {
  const image = await withDataFile('json:{}');
  image.files.put('json:{}', new Uint8Array(1 << 20));
  const disk = await open(image);
  expect((await readBytes(disk, 0, 512)).every((b) => b === 0)).toBe(true);
});

it('a data file without a name is refused', async () => {
  const image = await withDataFile('');
  expect(await failure(open(image))).toBe("The 'file' block driver requires a file name");
});

it('the image as its own data file is not opened for writing', async () => {
  const image = await withDataFile(imagePath);
  const before = image.files.bytesOf(imagePath);
  expect(await failure(open(image))).toMatch(/lock/);
  expect(Buffer.compare(image.files.bytesOf(imagePath), before)).toBe(0);
});

it('a folder, a pipe or a terminal is no data file', async () => {
  const image = await withDataFile('/pipe');
  image.files.put('/pipe', 0, 'other');
  const why = "'file' driver requires '/pipe' to be a regular file";
  expect(await failure(open(image))).toBe(why);
  // A pipe would block whoever opens it.
  expect(await failure(open(await withBackingPipe()))).toBe(`Could not open backing file: ${why}`);
});

async function withBackingPipe(): Promise<TestImage> {
  const image = await withBacking('/pipe');
  image.files.put('/pipe', 0, 'other');
  return image;
}

it('the image as its own backing file is a loop', async () => {
  const image = await withBacking(imagePath);
  const graph = testGraph({ host: fakeHost({ files: image.files }) });
  const opening = graph.openBackend({ filename: imagePath, options: { driver: 'qcow2' } });
  expect(await failure(opening)).toBe(
    `Could not open backing file: Backing file '${imagePath}' creates an infinite loop.`,
  );
});

it('options take the place of what the image names', async () => {
  const image = await withDataFile('fd:0');
  const file = { driver: 'file', filename: '/secret' };
  await open(image, true, { 'data-file': file });
  const backed = await withBacking('nbd://127.0.0.1:1/x');
  const disk = await open(backed, false, { backing: null });
  expect((await readBytes(disk, 0, 512)).every((b) => b === 0)).toBe(true);
});
