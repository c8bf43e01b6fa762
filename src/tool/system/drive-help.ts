/** `-drive format=help`. */
import { drivers } from '../../catalog/drivers.js';
import { splitOpts } from '../../options/qemu-opts.js';

/** The text that is asked for; undefined: the argument describes a drive. */
export function driveHelp(text: string): string | undefined {
  const isAsked = splitOpts(text).some(
    ({ name, value }) => name === 'format' && (value === 'help' || value === '?'),
  );
  if (!isAsked) return undefined;
  const names = drivers.map(({ name }) => name).sort();
  const list = names.join(' ');
  return `Supported formats: ${list}\nSupported formats (read-only): ${list}\n`;
}
