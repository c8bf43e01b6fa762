// Goal: vdisk-storage-daemon starts, serves and ends as qemu-storage-daemon does. Method: the
// program itself; texts are what qemu-storage-daemon 10 printed for the same command lines.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { DaemonProcess, isReply, Lines } from '../qmp/support.js';
import type { Message } from '../qmp/support.js';
import { binPath, filled, readBytes, run, runOk, tempDir, testGraph } from '../support/index.js';

const program = binPath('vdisk-storage-daemon');
const NULL = ['--blockdev', 'driver=null-co,node-name=n,size=65536'];

describe('what is wrong is told in the words of qemu-storage-daemon', () => {
  const cases: readonly (readonly [string, readonly string[]])[] = [
    ["--blockdev foo: Parameter 'driver' does not accept value 'foo'", ['--blockdev', 'foo']],
    [
      "--blockdev driver=null-co: 'node-name' must be specified for the root node",
      ['--blockdev', 'driver=null-co'],
    ],
    [
      "--blockdev driver=null-co,node-name=a,foo=1: Parameter 'foo' is unexpected",
      ['--blockdev', 'driver=null-co,node-name=a,foo=1'],
    ],
    ['--blockdev {"driver":: JSON parse error, premature EOI', ['--blockdev', '{"driver":']],
    [
      '--blockdev {"driver":"null-co","node-name":"a"} x: Expecting at most one JSON value',
      ['--blockdev', '{"driver":"null-co","node-name":"a"} x'],
    ],
    ['--monitor foo: chardev "foo" not found', ['--monitor', 'foo']],
    ["--chardev foo,id=a: 'foo' is not a valid char driver name", ['--chardev', 'foo,id=a']],
    ['--chardev socket,id=a: Unable to parse FD number ', ['--chardev', 'socket,id=a']],
    ['--chardev stdio: chardev: no id specified', ['--chardev', 'stdio']],
    [
      "--chardev socket,path=x,foo=1,id=a: Invalid parameter 'foo'",
      ['--chardev', 'socket,path=x,foo=1,id=a'],
    ],
    [
      "--export nbd,id=a,node-name=b: Cannot find device='' nor node-name='b'",
      ['--export', 'nbd,id=a,node-name=b'],
    ],
    [
      '--export nbd,id=a,node-name=n: NBD server not running',
      [...NULL, '--export', 'nbd,id=a,node-name=n'],
    ],
    [
      "--nbd-server addr.type=unix: Parameter 'addr.path' is missing",
      ['--nbd-server', 'addr.type=unix'],
    ],
    [
      '--nbd-server addr.type=inet,addr.host=localhost,addr.port=10000,addr.numeric=on: ' +
        'address resolution failed for localhost:10000: Name or service not known',
      ['--nbd-server', 'addr.type=inet,addr.host=localhost,addr.port=10000,addr.numeric=on'],
    ],
    [
      '--nbd-server addr.type=unix,addr.path=x,addr.abstract=on,addr.tight=off: ' +
        'Abstract names with padding (tight=off) cannot be used',
      ['--nbd-server', 'addr.type=unix,addr.path=x,addr.abstract=on,addr.tight=off'],
    ],
    [
      "--chardev stdio,id=a,signal=off: Option 'signal=off' is not supported",
      ['--chardev', 'stdio,id=a,signal=off'],
    ],
    ["--nbd-server foo: Expected '=' after parameter 'foo'", ['--nbd-server', 'foo']],
    [
      "--object foo,id=a: Parameter 'qom-type' does not accept value 'foo'",
      ['--object', 'foo,id=a'],
    ],
    ["--object secret,id=a: Either 'file' or 'data' must be provided", ['--object', 'secret,id=a']],
    ["unrecognized option '--foo'", ['--foo']],
    ["invalid option -- 'x'", ['-x']],
    ["option '--blockdev' requires an argument", ['--blockdev']],
    ['foo: Unexpected argument', ['foo']],
    [
      "cannot create PID file: Could not create '/nonexistent/x': No such file or directory",
      ['--pidfile', '/nonexistent/x'],
    ],
    ['--export help: Help is not available for this option', ['--export', 'help']],
    ['--blockdev help: Help is not available for this option', ['--blockdev', 'help']],
    ['--export {"type":"nbd"}: Parameter \'id\' is missing', ['--export', '{"type":"nbd"}']],
    ["--export type=foo: Parameter 'type' does not accept value 'foo'", ['--export', 'type=foo']],
    [
      "--monitor a: chardev 'a' is already in use",
      ['--chardev', 'null,id=a', '--monitor', 'a', '--monitor', 'a'],
    ],
    [
      "--chardev null,id=a: attempt to add duplicate property 'a' to object (type 'container')",
      ['--chardev', 'null,id=a', '--chardev', 'null,id=a'],
    ],
    [
      '--monitor a,mode=readline: Only QMP is supported',
      ['--chardev', 'null,id=a', '--monitor', 'a,mode=readline'],
    ],
    [
      "--monitor a,pretty=x: Parameter 'pretty' expects 'on' or 'off'",
      ['--chardev', 'null,id=a', '--monitor', 'a,pretty=x'],
    ],
  ];
  it('all of it', async () => {
    for (const [text, args] of cases) {
      const { status, stderr } = await run(program, args);
      expect({ args, status, stderr }).toEqual({
        args,
        status: 1,
        stderr: `vdisk-storage-daemon: ${text}\n`,
      });
    }
  });
});

describe('help', () => {
  it('of the program, its objects and character devices', async () => {
    const { stdout } = await runOk(program, ['--help']);
    for (const word of ['--blockdev', '--chardev', '--monitor', '--pidfile', '--daemonize']) {
      expect(stdout).toContain(word);
    }
    expect((await runOk(program, ['--version'])).stdout).toMatch(/^vdisk-storage-daemon version /);
    expect((await runOk(program, ['--object', 'help'])).stdout).toContain('  throttle-group\n');
    expect((await runOk(program, ['--object', 'secret,help'])).stdout).toContain('  data=<string>');
    expect((await runOk(program, ['--chardev', 'help'])).stdout).toContain('  socket\n');
    expect((await runOk(binPath('vdisk'), ['daemon', '--help'])).stdout).toBe(stdout);
  });
});

/** A QMP client on a socket of a daemon. */
async function qmp(path: string): Promise<(name: string, args?: Message) => Promise<Message>> {
  const socket = connect(path);
  const lines = new Lines();
  socket.on('data', (piece) => {
    lines.push(piece);
  });
  await lines.until((seen) => seen.length > 0);
  return async (execute, args) => {
    const from = lines.seen.length;
    socket.write(`${JSON.stringify({ execute, ...(args && { arguments: args }) })}\n`);
    const seen = await lines.until((all) => all.slice(from).some(isReply));
    return seen.slice(from).find(isReply) ?? {};
  };
}

describe('life of the process', () => {
  it('serves an image over NBD, and QMP on a socket; SIGTERM ends it cleanly', async () => {
    const dir = tempDir();
    const at = (name: string): string => join(dir, name);
    await runOk(binPath('vdisk-img'), ['create', '-q', '-f', 'qcow2', at('d.qcow2'), '1M']);
    const child = spawn(program, [
      ...['--blockdev', `driver=file,filename=${at('d.qcow2')},node-name=f`],
      ...['--blockdev', 'driver=qcow2,file=f,node-name=d'],
      ...['--nbd-server', `addr.type=unix,addr.path=${at('nbd')}`],
      ...['--export', 'type=nbd,id=e,node-name=d,writable=on,name=disk'],
      ...['--chardev', `socket,id=c,path=${at('qmp')},server=on,wait=off`, '--monitor', 'c'],
      ...['--pidfile', at('pid')],
    ]);
    const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
    while (!existsSync(at('pid')) && child.exitCode === null) await pause(10);
    expect(statSync(at('qmp')).mode & 0o777).toBe(0o600);
    const talk = await qmp(at('qmp'));
    expect(await talk('qmp_capabilities')).toEqual({ return: {} });
    expect(readFileSync(at('pid'), 'utf8')).toBe(`${String(child.pid)}\n`);
    expect(await talk('query-chardev')).toEqual({
      return: [{ 'frontend-open': true, filename: `unix:${at('qmp')},server=on`, label: 'c' }],
    });
    const graph = testGraph();
    const url = `nbd+unix:///disk?socket=${at('nbd')}`;
    const backend = await graph.openBackend({ filename: url, flags: { writable: true } });
    await backend.write(4096, filled(4096, 0x5a));
    await backend.close();
    child.kill('SIGTERM');
    expect(await ended).toBe(0);
    expect(existsSync(at('pid'))).toBe(false);
    expect(existsSync(at('qmp'))).toBe(false);
    expect(existsSync(at('nbd'))).toBe(false);
    const check = await runOk(binPath('vdisk-img'), ['check', at('d.qcow2')]);
    expect(check.stdout).toContain('No errors were found');
    const written = await graph.openBackend({ filename: at('d.qcow2') });
    expect(await readBytes(written, 4096, 4096)).toEqual(new Uint8Array(4096).fill(0x5a));
    await written.close();
  });

  it('SIGTERM cancels the jobs that run, and both images are sound', async () => {
    const dir = tempDir();
    const nodes: string[] = [];
    for (const name of ['a', 'b']) {
      const path = join(dir, name);
      await runOk(binPath('vdisk-img'), ['create', '-q', '-f', 'qcow2', path, '4M']);
      await runOk(binPath('vdisk-io'), ['-f', 'qcow2', '-c', 'write -P 7 0 4M', path]);
      const file = `file.driver=file,file.filename=${path}`;
      nodes.push('--blockdev', `driver=qcow2,node-name=${name},${file}`);
    }
    const daemon = await new DaemonProcess(program, nodes).ready();
    const slow = { sync: 'full', speed: 1, 'job-id': 'j' };
    await daemon.ok('blockdev-mirror', { ...slow, device: 'a', target: 'b' });
    daemon.child.kill('SIGTERM');
    expect(await daemon.ended).toBe(0);
    const states = daemon.lines.seen.map(({ data }) => (data as Message | undefined)?.['status']);
    expect(states).toContain('aborting');
    expect(states.at(-1)).toBe('null');
    for (const name of ['a', 'b']) {
      const { stdout } = await runOk(binPath('vdisk-img'), ['check', join(dir, name)]);
      expect(stdout).toContain('No errors were found');
    }
  });

  it('the mode of a socket can be chosen', async () => {
    const path = join(tempDir(), 'qmp');
    const chardev = `socket,id=c,path=${path},server=on,wait=off,mode=0660`;
    const daemon = new DaemonProcess(program, ['--chardev', chardev]);
    await daemon.ready();
    expect(statSync(path).mode & 0o777).toBe(0o660);
    expect(await daemon.quit()).toBe(0);
  });

  it('--daemonize returns when all is ready; quit ends what it left', async () => {
    const dir = tempDir();
    const path = join(dir, 'qmp');
    const chardev = `socket,id=c,path=${path},server=on,wait=off`;
    const args = [
      '--daemonize',
      '--chardev',
      chardev,
      '--monitor',
      'c',
      '--pidfile',
      join(dir, 'p'),
    ];
    const { status, stdout, stderr } = await run(program, args);
    expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: '', stderr: '' });
    expect(existsSync(join(dir, 'p'))).toBe(true);
    const talk = await qmp(path);
    await talk('qmp_capabilities');
    expect(await talk('quit')).toEqual({ return: {} });
    while (existsSync(join(dir, 'p'))) await pause(10);
    const wrong = await run(program, ['--daemonize', '--blockdev', 'foo']);
    expect(wrong.status).toBe(1);
    expect(wrong.stderr).toContain("does not accept value 'foo'");
  });

  it('one listening socket serves one client after the other', async () => {
    const path = join(tempDir(), 'qmp');
    const chardev = `socket,id=c,path=${path},server=on,wait=off`;
    const daemon = new DaemonProcess(program, ['--chardev', chardev, '--monitor', 'c']);
    await daemon.ready();
    const lines = [new Lines(), new Lines()];
    const sockets = lines.map((each) => {
      const socket = connect(path);
      socket.on('data', (piece) => {
        each.push(piece);
      });
      return socket;
    });
    await lines[0]?.until((seen) => seen.length === 1);
    expect(lines[1]?.seen).toEqual([]);
    sockets[0]?.destroy();
    await lines[1]?.until((seen) => seen.length === 1);
    sockets[1]?.destroy();
    expect(await daemon.quit()).toBe(0);
  });

  it('quit is answered when exports are closed', async () => {
    const path = join(tempDir(), 'nbd');
    const daemon = new DaemonProcess(program, [
      ...NULL,
      ...['--nbd-server', `addr.type=unix,addr.path=${path}`, '--export', 'nbd,id=n,node-name=n'],
    ]);
    await daemon.ready();
    const told = await daemon.talk({ execute: 'quit' });
    expect(told.map((each) => each['event'] ?? each['return'])).toEqual([
      'BLOCK_EXPORT_DELETED',
      {},
    ]);
    expect(await daemon.ended).toBe(0);
  });

  it('ends without waiting for clients of NBD that do nothing', async () => {
    const path = join(tempDir(), 'nbd');
    const daemon = new DaemonProcess(program, [
      ...NULL,
      ...['--nbd-server', `addr.type=unix,addr.path=${path}`, '--export', 'nbd,id=n,node-name=n'],
    ]);
    await daemon.ready();
    const backend = await testGraph().openBackend({ filename: `nbd+unix:///n?socket=${path}` });
    daemon.child.kill('SIGTERM');
    expect(await daemon.ended).toBe(0);
    expect(daemon.lines.seen.some((each) => each['event'] === 'BLOCK_EXPORT_DELETED')).toBe(true);
    await backend.close();
  });
});

describe('secrets', () => {
  it('reach images by their ID', async () => {
    const dir = tempDir();
    const disk = join(dir, 'd.luks');
    writeFileSync(join(dir, 'key'), 'hush');
    const secret = ['--object', `secret,id=s,file=${join(dir, 'key')}`];
    const create = ['create', '-q', ...secret, '-f', 'luks', '-o', 'key-secret=s,iter-time=10'];
    await runOk(binPath('vdisk-img'), [...create, disk, '1M']);
    const daemon = await new DaemonProcess(program, secret).ready();
    const luks = { driver: 'luks', 'node-name': 'l', file: { driver: 'file', filename: disk } };
    expect(await daemon.execute('blockdev-add', luks)).toMatchObject({ error: {} });
    expect(await daemon.execute('blockdev-add', { ...luks, 'key-secret': 's' })).toEqual({
      return: {},
    });
    expect(await daemon.quit()).toBe(0);
  });
});
