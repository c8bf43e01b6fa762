/**
 * Format `vpc`: VHD, "Virtual Hard Disk Image Format Specification", version 1.0 (Microsoft,
 * 2006): fixed, dynamic and (to read) differencing disks.
 *
 * Terms: a *block* is what the block allocation table maps, data with a bitmap in front; the
 * *footer* describes the disk, and all but fixed disks have a copy of it at the start.
 *
 * Invariants
 *  V1  Sizes and offsets of the headers are checked before memory is taken by them.
 *  V2  The last block ends inside the file; so an image that was cut off is refused.
 *  V3  A block that the table names reads as zeroes where nothing was written: new blocks lie in
 *      space that the file has just grown by, or that was zeroed.
 *  V4  Bitmaps of dynamic disks are not read, as QEMU does not; whoever writes to a block has all
 *      bits of it set. Those of differencing disks decide sector by sector.
 *
 * Order of writes to a dynamic disk
 *  W1  The file grows before a block is used, so a full file system shows before anything changes.
 *  W2  Data, bitmaps of new blocks, and the footer behind them are durable before the table names
 *      the blocks. A crash before that leaves the old disk, with space behind it that the next
 *      writer cuts off; the footer may be missing then, and its copy stands in for it.
 *  W3  The table changes by whole sectors, each of which is old or new after a crash. So all that
 *      a flush acknowledged is there, and a block is there with its data or not at all.
 *
 * Locks: `growing` (allocations; the place of the footer) and `writing` (the table), `writing`
 * first where both are held. Requests to stored blocks take none.
 *
 * Not supported: writing to differencing disks; the batmap of XenServer is kept, not used.
 */
import { genericFormat } from '../../block/blockdev-types.js';
import type { Driver } from '../../block/driver.js';
import { vpcBlockdevCreate, vpcCreateOptions } from './create-options.js';
import { hasCookie } from './footer.js';
import { FOOTER_COOKIE } from './layout.js';

export const vpcDriver: Driver = {
  name: 'vpc',
  kind: 'format',
  needsFile: true,
  supportsBacking: true,
  blockdev: genericFormat,
  optionNames: ['force_size_calc'],
  // Fixed disks cannot be told from raw ones by their start.
  probe: (head) => (head.byteLength >= 8 && hasCookie(head, FOOTER_COOKIE) ? 100 : 0),
  open: async (context) => (await import('./open.js')).openVpc(context),
  createOptions: vpcCreateOptions,
  blockdevCreate: vpcBlockdevCreate,
  create: async (context) => {
    await (await import('./create.js')).createVpc(context);
  },
};
