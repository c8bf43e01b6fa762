/** The property that says which kind a floppy drive is. */
import { t } from '../../../options/schema.js';

export function floppyTypeProperty<D extends 'auto' | '288'>(value: D, doc: string) {
  return t.enumOf('144', '288', '120', 'none', 'auto', {
    name: 'FloppyDriveType',
    default: value,
    doc,
  });
}
