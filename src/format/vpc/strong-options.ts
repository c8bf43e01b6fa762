/** Options that decide what the disk is. */
import type { NodeOptions } from '../../block/driver.js';

export function strongOptions(options: NodeOptions): NodeOptions {
  const rule = options['force_size_calc'];
  return rule === undefined ? {} : { force_size_calc: rule };
}
