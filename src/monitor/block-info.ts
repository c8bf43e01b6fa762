/** What queries tell of nodes: QMP's BlockDeviceInfo, ImageInfo, BlockStats, XDbgBlockGraph. */
import type { IntervalFacts } from '../block/accounting.js';
import type { Backend } from '../block/backend.js';
import { nodeInfo } from '../block/image-info.js';
import type { Child, ChildParent } from '../block/child.js';
import type { BlockGraph } from '../block/graph.js';
import type { BlockNode } from '../block/node.js';
import type { ThrottleGroup } from '../block/throttle-group.js';
import { below, filtered } from '../block/status.js';
import { Perm, Role } from '../block/types.js';
import type { GraphFacts } from './graph-picture.js';
import { allBackends } from './devices.js';
import { statsCounters } from './types/block.js';

type Facts = Record<string, unknown>;

/** The nodes of a graph, the oldest first. */
export function nodesOf(graph: BlockGraph): BlockNode[] {
  return [...graph.nodes.values()];
}

/** BlockDeviceInfo of a node, as `backend` sees it; `flat`: without what is below it. */
export async function blockDeviceInfo(
  node: BlockNode,
  flat: boolean,
  backend?: Backend,
): Promise<Facts> {
  const image = await imageInfo(node, flat, backend !== undefined);
  const backing = node.backing?.node;
  const { cache } = node.flags;
  return {
    file: node.filename,
    'node-name': node.name,
    ro: node.staysReadOnly,
    drv: node.driver.name,
    backing_file: backing?.filename,
    // QEMU counts while it goes down to tell the images.
    backing_file_depth: flat ? 0 : backingDepth(node, backend !== undefined),
    active: node.isActive,
    encrypted: image['encrypted'] === true,
    detect_zeroes: node.detectZeroes,
    ...limitFacts(backend?.throttleGroup),
    image,
    cache: {
      writeback: backend?.writeCache ?? true,
      direct: cache.direct,
      'no-flush': cache.noFlush,
    },
    write_threshold: node.writeThreshold,
    'dirty-bitmaps': bitmapInfos(node),
  };
}

/** Names of limits in BlockDeviceInfo, which end in `_max` and `_max_length` too. */
const limitNames = [
  ['bps', 'bps-total'],
  ['bps_rd', 'bps-read'],
  ['bps_wr', 'bps-write'],
  ['iops', 'iops-total'],
  ['iops_rd', 'iops-read'],
  ['iops_wr', 'iops-write'],
] as const;

function limitFacts(group: ThrottleGroup | undefined): Facts {
  const facts: Facts = {};
  for (const [name, bucket] of limitNames) {
    const limit = group?.config.buckets[bucket];
    facts[name] = limit?.average ?? 0;
    if (limit === undefined || group === undefined) continue;
    facts[`${name}_max`] = limit.max;
    facts[`${name}_max_length`] = limit.maxLength;
    facts['iops_size'] = group.config.opSize;
    facts['group'] = group.name;
  }
  return facts;
}

/** Whether there are errors that let the guest stand still. */
function stopsGuest({ onReadError, onWriteError }: Backend): boolean {
  return onReadError === 'stop' || onWriteError === 'stop' || onWriteError === 'enospc';
}

/** BlockInfo of a device. */
export async function deviceInfo(backend: Backend): Promise<Facts> {
  const { user } = backend;
  return {
    device: backend.name,
    qdev: user?.qdev,
    type: 'unknown',
    removable: user?.isRemovable ?? true,
    locked: user?.isLocked ?? false,
    tray_open: user?.hasTray === true ? user.isTrayOpen : undefined,
    'io-status': stopsGuest(backend) ? backend.ioStatus : undefined,
    inserted: backend.isInserted
      ? await blockDeviceInfo(visible(backend.node), false, backend)
      : undefined,
  };
}

/** BlockStats of a device: what it has done, and its node's. */
export function deviceStats(backend: Backend): Facts {
  const { accounting, user } = backend;
  const inner = backend.isInserted ? nodeStats(backend.node, true) : undefined;
  const counts: Facts = {};
  for (const [word, kind] of kindWords) {
    const each = accounting[kind];
    if (kind !== 'flush') counts[`${word}_bytes`] = each.bytes;
    counts[`${word}_operations`] = each.operations;
    counts[`${word}_total_time_ns`] = each.totalTimeNs;
    if (kind !== 'flush') counts[`${word}_merged`] = each.merged;
    counts[`failed_${word}_operations`] = each.failed;
    counts[`invalid_${word}_operations`] = each.invalid;
    const histogram = accounting.histograms.get(kind);
    if (histogram !== undefined) counts[`${word}_latency_histogram`] = { ...histogram };
  }
  return {
    device: backend.name,
    qdev: user?.qdev,
    'node-name': inner?.['node-name'],
    stats: {
      ...counts,
      wr_highest_offset: backend.isInserted ? backend.node.writeHighest : 0,
      idle_time_ns: accounting.idleNs,
      account_invalid: accounting.accountInvalid,
      account_failed: accounting.accountFailed,
      timed_stats: accounting.intervals().map(timedStats),
    },
    'driver-specific': inner?.['driver-specific'],
    parent: inner?.['parent'],
    backing: inner?.['backing'],
  };
}

const kindWords = [
  ['rd', 'read'],
  ['wr', 'write'],
  ['zone_append', 'zoneAppend'],
  ['flush', 'flush'],
  ['unmap', 'unmap'],
] as const;

function timedStats({ seconds, kinds }: IntervalFacts): Facts {
  const facts: Facts = { interval_length: seconds };
  for (const [word, kind] of kindWords) {
    if (kind === 'unmap') continue;
    const { min, max, average, depth } = kinds[kind];
    facts[`min_${word}_latency_ns`] = min;
    facts[`max_${word}_latency_ns`] = max;
    facts[`avg_${word}_latency_ns`] = average;
    if (kind !== 'flush') facts[`avg_${word}_queue_depth`] = depth;
  }
  return facts;
}

/** What users see in a node's place: filters that jobs put in without a name are left out. */
function visible(node: BlockNode): BlockNode {
  let at = node;
  for (let file = filtered(at); at.implicit && file !== undefined; file = filtered(at)) at = file;
  return at;
}

/**
 * ImageInfo of a node, with those of its backing chain unless `flat`; as a device's user sees it
 * (`visibleOnly`), or each node.
 */
async function imageInfo(node: BlockNode, flat: boolean, visibleOnly: boolean): Promise<Facts> {
  const own = await nodeInfo(node);
  const next = flat ? undefined : below(node);
  if (next === undefined) return { ...own };
  const shown = visibleOnly ? visible(next) : next;
  return { ...own, 'backing-image': await imageInfo(shown, flat, visibleOnly) };
}

function backingDepth(node: BlockNode, visibleOnly: boolean): number {
  let depth = 0;
  for (let at = below(node); at !== undefined; depth++) {
    at = below(visibleOnly ? visible(at) : at);
  }
  return depth;
}

/** The newest first, as QEMU lists them; undefined when there are none. */
function bitmapInfos(node: BlockNode): Facts[] | undefined {
  const named = [...node.dirtyBitmaps.values()].reverse();
  const successors = named.flatMap(({ successor }) => successor ?? []);
  const anonymous = new Set([...(node.instance.ownBitmaps ?? []), ...successors]);
  const all = [...anonymous, ...named];
  if (all.length === 0) return undefined;
  return all.map((bitmap) => ({
    // That of a job has none.
    name: bitmap.name === '' || anonymous.has(bitmap) ? undefined : bitmap.name,
    count: bitmap.dirtyBytes,
    granularity: bitmap.granularity,
    recording: bitmap.isRecording && !bitmap.inconsistent,
    busy: bitmap.busy,
    persistent: bitmap.persistent,
    inconsistent: bitmap.inconsistent ? true : undefined,
  }));
}

/** BlockStats of a node and of the node that stores its data; `chain`: and of its backing file. */
export function nodeStats(given: BlockNode, chain = false): Facts {
  const node = chain ? visible(given) : given;
  const next = chain ? below(node) : undefined;
  const stats: Facts = Object.fromEntries(statsCounters.map((name) => [name, 0]));
  const storage = storageOf(node);
  return {
    'node-name': node.name,
    stats: {
      ...stats,
      wr_highest_offset: node.writeHighest,
      account_invalid: false,
      account_failed: false,
      timed_stats: [],
    },
    'driver-specific': driverStats(node),
    parent: storage === undefined ? undefined : nodeStats(storage, chain),
    backing: next === undefined ? undefined : nodeStats(next, true),
  };
}

function driverStats(node: BlockNode): Facts | undefined {
  const { name } = node.driver;
  if (name !== 'file' && name !== 'host_device') return undefined;
  return { driver: name, 'discard-nb-ok': 0, 'discard-nb-failed': 0, 'discard-bytes-ok': 0 };
}

/** The primary child if it holds data, else the first one that does. */
function storageOf(node: BlockNode): BlockNode | undefined {
  const wanted = Role.data | Role.filtered;
  const primary = node.file;
  if (primary !== undefined && (primary.role & wanted) !== 0) return primary.node;
  return [...node.children.values()].find((child) => (child.role & wanted) !== 0)?.node;
}

/** The whole graph with its permissions, as XDbgBlockGraph. */
export function describeGraph(graph: BlockGraph): GraphFacts {
  const nodes: GraphFacts['nodes'][number][] = [];
  const edges: GraphFacts['edges'][number][] = [];
  const ids = new Map<BlockNode | ChildParent, number>();
  const idOf = (what: BlockNode | ChildParent): number => {
    const id = ids.get(what) ?? ids.size + 1;
    ids.set(what, id);
    return id;
  };
  const addEdge = (edge: Child, parent: number): void => {
    edges.push({
      parent,
      child: idOf(edge.node),
      name: edge.name,
      perm: permWords(edge.perm),
      'shared-perm': permWords(edge.shared),
    });
  };
  for (const backend of allBackends(graph)) {
    nodes.push({ id: idOf(backend), type: 'block-backend', name: backend.name });
  }
  for (const edge of rootEdges(graph)) {
    const { parent } = edge;
    if (!ids.has(parent)) {
      const { kind, name } = parentFacts(parent);
      nodes.push({ id: idOf(parent), type: kind, name });
    }
    addEdge(edge, idOf(parent));
  }
  for (const node of graph.nodes.values()) {
    const id = idOf(node);
    nodes.push({ id, type: 'block-driver', name: node.name });
    for (const child of [...node.children.values()].reverse()) addEdge(child, id);
  }
  // QEMU makes its lists from the end.
  return { nodes: nodes.reverse(), edges: edges.reverse() };
}

/** Edges whose parents are no nodes: backends and jobs. */
function rootEdges(graph: BlockGraph): Child[] {
  const found: Child[] = [];
  for (const node of graph.nodes.values()) {
    for (const edge of node.parents) if (edge.parent.asNode === undefined) found.push(edge);
  }
  return found;
}

function parentFacts(parent: ChildParent): { kind: string; name: string } {
  const m = /^(\w+) job '(.*)'$/.exec(parent.describeParent());
  if (m !== null) return { kind: 'block-job', name: m[2] ?? '' };
  const name = /'(.*)'$/.exec(parent.describeParent())?.[1];
  return { kind: 'block-backend', name: name ?? '' };
}

const words = [
  [Perm.resize, 'resize'],
  [Perm.writeUnchanged, 'write-unchanged'],
  [Perm.write, 'write'],
  [Perm.consistentRead, 'consistent-read'],
] as const;

function permWords(perm: number): string[] {
  return words.filter(([bit]) => (perm & bit) !== 0).map(([, word]) => word);
}
