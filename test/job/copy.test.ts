// Goal: convert, compare, commit, rebase and the allocation map do as the library says. Method:
// images in memory and in files of the machine; content and allocation are looked at afterwards.
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Backend, BlockGraph, MapExtent, Progress } from '../../src/index.js';
import {
  allocationMap,
  commit,
  compare,
  convert,
  createImage,
  Iov,
  nodeHost,
  Operation,
  prepareCreate,
  Req,
  takeOverDifferences,
} from '../../src/index.js';
import { failure, failureCode, readBytes, tempDir, testGraph } from '../support/index.js';
import { seededRandom } from '../support/index.js';

const MIB = 1024 * 1024;

async function memory(graph: BlockGraph, bytes: number): Promise<Backend> {
  const flags = { writable: true, unmap: true };
  return graph.openBackend({ options: { driver: 'memory', size: bytes }, flags });
}

async function makeQcow2(
  graph: BlockGraph,
  filename: string,
  bytes: number,
  backingFile?: string,
): Promise<void> {
  const backing = backingFile === undefined ? {} : { backingFile, backingFormat: 'qcow2' };
  const request = { filename, format: 'qcow2', size: bytes, ...backing };
  await createImage(graph, await prepareCreate(graph, request));
}

const openWritable = (graph: BlockGraph, filename: string): Promise<Backend> =>
  graph.openBackend({
    filename,
    options: { driver: 'qcow2' },
    flags: { writable: true, unmap: true },
  });

const fill = (disk: Backend, offset: number, bytes: number, value: number): Promise<void> =>
  disk.write(offset, Iov.of(new Uint8Array(bytes).fill(value)));

async function mapOf(disk: Backend): Promise<MapExtent[]> {
  const all: MapExtent[] = [];
  for await (const extents of allocationMap(disk.node)) all.push(...extents);
  return all;
}

describe('convert', () => {
  it('lays sources end to end, leaves zeroes out, and counts its progress', async () => {
    const graph = testGraph();
    const folder = tempDir();
    const random = seededRandom();
    const first = await memory(graph, 3 * MIB);
    const second = await memory(graph, 2 * MIB);
    const noise = random.bytes(MIB);
    await first.write(MIB + 4096, Iov.of(noise));
    await fill(second, 0, 512, 7);
    const target = join(folder, 'a.qcow2');
    const seen: Progress[] = [];
    const operation = new Operation((onProgress) =>
      convert({
        graph,
        sources: [first, second],
        target: { filename: target, format: 'qcow2' },
        onProgress: (progress) => {
          seen.push(progress);
          onProgress(progress);
        },
      }),
    );
    let last: Progress | undefined;
    for await (const progress of operation) last = progress;
    await operation.result;
    expect(last?.done).toBe(last?.total);
    expect(seen.map((p) => p.done)).toEqual([...seen.map((p) => p.done)].sort((a, b) => a - b));
    const made = await graph.openBackend({ filename: target });
    expect(made.size).toBe(5 * MIB);
    expect(Buffer.compare(await readBytes(made, MIB + 4096, MIB), noise)).toBe(0);
    expect((await readBytes(made, 3 * MIB, 1024))[511]).toBe(7);
    const data = (await mapOf(made)).filter((extent) => extent.data);
    expect(data.map(({ start, length }) => [start, length])).toEqual([
      [MIB, MIB + 65536],
      [3 * MIB, 65536],
    ]);
  });

  it('writes into what exists, compares equal, and refuses what is too small', async () => {
    const graph = testGraph();
    const source = await memory(graph, 4 * MIB);
    await fill(source, 1000, 5000, 3);
    const target = join(tempDir(), 'a.raw');
    const small = join(tempDir(), 'small.raw');
    const create = (filename: string, size: number) =>
      prepareCreate(graph, { filename, format: 'raw', size }).then((p) => createImage(graph, p));
    await create(target, 4 * MIB);
    await create(small, MIB);
    await convert({ graph, sources: [source], target: { filename: target, exists: true } });
    const made = await graph.openBackend({ filename: target, options: { driver: 'raw' } });
    const names = ['a', 'b'] as const;
    const result = await compare(source, made, { host: nodeHost(), strict: false, names });
    expect(result).toEqual({ outcome: 'equal', sizesDiffer: false });
    expect(
      await failure(
        convert({ graph, sources: [source], target: { filename: small, exists: true } }),
      ),
    ).toBe('output file is smaller than input file');
  });

  it('stops at a signal with ECANCELED and nothing in flight', async () => {
    const graph = testGraph();
    const source = await memory(graph, 32 * MIB);
    for (let at = 0; at < 32; at++) await fill(source, at * MIB, MIB, at + 1);
    const cancel = new AbortController();
    const target = join(tempDir(), 'a.qcow2');
    const running = convert({
      graph,
      sources: [source],
      target: { filename: target, format: 'qcow2' },
      signal: cancel.signal,
      onProgress: () => {
        cancel.abort();
      },
    });
    expect(await failureCode(running)).toBe('ECANCELED');
    expect(source.inFlight).toBe(0);
    const left = await openWritable(graph, target);
    expect(
      (
        await left.node.instance.check?.({
          fixErrors: false,
          fixLeaks: false,
          report: () => undefined,
        })
      )?.corruptions,
    ).toBe(0);
  });

  it('holds to a rate', async () => {
    const graph = testGraph();
    const source = await memory(graph, 4 * MIB);
    await fill(source, 0, 4 * MIB, 1);
    const target = join(tempDir(), 'a.raw');
    const started = performance.now();
    await convert({ graph, sources: [source], target: { filename: target }, rate: 16 * MIB });
    expect(performance.now() - started).toBeGreaterThan(150);
  });
});

describe('compare', () => {
  it('tells the first difference by sector, and rests that are not zero', async () => {
    const graph = testGraph();
    const a = await memory(graph, 8 * MIB);
    const b = await memory(graph, 6 * MIB);
    const ask = (strict: boolean) => compare(a, b, { host: nodeHost(), strict, names: ['a', 'b'] });
    expect(await ask(false)).toEqual({ outcome: 'equal', sizesDiffer: true });
    expect(await ask(true)).toEqual({ outcome: 'size' });
    await fill(a, 7 * MIB + 700, 1, 1);
    const rest = { outcome: 'content', offset: 7 * MIB + 512, sizesDiffer: true };
    expect(await ask(false)).toEqual(rest);
    await fill(b, 5 * MIB + 1025, 1, 1);
    const early = { outcome: 'content', offset: 5 * MIB + 1024, sizesDiffer: false };
    expect(await ask(false)).toEqual(early);
  });

  it.each([
    [MIB, false],
    [7 * MIB, true],
  ])('tells of an error at %s whether only one image goes that far', async (offset, behind) => {
    const graph = testGraph();
    const rule = { event: 'none', iotype: 'read', sector: offset / 512 };
    const image = { driver: 'memory', size: 8 * MIB };
    const options = { driver: 'blkdebug', image, 'inject-error': [rule] };
    const a = await graph.openBackend({ options, flags: { writable: true } });
    await fill(a, offset, 512, 1);
    const b = await memory(graph, 6 * MIB);
    const how = { host: nodeHost(), strict: false, names: ['a', 'b'] as const };
    const text = `Error while reading offset ${offset} of a: Input/output error`;
    await expect(compare(a, b, how)).rejects.toMatchObject({
      step: 'read',
      sizesDiffer: behind,
      message: text,
    });
  });
});

describe('commit and rebase', () => {
  it('move what differs, and keep what is shown', async () => {
    const graph = testGraph();
    const folder = tempDir();
    const path = (name: string): string => join(folder, name);
    await makeQcow2(graph, path('base'), 8 * MIB);
    const base = await openWritable(graph, path('base'));
    await fill(base, 0, 2 * MIB, 1);
    await base.close();
    await makeQcow2(graph, path('other'), 8 * MIB);
    await makeQcow2(graph, path('top'), 8 * MIB, path('base'));
    const top = await openWritable(graph, path('top'));
    await fill(top, MIB, 65536, 2);
    await top.writeZeroes(2 * MIB - 65536, 65536, Req.mayUnmap);
    const shown = await readBytes(top, 0, 8 * MIB);

    const other = await graph.open({ filename: path('other') });
    await takeOverDifferences(top, { base: other, baseIsBelow: false, compress: false });
    await top.node.instance.changeBackingFile?.(path('other'), 'qcow2');
    await graph.release(other);
    await top.close();
    const moved = await openWritable(graph, path('top'));
    expect(moved.node.backing?.node.filename).toBe(path('other'));
    expect(Buffer.compare(await readBytes(moved, 0, 8 * MIB), shown)).toBe(0);

    await commit(moved);
    expect((await mapOf(moved)).every((extent) => extent.depth > 0 || !extent.present)).toBe(true);
    expect(Buffer.compare(await readBytes(moved, 0, 8 * MIB), shown)).toBe(0);
    await moved.close();
    const alone = await graph.openBackend({ filename: path('other') });
    expect(Buffer.compare(await readBytes(alone, 0, 8 * MIB), shown)).toBe(0);
    expect(await failure(commit(alone))).toBe('Image does not have a backing file');
  });
});
