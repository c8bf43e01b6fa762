// Goal: QED images go back and forth between vdisk and QEMU. Method: as for VDI, in vdi.test.ts.
import { join } from 'node:path';
import type { Random } from '../support/index.js';
import { requiresQemu10 } from '../support/index.js';
import { formatInterop } from './format-interop.js';

const MiB = 1024 * 1024;

const KiB = 1024;

/** Entries of the L1 table, and of where the first L2 table and data may stand. */
function damage(view: DataView, random: Random): void {
  for (let n = random.int(1, 3); n > 0; n--) {
    const at = random.chance(0.2) ? 64 * KiB : 384 * KiB;
    const cluster = random.int(0, 30) * 64 * KiB;
    const value = random.pick([0, 1, 512, 7, cluster, cluster, cluster + 4096, 2 ** 40]);
    view.setBigUint64(at + 8 * random.int(0, 80), BigInt(value), true);
  }
}

requiresQemu10('qemu-img', 'qemu-io')('QED between vdisk and QEMU', () => {
  formatInterop({
    format: 'qed',
    shapes: [
      { name: 'plain', options: '', size: 5 * MiB + 512 },
      { name: 'small clusters', options: 'cluster_size=4k,table_size=2', size: 3 * MiB },
      { name: 'large clusters', options: 'cluster_size=1M,table_size=16', size: 7 * MiB + 1024 },
    ],
    damage,
    file: (folder) => join(folder, 'disk.qed'),
  });
});
