/**
 * Planning a reopen: which nodes are concerned, and what each of them will be.
 *
 * A node brings along the children that were opened for it (by options inside its own, or
 * because an image names them); children that were given by name stay as they are.
 */
import { formatJson } from '../lib/json-text.js';
import { refuseCycle } from './chain.js';
import type { NodeOptions, OpenFlags } from './driver.js';
import { BlockError } from './errors.js';
import type { GenericOptions } from './node-options.js';
import {
  applyGeneric,
  detectZeroesOf,
  isObject,
  mergeOptions,
  nestOptions,
  splitGeneric,
  storageFlags,
} from './node-options.js';
import type { BlockNode } from './node.js';
import type { DetectZeroes } from './types.js';

/** What is to become different with one node. */
export interface ReopenItem {
  readonly node: BlockNode;
  /** Nested or dotted. */
  readonly options?: NodeOptions | undefined;
  /** Flags beside the options; children inherit them. */
  readonly flags?: Partial<OpenFlags> | undefined;
  /** Options that are not named keep their values; else they get their defaults. */
  readonly keepOld: boolean;
}

/** One child that is to be another node. */
export interface Replacement {
  /** `file`, or another primary child, or `backing`. */
  readonly key: string;
  /** Null: the node will have no such child. */
  readonly to: BlockNode | null;
}

/** What a node will be. */
export interface PlannedNode {
  readonly node: BlockNode;
  readonly flags: OpenFlags;
  readonly detectZeroes: DetectZeroes;
  /** All options that are given for the node, children's included. */
  readonly explicit: NodeOptions;
  /** The driver's own. */
  readonly own: NodeOptions;
  readonly replacements: readonly Replacement[];
}

function invalid(message: string): BlockError {
  return new BlockError('EINVAL', message);
}

function cannotChange(key: string): BlockError {
  return invalid(`Cannot change the option '${key}'`);
}

/** Plans all items, each node before its children. Throws BlockError or OptionError. */
export function planReopen(items: readonly ReopenItem[]): PlannedNode[] {
  const plan: PlannedNode[] = [];
  const asked = new Set(items.map((item) => item.node));
  for (const item of items) {
    planNode(plan, asked, item, startFlags(item));
  }
  return plan;
}

/** The options that a node has, with those that are given over them. */
function joined({ driver, explicitOptions: old }: BlockNode, given: NodeOptions): NodeOptions {
  return driver.joinOptions?.(old, given) ?? mergeOptions(old, given);
}

/** Flags before the options of the node itself are looked at. */
function startFlags({ node, flags, keepOld }: ReopenItem): OpenFlags {
  if (keepOld) return { ...node.flags, ...flags };
  const cache = { writeback: node.flags.cache.writeback, direct: false, noFlush: false };
  return { ...node.flags, writable: true, autoReadOnly: false, unmap: false, cache, ...flags };
}

function planNode(
  plan: PlannedNode[],
  asked: ReadonlySet<BlockNode>,
  item: ReopenItem,
  start: OpenFlags,
): void {
  const { node, keepOld } = item;
  const given = nestOptions(item.options ?? {});
  const explicit = keepOld ? joined(node, given) : given;
  const { generic, own } = splitGeneric(explicit);
  const flags = { ...applyGeneric(start, generic), inactive: node.flags.inactive };
  checkGeneric(node, generic, flags);
  const children = childKeys(node, own);
  if (!keepOld) refuseResets(node, own, children);
  if (generic.driver !== undefined && generic.driver !== node.driver.name) {
    throw cannotChange('driver');
  }
  const mine = ownOptions(node, own, children);
  const replacements: Replacement[] = [];
  const below: { item: ReopenItem; flags: OpenFlags }[] = [];
  for (const key of children) {
    const value = key in given || !keepOld ? own[key] : undefined;
    const replaced = replacement(node, key, value);
    if (replaced !== undefined) replacements.push(replaced);
    const child = node.children.get(key)?.node;
    if (replaced !== undefined || child === undefined) continue;
    if (!wasOpenedFor(child, node) || asked.has(child)) continue;
    const options = isObject(value) ? value : {};
    const keep = keepOld || typeof value === 'string';
    below.push({
      item: { node: child, options, keepOld: keep },
      flags: childFlags(node, key, flags, child, keep),
    });
  }
  checkBacking(item, own, node);
  const detectZeroes = detectZeroesOf(generic);
  plan.push({ node, flags, detectZeroes, explicit, own: mine, replacements });
  for (const each of below) planNode(plan, asked, each.item, each.flags);
}

/** Whether `child` was opened for `node`, or for one that stood between them and is gone. */
function wasOpenedFor(child: BlockNode, node: BlockNode): boolean {
  let owner = child.inheritsFrom;
  while (owner !== undefined && owner !== node) owner = owner.inheritsFrom;
  return owner === node;
}

function checkGeneric(node: BlockNode, generic: GenericOptions, flags: OpenFlags): void {
  const name = generic['node-name'];
  if (name !== undefined && name !== node.name) throw cannotChange('node-name');
  if (flags.forceShare !== node.flags.forceShare) throw cannotChange('force-share');
  const { active } = splitGeneric(node.explicitOptions).generic;
  if (generic.active !== active && generic.active === flags.inactive) throw cannotChange('active');
  if (generic['detect-zeroes'] === 'unmap' && !flags.unmap) {
    throw invalid(
      'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap',
    );
  }
}

/** Options of the node that are children: those it has, and `backing`. */
function childKeys(node: BlockNode, own: NodeOptions): string[] {
  const keys = [...node.children.keys()];
  if (
    'backing' in own &&
    !keys.includes('backing') &&
    !node.driver.optionNames.includes('backing')
  ) {
    keys.push('backing');
  }
  return keys;
}

/** An option that cannot change has no way back to its default either. */
function refuseResets(node: BlockNode, own: NodeOptions, children: readonly string[]): void {
  const changeable = new Set(node.driver.reopenOptions);
  const { own: old } = splitGeneric(node.explicitOptions);
  for (const [key, value] of Object.entries(old)) {
    // The backing child has a check of its own.
    if (key === 'backing' || key in own || changeable.has(key) || isObject(value)) continue;
    if (children.includes(key)) continue;
    if (typeof value === 'string' && node.children.has(key)) continue;
    if (node.driver.reopenDefaults?.[key] === value) continue;
    throw invalid(`Option '${key}' cannot be reset to its default value`);
  }
}

/** The driver's options; those that cannot change must have their old values. */
function ownOptions(node: BlockNode, own: NodeOptions, children: readonly string[]): NodeOptions {
  const changeable = new Set(node.driver.reopenOptions);
  // A file name may have been given without being an option.
  const strong = node.instance.strongOptions?.() ?? {};
  const { own: old } = splitGeneric(node.explicitOptions);
  const mine: NodeOptions = Object.create(null) as NodeOptions;
  for (const [key, value] of Object.entries(own)) {
    if (children.includes(key)) continue;
    if (!node.driver.optionNames.includes(key)) throw cannotChange(key);
    const before = old[key] ?? strong[key] ?? node.driver.reopenDefaults?.[key];
    if (!changeable.has(key) && !isSame(value, before)) throw cannotChange(key);
    mine[key] = value;
  }
  return mine;
}

/** Equal, whether typed or as text. */
function isSame(a: unknown, b: unknown): boolean {
  return a !== undefined && b !== undefined && comparable(a) === comparable(b);
}

function comparable(value: unknown): string {
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  return typeof value === 'string' ? value : formatJson(value);
}

/** What the option of a child asks for; undefined: the child stays. */
function replacement(node: BlockNode, key: string, value: unknown): Replacement | undefined {
  const old = node.children.get(key)?.node;
  if (value === undefined) return undefined;
  if (isObject(value)) {
    if (old !== undefined && wasOpenedFor(old, node)) return undefined;
    const first = 'driver' in value ? 'driver' : (Object.keys(value)[0] ?? '');
    throw cannotChange(`${key}.${first}`);
  }
  if (value !== null && typeof value !== 'string') throw cannotChange(key);
  if (typeof value === 'string' && old?.name === value) return undefined;
  const primary = key === (node.driver.primaryChild ?? 'file') && key === 'file';
  if (key !== 'backing' && !primary) throw cannotChange(key);
  const to = value === null ? null : named(node, value);
  if (to === old || (to === null && old === undefined)) return undefined;
  checkReplacement(node, key, old, to);
  return { key, to };
}

function named(node: BlockNode, name: string): BlockNode {
  const found = node.graph.tryNode(name);
  if (found !== undefined) return found;
  throw new BlockError('ENODEV', `Cannot find device='' nor node-name='${name}'`);
}

function checkReplacement(
  node: BlockNode,
  key: string,
  old: BlockNode | undefined,
  to: BlockNode | null,
): void {
  if (to !== null) refuseCycle(node, key, to);
  if (old?.implicit === true) {
    throw new BlockError('EPERM', `Cannot replace implicit ${key} child of ${node.name}`);
  }
  if (node.driver.kind === 'filter' && old === undefined) {
    const { name } = node.driver;
    throw invalid(`'${node.name}' is a ${name} filter node that does not support a ${key} child`);
  }
  if (key === 'backing' && node.driver.supportsBacking !== true) {
    throw invalid(
      `Driver '${node.driver.name}' of node '${node.name}' does not support backing files`,
    );
  }
  if (old !== undefined && node.children.get(key)?.frozen !== undefined) {
    const ends = `'${node.name}' to '${old.name}'`;
    throw new BlockError('EPERM', `Cannot change frozen '${key}' link from ${ends}`);
  }
}

/** Without its old options a node must be told what to do about its backing file. */
function checkBacking({ keepOld }: ReopenItem, own: NodeOptions, node: BlockNode): void {
  if (keepOld || node.driver.supportsBacking !== true || 'backing' in own) return;
  if (node.backing === undefined && node.autoBackingFile === '') return;
  throw invalid(`backing is missing for '${node.name}'`);
}

function childFlags(
  node: BlockNode,
  key: string,
  flags: OpenFlags,
  child: BlockNode,
  keepOld: boolean,
): OpenFlags {
  if (key !== 'backing') return storageFlags(flags, node.driver.kind !== 'filter');
  // Jobs open backing files for writing: that is theirs to end.
  const { writable, unmap, noIo, autoReadOnly } = child.flags;
  return { ...flags, writable, unmap: keepOld ? unmap : false, noIo, autoReadOnly };
}
