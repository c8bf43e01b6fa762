/**
 * Changing how open nodes are open: read-only or writable, cache mode, runtime options, and
 * which nodes their children are.
 *
 * Steps: everything concerned is drained; each driver prepares, parents before children; the
 * new edges and flags are put in place and permissions are recomputed; then all drivers
 * commit, children before parents.
 *
 * Invariant R1: if anything fails before the commits, all is as it was.
 */
import { Child } from './child.js';
import type { NodeOptions, OpenFlags, ReopenStep } from './driver.js';
import { BlockError } from './errors.js';
import type { BlockGraph } from './graph.js';
import type { BlockNode } from './node.js';
import { nodeParent } from './open.js';
import type { PermChange } from './permissions.js';
import { applyPerms, childPerms, cumulativePerms } from './permissions.js';
import type { PlannedNode, ReopenItem, Replacement } from './reopen-plan.js';
import { planReopen } from './reopen-plan.js';
import { Perm, Role } from './types.js';

export type { ReopenItem } from './reopen-plan.js';

/** What is to become different; all else stays. */
export interface ReopenChange {
  /** Flags of the node; its storage children inherit them. */
  readonly flags?: Partial<OpenFlags>;
  /** Options, nested or dotted; those not named keep their values. */
  readonly options?: NodeOptions;
}

/** Reopens `node` and the children opened for it. Throws BlockError or OptionError (R1). */
export function reopenNode(node: BlockNode, change: ReopenChange): Promise<void> {
  return reopenNodes(node.graph, [{ node, ...change, keepOld: true }]);
}

/** Reopens several nodes at once: all of them or none (R1). Throws BlockError or OptionError. */
export async function reopenNodes(graph: BlockGraph, items: readonly ReopenItem[]): Promise<void> {
  const plan = planReopen(items);
  const held = new Set<BlockNode>();
  for (const { node, replacements } of plan) {
    held.add(node);
    for (const { key, to } of replacements) {
      const old = node.children.get(key)?.node;
      if (to !== null) held.add(to);
      if (old !== undefined) held.add(old);
    }
  }
  for (const node of held) {
    node.refs++;
    await graph.drainBegin(node);
  }
  try {
    await carryOut(graph, plan, held);
  } finally {
    for (const node of held) graph.drainEnd(node);
    for (const node of held) await graph.release(node);
  }
}

async function carryOut(
  graph: BlockGraph,
  plan: readonly PlannedNode[],
  held: ReadonlySet<BlockNode>,
): Promise<void> {
  const steps: ReopenStep[] = [];
  const undo: (() => Promise<void> | void)[] = [];
  try {
    for (const { node, flags, own } of plan) {
      if (node.instance.reopenPrepare === undefined) throw notReopenable(node);
      steps.push(await node.instance.reopenPrepare({ options: own, flags }));
    }
    const removed: Child[] = [];
    for (const planned of plan) {
      for (const each of planned.replacements) {
        undo.push(await replaceChild(graph, planned.node, each, removed));
      }
      undo.push(takeOver(planned));
    }
    await graph.withPermLock(() => refreshAll(plan, held, removed));
  } catch (e) {
    for (const back of undo.reverse()) await back();
    for (const step of steps.reverse()) await step.abort();
    throw e;
  }
  for (const { node } of plan) node.losesWriting = false;
  for (const step of steps.reverse()) await step.commit();
  for (const { node } of [...plan].reverse()) {
    node.refreshLimits();
    await node.refreshLength();
  }
}

/** Puts flags and options in place; returns what takes that back. */
function takeOver({ node, flags, detectZeroes, explicit }: PlannedNode): () => void {
  const before = {
    flags: node.flags,
    staysReadOnly: node.staysReadOnly,
    detectZeroes: node.detectZeroes,
    explicitOptions: node.explicitOptions,
    losesWriting: false,
  };
  const staysReadOnly = !flags.writable;
  const losesWriting = staysReadOnly && !node.readOnly;
  Object.assign(node, {
    flags,
    staysReadOnly,
    detectZeroes,
    explicitOptions: explicit,
    losesWriting,
  });
  return () => {
    Object.assign(node, before);
  };
}

/** Exchanges, adds or takes away one child, without permissions; returns what takes that back. */
async function replaceChild(
  graph: BlockGraph,
  node: BlockNode,
  { key, to }: Replacement,
  removed: Child[],
): Promise<() => Promise<void>> {
  const edge = node.children.get(key);
  if (edge === undefined) {
    if (to === null) return async () => undefined;
    const nothing = { perm: 0, shared: Perm.all };
    const added = new Child(nodeParent(graph, node), key, Role.cow, to, nothing);
    node.children.set(key, added);
    await graph.linkEdge(added, undefined);
    return async () => {
      node.children.delete(key);
      await graph.unlinkEdge(added);
    };
  }
  const old = edge.node;
  const inherited = old.inheritsFrom;
  if (inherited === node) old.inheritsFrom = undefined;
  if (to !== null) {
    await graph.linkEdge(edge, to);
    return async () => {
      old.inheritsFrom = inherited;
      await graph.linkEdge(edge, old);
    };
  }
  node.children.delete(key);
  await graph.unlinkEdge(edge);
  removed.push(edge);
  return async () => {
    old.inheritsFrom = inherited;
    node.children.set(key, edge);
    await graph.linkEdge(edge, undefined);
  };
}

/** Permissions of all edges below the planned nodes, and of the nodes that lost or got one. */
async function refreshAll(
  plan: readonly PlannedNode[],
  held: ReadonlySet<BlockNode>,
  removed: readonly Child[],
): Promise<void> {
  const change = new Map<Child, { perm: number; shared: number } | null>();
  for (const edge of removed) change.set(edge, null);
  for (const { node } of plan) {
    const total = cumulativePerms(node);
    for (const child of node.children.values())
      change.set(child, childPerms(node, child, total, change));
  }
  const roots: PermChange = change;
  await applyPerms(roots, [...held]);
}

function notReopenable(node: BlockNode): BlockError {
  return new BlockError(
    'ENOTSUP',
    `Block format '${node.driver.name}' used by node '${node.name}' does not support ` +
      'reopening files',
  );
}
