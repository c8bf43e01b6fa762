// Goal: blkdebug does what QEMU 10's does. Method: the sessions and texts below were first run
// with QEMU's own qemu-io; here they run on a simulated file.
import { describe, expect, it } from 'vitest';
import type { Backend, BlockGraph, NodeOptions } from '../../src/index.js';
import { Perm } from '../../src/index.js';
import {
  failure,
  failureCode,
  FakeFiles,
  fakeHost,
  filled,
  readBytes,
  testGraph,
} from '../support/index.js';

interface Lab {
  readonly graph: BlockGraph;
  readonly files: FakeFiles;
  readonly notices: string[];
  readonly open: (options: NodeOptions) => Promise<Backend>;
}

function lab(): Lab {
  const files = new FakeFiles();
  files.put('/d', 1 << 20);
  const notices: string[] = [];
  const graph = testGraph({ host: fakeHost({ files }), onNotice: (m) => notices.push(m) });
  const flags = { writable: true, unmap: true };
  const open = (options: NodeOptions): Promise<Backend> => graph.openBackend({ options, flags });
  return { graph, files, notices, open };
}

const below = { driver: 'file', filename: '/d' };
const debug = (own: NodeOptions = {}): NodeOptions => ({
  driver: 'blkdebug',
  image: below,
  ...own,
});
const raw = (own: NodeOptions = {}): NodeOptions => ({ driver: 'raw', file: debug(own) });

describe('injected errors', () => {
  it('stay in force for all requests once their event was reached', async () => {
    const disk = await lab().open(raw({ 'inject-error': [{ event: 'write_aio', errno: 28 }] }));
    await readBytes(disk, 0, 512);
    expect(await failureCode(disk.write(0, filled(512, 1)))).toBe('ENOSPC');
    expect(await failureCode(readBytes(disk, 0, 512))).toBe('ENOSPC');
    expect(await failureCode(disk.discard(0, 512))).toBe('ENOSPC');
    expect(await failureCode(disk.writeZeroes(0, 512))).toBe('ENOSPC');
  });

  it('hit a sector, and with once only once', async () => {
    const rule = { event: 'write_aio', errno: '28', sector: '2', once: 'on' };
    const disk = await lab().open(raw({ 'inject-error': { 0: rule } }));
    await disk.write(0, filled(512, 1));
    await disk.write(0, filled(1024, 1));
    expect(await failureCode(disk.write(0, filled(2048, 1)))).toBe('ENOSPC');
    await disk.write(0, filled(2048, 1));
  });

  it('of one kind leave other requests alone; event none is there from the start', async () => {
    const rule = { event: 'none', errno: 28, iotype: 'write', immediately: true };
    const disk = await lab().open(raw({ 'inject-error': rule }));
    await readBytes(disk, 0, 512);
    expect(await failureCode(disk.write(0, filled(512, 1)))).toBe('ENOSPC');
    await disk.writeZeroes(0, 2048);
  });

  it('hit flushes and questions for the block status', async () => {
    const { open } = lab();
    const disk = await open(
      raw({
        'inject-error': [
          { event: 'none', iotype: 'flush' },
          { event: 'none', iotype: 'block-status' },
        ],
      }),
    );
    await disk.write(0, filled(512, 1));
    expect(await failureCode(disk.flush())).toBe('EIO');
    expect(await failureCode(disk.blockStatus(0, 512))).toBe('EIO');
  });

  it('depend on the state, which events change; all rules see the state from before', async () => {
    const disk = await lab().open(
      raw({
        'set-state': [
          { event: 'write_aio', state: 1, new_state: 2 },
          { event: 'read_aio', state: 2, new_state: 1 },
        ],
        'inject-error': [{ event: 'read_aio', state: 2 }],
      }),
    );
    await readBytes(disk, 0, 512);
    await disk.write(0, filled(512, 1));
    expect(await failureCode(readBytes(disk, 0, 512))).toBe('EIO');
    // The error stays in force although the state has changed.
    expect(await failureCode(readBytes(disk, 0, 512))).toBe('EIO');
    expect(await failureCode(disk.write(0, filled(512, 1)))).toBe('EIO');
  });

  it.each([
    ['pwritev', 'write'],
    ['pwritev_done', 'the next request'],
    ['flush_to_os', 'after a flush'],
    ['flush_to_disk', 'after a flush of something'],
  ])('the event %s comes from the node itself: %s', async (event) => {
    const disk = await lab().open(raw({ 'inject-error': [{ event }] }));
    await disk.flush();
    const first = await disk.write(0, filled(512, 1)).then(
      () => 'done',
      () => 'failed',
    );
    expect(first).toBe(event === 'pwritev' || event === 'flush_to_os' ? 'failed' : 'done');
    await disk.flush().catch(() => undefined);
    expect(await failureCode(readBytes(disk, 0, 512))).toBe('EIO');
  });
});

describe('breakpoints', () => {
  it('hold the next request that reaches them, and no later one', async () => {
    const { open, notices } = lab();
    const disk = await open(raw());
    const points = disk.node.file!.node.instance.breakpoints!;
    points.set('write_aio', 'A');
    const order: number[] = [];
    const first = disk.write(0, filled(512, 1)).then(() => order.push(1));
    expect(points.isSuspended('A')).toBe(true);
    await disk.write(512, filled(512, 2)).then(() => order.push(2));
    points.resume('A');
    await first;
    expect(order).toEqual([2, 1]);
    expect(notices).toEqual(["blkdebug: Suspended request 'A'", "blkdebug: Resuming request 'A'"]);
    await expect(async () => {
      points.resume('A');
    }).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('two on one event hold the same request, the newer first', async () => {
    const { open, notices } = lab();
    const disk = await open(raw());
    const points = disk.node.file!.node.instance.breakpoints!;
    points.set('write_aio', 'A');
    points.set('write_aio', 'B');
    let done = false;
    const write = disk.write(0, filled(512, 1)).then(() => {
      done = true;
    });
    points.resume('A');
    await new Promise((resolve) => setImmediate(resolve));
    expect(done).toBe(false);
    points.resume('B');
    await write;
    expect(notices.slice(0, 2)).toEqual([
      "blkdebug: Suspended request 'B'",
      "blkdebug: Suspended request 'A'",
    ]);
  });

  it('remove lets go, and complains when the breakpoint was used up', async () => {
    const { open } = lab();
    const disk = await open(raw());
    const points = disk.node.file!.node.instance.breakpoints!;
    points.set('write_aio', 'A');
    const write = disk.write(0, filled(512, 1));
    await expect(async () => {
      points.remove('A');
    }).rejects.toMatchObject({ code: 'ENOENT' });
    await write;
    points.set('write_aio', 'A');
    points.remove('A');
    await disk.write(0, filled(512, 1));
    await expect(async () => {
      points.set('foo', 'A');
    }).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('stop a read-modify-write between its steps, and another write waits for it', async () => {
    const disk = await lab().open(debug({ align: 4096 }));
    await disk.write(0, filled(8192, 1));
    const points = disk.node.instance.breakpoints!;
    points.set('pwritev_rmw_after_head', 'A');
    const first = disk.write(1000, filled(100, 2));
    while (!points.isSuspended('A')) await Promise.resolve();
    let done = false;
    const second = disk.write(2000, filled(100, 3)).then(() => {
      done = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(done).toBe(false);
    points.resume('A');
    await Promise.all([first, second]);
    const expected = new Uint8Array(4096).fill(1).fill(2, 1000, 1100).fill(3, 2000, 2100);
    expect(await readBytes(disk, 0, 4096)).toEqual(expected);
  });
});

describe('limits', () => {
  it('cut requests as the options say', async () => {
    const { open, files } = lab();
    const disk = await open(
      debug({
        align: 512,
        'max-transfer': 4096,
        'opt-write-zero': 1024,
        'max-write-zero': 2048,
        'opt-discard': 1024,
        'max-discard': 3072,
      }),
    );
    const seen: string[] = [];
    files.onOp = (op, _path, offset, bytes) => seen.push(`${op} ${offset}+${bytes}`);
    await disk.write(0, filled(10_240, 1));
    expect(seen).toEqual(['write 0+4096', 'write 4096+4096', 'write 8192+2048']);
    seen.length = 0;
    await disk.writeZeroes(512, 5632);
    expect(seen).toEqual(['write 512+512', 'zero 1024+2048', 'zero 3072+2048', 'zero 5120+1024']);
    seen.length = 0;
    await disk.discard(512, 8192);
    // What does not reach the preferred alignment goes on its own, as in QEMU.
    expect(seen).toEqual([
      ...['punch 512+512', 'punch 1024+3072', 'punch 4096+3072', 'punch 7168+1024'],
      'punch 8192+512',
    ]);
  });

  it.each([
    [{ align: 3 }, 'Cannot meet constraints with align 3'],
    [{ align: 2147483648 }, 'Cannot meet constraints with align 2147483648'],
    [{ align: 512, 'max-transfer': 100 }, 'Cannot meet constraints with max-transfer 100'],
    [{ align: 512, 'opt-write-zero': 100 }, 'Cannot meet constraints with opt-write-zero 100'],
    [
      { align: 512, 'opt-write-zero': 1024, 'max-write-zero': 1536 },
      'Cannot meet constraints with max-write-zero 1536',
    ],
    [
      { align: 512, 'opt-discard': 1024, 'max-discard': 1536 },
      'Cannot meet constraints with max-discard 1536',
    ],
    [{ 'inject-error.event': 'foo' }, 'invalid parameter value: foo'],
    [{ 'inject-error.errno': '5' }, 'Missing event name for rule'],
    [
      { 'inject-error.0.event': 'read_aio', 'inject-error.1.event': 'bar' },
      'invalid parameter value: bar',
    ],
    [
      { 'set-state.event': 'read_aio', 'set-state.new-state': 1 },
      "Unknown option 'new-state' for [set-state]",
    ],
    [
      { 'inject-error.event': 'read_aio', 'inject-error.errno': 'x' },
      "Parameter 'errno' expects a number",
    ],
    [
      { 'inject-error.event': 'read_aio', 'inject-error.iotype': 'foo' },
      'invalid parameter value: foo',
    ],
    [
      { 'inject-error.event': 'read_aio', 'inject-error.once': 'maybe' },
      "Parameter 'once' expects 'on' or 'off'",
    ],
    [{ 'take-child-perms.0': 'foo' }, "Parameter 'null' does not accept value 'foo'"],
    [{ config: '/nosuch' }, 'Could not read blkdebug config file: No such file or directory'],
  ])('%j is refused', async (own, message) => {
    const { graph } = lab();
    expect(await failure(graph.open({ options: debug(own) }))).toBe(message);
    expect(graph.nodes.size).toBe(0);
  });
});

describe('configuration files and names', () => {
  const config = (text: string): Uint8Array => new TextEncoder().encode(text);

  it('blkdebug:CONFIG:IMAGE reads rules and keeps its name', async () => {
    const { graph, files } = lab();
    files.put(
      '/c',
      config('# rules\n\n[inject-error "a"]\nevent = "read_aio"\nonce ="off"\nerrno = "28"\n'),
    );
    const disk = await graph.openBackend({
      filename: 'blkdebug:/c:/d',
      options: { driver: 'raw' },
    });
    expect(await failureCode(readBytes(disk, 0, 512))).toBe('ENOSPC');
    expect(disk.node.filename).toBe('blkdebug:/c:/d');
    const plain = await graph.openBackend({ filename: 'blkdebug::/d' });
    expect(plain.node.driver.name).toBe('raw');
    expect(plain.node.filename).toBe('blkdebug::/d');
    const limited = await graph.open({ options: debug({ align: 4096 }) });
    expect(limited.filename).toBe(
      'json:{"image": {"driver": "file", "filename": "/d"}, "driver": "blkdebug", "align": 4096}',
    );
    await graph.release(limited);
  });

  it.each([
    ['[inject-error]\nevent = "foo"\n', 'invalid parameter value: foo'],
    ['[inject-errorx]\n', "There is no option group 'inject-errorx'"],
    ['[inject-error]\nevent = foo\n', 'invalid parameter value: '],
    ['[inject-error]\nfoo = "foo"\n', "Invalid parameter 'foo'"],
    ['foo = "foo"\n', 'no group defined'],
    ['[inject-error]\nevent = "read_aio"\nerrno="28"\n', 'Invalid parameter \'errno="28"\''],
  ])('%j is refused', async (text, message) => {
    const { graph, files } = lab();
    files.put('/c', config(text));
    expect(await failure(graph.open({ filename: 'blkdebug:/c:/d' }))).toBe(message);
  });

  it.each([
    ['blkdebug:/d', 'blkdebug requires both config file and image path'],
    ['blkdebug:', 'blkdebug requires both config file and image path'],
    ['blkdebug::/nosuch', "Could not open '/nosuch': No such file or directory"],
  ])('%s is refused', async (filename, message) => {
    expect(await failure(lab().graph.open({ filename }))).toBe(message);
  });
});

it('permissions of the child can be asked for and withheld', async () => {
  const { graph } = lab();
  await graph.open({ options: { ...below, 'node-name': 'base' }, flags: { writable: true } });
  const one = await graph.open({
    options: { driver: 'blkdebug', image: 'base', 'take-child-perms': ['write'] },
    flags: { writable: true },
  });
  expect(one.file?.perm).toBe(Perm.write);
  const two = graph.open({
    options: { driver: 'blkdebug', image: 'base', 'unshare-child-perms': ['write'] },
  });
  expect(await failure(two)).toContain("Permission conflict on node 'base'");
  await graph.release(one);
});
