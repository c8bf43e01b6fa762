/** What may not be done to a node because of how others use it. */
import type { BlockNode } from '../block/node.js';
import { Role } from '../block/types.js';
import { QmpError } from './qmp-error.js';

/**
 * A backing file belongs to the image above it: it is not resized, deleted, given snapshots or
 * another header on its own. Throws QmpError.
 */
export function checkNotBacking(node: BlockNode): void {
  for (const edge of node.parents) {
    const parent = edge.parent.asNode;
    if (parent === undefined || (edge.role & Role.cow) === 0) continue;
    throw new QmpError(
      `Node '${node.name}' is busy: node is used as backing hd of '${parent.name}'`,
    );
  }
}
