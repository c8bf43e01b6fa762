/**
 * Format `vhdx`: [MS-VHDX], "Virtual Hard Disk v2 (VHDX) File Format": dynamic and fixed disks, and
 * (to read) differencing ones.
 *
 * Terms: a *block* is what an entry of the block allocation table (BAT) maps; a *page* is 4 KiB of
 * metadata, the unit of the log; a *session* is from the first change to the close of the image.
 *
 * Invariants
 *  X1  Headers, regions, items and log are checked before memory is taken by their sizes; headers
 *      and region tables count only with the right CRC-32C.
 *  X2  Blocks lie inside the file, and not in headers, log or regions.
 *  X3  A stored block reads as zeroes where nothing was written: new blocks lie in space that the
 *      file has just grown by, or that was zeroed.
 *  X4  While a session is open the current header names its log, which has a valid entry; else it
 *      names none, so that readers need not look.
 *
 * Order of writes
 *  L1  The file grows before a block is used.
 *  L2  Data and length of the file are durable before the log names their blocks; the log entry is
 *      durable before the BAT is written in place; that is durable before the next entry is
 *      written. So each entry is its own tail, and at any moment the last whole entry is either
 *      in place already or gives, applied again, the table that a flush was promised. An entry
 *      that was cut is found by its checksum; the one before it changes nothing then.
 *  L3  A session begins with an entry that repeats a page of the BAT, durable before the header
 *      that names its log (X4), which is durable before anything else changes. The file's unused
 *      tail is cut off before that, for entries tell how long the file has to be.
 *  L4  A session ends when the BAT is durable in place: the other header, with a higher number,
 *      names no log. A header that was torn has a wrong checksum, and the older one counts still.
 *
 * Locks: `writing` (log and table) and `growing` (allocations, beginning); never both at once.
 * Requests to stored blocks take none.
 *
 * Not supported: writing to differencing disks; resizing.
 */
import { genericFormat } from '../../block/blockdev-types.js';
import type { Driver } from '../../block/driver.js';
import { vhdxBlockdevCreate, vhdxCreateOptions } from './create-options.js';
import { IDENTIFIER } from './layout.js';

function probe(head: Uint8Array): number {
  for (let i = 0; i < IDENTIFIER.length; i++) {
    if (head[i] !== IDENTIFIER.charCodeAt(i)) return 0;
  }
  return 100;
}

export const vhdxDriver: Driver = {
  name: 'vhdx',
  kind: 'format',
  needsFile: true,
  supportsBacking: true,
  optionNames: [],
  blockdev: genericFormat,
  probe,
  open: async (context) => (await import('./open.js')).openVhdx(context),
  createOptions: vhdxCreateOptions,
  blockdevCreate: vhdxBlockdevCreate,
  create: async (context) => {
    await (await import('./create.js')).createVhdx(context);
  },
};
