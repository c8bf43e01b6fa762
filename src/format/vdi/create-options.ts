/** Creation options of the vdi format, with QEMU's names and defaults. */
import { createdOnFile, preallocMode } from '../../block/blockdev-types.js';
import type { BlockdevCreate } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { createOptions } from '../../options/create-options.js';
import { t } from '../../options/schema.js';
import { tooLarge } from './header.js';

export const vdiCreateOptions = createOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  static: { type: 'bool', default: 'off', help: 'VDI static (pre-allocated) image' },
});

/** What blockdev-create takes; preallocated metadata is what `-o static` makes. */
export const vdiBlockdevCreate: BlockdevCreate = {
  decl: t.struct('BlockdevCreateOptionsVdi', {
    ...createdOnFile,
    preallocation: t.optional(preallocMode),
  }),
  tooLarge,
  values: ({ preallocation }) => {
    if (preallocation === undefined || preallocation === 'off') return { preallocation: 'off' };
    if (preallocation === 'metadata') return { static: true, preallocation: 'off' };
    throw new BlockError('EINVAL', 'Preallocation mode not supported for vdi');
  },
};
