/**
 * Giving images up to another machine and taking them (back): migration, `blockdev-set-active`.
 *
 * An inactive node holds no lock that hinders others and writes nothing. What it reads may be old:
 * it looked at the image when it was opened or inactivated.
 *
 * Invariants
 *  A1  Nodes above an inactive node are inactive: parents go first and come back last.
 *  A2  When a node becomes inactive, all that it held back is in the image and durable.
 *  A3  When a format becomes active, its image is opened anew: nothing of what was known of it
 *      before is used any more. Locks are taken before it is looked at.
 *  A4  Devices and drives keep an edge without permissions meanwhile (`Child.suspended`); whoever
 *      else writes (an export, a job) does not let the node go: EPERM. While a machine is waited
 *      for, an active node lets others write until it is here.
 *  A5  If it throws, the nodes that were changed so far are changed back; one that cannot be stays
 *      as it is, and calling for the opposite brings all back.
 */
import type { Child } from './child.js';
import type {
  ChildRequest,
  DriverInstance,
  NodeOptions,
  OpenContext,
  OpenFlags,
  ReopenStep,
} from './driver.js';
import { BlockError, messageOf, prepend } from './errors.js';
import type { BlockGraph } from './graph.js';
import type { BlockNode } from './node.js';
import { splitGeneric } from './node-options.js';
import { Perm } from './types.js';

const changing = Perm.write | Perm.writeUnchanged | Perm.resize;
const nothing = { perm: 0, shared: Perm.all } as const;

/** Throws EPERM when an active parent is to stand on an inactive node (A1). */
export function checkActivity(edge: Child, node: BlockNode): void {
  const parent = edge.parent.asNode;
  if (parent?.isActive !== true || node.isActive) return;
  throw new BlockError(
    'EPERM',
    `Inactive '${node.name}' can't be a ${edge.name} child of active '${parent.name}'`,
  );
}

/** Whether an edge waits for its node to become active (A4). */
export function isSuspended(edge: Child): boolean {
  return !edge.node.isActive && edge.parent.mayBeInactive === true;
}

/** Takes an edge's permissions away in memory; the graph's are the caller's to see to. */
export function suspendEdge(edge: Child): void {
  edge.suspended ??= { perm: edge.perm, shared: edge.shared };
  Object.assign(edge, nothing);
}

/** Parents of `node` that are nodes and active. */
function hasActiveParent(node: BlockNode): boolean {
  return [...node.parents].some(({ parent }) => parent.asNode?.isActive === true);
}

/**
 * Makes a node inactive, and what is below it and used by nobody else that is active. Does nothing
 * for what is inactive. Throws BlockError (A5).
 */
export async function inactivateNode(node: BlockNode): Promise<void> {
  if (node.isActive && hasActiveParent(node)) {
    throw new BlockError('EPERM', 'Node has active parent node');
  }
  await withDrained(node.graph, [node], () =>
    orBack(activateOne, (done) => inactivateDown(node, done)),
  );
}

/** Makes all nodes inactive. Throws BlockError (A5). */
export async function inactivateAll(graph: BlockGraph): Promise<void> {
  const nodes = [...graph.nodes.values()];
  await withDrained(graph, nodes, () =>
    orBack(activateOne, async (done) => {
      for (const node of nodes) if (!hasActiveParent(node)) await inactivateDown(node, done);
    }),
  );
}

/**
 * Makes a node active, and all below it first. Resolves to a function that makes those inactive
 * again which were. Throws BlockError (A5).
 */
export async function activateNode(node: BlockNode): Promise<() => Promise<void>> {
  const { graph } = node;
  const changed: BlockNode[] = [];
  await withDrained(graph, [node], () =>
    orBack(inactivateOne, (done) => activateUp(node, done), changed),
  );
  return () => withDrained(graph, changed, () => changeBack(inactivateOne, changed));
}

type Change = (node: BlockNode) => Promise<void>;

/** Changes nodes back, the last one first; the failure of one hinders no other. */
async function changeBack(back: Change, nodes: readonly BlockNode[]): Promise<void> {
  for (const node of nodes.toReversed()) await back(node).catch(() => undefined);
}

/** Does `work`, which notes the nodes that it has changed, and takes it `back` when it throws. */
async function orBack(
  back: Change,
  work: (done: BlockNode[]) => Promise<void>,
  done: BlockNode[] = [],
): Promise<void> {
  try {
    await work(done);
  } catch (e) {
    await changeBack(back, done);
    throw e;
  }
}

/** Makes all nodes active. Throws BlockError (A5). */
export async function activateAll(graph: BlockGraph): Promise<void> {
  const nodes = [...graph.nodes.values()].filter((node) => !node.isActive);
  await withDrained(graph, nodes, () =>
    orBack(inactivateOne, async (done) => {
      for (const node of nodes) await activateUp(node, done);
    }),
  );
  for (const node of graph.nodes.values()) if (node.isActive) await endSharing(node);
}

/** What let others write while a machine was waited for does so no more, unless they still do. */
async function endSharing(node: BlockNode): Promise<void> {
  if (node.graph.opensInactive) return;
  try {
    await resumeEdges(node);
  } catch (e) {
    node.graph.warn(messageOf(e));
    for (const edge of node.parents) edge.suspended = undefined;
  }
}

/** Runs `work` while nobody sends requests to the nodes; they stay until it has ended. */
export async function withDrained(
  graph: BlockGraph,
  nodes: readonly BlockNode[],
  work: () => Promise<void>,
): Promise<void> {
  const held: BlockNode[] = [];
  try {
    for (const node of nodes) {
      node.refs++;
      held.push(node);
      await graph.drainBegin(node);
    }
    await work();
  } finally {
    for (const node of held) graph.drainEnd(node);
    for (const node of held) await graph.release(node);
  }
}

async function inactivateDown(node: BlockNode, done: BlockNode[]): Promise<void> {
  if (hasActiveParent(node)) return;
  if (node.isActive) {
    await inactivateOne(node);
    done.push(node);
  }
  for (const { node: child } of [...node.children.values()]) await inactivateDown(child, done);
}

async function inactivateOne(node: BlockNode): Promise<void> {
  const { graph } = node;
  const users = [...node.parents].filter(({ parent }) => parent.asNode === undefined);
  for (const { parent, perm } of node.parents) {
    if ((perm & changing) !== 0 && parent.mayBeInactive !== true) throw new BlockError('EPERM');
  }
  const step = await prepareMode(node, { ...node.flags, writable: false });
  try {
    await node.flush();
  } catch (e) {
    await step?.abort();
    throw e;
  }
  await step?.commit();
  const writes = node.driver.kind === 'format' && !node.staysReadOnly;
  if (writes) {
    // Cuts off what the file was grown ahead; from then on nothing is held back.
    await node.instance.close();
    await node.file?.flush();
    // They are in the image now.
    for (const [name, { persistent }] of node.dirtyBitmaps) {
      if (persistent && node.driver.storesBitmaps === true) node.dirtyBitmaps.delete(name);
    }
  }
  node.flags = { ...node.flags, inactive: true };
  if (writes) {
    try {
      await openAgain(node);
    } catch (e) {
      node.instance = lost(node.size, e);
    }
  }
  // Giving permissions up conflicts with nobody.
  for (const edge of users) if (isSuspended(edge)) suspendEdge(edge);
  await graph.refreshPerms(node);
}

/** What formats and filters do when they become read-only, or writable. */
async function prepareMode(node: BlockNode, flags: OpenFlags): Promise<ReopenStep | undefined> {
  if (node.driver.kind === 'protocol' || node.staysReadOnly) return undefined;
  return node.instance.reopenPrepare?.({ options: driverOptions(node), flags });
}

/** The driver's own options, without children. */
function driverOptions(node: BlockNode): NodeOptions {
  const own = Object.entries(splitGeneric(node.explicitOptions).own);
  return Object.fromEntries(
    own.filter(([key]) => node.driver.optionNames.includes(key) && !node.children.has(key)),
  );
}

async function activateUp(node: BlockNode, done: BlockNode[]): Promise<void> {
  for (const { node: child } of [...node.children.values()]) await activateUp(child, done);
  if (node.isActive) return;
  await activateOne(node);
  done.push(node);
}

async function activateOne(node: BlockNode): Promise<void> {
  const { graph } = node;
  const inactive = node.flags;
  if (node.driver.kind === 'format') await node.instance.close();
  node.flags = { ...inactive, inactive: false };
  try {
    await graph.refreshPerms(node);
    // Children that were active already saw another writer all the same.
    for (const { node: child } of node.children.values()) await lookAgain(child);
    await wakeDriver(node);
    node.refreshLimits();
    await node.refreshLength();
    await resumeEdges(node);
  } catch (e) {
    node.flags = inactive;
    await fallAsleep(node);
    throw e;
  }
}

async function wakeDriver(node: BlockNode): Promise<void> {
  const { kind, name } = node.driver;
  if (kind === 'protocol') {
    await lookAgain(node);
    return;
  }
  if (kind === 'filter') {
    const step = await prepareMode(node, node.flags);
    await step?.commit();
    return;
  }
  try {
    await openAgain(node);
  } catch (e) {
    throw prepend(`Could not reopen ${name} layer: `, e);
  }
}

/** What stands in storage may be other than it was. */
async function lookAgain(node: BlockNode): Promise<void> {
  if (node.driver.kind !== 'protocol') return;
  node.instance.othersWrote?.();
  await node.refreshLength();
}

/** After a failure: inactive as before, or where not even that works, of no use. */
async function fallAsleep(node: BlockNode): Promise<void> {
  try {
    if (node.driver.kind === 'format') await openAgain(node);
  } catch (e) {
    node.instance = lost(node.size, e);
  }
  await node.graph.refreshPerms(node).catch(() => undefined);
}

/** The driver opens the image that its children show now, as if for the first time (A3). */
async function openAgain(node: BlockNode): Promise<void> {
  const { backingFile, autoBackingFile } = node;
  node.instance = await node.driver.open(contextOf(node));
  // What the header names has been opened under a name that may be written in another way.
  if (node.backingFile === backingFile) node.autoBackingFile = autoBackingFile;
  for (let i = 0; i < node.quiesced; i++) await node.instance.drainBegin?.();
}

/** The context of an open in which all children are there. */
function contextOf(node: BlockNode): OpenContext {
  const { graph } = node;
  const find = (key: string, { name }: ChildRequest): Child | undefined =>
    node.children.get(name ?? key);
  return {
    graph,
    host: graph.host,
    node,
    options: driverOptions(node),
    flags: node.flags,
    tryOpenChild: (key, request) => Promise.resolve(find(key, request)),
    openChild: (key, request) => {
      const child = find(key, request);
      if (child !== undefined) return Promise.resolve(child);
      const text = `A block device must be specified for "${key}"`;
      return Promise.reject(new BlockError('EINVAL', text));
    },
  };
}

/** Permissions that devices had, or asked for meanwhile. Throws when others have the image. */
async function resumeEdges(node: BlockNode): Promise<void> {
  for (const edge of node.parents) {
    const { suspended } = edge;
    if (suspended === undefined) continue;
    // Until the machine is here others (an export that brings its disk) may write as well.
    const waits = node.graph.opensInactive;
    const wanted = waits ? { perm: suspended.perm, shared: Perm.all } : suspended;
    await node.graph.changePerms(edge, wanted);
    if (!waits) edge.suspended = undefined;
  }
}

/** An instance that only tells why there is none. */
function lost(bytes: number, cause: unknown): DriverInstance {
  return {
    length: () => bytes,
    read: () => Promise.reject(new BlockError('ENOMEDIUM', undefined, { cause })),
    close: () => Promise.resolve(),
  };
}
