// -display curses: the guest's text screen in a terminal, and the terminal's keys at the guest's
// keyboard; the terminal is as it was when the program has ended. Method: the program in a
// pseudo-terminal, whose contents a small model of a terminal keeps; firmware is the guest.
import { expect, it } from 'vitest';
import { binPath, run } from '../support/index.js';
import { requiresFirmware } from '../support/guest.js';
import type { InTerminal } from '../support/terminal.js';
import { inTerminal } from '../support/terminal.js';

const program = binPath('vdisk-system');
const LIMIT = 60_000;
const SOON = { timeout: LIMIT };

/** Firmware that has nothing to boot from, and its menu. */
async function firmware(size: readonly [number, number] = [100, 30]): Promise<InTerminal> {
  const started = await inTerminal(program, ['-m', '32', '-display', 'curses'], size);
  return started;
}

const shows = (started: InTerminal, text: string): Promise<void> =>
  expect.poll(() => started.terminal.lines().join('\n'), SOON).toContain(text);

async function isRestored({ terminal, settings }: InTerminal): Promise<void> {
  expect(terminal.isAlternate).toBe(false);
  expect(terminal.isCursorVisible).toBe(true);
  expect(await settings()).toMatch(/ icanon[\s\S]* echo /);
}

requiresFirmware('script', 'stty')('-display curses', () => {
  it(
    'shows what firmware writes; resized, monitor, help; Ctrl-A X gives the terminal back',
    async () => {
      const guest = await firmware();
      await shows(guest, 'SeaBIOS (version');
      await shows(guest, 'No bootable device.');
      expect(await guest.settings()).toContain('-icanon');
      await guest.resize(20, 3);
      await expect.poll(() => guest.terminal.lines().length, SOON).toBeLessThanOrEqual(3);
      await guest.resize(100, 30);
      await shows(guest, 'SeaBIOS (version');
      guest.type('\x01h');
      await shows(guest, 'C-a x    exit emulator');
      guest.type('\x01c');
      await expect.poll(() => guest.terminal.isAlternate, SOON).toBe(false);
      guest.type('info status\r');
      await expect.poll(() => guest.terminal.outside, SOON).toContain('VM status: running');
      guest.type('\x01c');
      await shows(guest, 'No bootable device.');
      guest.type('\x01x');
      expect(await guest.ended).toBe(0);
      expect(guest.terminal.outside).toContain('QEMU: Terminated');
      await isRestored(guest);
    },
    LIMIT,
  );

  it(
    'keys reach the guest: Escape opens the boot menu; a signal gives the terminal back',
    async () => {
      const args = ['-m', '32', '-display', 'curses', '-boot', 'menu=on,splash-time=60000'];
      const guest = await inTerminal(program, args, [80, 25]);
      await shows(guest, 'for boot menu');
      guest.type('\x1b');
      await shows(guest, 'Select boot device');
      guest.signal('SIGTERM');
      await guest.ended;
      await isRestored(guest);
    },
    LIMIT,
  );

  it.each([
    [['-display', 'curses'], 'needs a terminal as standard input and output'],
    [['-display', 'curses', '-accel', 'qtest'], 'no guest runs here'],
    [['-display', 'curses', '-nographic'], '-nographic cannot be used with -display curses'],
    [['-display', 'curses,charset=x'], "Parameter 'charset' of the display curses"],
    [['-display', 'gtk'], "Display 'gtk' is not available, please choose one of: none, curses"],
  ])('%j without a terminal is refused', async (args, text) => {
    const { status, stderr } = await run(program, args);
    expect(stderr).toContain(text);
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
    expect(status).toBe(1);
  });
});
