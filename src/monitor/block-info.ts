/** What queries tell of nodes: QMP's BlockDeviceInfo, ImageInfo, BlockStats, XDbgBlockGraph. */
import { nodeInfo } from '../block/image-info.js';
import type { Child, ChildParent } from '../block/child.js';
import type { BlockGraph } from '../block/graph.js';
import type { BlockNode } from '../block/node.js';
import { Perm, Role } from '../block/types.js';
import { statsCounters } from './types/block.js';

type Facts = Record<string, unknown>;

/** The nodes of a graph, the oldest first. */
export function nodesOf(graph: BlockGraph): BlockNode[] {
  return [...graph.nodes.values()];
}

/** BlockDeviceInfo of a node; `flat`: without what is below it. */
export async function blockDeviceInfo(node: BlockNode, flat: boolean): Promise<Facts> {
  const image = await imageInfo(node, flat);
  const backing = node.backing?.node;
  const { cache } = node.flags;
  return {
    file: node.filename,
    'node-name': node.name,
    ro: node.readOnly,
    drv: node.driver.name,
    backing_file: backing?.filename,
    // QEMU counts while it goes down to tell the images.
    backing_file_depth: flat ? 0 : backingDepth(node),
    active: true,
    encrypted: image['encrypted'] === true,
    detect_zeroes: node.detectZeroes,
    bps: 0,
    bps_rd: 0,
    bps_wr: 0,
    iops: 0,
    iops_rd: 0,
    iops_wr: 0,
    image,
    cache: { writeback: true, direct: cache.direct, 'no-flush': cache.noFlush },
    write_threshold: node.writeThreshold,
    'dirty-bitmaps': bitmapInfos(node),
  };
}

/** ImageInfo of a node, with those of its backing chain unless `flat`. */
async function imageInfo(node: BlockNode, flat: boolean): Promise<Facts> {
  const own = await nodeInfo(node);
  const below = flat ? undefined : (node.backing ?? filtered(node));
  if (below === undefined) return { ...own };
  // A filter shows what it stands on as that one's own.
  if (node.backing === undefined) {
    const under = await imageInfo(below.node, flat);
    const image = under['backing-image'];
    return { ...own, ...(image === undefined ? {} : { 'backing-image': image }) };
  }
  return { ...own, 'backing-image': await imageInfo(below.node, flat) };
}

function filtered(node: BlockNode): Child | undefined {
  return node.driver.kind === 'filter' ? node.file : undefined;
}

function backingDepth(node: BlockNode): number {
  let depth = 0;
  for (let at = node.backing; at !== undefined; at = at.node.backing) depth++;
  return depth;
}

/** The newest first, as QEMU lists them; undefined when there are none. */
function bitmapInfos(node: BlockNode): Facts[] | undefined {
  if (node.dirtyBitmaps.size === 0) return undefined;
  return [...node.dirtyBitmaps.values()].reverse().map((bitmap) => ({
    name: bitmap.name,
    count: bitmap.dirtyBytes,
    granularity: bitmap.granularity,
    recording: bitmap.enabled && !bitmap.inconsistent,
    busy: bitmap.busy,
    persistent: bitmap.persistent,
    inconsistent: bitmap.inconsistent ? true : undefined,
  }));
}

/** BlockStats of a node and of the node that stores its data. */
export function nodeStats(node: BlockNode): Facts {
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
    parent: storage === undefined ? undefined : nodeStats(storage),
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
export function describeGraph(graph: BlockGraph): Facts {
  const nodes: Facts[] = [];
  const edges: Facts[] = [];
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
