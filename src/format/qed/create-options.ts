/** Creation options of the qed format, with QEMU's names and defaults. */
import { createOptions } from '../../options/create-options.js';

export const qedCreateOptions = createOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  backing_file: { type: 'str', help: 'File name of a base image' },
  backing_fmt: { type: 'str', help: 'Image format of the base image' },
  cluster_size: { type: 'size', default: '65536', help: 'Cluster size (in bytes)' },
  table_size: { type: 'size', help: 'L1/L2 table size (in clusters)' },
});
