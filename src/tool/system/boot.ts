/** `-boot`, all of them together. */
import { parseInteger } from '../../lib/sizes.js';
import type { BootOptions } from '../../machine/boot.js';
import { optBool } from '../../options/opt-values.js';
import { OptionError } from '../../options/option-error.js';
import { parseOpts } from '../../options/qemu-opts.js';

/** Throws OptionError. */
export function readBoot(texts: readonly string[], checkFloppy: boolean): BootOptions {
  let boot: BootOptions = { checkFloppy };
  for (const text of texts) {
    const { values } = parseOpts(text, { implied: 'order' });
    for (const [name, value] of values) boot = { ...boot, ...readOne(name, value) };
  }
  return boot;
}

function readOne(name: string, value: string): BootOptions {
  switch (name) {
    case 'order':
    case 'once':
      return { [name]: readOrder(value) };
    case 'menu':
    case 'strict':
      return { [name]: optBool(`boot.${name}`, value) };
    case 'splash-time':
      return { menuWaitMs: milliseconds(name, value, 0) };
    case 'reboot-timeout':
      return { retryMs: milliseconds('reboot timeout', value, -1, name) };
    case 'splash':
      throw new OptionError(`Parameter 'boot.${name}' is not supported`);
    default:
      throw new OptionError(`Parameter 'boot.${name}' is unexpected`);
  }
}

/** Letters of kinds of drives, of which firmware has three places. */
function readOrder(letters: string): string {
  const seen = new Set<string>();
  for (const letter of letters) {
    if (!/[a-p]/.test(letter)) throw new OptionError(`Invalid boot device '${letter}'`);
    if (seen.has(letter)) throw new OptionError(`Boot device '${letter}' was given twice`);
    seen.add(letter);
  }
  if (letters.length > 3) throw new OptionError('Too many boot devices for PC');
  for (const letter of letters) {
    if (!'abcdn'.includes(letter)) throw new OptionError(`Invalid boot device for PC: '${letter}'`);
  }
  return letters;
}

function milliseconds(title: string, text: string, least: number, name = title): number {
  const value = parseInteger(text);
  if (value === undefined) throw new OptionError(`Parameter 'boot.${name}' expects integer`);
  if (value >= least && value <= 0xffff) return Number(value);
  const rule = `it should be a value between ${String(least)} and 65535`;
  throw new OptionError(`${title} is invalid,${rule}`);
}
