/** Creation options of the parallels format, with QEMU's names and defaults. */
import { createOptions } from '../../options/create-options.js';

export const parallelsCreateOptions = createOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  cluster_size: { type: 'size', default: '1048576', help: 'Parallels image cluster size' },
});
