// Goal: disks larger than 2^53 bytes are created, opened and listed exactly; what no offset reaches
// is refused by name, and never changes another place. Method: images in simulated files.
import { describe, expect, it } from 'vitest';
import { createImage, prepareCreate } from '../../../src/block/create.js';
import { allocationMap } from '../../../src/job/map.js';
import type { Backend } from '../../../src/index.js';
import { Iov } from '../../../src/index.js';
import { FakeFiles, fakeHost, testGraph } from '../../support/index.js';
import { imagePath, openImage } from './support.js';

const PiB = 2 ** 50;
const size = 32 * PiB;
const reach = 2 ** 53 - 512;

async function make(options: string, bytes: number): Promise<FakeFiles> {
  const files = new FakeFiles({});
  const graph = testGraph({ host: fakeHost({ files }) });
  const optionTexts = [`cluster_size=2M${options}`];
  const request = { filename: imagePath, format: 'qcow2', size: bytes, optionTexts };
  await createImage(graph, await prepareCreate(graph, request));
  await graph.close();
  return files;
}

async function open(files: FakeFiles): Promise<Backend> {
  const shape = { name: '', create: '', size, clusterSize: 2 ** 21 };
  return (await openImage({ files, shape, base: new Uint8Array(0) })).backend;
}

describe('a disk of 32 PiB', () => {
  it('is written and read up to 2^53, and refused beyond', async () => {
    const disk = await open(await make('', size));
    expect(disk.size).toBe(size);
    const data = new Uint8Array(512).fill(7);
    await disk.write(reach - 512, Iov.of(data));
    const back = new Uint8Array(512);
    await disk.read(reach - 512, Iov.of(back));
    expect(back).toEqual(data);
    const beyond = [2 ** 53 - 511, 2 ** 53, size - 512];
    for (const at of beyond) {
      await expect(disk.write(at, Iov.of(data))).rejects.toMatchObject({ code: 'EFBIG' });
      await expect(disk.read(at, Iov.of(back))).rejects.toMatchObject({ code: 'EFBIG' });
      await expect(disk.writeZeroes(at, 512)).rejects.toMatchObject({ code: 'EFBIG' });
      await expect(disk.discard(at, 512)).rejects.toMatchObject({ code: 'EFBIG' });
    }
    await expect(disk.read(size, Iov.of(back))).rejects.toMatchObject({ code: 'EIO' });
    const absent: unknown[] = [];
    for await (const batch of allocationMap(disk.node)) {
      for (const { start, length, present } of batch) if (!present) absent.push([start, length]);
    }
    expect(absent).toEqual([
      [0, 2 ** 53 - 2 ** 21],
      [2 ** 53, size - 2 ** 53],
    ]);
    await disk.detach();
  });

  it('cannot be preallocated, nor have a data file', async () => {
    const tooLarge = /image size is too large/;
    await expect(make(',preallocation=metadata', size)).rejects.toThrow(tooLarge);
    await expect(make(',data_file=/d', size)).rejects.toThrow(tooLarge);
  });

  it('must end at a sector', async () => {
    const files = await make('', size);
    const bytes = files.bytesOf(imagePath);
    bytes[31] = 1;
    files.put(imagePath, bytes);
    await expect(open(files)).rejects.toThrow('its virtual size exceeds 2^53 - 512 bytes');
  });
});
