// Goal: Parallels images go back and forth between vdisk and QEMU. Method: as for VDI, in
// vdi.test.ts.
import { join } from 'node:path';
import type { Random } from '../support/index.js';
import { requiresQemu10 } from '../support/index.js';
import { formatInterop } from './format-interop.js';

const KiB = 1024;
const MiB = 1024 * KiB;

/** The flag, where data begins, and entries of the BAT, which count clusters. */
function damage(view: DataView, random: Random): void {
  // QEMU 10.0.2 ends with a failed assertion on those outside the file.
  const inFile = view.byteLength / (64 * KiB) - 1;
  for (let n = random.int(1, 3); n > 0; n--) {
    const what = random.int(0, 6);
    if (what === 0) view.setUint32(44, 0x746f6e59, true);
    else if (what === 1) view.setUint32(48, 0xffff_ffff, true);
    else view.setUint32(64 + 4 * random.int(0, 80), random.int(1, inFile), true);
  }
}

requiresQemu10('qemu-img', 'qemu-io')('Parallels between vdisk and QEMU', () => {
  formatInterop({
    format: 'parallels',
    shapes: [
      { name: 'small clusters', options: 'cluster_size=64k', size: 5 * MiB + 512 },
      { name: 'plain', options: '', size: 5 * MiB + 512 },
      { name: 'odd clusters', options: 'cluster_size=31k', size: 3 * MiB + 1024 },
    ],
    damage,
    repairMoves: true,
    file: (folder) => join(folder, 'disk.hdd'),
  });
});
