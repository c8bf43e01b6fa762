// Goal: a refcount table that is full grows as QEMU's does: where the new one, its blocks and the
// data that needed it lie, and nothing leaks. Method: images of 512-byte clusters in simulated
// files, whose every cluster is in use, written past that; the numbers are those of qemu-img 10.
import { describe, expect, it } from 'vitest';
import { createImage, prepareCreate } from '../../../src/block/create.js';
import { FakeFiles, fakeHost, testGraph } from '../../support/index.js';
import { check, imagePath, Iov, openImage } from './support.js';

const CLUSTER = 512;
const ENTRIES = CLUSTER / 8;
const COUNTED = (CLUSTER * 8) / 16;
const size = 64 * 2 ** 20;

interface Full {
  readonly files: FakeFiles;
  /** Guest bytes that are mapped. */
  readonly mapped: number;
}

/** An image whose refcount table of `tableClusters` clusters counts nothing but used clusters. */
async function full(tableClusters: number): Promise<Full> {
  const files = new FakeFiles({});
  const graph = testGraph({ host: fakeHost({ files }) });
  const request = { filename: imagePath, format: 'qcow2', size, optionTexts: ['cluster_size=512'] };
  await createImage(graph, await prepareCreate(graph, request));
  await graph.close();
  const blocks = tableClusters * ENTRIES;
  const bytes = new Uint8Array(blocks * COUNTED * CLUSTER);
  bytes.set(files.bytesOf(imagePath).subarray(0, CLUSTER));
  const view = new DataView(bytes.buffer);
  const l1Size = view.getUint32(36);
  const blockAt = (1 + tableClusters) * CLUSTER;
  const l1At = blockAt + blocks * CLUSTER;
  const l2At = l1At + Math.ceil((l1Size * 8) / CLUSTER) * CLUSTER;
  const dataAt = l2At + l1Size * CLUSTER;
  view.setUint32(44, l1At);
  view.setUint32(52, CLUSTER);
  view.setUint32(56, tableClusters);
  for (let i = 0; i < blocks; i++) view.setUint32(CLUSTER + i * 8 + 4, blockAt + i * CLUSTER);
  for (let i = 0; i < blocks * COUNTED; i++) view.setUint16(blockAt + i * 2, 1);
  const entry = (at: number, host: number): void => {
    view.setUint32(at, 0x8000_0000);
    view.setUint32(at + 4, host);
  };
  for (let i = 0; i < l1Size; i++) entry(l1At + i * 8, l2At + i * CLUSTER);
  const clusters = (bytes.length - dataAt) / CLUSTER;
  for (let i = 0; i < clusters; i++) entry(l2At + i * 8, dataAt + i * CLUSTER);
  files.put(imagePath, bytes);
  return { files, mapped: clusters * CLUSTER };
}

interface Case {
  readonly tableClusters: number;
  readonly bytes: number;
  /** The new table: offset and clusters; end of the image; where the data begins. */
  readonly table: number;
  readonly clusters: number;
  readonly end: number;
  readonly data: number;
}

const cases: readonly Case[] = [
  { tableClusters: 1, bytes: 512, table: 0x82_0200, clusters: 2, end: 8521216, data: 512 },
  {
    tableClusters: 1,
    bytes: 2 ** 20,
    table: 0x82_0200,
    clusters: 2,
    end: 9442816,
    data: 0x80_0000,
  },
  {
    tableClusters: 2,
    bytes: 2 ** 20,
    table: 0x102_0200,
    clusters: 4,
    end: 17832448,
    data: 2 ** 24,
  },
];

describe('a full refcount table', () => {
  for (const { tableClusters, bytes, ...wanted } of cases) {
    it(`of ${tableClusters} clusters, ${bytes} bytes more`, async () => {
      const { files, mapped } = await full(tableClusters);
      const image = { files, shape: { name: '', create: '', size, clusterSize: 512 } };
      const { backend, graph } = await openImage({ ...image, base: new Uint8Array(0) });
      const at = mapped + 4096;
      await backend.write(at, Iov.of(new Uint8Array(bytes).fill(1)));
      const { offset } = await backend.blockStatus(at, 512);
      expect(await check(backend)).toMatchObject({ corruptions: 0, leaks: 0 });
      await backend.detach();
      await graph.close();
      const head = new DataView(files.bytesOf(imagePath).buffer);
      const found = {
        table: Number(head.getBigUint64(48)),
        clusters: head.getUint32(56),
        end: head.byteLength,
        data: offset,
      };
      expect(found).toEqual(wanted);
    });
  }
});
