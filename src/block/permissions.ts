/**
 * Permissions of the graph: who may do what to a node, checked as a whole before
 * anything changes.
 *
 * Invariants
 *  P1  For any two edges a, b to one node: a.perm is within b.shared.
 *  P2  A node takes of its children at least what its parents' needs imply (childPerm).
 *  P3  A failed change leaves each edge, and each lock of a file, as it was.
 *
 * Lock: `graph.permLock` is held over check and commit, for file locks are taken between.
 */
import { assert } from '../lib/assert.js';
import type { Child } from './child.js';
import { defaultPerms, permNames } from './child.js';
import type { PermPair, PermStep } from './driver.js';
import { BlockError } from './errors.js';
import type { BlockNode } from './node.js';
import { Perm } from './types.js';

/** Edges with the permissions that they are to have; `null` takes the edge away. */
export type PermChange = ReadonlyMap<Child, PermPair | null>;

/** Union of needs and intersection of tolerance over a node's parents. */
export function cumulativePerms(node: BlockNode, change?: PermChange): PermPair {
  let perm = 0;
  let shared: number = Perm.all;
  for (const edge of parentEdges(node, change)) {
    const p = permsOf(edge, change);
    if (p === null) continue;
    perm |= p.perm;
    shared &= p.shared;
  }
  return { perm, shared };
}

function permsOf(edge: Child, change: PermChange | undefined): PermPair | null {
  const changed = change?.get(edge);
  return changed === undefined ? edge : changed;
}

function parentEdges(node: BlockNode, change: PermChange | undefined): Set<Child> {
  if (change === undefined) return node.parents;
  const edges = new Set(node.parents);
  for (const edge of change.keys()) if (edge.node === node) edges.add(edge);
  return edges;
}

/** What `node` needs of `child` when its parents need and share `parents`. */
export function childPerms(node: BlockNode, child: Child, parents: PermPair): PermPair {
  const needs =
    node.instance.childPerm?.(child, parents, false) ??
    defaultPerms(child.role, parents, { writable: !node.readOnly, io: !node.flags.noIo });
  return child.node.flags.forceShare ? { perm: needs.perm, shared: Perm.all } : needs;
}

/** Applies `change` and all that follows from it below, or throws and changes nothing (P3). */
export async function applyPerms(roots: PermChange): Promise<void> {
  const change = new Map<Child, PermPair | null>(roots);
  for (const node of topDown(roots)) {
    checkConflicts(node, change);
    const total = cumulativePerms(node, change);
    checkReadOnly(node, total.perm);
    for (const child of node.children.values()) {
      change.set(child, childPerms(node, child, total));
    }
  }
  await commit(change);
}

/** Nodes below the changed edges, each after all its changed parents. */
function topDown(change: PermChange): BlockNode[] {
  const order: BlockNode[] = [];
  const seen = new Set<BlockNode>();
  const visit = (node: BlockNode): void => {
    if (seen.has(node)) return;
    seen.add(node);
    for (const child of node.children.values()) visit(child.node);
    order.push(node);
  };
  for (const edge of change.keys()) visit(edge.node);
  return order.reverse();
}

function checkReadOnly(node: BlockNode, perm: number): void {
  const writes = Perm.write | Perm.writeUnchanged;
  if ((perm & writes) === 0 || !node.readOnly || node.reopeningWritable) return;
  if (node.instance.write === undefined && node.driver.kind !== 'filter') {
    throw new BlockError('EPERM', 'Block node is read-only');
  }
  throw new BlockError('EPERM', 'Block node is read-only');
}

function checkConflicts(node: BlockNode, change: PermChange): void {
  const edges = [...parentEdges(node, change)];
  for (const a of edges) {
    const pa = permsOf(a, change);
    if (pa === null || !change.has(a)) continue;
    for (const b of edges) {
      if (a === b) continue;
      const pb = permsOf(b, change);
      if (pb === null) continue;
      conflict(node, a, pa, b, pb);
    }
  }
}

function conflict(node: BlockNode, a: Child, pa: PermPair, b: Child, pb: PermPair): void {
  const denied = (pa.perm & ~pb.shared) !== 0 ? ([a, pa, b, pb] as const) : undefined;
  const denies = (pb.perm & ~pa.shared) !== 0 ? ([b, pb, a, pa] as const) : undefined;
  const found = denied ?? denies;
  if (found === undefined) return;
  const [user, needs, blocker, lets] = found;
  const names = permNames(needs.perm & ~lets.shared);
  throw new BlockError(
    'EPERM',
    `Permission conflict on node '${node.name}': permissions '${names}' are both required by ` +
      `${user.parent.describeParent()} (uses node '${node.name}' as '${user.name}' child) and ` +
      `unshared by ${blocker.parent.describeParent()} (uses node '${node.name}' as ` +
      `'${blocker.name}' child).`,
  );
}

async function commit(change: ReadonlyMap<Child, PermPair | null>): Promise<void> {
  const steps: PermStep[] = [];
  const nodes = new Set<BlockNode>();
  for (const edge of change.keys()) nodes.add(edge.node);
  try {
    for (const node of nodes) {
      const total = cumulativePerms(node, change);
      const step = await node.instance.preparePermissions?.(total.perm, total.shared);
      if (step !== undefined) steps.push(step);
    }
  } catch (e) {
    for (const step of steps.reverse()) await step.abort();
    throw e;
  }
  for (const [edge, perms] of change) {
    if (perms === null) continue;
    edge.perm = perms.perm;
    edge.shared = perms.shared;
  }
  for (const step of steps) await step.commit();
}

/** Executable form of P1, for assertions in tests and after graph changes. */
export function assertPermissions(node: BlockNode): void {
  for (const a of node.parents) {
    for (const b of node.parents) {
      if (a !== b) assert((a.perm & ~b.shared) === 0, `P1 broken on node '${node.name}'`);
    }
  }
}
