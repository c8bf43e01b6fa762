/**
 * Format `bochs`: disks of type `growing` of the emulator Bochs, read-only.
 *
 * Invariants
 *  B1  The header is checked before anything is allocated by its sizes.
 *  B2  A sector that no extent holds, or whose bit in the extent's bitmap is clear, reads as
 *      zeroes; so does what lies past the end of the file.
 *
 * Not supported: writing and creating images, the types `undoable` and `volatile`.
 */
import { genericFormat } from '../../block/blockdev-types.js';
import type { Driver } from '../../block/driver.js';
import { isBochsHeader } from './header.js';

export const bochsDriver: Driver = {
  name: 'bochs',
  kind: 'format',
  needsFile: true,
  optionNames: [],
  blockdev: genericFormat,
  probe: (head) => (isBochsHeader(head) ? 100 : 0),
  open: async (context) => (await import('./open.js')).openBochs(context),
};
