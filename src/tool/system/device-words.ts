/**
 * Where `-monitor`, `-qmp`, `-qtest` and `-serial` connect to, in QEMU's older words, as arguments
 * of `-chardev`.
 */
import { OptionError } from '../../options/option-error.js';

/** What stands in the words of a device: nothing, a device that exists, or one to be made. */
export type DeviceWords =
  | { readonly kind: 'none' }
  | { readonly kind: 'existing'; readonly id: string }
  | { readonly kind: 'new'; readonly chardev: string };

/** `id` is the name that a new device gets. Throws OptionError. */
export function readDeviceWords(words: string, id: string): DeviceWords {
  const made = (rest: string): DeviceWords => ({ kind: 'new', chardev: `${rest},id=${id}` });
  if (words === 'none') return { kind: 'none' };
  if (words.startsWith('chardev:')) {
    return { kind: 'existing', id: words.slice('chardev:'.length) };
  }
  if (words === 'null' || words === 'stdio') return made(words);
  if (words === 'vc' || words.startsWith('vc:')) return made('null');
  if (words.startsWith('mon:')) return readDeviceWords(words.slice('mon:'.length), id);
  if (words.startsWith('unix:')) {
    const [path = '', ...options] = words.slice('unix:'.length).split(',');
    return made(['socket', `path=${path}`, ...socketOptions(options)].join(','));
  }
  if (words.startsWith('tcp:')) {
    const [where = '', ...options] = words.slice('tcp:'.length).split(',');
    const found = /^(?:\[([^\]]*)\]|([^:]*)):([^:]+)$/.exec(where);
    if (found === null) throw new OptionError(`'${words}' is not a valid char driver`);
    const [, bracketed, host = '', port = ''] = found;
    const address = [`host=${bracketed ?? host}`, `port=${port}`];
    return made(['socket', ...address, ...socketOptions(options)].join(','));
  }
  throw new OptionError(`'${words}' is not a valid char driver`);
}

/** `server`, `nowait` and their likes as `name=value`. */
function socketOptions(options: readonly string[]): string[] {
  return options.map((option) => {
    if (option.includes('=')) return option;
    return option.startsWith('no') ? `${option.slice(2)}=off` : `${option}=on`;
  });
}
