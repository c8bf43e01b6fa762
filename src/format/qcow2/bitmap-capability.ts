/** What an instance offers for persistent bitmaps; the code behind it loads when it is used. */
import type { BitmapCapability } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { keepBitmaps } from './close.js';
import type { Qcow2Image } from './image.js';

const load = (): Promise<typeof import('./bitmaps.js')> => import('./bitmaps.js');

export function bitmapCapability(image: Qcow2Image): BitmapCapability {
  return {
    canStore: async (name, granularity) => {
      (await load()).checkStorable(image, name, granularity);
    },
    finish: async () => {
      if (image.isWritable && !(await keepBitmaps(image))) throw new BlockError('EINVAL');
    },
    remove: async (name) => (await load()).removeBitmap(image, name),
  };
}
