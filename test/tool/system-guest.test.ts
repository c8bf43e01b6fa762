// vdisk-system with a guest that really runs: firmware and a boot sector, no system. What the guest
// says arrives where `-serial` says, and the program ends as its options tell it to.
// Method: the program itself, as a user or a QMP client starts it.
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { binPath, run, runOk, tempDir } from '../support/index.js';
import { bootDisk, requiresFirmware } from '../support/guest.js';

const program = binPath('vdisk-system');
const LIMIT = 120_000;

async function disk(folder: string, text: string): Promise<string> {
  const raw = join(folder, 'disk.raw');
  const path = join(folder, 'disk.qcow2');
  writeFileSync(raw, bootDisk(text));
  await runOk(binPath('vdisk-img'), ['convert', '-f', 'raw', '-O', 'qcow2', raw, path]);
  return path;
}

interface Running {
  /** What it has written to standard output. */
  text(this: void): string;
  type(this: void, text: string): void;
  readonly ended: Promise<number | null>;
}

function start(args: readonly string[]): Running {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  let text = '';
  child.stdout.on('data', (piece: Buffer) => (text += piece.toString('latin1')));
  return {
    text: () => text,
    type: (typed) => void child.stdin.write(typed),
    ended: new Promise((resolve) => child.once('close', resolve)),
  };
}

requiresFirmware()('a guest under vdisk-system', () => {
  it(
    'boots from -hda; -serial file: has what it said; the program ends with it',
    async () => {
      const folder = tempDir();
      const path = await disk(folder, 'said to a file');
      const out = join(folder, 'serial');
      const args = ['-m', '32', '-hda', path, '-display', 'none', '-serial', `file:${out}`];
      const { status, stdout, stderr } = await run(program, args, { timeout: LIMIT });
      expect([status, stdout, stderr]).toEqual([0, '', '']);
      expect(readFileSync(out, 'utf8')).toBe('said to a file');
    },
    LIMIT,
  );

  it(
    '-S waits for cont; QMP hears of RESUME and SHUTDOWN',
    async () => {
      const path = await disk(tempDir(), '');
      const virtio = ['-drive', `if=virtio,file=${path}`];
      const guest = start(['-S', '-m', '32', ...virtio, '-display', 'none', '-qmp', 'stdio']);
      const ask = (execute: string): void => {
        guest.type(`{"execute":"${execute}"}\n`);
      };
      ask('qmp_capabilities');
      ask('query-status');
      await expect.poll(guest.text, { timeout: LIMIT }).toContain('"status": "prelaunch"');
      ask('cont');
      expect(await guest.ended).toBe(0);
      const events = [...guest.text().matchAll(/"event": "([A-Z]+)"/g)].map((each) => each[1]);
      expect(events).toEqual(['RESUME', 'SHUTDOWN']);
      expect(guest.text()).toContain('"reason": "guest-shutdown"');
    },
    LIMIT,
  );

  it(
    '-no-shutdown stays; a reset under it starts the guest again',
    async () => {
      const path = await disk(tempDir(), '');
      const quiet = ['-m', '32', '-hda', path, '-display', 'none', '-monitor', 'stdio'];
      const guest = start([...quiet, '-no-shutdown']);
      await expect
        .poll(
          () => {
            guest.type('info status\n');
            return guest.text();
          },
          { timeout: LIMIT, interval: 200 },
        )
        .toContain('VM status: paused (shutdown)');
      guest.type('cont\n');
      await expect.poll(guest.text).toContain('Resetting the Virtual Machine is required');
      guest.type('system_reset\ncont\ninfo status\n');
      await expect.poll(guest.text).toContain('VM status: running');
      guest.type('quit\n');
      expect(await guest.ended).toBe(0);
    },
    LIMIT,
  );

  it(
    '-nographic: serial port and monitor share the terminal',
    async () => {
      const path = await disk(tempDir(), 'to the terminal');
      const guest = start(['-m', '32', '-hda', path, '-nographic', '-no-shutdown']);
      await expect.poll(guest.text, { timeout: LIMIT }).toContain('to the terminal');
      expect(guest.text()).toContain('SeaBIOS');
      expect(guest.text()).not.toContain('(qemu)');
      guest.type('\x01c');
      await expect.poll(guest.text).toContain('(qemu)');
      guest.type('\x01h\x01x');
      expect(await guest.ended).toBe(0);
      expect(guest.text()).toContain('C-a c    switch between console and monitor');
      expect(guest.text()).toMatch(/QEMU: Terminated\r\n$/);
    },
    LIMIT,
  );

  it(
    '-snapshot leaves the image as it is',
    async () => {
      const path = await disk(tempDir(), 'x');
      const before = readFileSync(path);
      const args = ['-m', '32', '-hda', path, '-snapshot', '-display', 'none', '-serial', 'stdio'];
      expect((await run(program, args, { timeout: LIMIT })).stdout).toBe('x');
      expect(readFileSync(path).equals(before)).toBe(true);
    },
    LIMIT,
  );

  it.each([
    [['-append', 'x'], '-append only allowed with -kernel option'],
    [['-initrd', 'x'], '-initrd only allowed with -kernel option'],
    [['-kernel', '/nonexistent'], "could not load '/nonexistent': No such file or directory"],
    [['-kernel', binPath('vdisk')], 'The kernel is no bzImage for x86'],
    [['-bios', 'nowhere.bin'], "Could not find firmware 'nowhere.bin'"],
    [['-m', '2048'], 'The processor v86 takes less than 2 GiB of RAM'],
    [['-M', 'q35'], '-machine q35: guests run on the machine pc; q35 is for -accel qtest'],
    [['-serial', 'file:/nonexistent/x'], "Could not open '/nonexistent/x'"],
  ])(
    '%j is refused',
    async (args, text) => {
      const { status, stderr } = await run(program, ['-display', 'none', ...args]);
      expect(stderr).toContain(text);
      expect(stderr.trimEnd().split('\n')).toHaveLength(1);
      expect(status).toBe(1);
    },
    LIMIT,
  );
});
