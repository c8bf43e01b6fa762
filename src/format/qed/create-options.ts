/** Creation options of the qed format, with QEMU's names and defaults. */
import { blockdevDriver, createdOnFile } from '../../block/blockdev-types.js';
import type { BlockdevCreate } from '../../block/driver.js';
import { createOptions } from '../../options/create-options.js';
import { t } from '../../options/schema.js';

export const qedCreateOptions = createOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  backing_file: { type: 'str', help: 'File name of a base image' },
  backing_fmt: { type: 'str', help: 'Image format of the base image' },
  cluster_size: { type: 'size', default: '65536', help: 'Cluster size (in bytes)' },
  table_size: { type: 'size', help: 'L1/L2 table size (in clusters)' },
});

/** What blockdev-create takes. */
export const qedBlockdevCreate: BlockdevCreate = {
  decl: t.struct('BlockdevCreateOptionsQed', {
    ...createdOnFile,
    'backing-file': t.optional(t.str({ doc: 'name of the backing file' })),
    'backing-fmt': t.optional(blockdevDriver),
    'cluster-size': t.optional(t.size({ doc: 'bytes of a cluster' })),
    'table-size': t.optional(t.int({}, { doc: 'clusters of a table' })),
  }),
};
