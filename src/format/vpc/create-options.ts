/** Creation options of the vpc format. */
import { createdOnFile } from '../../block/blockdev-types.js';
import type { BlockdevCreate } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { createOptions } from '../../options/create-options.js';
import { t } from '../../options/schema.js';
import { geometryFor, geometrySectors, notRepresentable } from './geometry.js';
import { Limit } from './layout.js';

export const vpcCreateOptions = createOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  subformat: {
    type: 'str',
    values: ['dynamic', 'fixed'],
    // The space at the end is QEMU's.
    help: 'Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ',
  },
  force_size: {
    type: 'bool',
    help:
      'Force disk size calculation to use the actual size specified, rather than using the ' +
      'nearest CHS-based calculation',
  },
});

const SECTOR = 512;

/** What blockdev-create takes: only sizes that the disk can have exactly. */
export const vpcBlockdevCreate: BlockdevCreate = {
  decl: t.struct('BlockdevCreateOptionsVpc', {
    ...createdOnFile,
    subformat: t.optional(t.enumOf('dynamic', 'fixed', { name: 'BlockdevVpcSubformat' })),
    'force-size': t.optional(t.bool({ doc: 'take the size as given, whatever the geometry' })),
  }),
  values: ({ size, 'force-size': force }) => {
    if (force === true || typeof size !== 'number') return {};
    const sectors = Math.ceil(size / SECTOR);
    if (sectors * SECTOR > Limit.diskBytes) {
      throw new BlockError('EINVAL', 'Disk size is too large, max size is 2040 GiB');
    }
    if (sectors === 0 || geometrySectors(geometryFor(sectors)) === sectors) return {};
    throw notRepresentable();
  },
};
