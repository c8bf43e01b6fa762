/**
 * The content identifier (CID): changes when a disk is first written to after it was opened; a
 * child holds the one that its parent had, and is refused when the parent was written to since.
 */
import { BlockError } from '../../block/errors.js';
import type { BlockNode } from '../../block/node.js';
import { skipFilters } from '../../block/status.js';

interface Identity {
  cid: number;
  readonly parentCid: number;
}

const identities = new WeakMap<BlockNode, Identity>();
/** Nodes whose parent was looked at already. */
const checked = new WeakMap<BlockNode, BlockNode>();

export function setIdentity(node: BlockNode, identity: Identity): void {
  identities.set(node, identity);
}

/** Throws EINVAL when the backing image is a VMDK that does not have the CID it had. */
export function checkParent(node: BlockNode): void {
  const { backing } = node;
  if (backing === undefined) return;
  const below = skipFilters(backing.node);
  if (checked.get(node) === below) return;
  const own = identities.get(node);
  const parent = identities.get(below);
  if (own !== undefined && parent !== undefined && own.parentCid !== parent.cid) {
    throw new BlockError('EINVAL');
  }
  checked.set(node, below);
}
