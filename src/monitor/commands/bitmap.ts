/** Commands on dirty bitmaps. */
import { readableBitmap } from '../../block/bitmaps.js';
import * as actions from '../actions/bitmap.js';
import { runActions } from '../actions/action.js';
import { defineCommand } from '../command.js';
import * as types from '../types/bitmap.js';

const add = defineCommand({
  name: 'block-dirty-bitmap-add',
  doc: 'Adds a dirty bitmap to a node: from now on it records what is written.',
  args: types.blockDirtyBitmapAdd,
  since: '2.4',
  run: (context, args) => runActions(context, [actions.addBitmapAction(args)]),
});

const remove = defineCommand({
  name: 'block-dirty-bitmap-remove',
  doc: 'Removes a dirty bitmap, a persistent one from the image too.',
  args: types.blockDirtyBitmap,
  since: '2.4',
  run: (context, args) => runActions(context, [actions.removeBitmapAction(args)]),
});

const clear = defineCommand({
  name: 'block-dirty-bitmap-clear',
  doc: 'Makes all of a dirty bitmap clean.',
  args: types.blockDirtyBitmap,
  since: '2.4',
  run: (context, args) => runActions(context, [actions.clearBitmapAction(args)]),
});

const enable = defineCommand({
  name: 'block-dirty-bitmap-enable',
  doc: 'Lets a dirty bitmap record writes.',
  args: types.blockDirtyBitmap,
  since: '4.0',
  run: (context, args) => runActions(context, [actions.enableBitmapAction(args)]),
});

const disable = defineCommand({
  name: 'block-dirty-bitmap-disable',
  doc: 'Lets a dirty bitmap record writes no more.',
  args: types.blockDirtyBitmap,
  since: '4.0',
  run: (context, args) => runActions(context, [actions.disableBitmapAction(args)]),
});

const merge = defineCommand({
  name: 'block-dirty-bitmap-merge',
  doc: 'Adds the dirty bits of other bitmaps to a bitmap; granularities may differ.',
  args: types.blockDirtyBitmapMerge,
  since: '4.0',
  run: (context, args) => runActions(context, [actions.mergeBitmapAction(args)]),
});

const sha256 = defineCommand({
  name: 'x-debug-block-dirty-bitmap-sha256',
  doc: 'Tells the SHA-256 of the bits of a bitmap, in words of 64 bits.',
  args: types.blockDirtyBitmap,
  returns: types.blockDirtyBitmapSha256,
  since: '2.10',
  features: ['unstable'],
  run: async ({ graph }, { node, name }) => {
    const bitmap = readableBitmap(actions.bitmapNode(graph, node), name);
    const bits = bitmap.raw();
    const words = new Uint8Array(Math.ceil(bits.byteLength / 8) * 8);
    words.set(bits);
    const digest = (await graph.crypto()).hash('sha256', [words]);
    return { sha256: Array.from(digest, (b) => b.toString(16).padStart(2, '0')).join('') };
  },
});

export const bitmapCommands = [sha256, merge, disable, enable, clear, remove, add] as const;
