/**
 * What may not be done to a node because of how others use it: backing files belong to the image
 * above them, and a job needs the nodes that it works on to stay as they are.
 */
import { BlockError } from './errors.js';
import type { BlockNode } from './node.js';
import { Role } from './types.js';

/** What can be forbidden. */
export type BlockOp =
  | 'backup-source'
  | 'backup-target'
  | 'change'
  | 'commit-source'
  | 'commit-target'
  | 'drive-del'
  | 'eject'
  | 'external-snapshot'
  | 'internal-snapshot'
  | 'internal-snapshot-delete'
  | 'mirror-source'
  | 'mirror-target'
  | 'resize'
  | 'stream'
  | 'replace'
  | 'amend';

/** Somebody who forbids operations on a node. */
export interface OpBlocker {
  /** Follows on "Node 'x' is busy: ". */
  readonly reason: string;
  /** What is allowed all the same. */
  readonly except?: ReadonlySet<BlockOp>;
}

/** Jobs that move data into or out of a backing file are what it is there for. */
const allowedOnBacking: ReadonlySet<BlockOp> = new Set([
  'commit-target',
  'stream',
  'backup-source',
  'backup-target',
]);

/** Throws EBUSY when somebody forbids `op` on `node`. */
export function checkOp(node: BlockNode, op: BlockOp): void {
  const reason = blockedBecause(node, op);
  if (reason === undefined) return;
  throw new BlockError('EBUSY', `Node '${deviceOrNodeName(node)}' is busy: ${reason}`);
}

/** The name of the device that uses the node as its disk; empty: there is none. */
export function deviceName(node: BlockNode): string {
  for (const [name, backend] of node.graph.backends) {
    if (backend.isInserted && backend.node === node) return name;
  }
  return '';
}

/** The name of the device that uses the node as its disk, else the node's own. */
export function deviceOrNodeName(node: BlockNode): string {
  return deviceName(node) || node.name;
}

/** Why `op` is forbidden on `node`, the newest reason; undefined when it is not. */
function blockedBecause(node: BlockNode, op: BlockOp): string | undefined {
  const blocker = [...node.opBlockers].reverse().find((each) => each.except?.has(op) !== true);
  if (blocker !== undefined) return blocker.reason;
  if (allowedOnBacking.has(op)) return undefined;
  for (const edge of [...node.parents].reverse()) {
    const parent = edge.parent.asNode;
    if (parent === undefined || (edge.role & Role.cow) === 0) continue;
    return `node is used as backing hd of '${parent.name}'`;
  }
  return undefined;
}
