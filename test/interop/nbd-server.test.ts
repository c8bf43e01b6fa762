// Goal: vdisk-nbd serves what Debian's NBD clients ask for. Method: libnbd's tools, QEMU's and fio
// against images of known content; what they tell is compared with the image and with qemu-nbd.
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  binPath,
  Random,
  requires,
  run,
  runOk,
  same,
  tempDir,
  testSeed,
} from '../support/index.js';
import { freePort, parseJson, startNbd, startProcess, untilPort, uriOf } from './nbd-support.js';

const MiB = 1024 * 1024;
let vdiskImg = '';
beforeAll(() => {
  vdiskImg = binPath('vdisk-img');
});

/** A raw file of 8 MiB with data here and there. */
function sparseFile(random: Random, dir: string, bytes = 8 * MiB): { path: string; data: Buffer } {
  const path = join(dir, 'disk.raw');
  const data = Buffer.alloc(bytes);
  for (let i = 0; i < 6; i++) {
    const at = random.int(0, bytes / 65536 - 3) * 65536;
    data.set(random.bytes(random.int(1, 2 * 65536)), at);
  }
  writeFileSync(path, '');
  truncateSync(path, bytes);
  writeFileSync(path, data);
  return { path, data };
}

async function qcow2Of(path: string): Promise<string> {
  const out = path.replace('.raw', '.qcow2');
  await runOk(vdiskImg, ['convert', '-f', 'raw', '-O', 'qcow2', path, out]);
  return out;
}

interface Info {
  readonly exports: readonly object[];
}

requires('nbdinfo')('nbdinfo', () => {
  it('tells what the export can do', async () => {
    const { path } = sparseFile(new Random(1), tempDir());
    const args = ['-f', 'raw', '-x', 'disk one', '-D', 'the first disk', '-A', path];
    const { socket } = await startNbd(args);
    const uri = `nbd+unix:///disk%20one?socket=${socket}`;
    const text = (await runOk('nbdinfo', ['--json', uri])).stdout;
    const { exports, ...head } = parseJson<Info>(text);
    expect(head).toMatchObject({ protocol: 'newstyle-fixed', structured: true, TLS: false });
    expect(exports).toHaveLength(1);
    expect(exports[0]).toMatchObject({
      'export-name': 'disk one',
      description: 'the first disk',
      'export-size': 8 * MiB,
      contexts: ['base:allocation', 'qemu:allocation-depth'],
      is_read_only: false,
      can_cache: true,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * MiB,
    });
  });

  it('sees a read-only export, and one for a single client', async () => {
    const { path } = sparseFile(new Random(1), tempDir());
    const { uri } = await startNbd(['-f', 'raw', '-r', '-e', '1', path]);
    const text = (await runOk('nbdinfo', ['--json', uri])).stdout;
    const [shown] = parseJson<Info>(text).exports;
    expect(shown).toMatchObject({
      is_read_only: true,
      can_trim: false,
      can_zero: false,
      can_fast_zero: false,
      can_multi_conn: false,
    });
  });

  it('maps the image as vdisk-img does, by --map and by depth', async () => {
    const random = new Random(testSeed());
    const { path } = sparseFile(random, tempDir());
    const qcow2 = await qcow2Of(path);
    const { uri } = await startNbd(['-f', 'qcow2', '-r', '-A', qcow2]);
    const map = async (...args: string[]): Promise<{ offset: number; length: number }[]> =>
      parseJson((await runOk('nbdinfo', ['--json', ...args, uri])).stdout);
    const own = JSON.parse(
      (await runOk(vdiskImg, ['map', '--output=json', '-f', 'qcow2', qcow2])).stdout,
    ) as { start: number; length: number; data: boolean }[];
    const expected = own.map((e) => ({ offset: e.start, length: e.length, type: e.data ? 0 : 3 }));
    const ranges = (await map('--map')).map((e) => ({ ...e, description: undefined }));
    expect(ranges).toEqual(expected.map((e) => ({ ...e, description: undefined })));
    const depth = await map('--map=qemu:allocation-depth');
    expect(depth.reduce((sum, e) => sum + e.length, 0)).toBe(8 * MiB);
  });

  it('lists several exports of one server with their descriptions', async () => {
    const { path } = sparseFile(new Random(1), tempDir());
    const { socket } = await startNbd(['-f', 'raw', '-x', 'only', '-D', 'words', path]);
    const { stdout } = await runOk('nbdinfo', ['--list', uriOf(socket)]);
    expect(stdout).toContain('export="only"');
    expect(stdout).toContain('description: words');
    const missing = await run('nbdinfo', [uriOf(socket, 'other')]);
    expect(missing.status).not.toBe(0);
    expect(missing.stderr).toContain('No such file or directory for export: other');
  });
});

requires('nbdcopy')('nbdcopy', () => {
  it.each(['raw', 'qcow2'])('copies a %s image out and in again', async (format) => {
    const random = new Random(testSeed());
    const dir = tempDir();
    const { path, data } = sparseFile(random, dir);
    const image = format === 'raw' ? path : await qcow2Of(path);
    const { uri } = await startNbd(['-f', format, image]);
    const copy = join(dir, 'copy');
    await runOk('nbdcopy', [uri, copy]);
    same(readFileSync(copy), data);
    const other = random.bytes(data.length);
    other.fill(0, 2 * MiB, 5 * MiB);
    writeFileSync(copy, other);
    await runOk('nbdcopy', ['--flush', '--allocated', copy, uri]);
    await runOk('nbdcopy', [uri, join(dir, 'again')]);
    same(readFileSync(join(dir, 'again')), other);
    const back = join(dir, 'back.raw');
    await runOk(vdiskImg, ['convert', '-U', '-f', format, '-O', 'raw', image, back]);
    same(readFileSync(back), other);
  });
});

/** The distribution's Python has libnbd, another in front of it on PATH has not. */
const nbdsh = (args: readonly string[]): Promise<unknown> =>
  runOk('nbdsh', args, { env: { PATH: `/usr/bin:${process.env['PATH'] ?? ''}` } });

requires('nbdsh')('nbdsh', () => {
  const script = (lines: string[]): string[] => lines.flatMap((line) => ['-c', line]);

  it('does each command, with each flag, and reads what it wrote', async () => {
    const path = join(tempDir(), 'disk.raw');
    writeFileSync(path, Buffer.alloc(MiB));
    const { uri } = await startNbd(['-f', 'raw', '--discard=unmap', path]);
    await nbdsh([
      '-u',
      uri,
      ...script([
        'assert h.get_size() == 1048576',
        'h.pwrite(b"a" * 5000, 1)',
        'h.pwrite(b"b" * 512, 512, nbd.CMD_FLAG_FUA)',
        'assert h.pread(4, 510) == b"aabb"',
        'assert h.pread(1, 0) == b"\\0"',
        'h.zero(100, 100); assert h.pread(102, 99) == b"a" + bytes(100) + b"a"',
        'h.zero(4096, 4096, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)',
        'h.zero(65536, 131072, nbd.CMD_FLAG_FAST_ZERO)',
        'h.trim(65536, 65536, nbd.CMD_FLAG_FUA)',
        'h.cache(65536, 0)',
        'h.flush()',
        'assert h.pread(8192, 4096) == bytes(8192)',
        'p = []; h.pread_structured(4096, 0, lambda b, o, s, e: p.append((o, len(b))), ' +
          'nbd.CMD_FLAG_DF); assert p == [(0, 4096)], p',
      ]),
    ]);
    expect(readFileSync(path).subarray(510, 514).toString()).toBe('aabb');
  });

  it('gets the errors of the protocol', async () => {
    const path = join(tempDir(), 'disk.raw');
    writeFileSync(path, Buffer.alloc(MiB));
    const { uri } = await startNbd(['-f', 'raw', '-r', path]);
    const expectError = (call: string, errno: string): string =>
      [
        'import errno',
        `try:\n    ${call}\n    assert False\nexcept nbd.Error as e:\n` +
          `    assert e.errnum == errno.${errno}, e`,
      ].join('\n');
    await nbdsh([
      '-c',
      'h.set_strict_mode(0)',
      '-c',
      `h.connect_uri("${uri}")`,
      ...script([
        expectError('h.pwrite(b"a" * 512, 0)', 'EPERM'),
        expectError('h.trim(512, 0)', 'EPERM'),
        expectError('h.zero(512, 0)', 'EPERM'),
        expectError('h.pread(512, 1048576)', 'EINVAL'),
        expectError('h.pread(2, 1048575)', 'EINVAL'),
        'assert h.pread(1, 1048575) == b"\\0"',
      ]),
    ]);
  });

  it('writes over several connections; after a flush all see it', async () => {
    const path = join(tempDir(), 'disk.raw');
    writeFileSync(path, Buffer.alloc(MiB));
    const { uri } = await startNbd(['-f', 'raw', path]);
    await nbdsh([
      ...script([
        `hs = [nbd.NBD() for i in range(8)]`,
        `[x.connect_uri("${uri}") for x in hs]`,
        'assert all(x.can_multi_conn() for x in hs)',
        '[x.pwrite(bytes([i + 1]) * 4096, i * 4096) for i, x in enumerate(hs)]',
        'hs[0].flush()',
        'want = b"".join(bytes([i + 1]) * 4096 for i in range(8))',
        'assert all(x.pread(32768, 0) == want for x in hs)',
      ]),
    ]);
  });
});

requires('qemu-img', 'qemu-io')("QEMU's tools as clients", () => {
  it('convert, compare, info and requests over a Unix socket and TCP', async () => {
    const random = new Random(testSeed());
    const dir = tempDir();
    const { path, data } = sparseFile(random, dir);
    const { uri } = await startNbd(['-f', 'raw', path]);
    const out = join(dir, 'out.qcow2');
    await runOk('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', uri, out]);
    await runOk('qemu-img', ['compare', '-f', 'qcow2', '-F', 'raw', out, uri]);
    const info = await runOk('qemu-img', ['info', '--output=json', uri]);
    expect(parseJson(info.stdout)).toMatchObject({ 'virtual-size': data.length });
    const commands = ['write -P 7 1000 5000', 'write -z -u 4096 100k', 'discard 1M 1M', 'flush'];
    const args = [...commands, 'read -P 7 1000 3096'].flatMap((c) => ['-c', c]);
    const { stdout } = await runOk('qemu-io', ['-f', 'raw', ...args, uri]);
    expect(stdout).not.toContain('failed');
    const port = await freePort();
    const server = startProcess(binPath('vdisk-nbd'), [
      ...['-f', 'raw', '-t', '-e', '0', '-b', '127.0.0.1', '-p', String(port), path],
    ]);
    await untilPort(port, server);
    const tcp = `nbd://127.0.0.1:${String(port)}`;
    await runOk('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', tcp, uri]);
  });
});

interface FioJob {
  readonly error: number;
  readonly read: { readonly total_ios: number };
  readonly write: { readonly total_ios: number };
}

requires('fio')("fio's nbd engine", () => {
  it('writes at random at depth 32 and finds everything as it wrote it', async () => {
    const path = join(tempDir(), 'disk.raw');
    writeFileSync(path, Buffer.alloc(0));
    truncateSync(path, 8 * MiB);
    const { uri } = await startNbd(['-f', 'raw', path]);
    const { stdout } = await runOk('fio', [
      ...['--name=verify', '--ioengine=nbd', `--uri=${uri}`, '--rw=randwrite', '--bs=512-16k'],
      ...['--iodepth=32', '--size=8M', '--verify=crc32c', '--output-format=json'],
      '--verify_state_save=0',
    ]);
    const { jobs } = parseJson<{ jobs: readonly FioJob[] }>(stdout);
    expect(jobs[0]?.error).toBe(0);
    expect(jobs[0]?.read.total_ios).toBe(jobs[0]?.write.total_ios);
  });
});

requires('nbd-client')('nbd-client', () => {
  it('lists the exports over TCP', async () => {
    const { path } = sparseFile(new Random(1), tempDir());
    const port = await freePort();
    const args = ['-f', 'raw', '-t', '-e', '0', '-x', 'named', '-b', '127.0.0.1'];
    const server = startProcess(binPath('vdisk-nbd'), [...args, '-p', String(port), path]);
    await untilPort(port, server);
    const said = await run('nbd-client', ['-l', '127.0.0.1', '-N', 'x', String(port)]);
    expect(said.stdout + said.stderr).toContain('named');
  });
});

describe('clean shutdown', () => {
  it('what was acknowledged is in the image when the server ends', async () => {
    const dir = tempDir();
    const image = join(dir, 'disk.qcow2');
    await runOk(vdiskImg, ['create', '-f', 'qcow2', image, '64M']);
    const { uri, server } = await startNbd(['-f', 'qcow2', image]);
    const writes = Array.from({ length: 40 }, (_, i) => `write -P ${i + 1} ${i * 65536} 65536`);
    const args = writes.flatMap((w) => ['-c', w]);
    await runOk(binPath('vdisk-io'), ['-f', 'raw', ...args, uri]);
    expect(await server.stop()).toBe(0);
    const reads = writes.map((w) => w.replace('write', 'read')).flatMap((w) => ['-c', w]);
    const { stdout } = await runOk(binPath('vdisk-io'), ['-r', '-f', 'qcow2', ...reads, image]);
    expect(stdout).not.toContain('failed');
    await runOk(vdiskImg, ['check', image]);
  });
});
