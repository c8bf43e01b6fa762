/** Options of the driver vvfat, and `fat:…` as a file name. */
import type { NodeOptions } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';

/** QMP: BlockdevOptionsVVFAT. */
export const vvfatOptions = t.struct('BlockdevOptionsVVFAT', {
  dir: t.str({ doc: 'folder that is shown as a FAT disk' }),
  'fat-type': t.optional(
    t.int({ bits: 64 }, { doc: 'bits of a FAT entry: 12, 16 or 32; by default 12 for a floppy' }),
  ),
  floppy: t.optional(
    t.bool({ doc: 'a floppy disk instead of a hard disk with one partition (default: off)' }),
  ),
  label: t.optional(t.str({ doc: 'name of the volume, up to 11 bytes (default: QEMU VVFAT)' })),
  rw: t.optional(t.bool({ doc: 'allow writing, which is not supported (default: off)' })),
});

export type VvfatOptions = Infer<typeof vvfatOptions>;

/**
 * `fat:[floppy:][12:|16:|32:][rw:]DIR`. What stands behind the last colon is the folder, as in
 * QEMU: one with a colon in its name can only be given as `dir`. Words of no meaning here (`ro`)
 * are left out, and of two types the wider one counts. Throws EINVAL for other names.
 */
export function parseVvfatFilename(filename: string): NodeOptions {
  if (!filename.startsWith('fat:')) {
    throw new BlockError('EINVAL', "File name string must start with 'fat:'");
  }
  const words = filename.split(':');
  const dir = words.at(-1) ?? '';
  const given = new Set(words.slice(1, -1));
  const type = [32, 16, 12].find((bits) => given.has(String(bits)));
  return {
    'fat-type': type ?? 0,
    floppy: given.has('floppy'),
    rw: given.has('rw'),
    dir,
  };
}
