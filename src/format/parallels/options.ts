/** Runtime options: how the file grows while the image is written to. */
import type { NodeOptions } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { GrowthRule } from '../../block/file-growth.js';
import { fieldsOf, parseValue, t } from '../../options/schema.js';

/** Bytes by which the file grows where only the mode is given, as in QEMU. */
const PREALLOC_SIZE = 128 * 1024 * 1024;

/** As in QEMU they are no options of `blockdev-add`. */
const runtimeOptions = t.struct('parallels', {
  'prealloc-mode': t.optional(
    t.str({ doc: 'grow the file with its blocks allocated (falloc) or by a hole (truncate)' }),
  ),
  'prealloc-size': t.optional(
    t.size({ doc: 'bytes by which the file grows ahead; less than a cluster counts as one' }),
  ),
});

export const parallelsOptionNames = Object.keys(fieldsOf(runtimeOptions));

/** What was asked for; undefined: nothing. Throws EINVAL in QEMU's words. */
export function growthRule(options: NodeOptions, clusterBytes: number): GrowthRule | undefined {
  const own = parallelsOptionNames.filter((name) => options[name] !== undefined);
  const given = Object.fromEntries(own.map((name) => [name, options[name]]));
  const parsed = parseValue(runtimeOptions, given, { from: 'opts' });
  const { 'prealloc-mode': mode, 'prealloc-size': bytes } = parsed;
  if (mode !== undefined && mode !== 'falloc' && mode !== 'truncate') {
    throw new BlockError('EINVAL', `invalid parameter value: ${mode}`);
  }
  if (mode === undefined && bytes === undefined) return undefined;
  const stepBytes = Math.max(bytes ?? PREALLOC_SIZE, clusterBytes);
  return { stepBytes, allocates: mode !== 'truncate' };
}
