/** Creation options of the vhdx format. */
import { createdOnFile } from '../../block/blockdev-types.js';
import type { BlockdevCreate } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { createOptions } from '../../options/create-options.js';
import { t } from '../../options/schema.js';
import { Limit } from './layout.js';

export const vhdxCreateOptions = createOptions({
  size: { type: 'size', help: 'Virtual disk size; max of 64TB.' },
  log_size: { type: 'size', default: '1048576', help: 'Log size; min 1MB.' },
  block_size: {
    type: 'size',
    default: '0',
    help: 'Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.',
  },
  subformat: {
    type: 'str',
    values: ['dynamic', 'fixed'],
    help: "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
  },
  block_state_zero: {
    type: 'bool',
    help:
      "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to " +
      "'off' when using 'qemu-img convert' with subformat=dynamic.",
  },
});

const MIB = 1024 * 1024;

/** What blockdev-create takes. */
export const vhdxBlockdevCreate: BlockdevCreate = {
  decl: t.struct('BlockdevCreateOptionsVhdx', {
    ...createdOnFile,
    'log-size': t.optional(t.size({ doc: 'bytes of the log, whole MiB' })),
    'block-size': t.optional(t.size({ doc: 'bytes of a block' })),
    subformat: t.optional(t.enumOf('dynamic', 'fixed', { name: 'BlockdevVhdxSubformat' })),
    'block-state-zero': t.optional(t.bool({ doc: 'blocks of a new disk are marked as zero' })),
  }),
  tooLarge: () => 'Image size too large; max of 64TB',
  values: ({ 'log-size': log, 'block-size': block }) => {
    // Sizes of `-o` are rounded.
    for (const [what, size] of [
      ['Log', log],
      ['Block', block],
    ] as const) {
      if (typeof size !== 'number') continue;
      if (size % MIB !== 0 || (what === 'Block' && size === 0)) {
        throw new BlockError('EINVAL', `${what} size must be a multiple of 1 MB`);
      }
    }
    if (typeof block === 'number' && block > Limit.maxBlock) {
      throw new BlockError('EINVAL', `Block size must not exceed ${String(Limit.maxBlock)}`);
    }
    return {};
  },
};
