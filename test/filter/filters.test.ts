// Goal: the small filters do what QEMU's do: compress, copy-on-read, preallocate, blkverify,
// blklogwrites. Method: simulated files whose operations and content are looked at; texts and
// the bytes of the log were first seen with QEMU 10.
import { describe, expect, it } from 'vitest';
import { createImage, prepareCreate } from '../../src/block/create.js';
import type { Backend, BlockGraph, NodeOptions } from '../../src/index.js';
import { nodeStatus, Req } from '../../src/index.js';
import {
  failure,
  failureCode,
  FakeFiles,
  fakeHost,
  filled,
  Random,
  readBytes,
  same,
  testGraph,
} from '../support/index.js';

const KiB = 1024;
const MiB = 1024 * KiB;

interface Lab {
  readonly graph: BlockGraph;
  readonly files: FakeFiles;
  readonly warnings: string[];
  readonly open: (options: NodeOptions, writable?: boolean) => Promise<Backend>;
}

function lab(): Lab {
  const files = new FakeFiles();
  const warnings: string[] = [];
  const graph = testGraph({ host: fakeHost({ files }), onWarning: (m) => warnings.push(m) });
  const open = (options: NodeOptions, writable = true): Promise<Backend> =>
    graph.openBackend({ options, flags: { writable, unmap: true } });
  return { graph, files, warnings, open };
}

const file = (filename: string): NodeOptions => ({ driver: 'file', filename });

async function makeQcow2(graph: BlockGraph, path: string, bytes: number, backing?: string) {
  const request = {
    filename: path,
    format: 'qcow2',
    size: bytes,
    ...(backing === undefined ? {} : { backingFile: backing, backingFormat: 'qcow2' }),
  };
  await createImage(graph, await prepareCreate(graph, request));
}

const qcow2 = (path: string): NodeOptions => ({ driver: 'qcow2', file: file(path) });

describe('compress', () => {
  it('stores every write compressed, and reads it back', async () => {
    const { graph, open, files } = lab();
    await makeQcow2(graph, '/d', 4 * MiB);
    const disk = await open({ driver: 'compress', file: qcow2('/d') });
    expect(disk.node.limits.requestAlignment).toBe(64 * KiB);
    await disk.write(1000, filled(200 * KiB, 7));
    const run = await nodeStatus(disk.node, 64 * KiB, 64 * KiB, false);
    expect(run).toMatchObject({ compressed: true, data: true });
    const expected = new Uint8Array(256 * KiB).fill(7, 1000, 1000 + 200 * KiB);
    same(await readBytes(disk, 0, 256 * KiB), expected);
    await disk.detach();
    expect(files.bytesOf('/d').length).toBeLessThan(400 * KiB);
  });

  it('needs a format that can', async () => {
    const { files, open } = lab();
    files.put('/d', MiB);
    const raw = open({ driver: 'compress', file: { driver: 'raw', file: file('/d') } });
    expect(await failure(raw)).toBe('Compression is not supported for underlying format: raw');
  });
});

describe('copy-on-read', () => {
  async function chain() {
    const made = lab();
    await makeQcow2(made.graph, '/base', MiB);
    await makeQcow2(made.graph, '/mid', MiB, '/base');
    await makeQcow2(made.graph, '/top', MiB, '/mid');
    const base = await made.open(qcow2('/base'));
    await base.write(0, filled(128 * KiB, 1));
    await base.detach();
    const mid = await made.open(qcow2('/mid'));
    await mid.write(256 * KiB, filled(64 * KiB, 2));
    await mid.detach();
    return made;
  }

  async function allocated(disk: Backend, offset: number): Promise<boolean> {
    return (await nodeStatus(disk.node.file!.node, offset, 512, false)).allocated;
  }

  it('copies what it reads, in whole clusters, and nothing else', async () => {
    const { open } = await chain();
    const disk = await open({ driver: 'copy-on-read', file: qcow2('/top') });
    expect(await allocated(disk, 0)).toBe(false);
    same(await readBytes(disk, 1000, 512), new Uint8Array(512).fill(1));
    expect(await allocated(disk, 0)).toBe(true);
    expect(await allocated(disk, 64 * KiB)).toBe(false);
    // A second read finds it there: the chain below may go.
    same(await readBytes(disk, 0, 64 * KiB), new Uint8Array(64 * KiB).fill(1));
  });

  it('with bottom, copies what comes from there or above', async () => {
    const { open } = await chain();
    const mid = { driver: 'qcow2', 'node-name': 'mid', file: file('/mid') };
    const top = { ...qcow2('/top'), backing: mid };
    const disk = await open({ driver: 'copy-on-read', bottom: 'mid', file: top });
    same(await readBytes(disk, 0, 64 * KiB), new Uint8Array(64 * KiB).fill(1));
    expect(await allocated(disk, 0)).toBe(false);
    same(await readBytes(disk, 256 * KiB, 512), new Uint8Array(512).fill(2));
    expect(await allocated(disk, 256 * KiB)).toBe(true);
  });

  it('prefetch copies without giving data', async () => {
    const { open } = await chain();
    const disk = await open({ driver: 'copy-on-read', file: qcow2('/top') });
    await disk.read(0, filled(128 * KiB, 0), Req.prefetch);
    expect(await allocated(disk, 64 * KiB)).toBe(true);
  });

  it('writes beside reads are not lost', async () => {
    const random = new Random(1);
    const { open } = await chain();
    const disk = await open({ driver: 'copy-on-read', file: qcow2('/top') });
    const expected = await readBytes(await open(qcow2('/mid'), false), 0, MiB);
    const requests: Promise<unknown>[] = [];
    for (let i = 0; i < 200; i++) {
      const offset = i * 5000;
      if (random.chance()) requests.push(readBytes(disk, offset, 5000));
      else {
        expected.fill(9, offset, offset + 3000);
        requests.push(disk.write(offset, filled(3000, 9)));
      }
    }
    await Promise.all(requests);
    same(await readBytes(disk, 0, MiB), expected);
  });

  it('names what is wrong', async () => {
    const { open } = await chain();
    const options = { driver: 'copy-on-read', file: qcow2('/top') };
    expect(await failure(open({ ...options, bottom: 'foo' }))).toBe("Bottom node 'foo' not found");
    expect(await failure(open(options, false))).toBe('Block node is read-only');
    expect(await failure(open({ driver: 'copy-on-read' }))).toBe(
      'A block device must be specified for "file"',
    );
  });
});

describe('preallocate', () => {
  const over = (path: string, own: NodeOptions = {}): NodeOptions => ({
    driver: 'preallocate',
    'prealloc-align': 64 * KiB,
    'prealloc-size': MiB,
    ...own,
    file: file(path),
  });

  it('grows the file far ahead, and cuts it to the data at the end', async () => {
    const { files, open } = lab();
    files.put('/d', 1000);
    const disk = await open(over('/d'));
    disk.allowBeyondEof = true;
    await disk.write(1024, filled(100 * KiB, 1));
    const end = Math.ceil((1024 + 100 * KiB + MiB) / (64 * KiB)) * 64 * KiB;
    expect(files.bytesOf('/d').length).toBe(end);
    expect(disk.size).toBe(1024 + 100 * KiB);
    const zeroes = files.counts.get('zero');
    await disk.write(disk.size, filled(512 * KiB, 2));
    expect(files.counts.get('zero')).toBe(zeroes);
    await disk.detach();
    expect(files.bytesOf('/d').length).toBe(1024 + 612 * KiB);
  });

  it('a zero write behind the data costs nothing', async () => {
    const { files, open } = lab();
    files.put('/d', 0);
    const disk = await open(over('/d'));
    disk.allowBeyondEof = true;
    await disk.write(0, filled(4096, 1));
    const before = files.changes;
    await disk.writeZeroes(4096, 100 * KiB);
    expect(files.changes).toBe(before);
    expect(disk.size).toBe(4096 + 100 * KiB);
    same(await readBytes(disk, 4096, 100 * KiB), new Uint8Array(100 * KiB));
    await disk.truncate(MiB);
    expect(files.bytesOf('/d').length).toBe(MiB);
    await disk.detach();
    expect(files.bytesOf('/d').length).toBe(MiB);
  });

  it('does without where the file system cannot, and tells a full disk as it is', async () => {
    const files = new FakeFiles({ without: ['zero', 'allocate', 'punch'], maxBytes: 2 * MiB });
    files.put('/d', 0);
    const graph = testGraph({ host: fakeHost({ files }) });
    const disk = await graph.openBackend({ options: over('/d'), flags: { writable: true } });
    disk.allowBeyondEof = true;
    await disk.write(0, filled(MiB, 1));
    expect(await failureCode(disk.write(MiB, filled(2 * MiB, 1)))).toBe('ENOSPC');
  });

  it('serves a qcow2 image that grows', async () => {
    const { graph, files, open } = lab();
    await makeQcow2(graph, '/d', 16 * MiB);
    const disk = await open({ driver: 'qcow2', file: over('/d') });
    const random = new Random(2);
    const data = random.bytes(3 * MiB);
    const { Iov } = await import('../../src/index.js');
    await disk.write(MiB, Iov.of(data));
    await disk.detach();
    expect(files.bytesOf('/d').length).toBeLessThan(4 * MiB);
    const again = await open(qcow2('/d'), false);
    same(await readBytes(again, MiB, data.length), data);
    const report: string[] = [];
    const check = await again.node.instance.check?.({
      fixErrors: false,
      fixLeaks: false,
      report: (line) => report.push(line),
    });
    expect(report).toEqual([]);
    expect(check).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  it('wants an alignment in sectors', async () => {
    const { files, open } = lab();
    files.put('/d', 0);
    expect(await failure(open(over('/d', { 'prealloc-align': 100 })))).toBe(
      'prealloc-align parameter of preallocate filter is not aligned to 512',
    );
  });
});

describe('blkverify', () => {
  it('writes to both, and finds the first difference', async () => {
    const { graph, files, warnings } = lab();
    files.put('/raw', MiB);
    await makeQcow2(graph, '/test', MiB);
    const disk = await graph.openBackend({
      filename: 'blkverify:/raw:/test',
      options: { driver: 'raw' },
      flags: { writable: true },
    });
    expect(disk.node.filename).toBe('blkverify:/raw:/test');
    await disk.write(1000, filled(5000, 7));
    same(await readBytes(disk, 0, 8192), new Uint8Array(8192).fill(7, 1000, 6000));
    same(files.bytesOf('/raw').slice(0, 8192), new Uint8Array(8192).fill(7, 1000, 6000));
    files.disks.get('/raw')!.write(2345, filled(1, 0));
    const message = 'blkverify: read offset=2048 bytes=1024 contents mismatch at offset 2345';
    expect(await failure(readBytes(disk, 2048, 1024))).toBe(message);
    expect(warnings).toContain(message);
  });

  it.each([
    ['blkverify:a', 'blkverify requires raw copy and original image path'],
    ['blkverify:/raw:/nosuch', "Could not open '/nosuch': No such file or directory"],
  ])('%s is refused', async (filename, message) => {
    const { files, graph } = lab();
    files.put('/raw', MiB);
    expect(await failure(graph.open({ filename }))).toBe(message);
  });

  it('wants both images', async () => {
    const { files, open } = lab();
    files.put('/raw', MiB);
    expect(await failure(open({ driver: 'blkverify' }))).toBe(
      'A block device must be specified for "raw"',
    );
    expect(await failure(open({ driver: 'blkverify', raw: file('/raw') }))).toBe(
      'A block device must be specified for "test"',
    );
  });
});

describe('blklogwrites', () => {
  const over = (own: NodeOptions = {}): NodeOptions => ({
    driver: 'blklogwrites',
    file: file('/d'),
    log: file('/log'),
    ...own,
  });

  interface Entry {
    readonly sector: number;
    readonly sectors: number;
    readonly flags: number;
    readonly data: Uint8Array;
  }

  /** Reads a log as the specification says. */
  function parseLog(log: Uint8Array): Entry[] {
    const view = new DataView(log.buffer, log.byteOffset);
    expect(view.getBigUint64(0, true)).toBe(0x6a736677736872n);
    expect(view.getBigUint64(8, true)).toBe(1n);
    const unit = view.getUint32(24, true);
    const entries: Entry[] = [];
    let at = unit;
    for (let i = 0; i < Number(view.getBigUint64(16, true)); i++) {
      const flags = Number(view.getBigUint64(at + 16, true));
      const sectors = Number(view.getBigUint64(at + 8, true));
      const bytes = (flags & 4) === 0 ? sectors * unit : 0;
      entries.push({
        sector: Number(view.getBigUint64(at, true)),
        sectors,
        flags,
        data: log.slice(at + unit, at + unit + bytes),
      });
      at += unit + bytes;
    }
    return entries;
  }

  it('keeps the log that QEMU keeps', async () => {
    const { files, open } = lab();
    files.put('/d', MiB);
    files.put('/log', 0);
    const disk = await open(over());
    await disk.write(0, filled(1024, 1));
    await disk.writeZeroes(4096, 1024);
    await disk.discard(8192, 1024);
    await disk.flush();
    await disk.write(100, filled(100, 2));
    await disk.write(2048, filled(512, 3), Req.fua);
    await disk.detach();
    const entries = parseLog(files.bytesOf('/log'));
    const shown = entries.map((e) => [e.sector, e.sectors, e.flags, e.data[0] ?? -1]);
    expect(shown).toEqual([
      [0, 2, 0, 1],
      [8, 2, 0, 0],
      [16, 2, 4, -1],
      [0, 0, 1, -1],
      [0, 1, 0, 1],
      [4, 1, 0, 3],
      [0, 0, 1, -1],
    ]);
    expect([...entries[4]!.data.subarray(98, 102)]).toEqual([1, 1, 2, 2]);
  });

  it('replayed, gives the disk', async () => {
    const { files, open } = lab();
    const random = new Random(3);
    files.put('/d', MiB);
    files.put('/log', 0);
    const disk = await open(over({ 'log-sector-size': 4096 }));
    const { Iov } = await import('../../src/index.js');
    for (let round = 0; round < 10; round++) {
      const writes = Array.from({ length: 10 }, (_, i) => {
        const offset = i * 100_000 + random.int(0, 50_000);
        if (random.chance(0.3)) return disk.writeZeroes(offset, 20_000);
        return disk.write(offset, Iov.of(random.bytes(random.int(1, 40_000))));
      });
      await Promise.all(writes);
    }
    await disk.flush();
    const replayed = new Uint8Array(MiB);
    for (const e of parseLog(files.bytesOf('/log'))) replayed.set(e.data, e.sector * 4096);
    same(replayed, files.bytesOf('/d'));
  });

  it('continues a log, and refuses what is none', async () => {
    const { files, open } = lab();
    files.put('/d', MiB);
    files.put('/log', 0);
    for (const value of [1, 2, 3]) {
      const disk = await open(over({ 'log-append': value > 1 }));
      await disk.write(512 * value, filled(512, value));
      await disk.flush();
      await disk.detach();
    }
    const entries = parseLog(files.bytesOf('/log')).filter((e) => e.flags === 0);
    expect(entries.map((e) => [e.sector, e.data[0]])).toEqual([
      [1, 1],
      [2, 2],
      [3, 3],
    ]);
    files.put('/log', MiB);
    expect(await failure(open(over({ 'log-append': true })))).toBe('Invalid log superblock magic');
  });

  it.each([
    [{ 'log-sector-size': 100 }, 'Invalid log sector size 100'],
    [{ 'log-super-update-interval': 0 }, 'Invalid log superblock update interval 0'],
    [{ log: undefined }, 'A block device must be specified for "log"'],
  ])('%j is refused', async (own, message) => {
    const { files, open } = lab();
    files.put('/d', MiB);
    files.put('/log', 0);
    const options = over(own);
    if ('log' in own) Reflect.deleteProperty(options, 'log');
    expect(await failure(open(options))).toBe(message);
  });
});
