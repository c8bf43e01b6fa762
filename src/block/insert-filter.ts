/** Putting a filter between an open node and its users, and taking it away. */
import type { Child } from './child.js';
import type { Driver, NodeOptions, OpenFlags } from './driver.js';
import { BlockError } from './errors.js';
import type { BlockNode } from './node.js';
import { attachChild, openFilter } from './open.js';
import { filtered, skipFilters } from './status.js';
import { Perm, Role } from './types.js';

export interface FilterInit {
  readonly driver: Driver;
  /** Name of the node; absent: users do not see the filter. */
  readonly name?: string | undefined;
  readonly options?: NodeOptions;
  readonly flags?: Partial<OpenFlags>;
}

/**
 * Opens a filter over `node` and makes it what all users of `node` use. Resolves to the filter,
 * of which the caller gets a handle. Throws BlockError; then all is as it was.
 */
export async function insertFilter(node: BlockNode, init: FilterInit): Promise<BlockNode> {
  const { graph } = node;
  const name = init.name === undefined ? {} : { 'node-name': init.name };
  const flags = { ...node.flags, inactive: false, ...init.flags };
  const filter = await openFilter(node, init.driver, { ...init.options, ...name }, flags);
  filter.refs++;
  filter.implicit = init.name === undefined;
  await graph.drainBegin(node);
  try {
    await moveEdges(
      movable(node).filter(({ parent }) => !isBelow(parent.asNode, filter)),
      filter,
    );
  } catch (e) {
    graph.drainEnd(node);
    await graph.release(filter);
    throw e;
  }
  graph.drainEnd(node);
  return filter;
}

/**
 * Makes the node below `filter` (or `to`) what all users of the filter use, and gives the caller's
 * handle on the filter back. Throws BlockError when permissions conflict; then all is as it was.
 */
export async function removeFilter(filter: BlockNode, to = filtered(filter)): Promise<void> {
  if (to === undefined) throw new BlockError('EINVAL', `Node '${filter.name}' is no filter`);
  const { graph } = filter;
  to.refs++;
  await graph.drainBegin(filter);
  try {
    await moveEdges(movable(filter), to);
  } finally {
    graph.drainEnd(filter);
    await graph.release(to);
    await graph.release(filter);
  }
}

/** Whether `node` is `top` or below it: an edge of it that led to `top` would make a ring. */
export function isBelow(node: BlockNode | undefined, top: BlockNode): boolean {
  if (node === undefined || node === top) return node === top;
  return [...node.parents].some(({ parent }) => isBelow(parent.asNode, top));
}

/** What must be so that a node may be replaced. */
export const noVisibleChange =
  'guaranteed that doing so would not lead to an abrupt change of visible data';

/**
 * Whether nobody sees a change when a copy of `source` takes the place of `replaced`: it is the
 * same disk, or a child of a quorum, which may be wrong, and which nobody else reads.
 */
export function isReplaceable(source: BlockNode, replaced: BlockNode): boolean {
  if (skipFilters(source) === skipFilters(replaced)) return true;
  if (source.instance.members === undefined) return false;
  if (![...source.children.values()].some(({ node }) => skipFilters(node) === replaced))
    return false;
  return [...replaced.parents].every(
    ({ parent, perm }) => (perm & Perm.consistentRead) === 0 || isBelow(parent.asNode, source),
  );
}

/** Edges that go along when a node is replaced. */
export function movable(node: BlockNode): Child[] {
  return [...node.parents].filter((edge) => edge.parent.staysAtNode !== true);
}

/** Points edges, whose parents are drained, at `to`; all or none. Throws BlockError. */
export async function moveEdges(edges: readonly Child[], to: BlockNode): Promise<void> {
  const frozen = edges.find((edge) => edge.frozen !== undefined);
  if (frozen !== undefined) {
    throw new BlockError('EPERM', `Cannot change '${frozen.name}' link to '${frozen.node.name}'`);
  }
  await to.graph.replaceEdges(edges, to);
}

/**
 * Nobody changes the edges from `top` down to `bottom` until the returned function is called.
 * Throws BlockError when somebody else has frozen one.
 */
export function freezeChain(top: BlockNode, bottom: BlockNode, reason: string): () => void {
  const edges: Child[] = [];
  for (let node = top; node !== bottom;) {
    const edge = node.driver.kind === 'filter' ? node.file : node.backing;
    if (edge === undefined) break;
    if (edge.frozen !== undefined) {
      const ends = `'${node.name}' to '${edge.node.name}'`;
      throw new BlockError('EPERM', `Cannot change '${edge.name}' link from ${ends}`);
    }
    // A filter that goes away by itself.
    if (edge.node.driver.primaryChild === 'backing') {
      throw new BlockError('EPERM', `Cannot freeze '${edge.name}' link to '${edge.node.name}'`);
    }
    edges.push(edge);
    node = edge.node;
  }
  for (const edge of edges) edge.frozen = reason;
  return () => {
    for (const edge of edges) edge.frozen = undefined;
  };
}

/**
 * The image reads what it does not hold from `to` from now on (undefined: nothing below). The
 * name in its header is the caller's to change. Throws BlockError when permissions conflict.
 */
export async function setBacking(image: BlockNode, to: BlockNode | undefined): Promise<void> {
  const { graph, backing } = image;
  if (backing?.node === to) return;
  await graph.drainBegin(image);
  try {
    if (backing === undefined) {
      if (to !== undefined) await attachChild(graph, image, to, 'backing', Role.cow);
    } else if (to === undefined) await graph.detachEdge(backing);
    else await graph.replaceEdge(backing, to);
    image.refreshLimits();
  } finally {
    graph.drainEnd(image);
  }
}
