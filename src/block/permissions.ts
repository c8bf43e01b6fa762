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
export function childPerms(
  node: BlockNode,
  child: Child,
  parents: PermPair,
  change?: PermChange,
): PermPair {
  const isUsed = [...parentEdges(node, change)].some((edge) => permsOf(edge, change) !== null);
  const needs =
    node.instance.childPerm?.(child, parents, false, isUsed) ??
    defaultPerms(child.role, parents, { writable: !node.readOnly, io: !node.flags.noIo });
  if (child.node.flags.forceShare) return { perm: needs.perm, shared: Perm.all };
  // Whoever is active may write; nothing that this node knows of the image matters then.
  if (!node.isActive) return { perm: needs.perm, shared: needs.shared | Perm.write | Perm.resize };
  return needs;
}

/**
 * Applies `change` and all that follows from it below, or throws and changes nothing (P3).
 * `also`: nodes that are checked although no edge to them changes (their flags have).
 */
export async function applyPerms(
  roots: PermChange,
  also: readonly BlockNode[] = [],
): Promise<void> {
  const change = new Map<Child, PermPair | null>(roots);
  for (const node of topDown(roots, also)) {
    checkConflicts(node, change);
    const total = cumulativePerms(node, change);
    checkReadOnly(node, total.perm);
    for (const child of node.children.values()) {
      change.set(child, childPerms(node, child, total, change));
    }
  }
  await commit(change, also);
}

/** Nodes below the changed edges, each after all its changed parents. */
function topDown(change: PermChange, also: readonly BlockNode[]): BlockNode[] {
  const order: BlockNode[] = [];
  const seen = new Set<BlockNode>();
  const visit = (node: BlockNode): void => {
    if (seen.has(node)) return;
    seen.add(node);
    for (const child of node.children.values()) visit(child.node);
    order.push(node);
  };
  for (const edge of change.keys()) visit(edge.node);
  for (const node of also) visit(node);
  return order.reverse();
}

function checkReadOnly(node: BlockNode, perm: number): void {
  const changes = perm & (Perm.write | Perm.writeUnchanged | Perm.resize);
  if (changes !== 0 && !node.isActive) {
    const names = permNames(changes);
    throw new BlockError('EPERM', `Permission '${names}' unavailable on inactive node`);
  }
  const writes = Perm.write | Perm.writeUnchanged;
  if ((perm & writes) === 0 || !node.readOnly || node.reopeningWritable) return;
  throw new BlockError(
    'EPERM',
    node.losesWriting
      ? `Read-only block node '${node.name}' cannot support read-write users`
      : 'Block node is read-only',
  );
}

/** The newest edge is looked at first, so that the message is the one that QEMU gives. */
function checkConflicts(node: BlockNode, change: PermChange): void {
  const edges = [...parentEdges(node, change)].reverse();
  for (const blocker of edges) {
    const lets = permsOf(blocker, change);
    if (lets === null) continue;
    for (const user of edges) {
      const needs = permsOf(user, change);
      if (user === blocker || needs === null) continue;
      if (!change.has(user) && !change.has(blocker)) continue;
      if ((needs.perm & ~lets.shared) !== 0) throw conflict(node, user, needs, blocker, lets);
    }
  }
}

function conflict(
  node: BlockNode,
  user: Child,
  needs: PermPair,
  blocker: Child,
  lets: PermPair,
): BlockError {
  const names = permNames(needs.perm & ~lets.shared);
  return new BlockError(
    'EPERM',
    `Permission conflict on node '${node.name}': permissions '${names}' are both required by ` +
      `${user.parent.describeParent()} (uses node '${node.name}' as '${user.name}' child) and ` +
      `unshared by ${blocker.parent.describeParent()} (uses node '${node.name}' as ` +
      `'${blocker.name}' child).`,
  );
}

async function commit(
  change: ReadonlyMap<Child, PermPair | null>,
  also: readonly BlockNode[],
): Promise<void> {
  const steps: PermStep[] = [];
  const nodes = new Set<BlockNode>(also);
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
