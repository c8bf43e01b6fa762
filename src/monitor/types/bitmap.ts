/** QMP's types of dirty bitmaps. */
import { blockDirtyBitmap } from '../../block/blockdev-types.js';
import { t } from '../../options/schema.js';

export { blockDirtyBitmap };

/** A bitmap of the node at hand by its name, or of another node. */
export const bitmapOrName = t.alternate(
  { str: t.str(), object: blockDirtyBitmap },
  { name: 'BlockDirtyBitmapOrStr' },
);

export const blockDirtyBitmapAdd = t.struct('BlockDirtyBitmapAdd', {
  node: t.str({ doc: 'node that gets the bitmap' }),
  name: t.str({ doc: 'its name, at most 1023 bytes' }),
  granularity: t.optional(t.uint({ bits: 32 }, { doc: 'bytes that a bit stands for' })),
  persistent: t.optional(t.bool({ doc: 'keep it in the image when that is closed' })),
  disabled: t.optional(t.bool({ doc: 'do not record writes yet' })),
});

export const blockDirtyBitmapMerge = t.struct('BlockDirtyBitmapMerge', {
  node: t.str({ doc: 'node of the target' }),
  target: t.str({ doc: 'bitmap that gets the bits' }),
  bitmaps: t.arrayOf(bitmapOrName, { doc: 'bitmaps whose bits are added' }),
});

export const blockDirtyBitmapSha256 = t.struct('BlockDirtyBitmapSha256', { sha256: t.str() });

/** QMP's BlockDirtyInfo. */
export const blockDirtyInfo = t.struct('BlockDirtyInfo', {
  name: t.optional(t.str()),
  count: t.int(),
  granularity: t.uint({ bits: 32 }),
  recording: t.bool(),
  busy: t.bool(),
  persistent: t.bool(),
  inconsistent: t.optional(t.bool()),
});
