/**
 * Format `cloop`: compressed loop images (version 2.0, zlib), which carried live systems, to read.
 * A header, offsets of the compressed blocks, the blocks: see header.ts.
 *
 * Invariant C1: the header is checked before anything is allocated by its sizes, and the offsets
 * before a block is read: memory is bounded by the file, and by two blocks for a read.
 *
 * Not supported, as in QEMU: writing and creating images, other compressions.
 */
import { genericFormat } from '../../block/blockdev-types.js';
import type { Driver } from '../../block/driver.js';
import { isCloop } from './header.js';

export const cloopDriver: Driver = {
  name: 'cloop',
  kind: 'format',
  needsFile: true,
  optionNames: [],
  blockdev: genericFormat,
  // Any shell script may begin like that; QEMU's score.
  probe: (head) => (isCloop(head) ? 2 : 0),
  open: async (context) => (await import('./open.js')).openCloop(context),
};
