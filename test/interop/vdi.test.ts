// Goal: VDI images go back and forth between vdisk and QEMU. Method: random writes by either side's
// io tool in turn on one image, with printed seeds, compared with a raw copy of the same writes;
// conversions of real data both ways; check and info of both sides.
import { join } from 'node:path';
import { formatInterop } from './format-interop.js';
import { requiresQemu10 } from '../support/index.js';

requiresQemu10('qemu-img', 'qemu-io')('VDI between vdisk and QEMU', () => {
  formatInterop({
    format: 'vdi',
    shapes: [
      { name: 'dynamic', options: '', size: 5 * 1024 * 1024 + 512 },
      { name: 'static', options: 'static=on', size: 3 * 1024 * 1024 + 1024 },
    ],
    file: (folder) => join(folder, 'disk.vdi'),
  });
});
