/**
 * Filter `pass-through`: does nothing. The model to copy for a new filter, and what tests put
 * between other nodes to see that a layer in between changes nothing. Not in the catalogue,
 * for QEMU has none of that name.
 */
import type { Driver } from '../block/driver.js';
import { passThrough, unchangedReopen } from '../block/pass-through.js';
import { Role } from '../block/types.js';

export const passThroughDriver: Driver = {
  name: 'pass-through',
  kind: 'filter',
  needsFile: true,
  optionNames: [],
  async open(context) {
    const file = await context.openChild('file', { role: Role.filtered | Role.primary });
    return { ...passThrough(file), reopenPrepare: unchangedReopen };
  },
};
