/**
 * Opening a node: from a file name and options to a driver instance with children.
 *
 * Order: generic options → driver (given, by protocol, or probed on the opened file)
 * → `driver.open`, which attaches children → backing file. Whatever fails, all that
 * was opened on the way is closed again.
 */
import { Iov } from '../lib/iov.js';
import { parseJson } from '../lib/json-text.js';
import type { ChildParent } from './child.js';
import { Child, defaultPerms } from './child.js';
import type { ChildRequest, Driver, NodeOptions, OpenContext, OpenFlags } from './driver.js';
import { BlockError, messageOf, prepend } from './errors.js';
import { exactFilename, nameSeenFrom, schemeOf } from './filename.js';
import type { BlockGraph, OpenSpec } from './graph.js';
import { BlockNode } from './node.js';
import type { GenericOptions } from './node-options.js';
import {
  applyGeneric,
  backingFlags,
  defaultFlags,
  detectZeroesOf,
  isObject,
  mergeOptions,
  nestOptions,
  splitGeneric,
  storageFlags,
} from './node-options.js';
import { Perm, Role } from './types.js';

/** Bytes at the start of an image that probing looks at. */
export const PROBE_BYTES = 2048;
/** Longest backing chain; a longer one is taken for a loop. */
const MAX_CHAIN = 10_000;

interface OpenHow {
  /** Opened as a child that is storage: a protocol unless options name a driver. */
  readonly protocolOnly: boolean;
  /** Files above this one in the backing chain, to find loops. */
  readonly chain: readonly string[];
}

/** Opens or finds what `spec` describes. The caller takes a handle or attaches an edge. */
export async function openNode(
  graph: BlockGraph,
  spec: OpenSpec,
  how: OpenHow = { protocolOnly: false, chain: [] },
): Promise<BlockNode> {
  if (spec.reference !== undefined && spec.reference !== '') return byReference(graph, spec);
  let filename = spec.filename === '' ? undefined : spec.filename;
  let options = nestOptions(spec.options ?? {});
  if (filename?.startsWith('json:') === true) {
    options = mergeOptions(jsonOptions(filename), options);
    filename = undefined;
  }
  const { generic, own } = splitGeneric(options);
  const asked = { ...defaultFlags, inactive: graph.opensInactive, ...spec.flags };
  const flags = applyGeneric(asked, generic);
  const driver = await pickDriver(graph, filename, own, generic, how.protocolOnly);
  const plan: Plan = { graph, filename, options, generic, own, flags, how };
  if (driver?.kind === 'protocol') return openProtocol(plan, driver);
  return openFormat(plan, driver);
}

function byReference(graph: BlockGraph, spec: OpenSpec): BlockNode {
  const name = spec.reference ?? '';
  const device = graph.backends.get(name);
  if (device?.isInserted === false) {
    throw new BlockError('ENOMEDIUM', `Device '${name}' has no medium`);
  }
  const node = device?.node ?? graph.tryNode(name);
  if (node === undefined) {
    throw new BlockError('ENODEV', `Cannot find device='${name}' nor node-name='${name}'`);
  }
  if (spec.filename !== undefined || Object.keys(spec.options ?? {}).length > 0) {
    throw new BlockError(
      'EINVAL',
      'Cannot reference an existing block device with additional options or a new filename',
    );
  }
  return node;
}

function jsonOptions(filename: string): NodeOptions {
  let value: unknown;
  try {
    value = parseJson(filename.slice('json:'.length));
  } catch (e) {
    throw prepend('Could not parse the JSON options: ', e);
  }
  if (!isObject(value)) throw new BlockError('EINVAL', 'Invalid JSON object given');
  return nestOptions(value);
}

/** Throws BlockError when options contradict each other; a format's file is told first. */
function checkFlags(flags: OpenFlags, generic: GenericOptions): void {
  if (flags.forceShare && flags.writable) {
    throw new BlockError('EINVAL', 'force-share=on can only be used with read-only images');
  }
  if (generic['detect-zeroes'] === 'unmap' && !flags.unmap) {
    throw new BlockError(
      'EINVAL',
      'setting detect-zeroes to unmap is not allowed without setting discard operation to unmap',
    );
  }
}

/** A filter over an open node; the driver need not be in the catalogue. Throws BlockError. */
export function openFilter(
  over: BlockNode,
  driver: Driver,
  options: NodeOptions,
  flags: OpenFlags,
): Promise<BlockNode> {
  const { graph } = over;
  const key = driver.primaryChild ?? 'file';
  const { generic, own } = splitGeneric(options);
  const all = { driver: driver.name, ...options };
  // Named as a reference is: the node is not opened for the filter.
  const named = { ...own, [key]: over.name };
  const how = { protocolOnly: false, chain: [] };
  const plan: Plan = { graph, filename: undefined, options: all, generic, own: named, flags, how };
  return build(plan, driver, own, { key, node: over }, false);
}

/** The driver that options or file name decide; undefined: probe. */
async function pickDriver(
  graph: BlockGraph,
  filename: string | undefined,
  own: NodeOptions,
  generic: GenericOptions,
  protocolOnly: boolean,
): Promise<Driver | undefined> {
  if (generic.driver !== undefined) return graph.driver(generic.driver);
  if (!protocolOnly) return undefined;
  if (filename !== undefined) return protocolOf(graph, filename);
  const name = own['filename'];
  if (typeof name === 'string') return protocolOf(graph, name);
  throw new BlockError('EINVAL', 'Must specify either driver or file');
}

/** The protocol driver that a file name asks for; by the kind of file where it names none. */
export async function protocolOf(graph: BlockGraph, filename: string): Promise<Driver> {
  const scheme = schemeOf(filename);
  if (scheme === undefined) return pathDriver(graph, filename);
  const found = graph.drivers.find((d) => d.schemes?.includes(scheme) === true);
  return found ?? fail(`Unknown protocol '${scheme}'`);
}

/** The driver for a path of the host, by the kind of file that is there. */
async function pathDriver(graph: BlockGraph, path: string): Promise<Driver> {
  const device = await deviceDriver(graph, path);
  return device ?? graph.tryDriver('file') ?? fail('This build has no driver for local files');
}

/** The driver that takes a path of a device over; undefined for everything else. */
async function deviceDriver(graph: BlockGraph, path: string): Promise<Driver | undefined> {
  const stat = await graph.host.files?.stat(path).catch(() => undefined);
  if (stat === undefined || stat.kind === 'regular') return undefined;
  let best: Driver | undefined;
  let bestScore = 0;
  for (const driver of graph.drivers) {
    const score = driver.probePath?.(path, stat.kind) ?? 0;
    if (score > bestScore) {
      best = driver;
      bestScore = score;
    }
  }
  return best;
}

function fail(message: string): never {
  throw new BlockError('EINVAL', message);
}

interface Plan {
  readonly graph: BlockGraph;
  readonly filename: string | undefined;
  readonly options: NodeOptions;
  readonly generic: GenericOptions;
  readonly own: NodeOptions;
  readonly flags: OpenFlags;
  readonly how: OpenHow;
}

async function openProtocol(plan: Plan, driver: Driver): Promise<BlockNode> {
  let { own } = plan;
  if (plan.filename !== undefined) {
    if (own['filename'] !== undefined) {
      fail("Can't specify 'file' and 'filename' options at the same time");
    }
    own = mergeOptions(parseName(driver, plan.filename), own);
  }
  return build(plan, driver, own, undefined, false);
}

function parseName(driver: Driver, filename: string): NodeOptions {
  return nestOptions(driver.parseFilename?.(filename) ?? { filename });
}

async function openFormat(plan: Plan, given: Driver | undefined): Promise<BlockNode> {
  const { graph } = plan;
  const key = given?.primaryChild ?? 'file';
  const ownName = given !== undefined && given.parseFilename !== undefined && plan.filename;
  if (ownName !== false && ownName !== undefined && namesAll(given, ownName)) {
    const own = mergeOptions(parseName(given, ownName), plan.own);
    return build({ ...plan, filename: undefined }, given, own, undefined, false);
  }
  if (given !== undefined && !given.needsFile) {
    const node = await build({ ...plan, filename: undefined }, given, plan.own, undefined, false);
    if (plan.filename === undefined) return node;
    await graph.closeUnused(node);
    fail(`The '${given.name}' block driver requires a file name in its options`);
  }
  const file = await openStorage(plan, key, plan.own[key], plan.filename, given);
  if (file === undefined) {
    if (given === undefined) return fail('Must specify either driver or file');
    return build(plan, given, plan.own, undefined, false);
  }
  try {
    const driver = given ?? (await probe(graph, file, plan.filename ?? ''));
    return await build(
      plan,
      driver,
      without(plan.own, key),
      { key, node: file },
      given === undefined,
    );
  } finally {
    file.refs--;
    await graph.closeUnused(file);
  }
}

/** Whether the driver makes options of the name, rather than opening the file of this name. */
function namesAll(driver: Driver, filename: string): boolean {
  const scheme = schemeOf(filename);
  if (!driver.needsFile && driver.schemes !== undefined) return true;
  return scheme !== undefined && driver.schemes?.includes(scheme) === true;
}

function without(options: NodeOptions, key: string): NodeOptions {
  const out = Object.assign(Object.create(null) as NodeOptions, options);
  Reflect.deleteProperty(out, key);
  return out;
}

/** Opens the storage child of a format with a handle taken; undefined when nothing names one. */
async function openStorage(
  plan: Plan,
  key: string,
  value: unknown,
  filename: string | undefined,
  parent: Driver | undefined,
): Promise<BlockNode | undefined> {
  if (value === undefined && filename === undefined) return undefined;
  const flags = storageFlags(plan.flags, parent?.kind !== 'filter');
  const spec = childSpec(key, value, filename, flags);
  const node = await openNode(plan.graph, spec, { protocolOnly: true, chain: plan.how.chain });
  node.refs++;
  return node;
}

/** A child described by a node name, by options, or by a file name. */
function childSpec(
  key: string,
  value: unknown,
  filename: string | undefined,
  flags: OpenFlags,
): OpenSpec {
  if (typeof value === 'string') {
    if (filename !== undefined) {
      fail('Cannot reference an existing block device with additional options or a new filename');
    }
    return { reference: value, flags };
  }
  if (value !== undefined && !isObject(value)) {
    fail(`Invalid parameter type for '${key}', expected: object`);
  }
  return { filename, options: value, flags };
}

/** Which format an image has, by the highest score on its first bytes. */
export async function probe(graph: BlockGraph, file: BlockNode, name: string): Promise<Driver> {
  const head = new Uint8Array(Math.min(PROBE_BYTES, file.size));
  if (head.byteLength > 0) {
    try {
      await file.read(0, Iov.of(head));
    } catch (e) {
      throw new BlockError(
        'EIO',
        'Could not read image for determining its format: ' + messageOf(e),
        { cause: e },
      );
    }
  }
  return bestFormat(graph, head, name);
}

/** The format that recognises `head` best; `raw` if none does. */
export function bestFormat(graph: BlockGraph, head: Uint8Array, name: string): Driver {
  let best: Driver | undefined;
  let bestScore = 0;
  for (const driver of graph.drivers) {
    const score = driver.probe?.(head, name) ?? 0;
    if (score > bestScore) {
      best = driver;
      bestScore = score;
    }
  }
  return best ?? graph.driver('raw');
}

interface OpenedFile {
  readonly key: string;
  readonly node: BlockNode;
}

async function build(
  plan: Plan,
  driver: Driver,
  own: NodeOptions,
  file: OpenedFile | undefined,
  probed: boolean,
): Promise<BlockNode> {
  const { graph, generic, flags } = plan;
  checkFlags(flags, generic);
  const node = new BlockNode({
    graph,
    name: nodeName(graph, generic['node-name']),
    driver,
    flags,
    detectZeroes: detectZeroesOf(generic),
    explicitOptions: plan.options,
    probed,
  });
  node.namedByUser = generic['node-name'] !== undefined;
  const backing = takeBacking(driver, own);
  checkNames(driver, backing.rest);
  if (flags.noBacking && isObject(backing.value)) {
    // Nobody opens the backing file, so nobody takes its options.
    const [key = ''] = Object.keys(backing.value);
    fail(`Block format '${driver.name}' does not support the option 'backing.${key}'`);
  }
  graph.addNode(node);
  try {
    const context = makeContext(plan, node, backing.rest, file);
    node.instance = await driver.open(context);
    // Nodes below were drained meanwhile, and so is this one.
    for (let i = 0; i < node.quiesced; i++) await node.instance.drainBegin?.();
    node.refreshLimits();
    await node.refreshLength();
    if (driver.supportsBacking === true && !flags.noBacking) {
      await openBacking(graph, node, backing.value, plan.how.chain);
    }
    node.refreshLimits();
    await graph.refreshPerms(node);
    return node;
  } catch (e) {
    await abandon(graph, node);
    throw e;
  }
}

function nodeName(graph: BlockGraph, wanted: string | undefined): string {
  if (wanted === undefined) return graph.generateName();
  checkNodeName(graph, wanted);
  return wanted;
}

/** Throws BlockError with QEMU's text when no new node can have this name. */
export function checkNodeName(graph: BlockGraph, wanted: string): void {
  if (!/^[A-Za-z][A-Za-z0-9\-._]{0,31}$/.test(wanted)) fail(`Invalid node-name: '${wanted}'`);
  if (graph.backends.has(wanted)) fail(`node-name=${wanted} is conflicting with a device id`);
  if (graph.nodes.has(wanted)) fail(`Duplicate nodes with node-name='${wanted}'`);
}

function takeBacking(driver: Driver, own: NodeOptions): { value: unknown; rest: NodeOptions } {
  if (driver.supportsBacking !== true || !('backing' in own)) {
    return { value: undefined, rest: own };
  }
  return { value: own['backing'], rest: without(own, 'backing') };
}

/** Children's keys are objects or names that `openChild` reads; all else must be declared. */
function checkNames(driver: Driver, own: NodeOptions): void {
  for (const key of Object.keys(own)) {
    if (driver.optionNames.includes(key)) continue;
    if (driver.kind === 'protocol') {
      fail(`Block protocol '${driver.name}' doesn't support the option '${key}'`);
    }
    fail(`Block format '${driver.name}' does not support the option '${key}'`);
  }
}

async function abandon(graph: BlockGraph, node: BlockNode): Promise<void> {
  graph.nodes.delete(node.name);
  // The instance exists when a later step failed; it must let go of what it holds.
  const instance = node.instance as BlockNode['instance'] | undefined;
  try {
    await instance?.close();
  } catch {
    // The first error is the one to tell.
  }
  for (const child of [...node.children.values()].reverse()) await graph.detachEdge(child);
}

function makeContext(
  plan: Plan,
  node: BlockNode,
  own: NodeOptions,
  file: OpenedFile | undefined,
): OpenContext {
  const { graph } = plan;
  const tryOpenChild = async (key: string, request: ChildRequest): Promise<Child | undefined> => {
    const opened = file?.key === key ? file.node : await openOther(plan, node, own, key, request);
    if (opened === undefined) return undefined;
    const edge = await attach(graph, node, opened, request.name ?? key, request.role);
    // A node that was given by name is somebody else's; any other was opened for this one.
    if (typeof optionAt(plan.own, key) !== 'string') opened.inheritsFrom = node;
    return edge;
  };
  return {
    graph,
    host: graph.host,
    node,
    options: own,
    flags: node.flags,
    tryOpenChild,
    openChild: async (key, request) => {
      const child = await tryOpenChild(key, request);
      if (child === undefined) fail(`A block device must be specified for "${key}"`);
      return child;
    },
  };
}

/** The option under a key that may name an element of a list (`children.0`). */
function optionAt(own: NodeOptions, key: string): unknown {
  let value: unknown = own;
  for (const part of key.split('.')) {
    if (typeof value !== 'object' || value === null) return undefined;
    value = (value as Record<string, unknown>)[part];
  }
  return value;
}

async function openOther(
  plan: Plan,
  node: BlockNode,
  own: NodeOptions,
  key: string,
  request: ChildRequest,
): Promise<BlockNode | undefined> {
  const value = optionAt(own, key);
  const plain = value === undefined ? request.defaultFilename : undefined;
  if (plain !== undefined) {
    // A name that an image gives is a path and nothing else: no protocol, no `json:`.
    const driver = await pathDriver(plan.graph, plain);
    const options = { driver: driver.name, filename: plain };
    const flags = storageFlags(node.flags, node.driver.kind !== 'filter');
    return openNode(plan.graph, { options, flags }, { protocolOnly: true, chain: plan.how.chain });
  }
  const { filename } = request;
  if (value === undefined && filename === undefined) return undefined;
  const flags =
    (request.role & Role.cow) !== 0
      ? backingFlags(node.flags)
      : storageFlags(node.flags, node.driver.kind !== 'filter');
  const how = { protocolOnly: request.allowFormat !== true, chain: plan.how.chain };
  return openNode(plan.graph, childSpec(key, value, filename, flags), how);
}

/** Attaches a child to a node that is being opened, with the least that its role needs. */
async function attach(
  graph: BlockGraph,
  parent: BlockNode,
  node: BlockNode,
  name: string,
  role: number,
): Promise<Child> {
  const perms = defaultPerms(
    role,
    { perm: 0, shared: Perm.all },
    { writable: !parent.readOnly, io: !parent.flags.noIo },
  );
  const others = parent.isActive ? 0 : Perm.write | Perm.resize;
  const shared = node.flags.forceShare ? Perm.all : perms.shared | others;
  const edge = new Child(nodeParent(graph, parent), name, role, node, { ...perms, shared });
  try {
    await graph.attachEdge(edge);
  } catch (e) {
    await graph.closeUnused(node);
    throw e;
  }
  return edge;
}

/** Attaches `node` to an open parent under `name` (snapshots, jobs). */
export function attachChild(
  graph: BlockGraph,
  parent: BlockNode,
  node: BlockNode,
  name: string,
  role: number,
): Promise<Child> {
  return attach(graph, parent, node, name, role);
}

/** `node` as the parent of its edges. */
export function nodeParent(graph: BlockGraph, node: BlockNode): ChildParent {
  return {
    asNode: node,
    describeParent: () => `node '${node.name}'`,
    drainBegin: () => graph.drainBegin(node),
    drainEnd: () => {
      graph.drainEnd(node);
    },
    childResized: (child) => {
      if (child.name !== node.file?.name || node.driver.kind !== 'filter') return;
      // A filter may show another length than its file has; while it opens there is none yet.
      const length = (node.instance as BlockNode['instance'] | undefined)?.length();
      if (typeof length === 'number') node.setSize(length);
      // One that must wait for its length asks again when it has changed it itself.
      else void length?.catch(() => undefined);
    },
  };
}

/** Opens the backing file that an image's header names, where there is none open. Throws. */
export async function openHeaderBacking(graph: BlockGraph, node: BlockNode): Promise<void> {
  if (node.backing !== undefined || node.driver.supportsBacking !== true) return;
  node.flags = { ...node.flags, noBacking: false };
  await openBacking(graph, node, undefined, []);
  node.refreshLimits();
  await graph.refreshPerms(node);
}

async function openBacking(
  graph: BlockGraph,
  node: BlockNode,
  value: unknown,
  above: readonly string[],
): Promise<void> {
  if (value === null || value === '') {
    node.explicitOptions = { ...node.explicitOptions, backing: null };
    return;
  }
  const explicit = isObject(value) ? value : {};
  const named = explicit['file'] !== undefined || explicit['filename'] !== undefined;
  if (value === undefined && node.autoBackingFile === '') return;
  if (typeof value === 'string') {
    const found = byReference(graph, { reference: value });
    await attach(graph, node, found, 'backing', Role.cow);
    return;
  }
  const filename =
    named || (explicit['driver'] !== undefined && node.autoBackingFile === '')
      ? undefined
      : backingPath(graph, node);
  try {
    const chain = extendChain(above, node);
    if (filename !== undefined && chain.includes(filename)) {
      throw new BlockError('ELOOP', `Backing file '${filename}' creates an infinite loop.`);
    }
    const options = mergeOptions({}, explicit);
    if (options['driver'] === undefined && node.backingFormat !== '' && !named) {
      options['driver'] = node.backingFormat;
    }
    const below = await openNode(
      graph,
      { filename, options, flags: backingFlags(node.flags) },
      { protocolOnly: false, chain },
    );
    await attach(graph, node, below, 'backing', Role.cow);
    below.inheritsFrom = node;
    // From here on the header's name means this node, however the header spells it.
    if (value === undefined) node.autoBackingFile = below.filename;
  } catch (e) {
    throw prepend('Could not open backing file: ', e);
  }
}

/** The backing file's name, completed with the folder of the image that names it. */
export function backingPath(graph: BlockGraph, node: BlockNode): string {
  const name = node.autoBackingFile;
  const { files } = graph.host;
  const full = files === undefined ? name : nameSeenFrom(files, node, name);
  node.autoBackingFile = full;
  return full;
}

function extendChain(chain: readonly string[], node: BlockNode): readonly string[] {
  if (chain.length >= MAX_CHAIN) {
    throw new BlockError('ELOOP', `The backing chain is longer than ${String(MAX_CHAIN)} images`);
  }
  const name = exactFilename(node);
  return name === undefined ? chain : [...chain, name];
}
