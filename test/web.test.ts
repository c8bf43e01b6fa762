// Goal: the web entry opens an image with a backing file from blobs and reads right bytes.
// Method: images made by qemu-img in a folder, handed over as blobs, without Node's host.
import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { createGraph, Iov } from '../src/web.js';
import { requires, runOk, seededRandom, tempDir } from './support/index.js';

async function bytesOf(files: Record<string, string>, name: string): Promise<Uint8Array> {
  const blobs = new Map(
    Object.entries(files).map(([n, path]) => [n, new Blob([new Uint8Array(readFileSync(path))])]),
  );
  const graph = createGraph(blobs);
  const disk = await graph.openBackend({ filename: name });
  const out = Iov.alloc(disk.size);
  await disk.read(0, out);
  await disk.close();
  return out.flatten();
}

requires('qemu-img')('vdisk/web', () => {
  it.each([
    ['zlib', ['-c']],
    ['zstd', ['-c', '-o', 'compression_type=zstd']],
    ['plain', []],
  ])('reads a %s image over its backing file', async (_name, options) => {
    const dir = tempDir();
    const random = seededRandom();
    const raw = new Uint8Array(3 * 65536 + 512);
    for (let i = 0; i < raw.length; i++) raw[i] = i % 7 === 0 ? random.int(0, 255) : i & 15;
    writeFileSync(`${dir}/raw`, raw);
    await runOk('qemu-img', [
      'convert',
      '-f',
      'raw',
      '-O',
      'qcow2',
      ...options,
      `${dir}/raw`,
      `${dir}/base.qcow2`,
    ]);
    await runOk('qemu-img', [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-b',
      'base.qcow2',
      '-F',
      'qcow2',
      `${dir}/top.qcow2`,
    ]);
    const files = { 'base.qcow2': `${dir}/base.qcow2`, 'top.qcow2': `${dir}/top.qcow2` };
    const got = await bytesOf(files, 'top.qcow2');
    expect(Buffer.compare(got, raw)).toBe(0);
  });
});

describe('vdisk/web', () => {
  it('says by name what is not there', async () => {
    const graph = createGraph();
    await expect(graph.openBackend({ filename: 'none.raw' })).rejects.toThrow(
      "Could not open 'none.raw'",
    );
  });

  it('writes in memory', async () => {
    const graph = createGraph();
    const disk = await graph.openBackend({
      options: { driver: 'memory', size: 1024 * 1024 },
      flags: { writable: true },
    });
    await disk.write(4096, Iov.of(new Uint8Array(512).fill(7)));
    const back = Iov.alloc(1024);
    await disk.read(4096, back);
    expect(back.flatten()[511]).toBe(7);
    expect(back.flatten()[512]).toBe(0);
    await disk.close();
  });
});
