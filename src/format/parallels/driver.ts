/**
 * Format `parallels`: expandable disks of Parallels, version 2, with both magics. Specification:
 * QEMU 10, docs/interop/parallels; structures in layout.ts.
 *
 * Invariants
 *  P1  Entries of the BAT name whole clusters of the data area, each of them once.
 *  P2  Order of writes: data, a flush, then the BAT. A crash leaves at most clusters that nobody
 *      names, which the next writer fills or `check` cuts off.
 *  P3  `in_use` says so from the first write until the image is closed or becomes read-only.
 *      Who opens an image with it, or with a BAT that cannot be, for writing repairs it first.
 *  P4  A cluster that was freed is not given out again before the image is opened anew.
 *  P5  While there is a Format Extension, no hole is filled and no tail is cut, for it may name
 *      what lies there; `in_use` is 0 after a write, which makes it void.
 *
 * Not supported, as in QEMU: resizing, compression, creating with a backing file, writing dirty
 * bitmaps.
 */
import { genericFormat } from '../../block/blockdev-types.js';
import type { Driver } from '../../block/driver.js';
import { parallelsBlockdevCreate, parallelsCreateOptions } from './create-options.js';
import { isParallels } from './header.js';
import { parallelsOptionNames } from './options.js';

export const parallelsDriver: Driver = {
  name: 'parallels',
  kind: 'format',
  needsFile: true,
  supportsBacking: true,
  optionNames: parallelsOptionNames,
  blockdev: genericFormat,
  probe: (head) => (isParallels(head) ? 100 : 0),
  open: async (context) => (await import('./open.js')).openParallels(context),
  createOptions: parallelsCreateOptions,
  blockdevCreate: parallelsBlockdevCreate,
  create: async (context) => {
    await (await import('./create.js')).createParallels(context);
  },
};
