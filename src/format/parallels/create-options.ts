/** Creation options of the parallels format, with QEMU's names and defaults. */
import { createdOnFile } from '../../block/blockdev-types.js';
import type { BlockdevCreate, NodeOptions } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { CreateValues } from '../../options/create-options.js';
import { createOptions } from '../../options/create-options.js';
import { t } from '../../options/schema.js';

export const parallelsCreateOptions = createOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  cluster_size: { type: 'size', default: '1048576', help: 'Parallels image cluster size' },
});

/** `-o` rounds up instead. */
function checkSizes(options: NodeOptions): CreateValues {
  for (const [name, what] of [
    ['size', 'Image size'],
    ['cluster-size', 'Cluster size'],
  ] as const) {
    const value = options[name];
    if (typeof value !== 'number' || value % 512 === 0) continue;
    throw new BlockError('EINVAL', `${what} must be a multiple of 512 bytes`);
  }
  return {};
}

/** What blockdev-create takes. */
export const parallelsBlockdevCreate: BlockdevCreate = {
  decl: t.struct('BlockdevCreateOptionsParallels', {
    ...createdOnFile,
    'cluster-size': t.optional(t.size({ doc: 'bytes of a cluster' })),
  }),
  values: checkSizes,
};
