/** Creation options of the vpc format. */
import { createOptions } from '../../options/create-options.js';

export const vpcCreateOptions = createOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  subformat: {
    type: 'str',
    values: ['dynamic', 'fixed'],
    help: 'Type of the disk: dynamic (grows, the default) or fixed',
  },
  force_size: {
    type: 'bool',
    help: 'Take the size as given rather than the nearest one that a CHS geometry has',
  },
});
