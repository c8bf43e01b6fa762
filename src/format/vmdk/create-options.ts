/** Creation options of the vmdk format, with QEMU's names and defaults. */
import { createOptions } from '../../options/create-options.js';

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
