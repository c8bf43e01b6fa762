/**
 * Format `vdi`: disks of VirtualBox, version 1.1 (header: layout.ts), dynamic, static, and
 * differencing ones to read.
 *
 * Invariants
 *  V1  A block of the file holds at most one block of the disk; entries of the map name blocks
 *      below `blocks_in_image`.
 *  V2  Order of writes: data, then the file's length and the header's `blocks_allocated`, then a
 *      flush, then the map. So what the map names is in the file and counted, whenever the power
 *      goes; blocks that are counted and not named are used again.
 *  V3  Nothing is allocated before the map was looked at as a whole (V1 holds, which blocks are in
 *      use); a damaged map refuses the write.
 *  V4  A block that has never been used reads as zeroes, so several writers fill it at once. One
 *      that may hold anything gets its zeroes first; the map names it only then, and whoever comes
 *      to the same block of the disk meanwhile waits.
 *
 * Not supported: version 1.0, undo images as such, extra bytes in front of blocks, writing
 * differencing images, resizing, compressing. Check repairs nothing, as in QEMU.
 */
import { genericFormat } from '../../block/blockdev-types.js';
import type { Driver } from '../../block/driver.js';
import { vdiBlockdevCreate, vdiCreateOptions } from './create-options.js';
import { isVdi } from './header.js';

export const vdiDriver: Driver = {
  name: 'vdi',
  kind: 'format',
  needsFile: true,
  // A differencing image reads through to its parent.
  supportsBacking: true,
  blockdev: genericFormat,
  optionNames: [],
  probe: (head) => (isVdi(head) ? 100 : 0),
  open: async (context) => (await import('./open.js')).openVdi(context),
  createOptions: vdiCreateOptions,
  blockdevCreate: vdiBlockdevCreate,
  create: async (context) => {
    await (await import('./create.js')).createVdi(context);
  },
};
