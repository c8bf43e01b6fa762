/** Creation options of the vmdk format, with QEMU's names and defaults. */
import { blockdevRef, createdOnFile } from '../../block/blockdev-types.js';
import type { BlockdevCreate } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { createOptions } from '../../options/create-options.js';
import { t } from '../../options/schema.js';

export const subformats = [
  'monolithicSparse',
  'monolithicFlat',
  'twoGbMaxExtentSparse',
  'twoGbMaxExtentFlat',
  'streamOptimized',
] as const;
export const adapterTypes = ['ide', 'buslogic', 'lsilogic', 'legacyESX'] as const;

export const vmdkCreateOptions = createOptions({
  size: { type: 'size', help: 'Virtual disk size' },
  adapter_type: {
    type: 'str',
    help: 'Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX',
    words: adapterTypes,
  },
  backing_file: { type: 'str', help: 'File name of a base image' },
  backing_fmt: { type: 'str', help: "Must be 'vmdk' if present" },
  compat6: { type: 'bool', default: 'off', help: 'VMDK version 6 image' },
  hwversion: { type: 'str', default: 'undefined', help: 'VMDK hardware version' },
  toolsversion: { type: 'str', help: 'VMware guest tools version' },
  subformat: {
    type: 'str',
    help:
      'VMDK flat extent format, can be one of ' +
      '{monolithicSparse (default) | monolithicFlat | twoGbMaxExtentSparse | ' +
      'twoGbMaxExtentFlat | streamOptimized} ',
    words: subformats,
  },
  zeroed_grain: {
    type: 'bool',
    help: 'Enable efficient zero writes using the zeroed-grain GTE feature',
  },
});

/** What blockdev-create takes; disks whose extents are files of their own are not made by it. */
export const vmdkBlockdevCreate: BlockdevCreate = {
  decl: t.struct('BlockdevCreateOptionsVmdk', {
    ...createdOnFile,
    extents: t.optional(t.arrayOf(blockdevRef, { doc: 'nodes of the extents' })),
    subformat: t.optional(t.enumOf(...subformats, { name: 'BlockdevVmdkSubformat' })),
    'backing-file': t.optional(t.str({ doc: 'name of the backing file' })),
    'adapter-type': t.optional(t.enumOf(...adapterTypes, { name: 'BlockdevVmdkAdapterType' })),
    hwversion: t.optional(t.str({ doc: 'hardware version' })),
    toolsversion: t.optional(t.str({ doc: 'version of the tools' })),
    'zeroed-grain': t.optional(t.bool({ doc: 'zero writes are marked in the tables' })),
  }),
  values: ({ extents, subformat }) => {
    if (typeof subformat === 'string' && /Flat|twoGb/.test(subformat)) {
      if (extents === undefined) throw new BlockError('EINVAL', 'Extent [0] not specified');
      const text = `Sub-format '${subformat}' is not supported by blockdev-create`;
      throw new BlockError('ENOTSUP', text);
    }
    if (extents === undefined) return {};
    throw new BlockError('EINVAL', 'List of extents contains unused extents');
  },
};
