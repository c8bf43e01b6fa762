/** Creation options of the vdi format, with QEMU's names and defaults. */
import { createOptions } from '../../options/create-options.js';

export const vdiCreateOptions = createOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  static: { type: 'bool', default: 'off', help: 'VDI static (pre-allocated) image' },
});
