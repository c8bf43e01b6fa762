// Goal: what is wrong on vdisk-system's command line ends it with one line and status 1, and what
// it cannot do is refused by name. Method: the program itself.
import { expect, it } from 'vitest';
import { binPath, run } from '../support/index.js';

const program = binPath('vdisk-system');
const bare = ['-nodefaults', '-accel', 'qtest', '-display', 'none'];

it.each([
  [['-m', '64,slots=2'], "Option 'slots' is not supported"],
  [['-m', '64,maxmem=1G'], "Option 'maxmem' is not supported"],
  [['-m', '64,foo=1'], "Invalid parameter 'foo'"],
  [['-display', 'curses'], "-display curses: Display 'curses' is not available"],
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
