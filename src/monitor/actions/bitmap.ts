/** Actions on dirty bitmaps. */
import {
  addBitmap,
  changeableBitmap,
  checkNotBusy,
  checkNotReadOnly,
  findBitmap,
  readableBitmap,
} from '../../block/bitmaps.js';
import type { DirtyBitmap } from '../../block/dirty-bitmap.js';
import { BlockError } from '../../block/errors.js';
import type { BlockGraph } from '../../block/graph.js';
import type { BlockNode } from '../../block/node.js';
import type { Infer } from '../../options/schema.js';
import { QmpError } from '../qmp-error.js';
import { lookupNode } from '../commands/blockdev.js';
import type {
  blockDirtyBitmap,
  blockDirtyBitmapAdd,
  blockDirtyBitmapMerge,
} from '../types/bitmap.js';
import type { Action } from './action.js';

type Named = Infer<typeof blockDirtyBitmap>;

/** The node that a command on a bitmap names. Throws QmpError in the words of such commands. */
export function bitmapNode(graph: BlockGraph, name: string): BlockNode {
  const backend = graph.backends.get(name);
  const node = backend?.isInserted === true ? backend.node : graph.tryNode(name);
  if (node === undefined) throw new QmpError(`Node '${name}' not found`);
  return node;
}

export function addBitmapAction(args: Infer<typeof blockDirtyBitmapAdd>): Action {
  return async ({ graph }) => {
    if (args.name === '') throw new QmpError('Bitmap name cannot be empty');
    const node = lookupNode(graph, args.node, args.node);
    const bitmap = await addBitmap(node, args.name, {
      granularity: args.granularity,
      persistent: args.persistent ?? false,
      enabled: args.disabled !== true,
    });
    return {
      abort: () => {
        if (node.dirtyBitmaps.get(args.name) === bitmap) node.dirtyBitmaps.delete(args.name);
      },
    };
  };
}

export function removeBitmapAction(args: Named): Action {
  return async ({ graph }) => {
    const node = bitmapNode(graph, args.node);
    const bitmap = findBitmap(node, args.name);
    checkNotBusy(bitmap);
    checkNotReadOnly(node, bitmap);
    const { persistent } = bitmap;
    if (persistent) await node.instance.bitmaps?.remove(args.name);
    bitmap.busy = true;
    // Another action of the transaction may make the image store its bitmaps.
    bitmap.persistent = false;
    return {
      commit: () => {
        node.dirtyBitmaps.delete(args.name);
      },
      // In memory it is still there; closing the image stores it again.
      abort: () => {
        bitmap.busy = false;
        bitmap.persistent = persistent;
      },
    };
  };
}

/** A change of the bits or the state of one bitmap that can be taken back. */
function changing(args: Named, change: (bitmap: DirtyBitmap, node: BlockNode) => void): Action {
  return ({ graph }) => {
    const node = bitmapNode(graph, args.node);
    const bitmap = changeableBitmap(node, args.name);
    const { enabled } = bitmap;
    const bits = bitmap.raw().slice();
    change(bitmap, node);
    return {
      abort: () => {
        bitmap.enabled = enabled;
        bitmap.load(bits);
      },
    };
  };
}

export function clearBitmapAction(args: Named): Action {
  return changing(args, (bitmap) => {
    bitmap.clear();
  });
}

export function enableBitmapAction(args: Named): Action {
  return changing(args, (bitmap) => {
    bitmap.enabled = true;
  });
}

export function disableBitmapAction(args: Named): Action {
  return changing(args, (bitmap) => {
    bitmap.enabled = false;
  });
}

export function mergeBitmapAction(args: Infer<typeof blockDirtyBitmapMerge>): Action {
  return (context) => {
    const { graph } = context;
    return changing({ node: args.node, name: args.target }, (target, node) => {
      // All sources are looked at before a bit changes.
      const sources = args.bitmaps.map((each) =>
        typeof each === 'string'
          ? readableBitmap(node, each)
          : readableBitmap(bitmapNode(graph, each.node), each.name),
      );
      for (const source of sources) {
        if (source.length === target.length) continue;
        throw new BlockError(
          'EINVAL',
          'Bitmaps are of different sizes (destination size is ' +
            `${String(target.length)}, source size is ${String(source.length)}) ` +
            "and can't be merged",
        );
      }
      for (const source of sources) target.merge(source);
    })(context);
  };
}
