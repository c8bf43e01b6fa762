/** Creation options of the parallels format, with QEMU's names and defaults. */
import { createdOnFile } from '../../block/blockdev-types.js';
import type { BlockdevCreate, NodeOptions } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { CreateValues } from '../../options/create-options.js';
import { createOptions } from '../../options/create-options.js';
import { t } from '../../options/schema.js';

/** Bytes of a cluster unless told. */
const CLUSTER_BYTES = 1048576;

export const parallelsCreateOptions = createOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  cluster_size: {
    type: 'size',
    default: String(CLUSTER_BYTES),
    help: 'Parallels image cluster size',
  },
});

/** From here on QEMU takes no clusters. */
const CLUSTER_END = (2n ** 63n - 1n) / 2n ** 32n;

const tooLarge = (): string => 'Image size is too large for this cluster size';

/** `-o` rounds up instead. */
function checkSizes(options: NodeOptions): CreateValues {
  const clusterSize = BigInt((options['cluster-size'] ?? CLUSTER_BYTES) as number | bigint);
  if (clusterSize >= CLUSTER_END) throw new BlockError('EINVAL', 'Cluster size is too large');
  if (BigInt(options['size'] as number | bigint) >= clusterSize * 2n ** 32n) {
    throw new BlockError('EFBIG', tooLarge());
  }
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
    'cluster-size': t.optional(t.size64({ doc: 'bytes of a cluster' })),
  }),
  values: checkSizes,
  tooLarge,
};
