// Goal: VMDK disks go back and forth between vdisk and QEMU. Method: as for VDI, in vdi.test.ts.
import { join } from 'node:path';
import { requiresQemu10 } from '../support/index.js';
import { formatInterop } from './format-interop.js';

const MiB = 1024 * 1024;

requiresQemu10('qemu-img', 'qemu-io')('VMDK between vdisk and QEMU', () => {
  formatInterop({
    format: 'vmdk',
    shapes: [
      { name: 'monolithicSparse', options: '', size: 5 * MiB + 512 },
      { name: 'zeroed grains', options: 'zeroed_grain=on', size: 3 * MiB },
      { name: 'monolithicFlat', options: 'subformat=monolithicFlat', size: 3 * MiB + 1024 },
      { name: 'split, sparse', options: 'subformat=twoGbMaxExtentSparse', size: 3 * MiB },
      { name: 'split, flat', options: 'subformat=twoGbMaxExtentFlat', size: 3 * MiB },
      {
        name: 'stream',
        options: 'subformat=streamOptimized',
        size: 5 * MiB + 512,
        convertOnly: true,
      },
    ],
    file: (folder) => join(folder, 'disk.vmdk'),
  });
});
