// Goal: driver `file` does what QEMU's does with a file of the host, texts included.
// Method: real files in a temporary folder, looked at with node:fs beside the graph.
import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { BlockGraph, NodeOptions } from '../../src/index.js';
import { createGraph, Iov } from '../../src/index.js';
import { rootPath, tempDir } from '../support/index.js';

function graphForTest(): BlockGraph {
  const graph = createGraph();
  onTestFinished(() => graph.close());
  return graph;
}

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const writable = { writable: true };

async function messageOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => 'no error',
    (e: unknown) => (e instanceof Error ? e.message : String(e)),
  );
}

describe('reading and writing', () => {
  it('stores bytes at any offset and reads them back', async () => {
    const path = join(tempDir(), 'a');
    writeFileSync(path, new Uint8Array(4096));
    const graph = graphForTest();
    const disk = await graph.openBackend({
      options: { driver: 'file', filename: path },
      flags: writable,
    });
    await disk.write(1000, Iov.of(bytes('hello')));
    const got = new Uint8Array(7);
    await disk.read(999, Iov.of(got));
    expect([...got]).toEqual([0, ...bytes('hello'), 0]);
    await disk.detach();
    expect(readFileSync(path).subarray(1000, 1005).toString()).toBe('hello');
  });

  it('counts the length in sectors and fills the last one with zeroes', async () => {
    const path = join(tempDir(), 'odd');
    writeFileSync(path, bytes('hello'));
    const graph = graphForTest();
    const disk = await graph.openBackend({ options: { driver: 'file', filename: path } });
    expect(disk.size).toBe(512);
    const got = new Uint8Array(512).fill(7);
    await disk.read(0, Iov.of(got));
    expect([...got.subarray(0, 6)]).toEqual([...bytes('hello'), 0]);
    expect(got[511]).toBe(0);
    await disk.detach();
  });
});

describe('errors', () => {
  const cases: [string, NodeOptions, string][] = [
    ['no file', { filename: '/no/such' }, "Could not open '/no/such': No such file or directory"],
    ['a folder', { filename: '/tmp' }, "'file' driver requires '/tmp' to be a regular file"],
    ['no name', {}, "The 'file' block driver requires a file name"],
    ['an empty name', { filename: '' }, "The 'file' block driver requires a file name"],
    [
      'native without direct',
      { filename: rootPath('package.json'), aio: 'native' },
      'aio=native was specified, but it requires cache.direct=on, which was not specified.',
    ],
    [
      'unknown option',
      { filename: '/x', foo: '1' },
      "Block protocol 'file' doesn't support the option 'foo'",
    ],
  ];
  it.each(cases)('%s', async (_name, options, message) => {
    const graph = graphForTest();
    const opening = graph.open({ options: { driver: 'file', ...options } });
    expect(await messageOf(opening)).toBe(message);
    expect(graph.nodes.size).toBe(0);
  });

  it('a device for file, a file for host_device', async () => {
    const graph = graphForTest();
    const path = join(tempDir(), 'a');
    writeFileSync(path, '');
    const null_ = { driver: 'file', filename: '/dev/null' };
    expect(await messageOf(graph.open({ options: null_ }))).toBe(
      "'file' driver requires '/dev/null' to be a regular file",
    );
    expect(
      await messageOf(graph.open({ options: { driver: 'host_device', filename: path } })),
    ).toBe(`'host_device' driver requires '${path}' to be either a character or block device`);
    const node = await graph.open({ filename: '/dev/null' });
    expect(node.file?.node.driver.name).toBe('host_device');
  });
});

describe('truncate', () => {
  it('grows with zeroes, shrinks, and refuses to preallocate while shrinking', async () => {
    const path = join(tempDir(), 'a');
    writeFileSync(path, bytes('x'.repeat(1024)));
    const graph = graphForTest();
    const disk = await graph.openBackend({
      options: { driver: 'file', filename: path },
      flags: writable,
    });
    await disk.truncate(1 << 20, { prealloc: 'full' });
    expect(statSync(path)).toMatchObject({ size: 1 << 20 });
    expect(statSync(path).blocks * 512).toBeGreaterThanOrEqual(1 << 20);
    await disk.truncate(512);
    expect(statSync(path).size).toBe(512);
    expect(await messageOf(disk.truncate(0, { prealloc: 'full' }))).toBe(
      "Preallocation can't be used for shrinking files",
    );
    expect(await messageOf(disk.truncate(1024, { prealloc: 'metadata' }))).toBe(
      'Unsupported preallocation mode: metadata',
    );
    await disk.detach();
  });

  it('a file that someone else cut reads as zeroes where it was', async () => {
    const path = join(tempDir(), 'a');
    writeFileSync(path, bytes('x'.repeat(1024)));
    const graph = graphForTest();
    const disk = await graph.openBackend({ options: { driver: 'file', filename: path } });
    truncateSync(path, 512);
    const got = new Uint8Array(1024).fill(7);
    await disk.read(0, Iov.of(got));
    expect(got[511]).toBe(0x78);
    expect(got[512]).toBe(0);
    expect(got[1023]).toBe(0);
    await disk.detach();
  });
});
