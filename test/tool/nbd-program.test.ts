// Goal: vdisk-nbd behaves as qemu-nbd does: messages, exit statuses, life of the process. Method:
// the program itself, with texts that qemu-nbd 10 printed for the same command lines.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, renameSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  binPath,
  failure,
  filled,
  readBytes,
  run,
  runOk,
  tempDir,
  testGraph,
} from '../support/index.js';
import { startNbd, startProcess, untilSocket, uriOf } from '../interop/nbd-support.js';

const nbd = binPath('vdisk-nbd');
const io = binPath('vdisk-io');
const img = binPath('vdisk-img');
const MiB = 1024 * 1024;

function makeRaw(bytes = MiB): string {
  const path = join(tempDir(), 'd.raw');
  writeFileSync(path, Buffer.alloc(0));
  truncateSync(path, bytes);
  return path;
}

const readPattern = (uri: string, command: string): Promise<{ stdout: string; stderr: string }> =>
  run(io, ['-r', '-f', 'raw', '-c', command, uri]);

describe('what is wrong is told in the words of qemu-nbd', () => {
  const cases: readonly (readonly [string, readonly string[], string])[] = [
    ['no file', [], 'Invalid number of arguments'],
    ['two files', ['a', 'b'], 'Invalid number of arguments'],
    ['a socket with a relative path', ['-k', 'x', 'D'], 'socket path must be absolute'],
    ['clients', ['-e', '-1', 'D'], "Invalid shared device number '-1'"],
    ['discard', ['--discard=foo', 'D'], "Invalid discard mode `foo'"],
    ['cache', ['--cache=foo', 'D'], "Invalid cache mode `foo'"],
    ['cache twice', ['-n', '--cache=none', 'D'], '-n and --cache can only be specified once'],
    ['aio', ['--aio=foo', 'D'], "Invalid aio mode 'foo'"],
    [
      'detect-zeroes without discard',
      ['--detect-zeroes=unmap', 'D'],
      'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap',
    ],
    [
      'options and a format',
      ['--image-opts', '-f', 'raw', 'driver=raw'],
      '--image-opts and -f are mutually exclusive',
    ],
    ['an offset', ['-o', 'x', 'D'], "Invalid offset 'x'"],
    [
      'authz without TLS',
      ['--tls-authz', 'a', 'D'],
      '--tls-authz is not permitted without --tls-creds',
    ],
    ['a list of a file', ['--list', 'D'], 'List mode is incompatible with a file name'],
    ['a list and a fork', ['--list', '--fork'], 'List mode is incompatible with forking'],
    ['a list with -f', ['-L', '-f', 'raw'], 'List mode is incompatible with per-device settings'],
    ['a file that is not there', ['-f', 'raw', '/no/file'], "Failed to blk_new_open '/no/file': "],
    ['a bitmap', ['-B', 'none', '-f', 'raw', 'D'], "Bitmap 'none' is not found"],
    ['a device that is not there', ['-c', '/dev/nbd-none', '-f', 'raw', 'D'], '/dev/nbd-none'],
    ['to disconnect nothing', ['-d', '/dev/nbd-none'], 'Cannot open /dev/nbd-none'],
    ['a partition, as of old', ['-P', '1', 'D'], "invalid option -- 'P'"],
    ['an unknown option', ['--foo', 'D'], "unrecognized option '--foo'"],
  ];
  it.each(cases)('%s', async (_name, args, text) => {
    const disk = makeRaw();
    const result = await run(
      nbd,
      args.map((a) => (a === 'D' ? disk : a)),
    );
    expect(result.stderr).toContain(text);
    expect(result.stdout).toBe('');
    expect(result.status).toBe(1);
  });

  it('--help names every option; --version is short', async () => {
    const { stdout } = await runOk(nbd, ['--help']);
    const long =
      'port bind socket shared persistent export-name description handshake-limit offset ' +
      'allocation-depth bitmap list object tls-creds tls-authz tls-hostname fork pid-file ' +
      'connect disconnect format read-only snapshot load-snapshot nocache cache aio discard ' +
      'detect-zeroes image-opts';
    for (const name of long.split(' ')) expect(stdout).toContain(`--${name}`);
    expect((await runOk(nbd, ['--version'])).stdout).toMatch(/^vdisk-nbd /);
  });
});

describe('the life of the process', () => {
  it('ends with its last client, unless it is persistent', async () => {
    const disk = makeRaw();
    const socket = join(tempDir(), 's');
    const server = startProcess(nbd, ['-f', 'raw', '-k', socket, disk]);
    await untilSocket(socket, server);
    await runOk(io, ['-f', 'raw', '-c', 'write -P 5 0 512', uriOf(socket)]);
    expect(await server.ended).toBe(0);
    expect(existsSync(socket)).toBe(false);
    expect(readFileSync(disk)[0]).toBe(5);
    const { uri, server: lasting } = await startNbd(['-f', 'raw', disk]);
    for (let i = 0; i < 2; i++) {
      expect((await readPattern(uri, 'read -P 5 0 512')).stdout).not.toContain('failed');
    }
    expect(await lasting.stop('SIGINT')).toBe(0);
  });

  it('--fork returns when clients can connect; --pid-file names who serves', async () => {
    const disk = makeRaw();
    const dir = tempDir();
    const [socket, pidFile] = [join(dir, 's'), join(dir, 'pid')];
    const args = ['--fork', '--pid-file', pidFile, '-t', '-f', 'raw', '-k', socket, disk];
    const started = await run(nbd, args);
    const pid = Number(readFileSync(pidFile, 'utf8'));
    try {
      expect(started).toMatchObject({ status: 0, stdout: '', stderr: '' });
      expect(pid).toBeGreaterThan(1);
      const { stdout } = await readPattern(uriOf(socket), 'read -P 0 0 512');
      expect(stdout).toContain('read 512/512');
    } finally {
      process.kill(pid);
    }
    for (let i = 0; i < 500 && existsSync(socket); i++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    expect(existsSync(socket)).toBe(false);
    const failed = await run(nbd, ['--fork', '-f', 'raw', '-k', socket, '/no/file']);
    expect(failed.status).toBe(1);
    expect(failed.stderr).toContain("Failed to blk_new_open '/no/file'");
  });

  it('serves on a socket that was passed to it (LISTEN_FDS), and on no other', async () => {
    const disk = makeRaw();
    const socket = join(tempDir(), 's');
    const listener = createServer();
    await new Promise<void>((resolve) => listener.listen(socket, resolve));
    const { _handle: handle } = listener as typeof listener & {
      readonly _handle?: { readonly fd: number };
    };
    if (handle === undefined) throw new Error('no descriptor');
    const start = (more: readonly string[]): ReturnType<typeof spawn> =>
      // The variable must carry the number of the process itself: a shell sets it, then becomes it.
      spawn('sh', ['-c', 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"', nbd, ...more], {
        stdio: ['ignore', 'ignore', 'pipe', handle.fd],
      });
    try {
      const refused = start(['-k', '/tmp/other', '-f', 'raw', disk]);
      let said = '';
      refused.stderr?.on('data', (b: Buffer) => (said += b.toString()));
      expect(await new Promise((resolve) => refused.once('close', resolve))).toBe(1);
      expect(said).toContain("Unix socket can't be set when using socket activation");
      const child = start(['-f', 'raw', disk]);
      const ended = new Promise((resolve) => child.once('close', resolve));
      // Only the child accepts from now on; the listener's end would remove the file.
      const moved = `${socket}.moved`;
      renameSync(socket, moved);
      listener.close();
      const { stdout, stderr } = await readPattern(uriOf(moved), 'read -P 0 0 512');
      expect(stdout, stderr).toContain('read 512/512');
      expect(await ended).toBe(0);
    } finally {
      listener.close();
    }
  });
});

describe('what is served', () => {
  it('-o leaves out the beginning, -r the writing, -s the image', async () => {
    const disk = makeRaw();
    await runOk(io, ['-f', 'raw', '-c', 'write -P 6 512k 64k', disk]);
    const before = readFileSync(disk);
    const { uri } = await startNbd(['-f', 'raw', '-r', '-o', String(512 * 1024), disk]);
    expect((await readPattern(uri, 'read -P 6 0 64k')).stdout).not.toContain('failed');
    const write = await run(io, ['-f', 'raw', '-c', 'write 0 512', uri]);
    expect(write.stderr).toContain('request on write denied without write permission');
    const overlay = await startNbd(['-f', 'raw', '-s', disk]);
    const commands = [
      '-c',
      'write -P 9 0 64k',
      '-c',
      'read -P 9 0 64k',
      '-c',
      'read -P 6 512k 64k',
    ];
    const { stdout } = await runOk(io, ['-f', 'raw', ...commands, overlay.uri]);
    expect(stdout).not.toContain('failed');
    expect(await overlay.server.stop()).toBe(0);
    expect(readFileSync(disk).equals(before)).toBe(true);
  });

  it('-l shows an internal snapshot', async () => {
    const disk = join(tempDir(), 'd.qcow2');
    await runOk(img, ['create', '-f', 'qcow2', disk, '1M']);
    await runOk(io, ['-f', 'qcow2', '-c', 'write -P 1 0 64k', disk]);
    await runOk(img, ['snapshot', '-c', 'first', disk]);
    await runOk(io, ['-f', 'qcow2', '-c', 'write -P 2 0 64k', disk]);
    const { uri } = await startNbd(['-f', 'qcow2', '-l', 'first', disk]);
    expect((await readPattern(uri, 'read -P 1 0 64k')).stdout).not.toContain('failed');
    const missing = await run(nbd, ['-f', 'qcow2', '-l', 'second', disk]);
    expect(missing.status).toBe(1);
  });

  it('--list prints what there is', async () => {
    const disk = makeRaw();
    const args = ['-f', 'raw', '-r', '-x', 'name', '-D', 'words', '-A', disk];
    const { socket } = await startNbd(args);
    const { stdout } = await runOk(nbd, ['--list', '-k', socket]);
    expect(stdout).toBe(
      [
        'exports available: 1',
        " export: 'name'",
        '  description: words',
        '  size:  1048576',
        '  flags: 0x158f ( readonly flush fua df multi cache block-status-payload )',
        '  min block: 1',
        '  opt block: 4096',
        '  max block: 33554432',
        '  transaction size: 64-bit',
        '  available meta contexts: 2',
        '   base:allocation',
        '   qemu:allocation-depth',
        '',
      ].join('\n'),
    );
    const nobody = await run(nbd, ['--list', '-k', `${socket}.none`]);
    expect(nobody.stderr).toContain('Failed to connect to');
    expect(nobody.status).toBe(1);
  });
});

it('a server that is killed and comes back in mid-flow: nothing is lost', async () => {
  const disk = makeRaw(4 * MiB);
  const socket = join(tempDir(), 's');
  const args = ['-f', 'raw', '-t', '-e', '0', '-k', socket, disk];
  const first = startProcess(nbd, args);
  await untilSocket(socket, first);
  const graph = testGraph();
  const server = { type: 'unix', path: socket };
  const client = await graph.openBackend({
    options: { driver: 'nbd', server, 'reconnect-delay': 60 },
    flags: { writable: true },
  });
  const writes: Promise<void>[] = [];
  for (let i = 0; i < 64; i++) {
    if (i === 32) await first.stop('SIGKILL');
    writes.push(client.write(i * 65536, filled(65536, i + 1)));
  }
  startProcess(nbd, args);
  await Promise.all(writes);
  for (let i = 0; i < 64; i++) expect((await readBytes(client, i * 65536 + 5, 1))[0]).toBe(i + 1);
  await client.flush();
  await client.detach();
  const data = readFileSync(disk);
  for (let i = 0; i < 64; i++) expect(data[i * 65536]).toBe(i + 1);
  expect(await failure(client.flush())).not.toBe('');
});
