/** `-display`: which there are, and when the one with a screen cannot be. */
import { OptionError } from '../../options/option-error.js';
import { checkTerminal } from './curses.js';
import type { GivenOption } from './options.js';

const displays = ['none', 'curses'];

/** What `-display help` says. */
export const displayHelp = `Available display backend types:\n${displays.join('\n')}\n`;

/** The kind that an argument names. Throws OptionError for what is not there. */
export function readDisplay(value: string): string {
  const [type = '', ...options] = value.split(',');
  if (!displays.includes(type)) {
    const known = displays.join(', ');
    throw new OptionError(`Display '${type}' is not available, please choose one of: ${known}`);
  }
  for (const option of options) {
    const [name = ''] = option.split('=');
    if (type === 'none') continue;
    if (option.toLowerCase() === 'charset=cp437') continue;
    throw new OptionError(`Parameter '${name}' of the display ${type} is not supported`);
  }
  return type;
}

/** The last `-display` counts; undefined: there is none. */
export function displayOf(given: readonly GivenOption[]): string | undefined {
  const last = given.findLast(({ name }) => name === 'display');
  return last?.value.split(',')[0];
}

/** Throws OptionError when the guest's screen is wanted and cannot be shown. */
export function checkDisplay(given: readonly GivenOption[], runsGuest: boolean): void {
  if (displayOf(given) !== 'curses') return;
  const has = (option: string): boolean => given.some(({ name }) => name === option);
  if (has('nographic')) throw new OptionError('-nographic cannot be used with -display curses');
  if (has('daemonize')) throw new OptionError('curses display cannot be used with -daemonize');
  if (!runsGuest) throw new OptionError('no guest runs here whose screen curses could show');
  checkTerminal();
}
