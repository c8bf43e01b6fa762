// Goal: the human monitor takes lines and prints texts as QEMU's does. Method: its pieces alone,
// and vdisk-system with the same lines as qemu-system-x86_64 10 was given once (the texts are that
// one's).
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readHmpArguments } from '../../src/monitor/hmp/arguments.js';
import { hmpCommands, infoCommands } from '../../src/monitor/hmp/commands/index.js';
import { parseAddress } from '../../src/monitor/hmp/commands/nbd.js';
import { LineEditor } from '../../src/monitor/hmp/line-editor.js';
import { binPath, run, runOk, tempDir } from '../support/index.js';

const read = (declaration: string, text: string): Record<string, unknown> =>
  Object.fromEntries(readHmpArguments('cmd', declaration, text));

describe('arguments', () => {
  it('are words, numbers, sizes, flags and what is left', () => {
    expect(read('force:-f,device:B,size:o', '-f d0 2')).toEqual({
      force: true,
      device: 'd0',
      size: 2 << 20,
    });
    expect(read('device:B,size:o', 'd0 64k')).toEqual({ device: 'd0', size: 65536 });
    expect(read('a:s,b:s?', '"x \\"y\\" \\n" ')).toEqual({ a: 'x "y" \n' });
    expect(read('object:S', '  secret,id=a,data=x y ')).toEqual({
      object: 'secret,id=a,data=x y ',
    });
    expect(read('n:l,i:i', '-5 0x10')).toEqual({ n: -5, i: 16 });
    expect(read('on:b', 'off')).toEqual({ on: false });
    expect(read('all:-a,writable:-w,uri:s', '-w x')).toEqual({ writable: true, uri: 'x' });
  });

  it.each([
    ['device:B', '', 'cmd: block device name expected'],
    ['file:F', '', 'cmd: filename expected'],
    ['text:s', '', 'cmd: string expected'],
    ['size:o', 'x', 'invalid size'],
    ['text:s', '"x', 'unterminated string'],
    ['text:s', '"\\x"', "unsupported escape code: '\\x'"],
    ['', 'x', 'cmd: extraneous characters at the end of line'],
    ['force:-f,device:B', '-x d0', 'cmd: unsupported option -x'],
    ['on:b', 'x', "Expected 'on' or 'off'"],
    ['n:i', '0x1ffffffff', 'integer is for 32-bit values'],
  ])('that %s does not take: %s', (declaration, text, message) => {
    expect(() => read(declaration, text)).toThrow(message);
  });

  it('of servers name sockets', () => {
    expect(parseAddress('unix:/a')).toEqual({ type: 'unix', data: { path: '/a' } });
    expect(parseAddress('localhost:10')).toEqual({
      type: 'inet',
      data: { host: 'localhost', port: '10' },
    });
    expect(parseAddress('[::1]:10,ipv6=on')).toEqual({
      type: 'inet',
      data: { host: '::1', port: '10', ipv6: true },
    });
    expect(() => parseAddress('localhost')).toThrow("error parsing address 'localhost'");
  });
});

describe('lines are edited', () => {
  const type = (bytes: string): { shown: string; lines: string[] } => {
    const lines: string[] = [];
    let shown = '';
    const editor = new LineEditor({
      prompt: '> ',
      write: (text) => {
        shown += text;
      },
      onLine: (line) => {
        lines.push(line);
      },
    });
    editor.prompt();
    for (const byte of Buffer.from(bytes)) editor.type(byte);
    return { shown, lines };
  };

  it('and shown as QEMU shows them', () => {
    expect(type('in\n')).toEqual({
      shown: '> i\x1b[K\x1b[Din\x1b[K\n',
      lines: ['in'],
    });
  });

  it.each([
    ['ab\x08c\n', 'ac'],
    ['bc\x01a\n', 'abc'],
    ['ac\x1b[Db\n', 'abc'],
    ['ac\x1b[D\x1b[Cx\n', 'acx'],
    ['xabc\x01\x04\n', 'abc'],
    ['abc\x1b[D\x1b[3~\n', 'ab'],
    ['one two\x17x\n', 'one x'],
    ['caf\u00e9\n', 'café'],
  ])('%j is %s', (bytes, line) => {
    expect(type(bytes).lines).toEqual([line]);
  });

  it('and remembered', () => {
    expect(type('a\nb\n\x1b[A\x1b[A\n\x1b[A\x1b[B\x1b[A\x1b[A\n').lines).toEqual([
      'a',
      'b',
      'a',
      'b',
    ]);
  });
});

describe('commands', () => {
  it('have names of their own and help', () => {
    for (const list of [hmpCommands, infoCommands]) {
      const names = list.flatMap(({ name }) => name.split('|'));
      expect(new Set(names).size).toBe(names.length);
      for (const { help, args, params } of list) {
        expect(help).not.toBe('');
        if (args !== '') expect(params).not.toBe('');
      }
    }
  });
});

/** What a program answers to lines, by QMP's human-monitor-command; and what it prints. */
async function converse(
  program: string,
  options: readonly string[],
  lines: readonly string[],
): Promise<{ replies: string[]; printed: string; events: string[] }> {
  const requests = [
    { execute: 'qmp_capabilities' },
    ...lines.map((line) => ({
      execute: 'human-monitor-command',
      arguments: { 'command-line': line },
    })),
    { execute: 'quit' },
  ];
  const args = ['-M', 'none', '-nodefaults', '-display', 'none', '-qmp', 'stdio', ...options];
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'ignore'] });
  let text = '';
  child.stdout.on('data', (piece: Buffer) => {
    text += piece.toString();
  });
  child.stdin.write(requests.map((each) => JSON.stringify(each)).join('\n'));
  const status = await new Promise((resolve) => child.once('close', resolve));
  expect(status).toBe(0);
  const found = { replies: [] as string[], printed: '', events: [] as string[] };
  for (const line of text.split(/\r?\n/)) {
    const at = line.indexOf('{');
    if (at < 0) {
      if (line !== '') found.printed += `${line}\n`;
      continue;
    }
    const message = JSON.parse(line.slice(at)) as Record<string, unknown>;
    if (typeof message['event'] === 'string') found.events.push(message['event']);
    else if (typeof message['return'] === 'string') found.replies.push(message['return']);
  }
  return found;
}

/** Lines whose replies are the same texts in QEMU 10. */
const script: readonly (readonly [string, string | RegExp])[] = [
  [
    'info block',
    new RegExp(
      '^d0 \\(#block\\d{3}\\): \\S+ \\(qcow2\\)\\r\\n' +
        '    Removable device: not locked, tray closed\\r\\n' +
        '    Cache mode:       writeback\\r\\n\\r\\nd1: \\[not inserted\\]\\r\\n' +
        '    Removable device: not locked, tray closed\\r\\n$',
    ),
  ],
  [
    'info block -v d0',
    /Images:\r\nimage: \S+\r\nfile format: qcow2\r\nvirtual size: 1 MiB \(1048576 bytes\)/,
  ],
  ['info status', 'VM status: running\r\n'],
  ['info name', ''],
  ['info uuid', '00000000-0000-0000-0000-000000000000\r\n'],
  ['info foo', "unknown command: 'info foo'\r\n"],
  ['foo', "unknown command: 'foo'\r\n"],
  [
    'block_resize',
    'block_resize: block device name expected\r\nTry "help block_resize" for more information\r\n',
  ],
  ['block_resize d0 2', ''],
  ['block_resize d0 x', 'invalid size\r\nTry "help block_resize" for more information\r\n'],
  ['info block-jobs', 'No active jobs\r\n'],
  ['info snapshots', 'There is no snapshot available.\r\n'],
  ['qemu-io d0 "write -P 5 0 64k"', ''],
  ['snapshot_blkdev_internal d0 one', ''],
  ['info snapshots', /^List of snapshots present on all disks:\r\nID +TAG +.*\r\n-- +one /],
  ['snapshot_delete_blkdev_internal d0 one', ''],
  [
    'drive_add 0 if=none,id=d2,file=/nonexistent/x',
    "Could not open '/nonexistent/x': No such file or directory\r\n",
  ],
  ['drive_add 0 if=none,id=d2', 'OK\r\n'],
  ['drive_add 0 if=none,id=d2', "Duplicate ID 'd2' for drive\r\n"],
  ['drive_del d2', ''],
  ['drive_del d9', "Device 'd9' not found\r\n"],
  ['drive_add -n 0 driver=null-co,node-name=n0', ''],
  ['info block n0', 'n0: null-co:// (null-co)\r\n    Cache mode:       writeback\r\n'],
  ['drive_del n0', ''],
  ['block_set_io_throttle d0 0 0 0 100 0 0', ''],
  [
    'info block d0',
    /I\/O throttling: {3}bps=0 bps_rd=0 bps_wr=0 bps_max=0 .* iops=100 .* group=d0\r\n/,
  ],
  ['block_set_io_throttle d0 0 0 0 0 0 0', ''],
  ['eject -x d0', 'eject: unsupported option -x\r\nTry "help eject" for more information\r\n'],
  ['snapshot_blkdev d0', "Error: Parameter 'snapshot-file' is missing\r\n"],
  ['block_job_cancel d0', "Error: Block job 'd0' not found\r\n"],
  ['eject d0', ''],
  ['commit d0', "Device 'd0' has no medium\r\n"],
  ['commit d9', "Device 'd9' not found\r\n"],
  ['commit all', ''],
  ['block_set_io_throttle d0 0 0 0 1 0 0', 'Error: Device has no medium\r\n'],
  ['nbd_server_start -w x', 'Error: -w only valid together with -a\r\n'],
  ['nbd_server_start localhost', "Error: error parsing address 'localhost'\r\n"],
  ['nbd_server_stop', 'Error: NBD server not running\r\n'],
  ['qemu-io nope "read 0 1"', "Error: Cannot find device='' nor node-name='nope'\r\n"],
  ['stop', ''],
  ['info status', 'VM status: paused\r\n'],
  ['cont', ''],
  ['object_add secret,id=s0,data=x', ''],
  ['object_del s0', ''],
  ['object_del s0', "Error: object 's0' not found\r\n"],
];

it('lines are answered in QEMU’s words', async () => {
  const disk = join(tempDir(), 'd.qcow2');
  await runOk(binPath('vdisk-img'), ['create', '-q', '-f', 'qcow2', disk, '1M']);
  const drives = ['-drive', `if=none,id=d0,file=${disk}`, '-drive', 'if=none,id=d1'];
  const lines = script.map(([line]) => line);
  const ours = await converse(binPath('vdisk-system'), drives, lines);
  expect(ours.replies.length).toBe(lines.length);
  for (const [index, [line, wanted]] of script.entries()) {
    const reply = ours.replies[index] ?? '';
    if (typeof wanted === 'string') expect([line, reply]).toEqual([line, wanted]);
    else expect(reply, line).toMatch(wanted);
  }
  expect(ours.printed).toMatch(/^wrote 65536\/65536 bytes at offset 0\n64 KiB, 1 ops;/);
  expect(ours.events).toEqual(['STOP', 'RESUME', 'SHUTDOWN']);
});

it('a terminal sees what QEMU’s shows', async () => {
  const args = ['-M', 'none', '-nodefaults', '-nographic', '-monitor', 'stdio'];
  const child = spawn(binPath('vdisk-system'), args, { stdio: ['pipe', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.on('data', (piece: Buffer) => {
    text += piece.toString();
  });
  child.stdin.write('q\n');
  expect(await new Promise((resolve) => child.once('close', resolve))).toBe(0);
  expect(text).toBe("QEMU 10.0.2 monitor - type 'help' for more information\r\n(qemu) q\x1b[K\r\n");
});

it('what cannot be is refused by name', async () => {
  const refused: readonly (readonly [readonly string[], string])[] = [
    [['-foo'], '-foo: invalid option'],
    [['-drive'], '-drive: requires an argument'],
    [['-pflash', 'x'], '-pflash x: is not supported'],
    [['-accel', 'foo'], '-accel foo: invalid accelerator foo'],
    [['-machine', 'foo'], '-machine foo: unsupported machine type'],
    [['-drive', 'if=foo'], "-drive if=foo: unsupported bus type 'foo'"],
    [['-drive', 'if=none,media=x'], "-drive if=none,media=x: 'x' invalid media"],
    [['-drive', 'if=none,cache=x'], '-drive if=none,cache=x: invalid cache option'],
    [['-drive', 'if=none,aio=x'], '-drive if=none,aio=x: invalid aio option'],
    [['-drive', 'if=none,werror=x'], "-drive if=none,werror=x: 'x' invalid write error action"],
    [
      ['-drive', 'if=none,bps=1,bps_rd=1'],
      '-drive if=none,bps=1,bps_rd=1: bps/iops/max total values and read/write values cannot be ' +
        'used at the same time',
    ],
    [
      ['-drive', 'if=none,file=/nonexistent/x'],
      "-drive if=none,file=/nonexistent/x: Could not open '/nonexistent/x': " +
        'No such file or directory',
    ],
    [['-mon', 'chardev=x'], '-mon chardev=x: chardev "x" not found'],
  ];
  for (const [args, message] of refused) {
    const result = await run(binPath('vdisk-system'), ['-M', 'none', '-nodefaults', ...args]);
    expect(result.stderr).toBe(`vdisk-system: ${message}\n`);
    expect(result.status).toBe(1);
  }
});
