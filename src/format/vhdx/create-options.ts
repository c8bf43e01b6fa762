/** Creation options of the vhdx format. */
import { createOptions } from '../../options/create-options.js';

export const vhdxCreateOptions = createOptions({
  size: { type: 'size', help: 'Virtual disk size, at most 64 TiB' },
  log_size: { type: 'size', default: '1048576', help: 'Bytes of the log, whole MiB' },
  block_size: {
    type: 'size',
    default: '0',
    help: 'Bytes of a block, 1 MiB to 256 MiB; 0: by the size of the disk',
  },
  subformat: {
    type: 'str',
    values: ['dynamic', 'fixed'],
    help: 'Type of the disk: dynamic (grows, the default) or fixed',
  },
  block_state_zero: {
    type: 'bool',
    help: 'Blocks of a new dynamic disk are marked as zero (the default), or as not there',
  },
});
