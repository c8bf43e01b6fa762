// Goal: what is wrong on vdisk-system's command line ends it with one line and status 1, and what
// it cannot do is refused by name. Method: the program itself.
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { DaemonProcess } from '../qmp/support.js';
import { binPath, run, runOk, tempDir } from '../support/index.js';

const program = binPath('vdisk-system');
const bare = ['-nodefaults', '-accel', 'qtest', '-display', 'none'];

it.each([
  [['-m', '64,slots=2'], "Option 'slots' is not supported"],
  [['-m', '64,maxmem=1G'], "Option 'maxmem' is not supported"],
  [['-m', '64,foo=1'], "Invalid parameter 'foo'"],
  [['-display', 'curses'], '-display curses: no guest runs here'],
  [['-boot', 'order=xy'], "Invalid boot device 'x'"],
  [['-boot', 'order=b', '-boot', 'once=e'], "Invalid boot device for PC: 'e'"],
  [['-boot', 'dd'], "Boot device 'd' was given twice"],
  [['-boot', 'acdn'], 'Too many boot devices for PC'],
  [['-boot', 'menu=1'], "Parameter 'boot.menu' expects 'on' or 'off'"],
  [['-boot', 'strict=maybe'], "Parameter 'boot.strict' expects 'on' or 'off'"],
  [['-boot', 'splash=x.bmp'], "Parameter 'boot.splash' is not supported"],
  [['-boot', 'splash-time=65536'], 'it should be a value between 0 and 65535'],
  [['-boot', 'reboot-timeout=-2'], 'it should be a value between -1 and 65535'],
  [['-boot', 'reboot-timeout=x'], "Parameter 'boot.reboot-timeout' expects integer"],
  [['-boot', 'foo=1'], "Parameter 'boot.foo' is unexpected"],
  [['/nonexistent/disk'], "/nonexistent/disk: Could not open '/nonexistent/disk'"],
  [['-foo'], '-foo: invalid option'],
  [['--foo', '1'], '--foo: invalid option'],
  [['-serial'], '-serial: requires an argument'],
  [['-enable-kvm'], '-enable-kvm: is not supported'],
  [['-fw_cfg', 'x'], '-fw_cfg x: is not supported'],
  [['-device', 'foo'], "'foo' is not a valid device model name"],
])('%j', async (args, text) => {
  const { status, stdout, stderr } = await run(program, [...bare, ...args]);
  expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  expect(stderr).toContain(text);
  expect([status, stdout]).toEqual([1, '']);
});

it('a disk has sectors of 512 bytes whatever its image wants to be read in', async () => {
  const drive = 'file=blkdebug::null-co://,driver=blkdebug,align=65536';
  const { status, stdout, stderr } = await run(
    program,
    [...bare, '-drive', drive, '-monitor', 'stdio'],
    { input: 'qemu-io ide0-hd0 "read 512 512"\nquit\n' },
  );
  expect(stderr).toBe('');
  expect(stdout).toContain('read 512/512 bytes at offset 512');
  expect(status).toBe(0);
});

it('the tree of objects has devices, and tells their properties', async () => {
  const disk = ['-drive', 'if=none,id=d,file=null-co://', '-object', 'iothread,id=loop'];
  const device = ['-device', 'virtio-blk-pci,id=v,drive=d,serial=abc,num-queues=2'];
  const asked: readonly (readonly [string, Record<string, string>])[] = [
    ['qmp_capabilities', {}],
    ['qom-list', { path: '/machine/peripheral' }],
    ['qom-list', { path: '/objects' }],
    ['qom-list', { path: '/machine/peripheral/v' }],
    ['qom-list', { path: '/nowhere' }],
    ['qom-get', { path: 'v', property: 'serial' }],
    ['qom-get', { path: '/machine/peripheral/v', property: 'num-queues' }],
    ['qom-get', { path: '/machine/peripheral/v', property: 'type' }],
    ['qom-get', { path: '/machine/peripheral/v', property: 'queue-size' }],
    ['qom-get', { path: '/machine/peripheral/v', property: 'colour' }],
    ['quit', {}],
  ];
  const input = asked.map(([execute, values]) => JSON.stringify({ execute, arguments: values }));
  const { stdout } = await run(program, [...bare, ...disk, ...device, '-qmp', 'stdio'], {
    input: `${input.join('\n')}\n`,
  });
  const answers = stdout
    .trim()
    .split('\n')
    .map((line): unknown => JSON.parse(line))
    .filter((each) => each !== null && typeof each === 'object' && !('event' in each))
    .slice(2, -1);
  const type = { name: 'type', type: 'string' };
  const some: unknown = expect.arrayContaining([type, { name: 'serial', type: 'str' }]);
  expect(answers).toEqual([
    { return: [type, { name: 'v', type: 'child<virtio-blk-pci>' }] },
    { return: [type, { name: 'loop', type: 'child<iothread>' }] },
    { return: some },
    { error: { class: 'DeviceNotFound', desc: "Device '/nowhere' not found" } },
    { return: 'abc' },
    { return: 2 },
    { return: 'virtio-blk-pci' },
    { return: 256 },
    { error: { class: 'GenericError', desc: "Property 'virtio-blk-pci.colour' not found" } },
  ]);
});

it('-preconfig: monitors come first, and a client has the machine made', async () => {
  const disk = ['-drive', 'if=none,id=d,file=null-co://', '-device', 'virtio-blk,drive=d,id=v'];
  const args = [...bare, '-preconfig', ...disk];
  const program = new DaemonProcess(binPath('vdisk-system'), args, undefined, ['-qmp', 'stdio']);
  await program.ready();
  const early = "The command 'stop' is permitted only after machine initialization has completed";
  // Before arguments are looked at.
  for (const name of ['stop', 'device_add', 'job-pause', 'transaction', 'human-monitor-command']) {
    const desc = early.replace('stop', name);
    expect(await program.execute(name, { x: 1 })).toMatchObject({ error: { desc } });
  }
  expect(await program.ok('query-status')).toEqual({ running: false, status: 'prelaunch' });
  await program.ok('x-exit-preconfig');
  expect(program.lines.seen.map(({ event }) => event)).toContain('RESUME');
  expect(await program.ok('query-status')).toEqual({ running: true, status: 'running' });
  expect(await program.ok('query-cpus-fast')).toEqual([]);
  expect(await program.ok('qom-list', { path: '/machine/peripheral' })).toMatchObject([
    { name: 'type' },
    { name: 'v' },
  ]);
  expect(await program.execute('x-exit-preconfig')).toMatchObject({
    error: { desc: 'The command is permitted only before machine initialization' },
  });
  expect(await program.quit()).toBe(0);
});

it('a drive that no device has leaves its node to others, and can be written', async () => {
  const drive = ['-drive', 'if=none,id=d,driver=null-co,read-zeroes=on,node-name=n'];
  const device = ['-device', 'ide-hd,drive=n,id=disk'];
  const { status, stdout, stderr } = await run(
    program,
    [...bare, ...drive, ...device, '-monitor', 'stdio'],
    { input: 'info block\nqemu-io d "read 0 512"\nquit\n' },
  );
  expect(stderr).toBe('');
  expect(stdout).toContain('d (n): ');
  expect(stdout).toContain('n: json:{"read-zeroes": "on", "driver": "null-co"} (null-co)');
  expect(stdout).toContain('Attached to:      disk');
  expect(stdout).toContain('read 512/512 bytes at offset 0');
  expect(status).toBe(0);

  const alone = await run(program, [...bare, ...drive, '-monitor', 'stdio'], {
    input: 'qemu-io d "write 0 512"\nquit\n',
  });
  expect(alone.stdout).toContain('wrote 512/512 bytes at offset 0');
});

it('a snapshot of a drive is committed into the image that it made read-only', async () => {
  const cwd = tempDir();
  await runOk(binPath('vdisk-img'), ['create', '-q', '-f', 'qcow2', 'base', '1M'], { cwd });
  const lines = [
    'drive_add 0 if=none,id=d,file=base,format=qcow2',
    'snapshot_blkdev d snap qcow2',
    'qemu-io d "write -P 7 64k 64k"',
    'commit d',
    'qemu-io d "write -P 8 128k 64k"',
    'commit all',
    'quit',
  ];
  const { stdout, status } = await run(program, [...bare, '-monitor', 'stdio'], {
    cwd,
    input: `${lines.join('\n')}\n`,
  });
  expect(stdout).not.toContain('error');
  expect(status).toBe(0);
  const read = ['-f', 'qcow2', '-c', 'read -P 7 64k 64k', '-c', 'read -P 8 128k 64k', 'base'];
  const { stdout: told } = await runOk(binPath('vdisk-io'), read, { cwd });
  expect(told).not.toContain('Pattern verification failed');
});

it('drives without a name are called by their interface and place', async () => {
  const drives = ['ide,index=3', 'ide,media=cdrom', 'floppy', 'virtio', 'none'];
  const { stdout } = await run(
    program,
    [
      ...bare,
      ...drives.flatMap((each) => ['-drive', `driver=null-co,read-zeroes=on,if=${each}`]),
      ...['-monitor', 'stdio'],
    ],
    { input: 'info block\nquit\n' },
  );
  expect(stdout.match(/^\S+(?= \()/gmu)).toEqual([
    'ide1-hd1',
    'ide0-cd0',
    'floppy0',
    'virtio0',
    'none0',
  ]);
});

it.each(['qcow', 'qcow2'])('legacy encryption of %s is refused', async (format) => {
  const cwd = tempDir();
  const secret = ['--object', 'secret,id=s,data=abc'];
  const options = 'encrypt.format=aes,encrypt.key-secret=s';
  const args = ['create', '-q', ...secret, '-f', format, '-o', options, 'i', '1M'];
  await runOk(binPath('vdisk-img'), args, { cwd });
  const { status, stderr } = await run(
    program,
    [
      ...[...bare, '-object', 'secret,id=s,data=abc'],
      ...['-drive', `if=none,format=${format},file=i,encrypt.key-secret=s`],
    ],
    { cwd },
  );
  expect(stderr).toContain(
    `Use of AES-CBC encrypted ${format} images is no longer supported in system emulators`,
  );
  expect(status).toBe(1);
});

describe('-qtest-log', () => {
  const lines = [
    /^\[I \d+\.\d{6}\] OPENED$/,
    /^\[R \+\d+\.\d{6}\] endianness$/,
    /^\[S \+\d+\.\d{6}\] OK little$/,
    /^\[R \+\d+\.\d{6}\] nonsense 1$/,
    /^\[S \+\d+\.\d{6}\] FAIL Unknown command 'nonsense'$/,
    /^\[I \+\d+\.\d{6}\] CLOSED$/,
  ];
  const talk = async (more: readonly string[], cwd: string): Promise<string> => {
    const peer = new DaemonProcess(
      program,
      [...bare, '-qtest', 'unix:qtest,server=on,wait=off', ...more],
      cwd,
      ['-qmp', 'stdio'],
    );
    await peer.ready();
    const socket = connect(join(cwd, 'qtest'));
    socket.write('endianness\nnonsense 1\n');
    let answers = '';
    for await (const piece of socket) {
      answers += String(piece);
      if (answers.endsWith("'nonsense'\n")) break;
    }
    await peer.quit();
    return peer.stderr;
  };

  it('is the standard error', async () => {
    const errors = await talk([], tempDir());
    expect(errors.trimEnd().split('\n')).toEqual(
      lines.map((line) => expect.stringMatching(line) as string),
    );
  });

  it('is a file, or nothing', async () => {
    const cwd = tempDir();
    expect(await talk(['-qtest-log', 'log'], cwd)).toBe('');
    expect(readFileSync(join(cwd, 'log'), 'utf8').trimEnd().split('\n')).toEqual(
      lines.map((line) => expect.stringMatching(line) as string),
    );
    expect(await talk(['-qtest-log', 'none'], tempDir())).toBe('');
  });

  it('that cannot be written is told', async () => {
    const args = ['-qtest', 'unix:q,server=on,wait=off', '-qtest-log', '/none/log'];
    const { status, stderr } = await run(program, [...bare, ...args], { cwd: tempDir() });
    expect(stderr).toMatch(/Failed to open '\/none\/log': No such file or directory\n$/);
    expect(status).toBe(1);
  });
});
