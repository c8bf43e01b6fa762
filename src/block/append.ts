/** Putting an overlay on top of a node that is in use. */
import type { Child } from './child.js';
import { BlockError } from './errors.js';
import type { BlockNode } from './node.js';
import { attachChild } from './open.js';
import { Role } from './types.js';

/**
 * Makes `bottom` the backing file of `top`, and `top` what all users of `bottom` use. The caller
 * drains the graph and holds a handle on both nodes. Throws BlockError when permissions conflict or
 * an edge may not change; then all is as it was. Resolves to what takes it back.
 */
export async function appendNode(top: BlockNode, bottom: BlockNode): Promise<() => Promise<void>> {
  const { graph } = top;
  const { flags } = top;
  const users = [...bottom.parents];
  const backing = await attachChild(graph, top, bottom, 'backing', Role.cow);
  const moved: Child[] = [];
  const undo = async (): Promise<void> => {
    for (const edge of moved.reverse()) await graph.replaceEdge(edge, bottom);
    await graph.detachEdge(backing);
    top.flags = flags;
  };
  try {
    for (const edge of users) {
      if (edge.frozen !== undefined) {
        throw new BlockError('EPERM', `Cannot change '${edge.name}' link to '${bottom.name}'`);
      }
      await graph.replaceEdge(edge, top);
      moved.push(edge);
    }
  } catch (e) {
    await undo();
    throw e;
  }
  // What the image's header says of a backing file stays what it is.
  top.flags = { ...flags, noBacking: false };
  top.refreshLimits();
  return undo;
}
