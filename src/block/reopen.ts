/**
 * Changing how open nodes are open: read-only or writable, cache mode, runtime options.
 *
 * Steps: the nodes are drained; each driver prepares, parents before children; the new flags
 * are put in place and permissions are recomputed; then all drivers commit, children before
 * parents. If anything fails before the commits, all is as it was (R1).
 */
import type { NodeOptions, OpenFlags, ReopenStep } from './driver.js';
import { BlockError } from './errors.js';
import { applyGeneric, isObject, mergeOptions, nestOptions } from './node-options.js';
import { splitGeneric, storageFlags } from './node-options.js';
import type { BlockNode } from './node.js';

/** What is to become different; all else stays. */
export interface ReopenChange {
  /** Flags of the node; its storage children inherit them. */
  readonly flags?: Partial<OpenFlags>;
  /** Options, nested or dotted; those not named keep their values. */
  readonly options?: NodeOptions;
}

interface Planned {
  readonly node: BlockNode;
  readonly flags: OpenFlags;
  /** All options of the node, as they will be. */
  readonly explicit: NodeOptions;
  /** The driver's own. */
  readonly own: NodeOptions;
}

/** Reopens `node` and its storage children. Throws BlockError or OptionError (R1). */
export async function reopenNode(node: BlockNode, change: ReopenChange): Promise<void> {
  const { graph } = node;
  const flags = { ...node.flags, ...change.flags };
  const plan = planned(node, flags, nestOptions(change.options ?? {}));
  await graph.drainBegin(node);
  try {
    await carryOut(plan);
  } finally {
    graph.drainEnd(node);
  }
}

/** The node, then its storage children, with what each will be. */
function planned(node: BlockNode, inherited: OpenFlags, changed: NodeOptions): Planned[] {
  const explicit = mergeOptions(node.explicitOptions, changed);
  const { generic, own } = splitGeneric(explicit);
  const flags = applyGeneric(inherited, generic);
  const mine: Record<string, unknown> = {};
  for (const key of Object.keys(own)) {
    if (node.children.has(key)) continue;
    if (node.driver.optionNames.includes(key)) mine[key] = own[key];
    else if (key in changed) {
      throw new BlockError('EINVAL', `Cannot change the option '${key}'`);
    }
  }
  const plan: Planned[] = [{ node, flags, explicit, own: mine }];
  for (const child of node.children.values()) {
    if (child.name === 'backing') continue;
    const below = changed[child.name];
    const asFormat = node.driver.kind !== 'filter';
    plan.push(...planned(child.node, storageFlags(flags, asFormat), isObject(below) ? below : {}));
  }
  return plan;
}

async function carryOut(plan: readonly Planned[]): Promise<void> {
  const steps: ReopenStep[] = [];
  const before = plan.map(({ node }) => ({
    node,
    flags: node.flags,
    readOnly: node.readOnly,
    explicit: node.explicitOptions,
  }));
  try {
    for (const { node, flags, own } of plan) {
      if (node.instance.reopenPrepare === undefined) throw notReopenable(node);
      steps.push(await node.instance.reopenPrepare({ options: own, flags }));
    }
    for (const { node, flags, explicit } of plan) {
      node.flags = flags;
      node.readOnly = !flags.writable;
      node.explicitOptions = explicit;
    }
    const top = plan[0]?.node;
    if (top !== undefined) await top.graph.refreshPerms(top);
  } catch (e) {
    for (const { node, flags, readOnly, explicit } of before) {
      node.flags = flags;
      node.readOnly = readOnly;
      node.explicitOptions = explicit;
    }
    for (const step of steps.reverse()) await step.abort();
    throw e;
  }
  for (const step of steps.reverse()) await step.commit();
  for (const { node } of [...plan].reverse()) {
    node.refreshLimits();
    await node.refreshLength();
  }
}

function notReopenable(node: BlockNode): BlockError {
  return new BlockError(
    'ENOTSUP',
    `Block format '${node.driver.name}' used by node '${node.name}' does not support ` +
      'reopening files',
  );
}
