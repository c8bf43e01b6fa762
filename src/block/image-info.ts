/** What is known of an image and of the nodes below it, as QMP's BlockGraphInfo. */
import type { SnapshotInfo } from './driver.js';
import { nameSeenFrom } from './filename.js';
import type { BlockNode } from './node.js';

/** A snapshot, as in JSON. */
export interface SnapshotFacts {
  readonly id: string;
  readonly name: string;
  readonly 'vm-state-size': number;
  readonly 'date-sec': number;
  readonly 'date-nsec': number;
  readonly 'vm-clock-sec': bigint;
  readonly 'vm-clock-nsec': bigint;
  readonly icount: bigint | undefined;
}

/** One node, as QMP's BlockNodeInfo. Undefined members are left out of JSON. */
export interface NodeInfo {
  readonly filename: string;
  readonly format: string;
  readonly 'virtual-size': number;
  readonly 'actual-size': number | undefined;
  readonly 'dirty-flag': boolean | undefined;
  readonly encrypted: true | undefined;
  readonly compressed: true | undefined;
  readonly 'cluster-size': number | undefined;
  readonly 'backing-filename': string | undefined;
  readonly 'full-backing-filename': string | undefined;
  readonly 'backing-filename-format': string | undefined;
  readonly snapshots: readonly SnapshotFacts[] | undefined;
  readonly 'format-specific':
    { readonly type: string; readonly data: Record<string, unknown> } | undefined;
}

/** A node and its children. */
export interface GraphInfo extends NodeInfo {
  readonly children: readonly { readonly name: string; readonly info: GraphInfo }[];
}

const NANOSECONDS = 1_000_000_000n;

export function snapshotFacts(s: SnapshotInfo): SnapshotFacts {
  return {
    id: s.id,
    name: s.name,
    'vm-state-size': s.vmStateSize,
    'date-sec': s.dateSec,
    'date-nsec': s.dateNsec,
    'vm-clock-sec': s.vmClockNsec / NANOSECONDS,
    'vm-clock-nsec': s.vmClockNsec % NANOSECONDS,
    icount: s.icount === -1n ? undefined : s.icount,
  };
}

/** Everything about `node` and its children. */
export async function graphInfo(node: BlockNode): Promise<GraphInfo> {
  const children: { name: string; info: GraphInfo }[] = [];
  // The last that was attached comes first, as QEMU has it.
  for (const child of [...node.children.values()].reverse()) {
    children.push({ name: child.name, info: await graphInfo(child.node) });
  }
  return { ...(await nodeInfo(node)), children };
}

/** Drivers that know nothing of what `bdrv_get_info` asks for in QEMU. */
const withoutFacts = new Set([
  'null-co',
  'null-aio',
  'nbd',
  'memory',
  'vvfat',
  'bochs',
  'cloop',
  'dmg',
  'parallels',
  'quorum',
  'blkverify',
]);

/** Whether it is known of a node, or of the one that a filter or raw stands on, if it is dirty. */
function knowsDirty(node: BlockNode): boolean {
  if (withoutFacts.has(node.driver.name)) return false;
  const below = node.driver.kind === 'filter' || node.driver.name === 'raw' ? node.file : undefined;
  return below === undefined || knowsDirty(below.node);
}

/** What is known of `node` alone. */
export async function nodeInfo(node: BlockNode): Promise<NodeInfo> {
  const facts = await node.instance.info?.();
  const hasBacking = node.backingFile !== '';
  const snapshots = facts?.snapshots?.map(snapshotFacts);
  return {
    filename: node.filename,
    format: node.driver.name,
    'virtual-size': node.size,
    'actual-size': await actualSize(node),
    'dirty-flag': knowsDirty(node) ? (facts?.isDirty ?? false) : undefined,
    encrypted: facts?.isEncrypted === true ? true : undefined,
    compressed: facts?.isCompressed === true ? true : undefined,
    'cluster-size': facts?.clusterSize,
    'backing-filename': hasBacking ? node.backingFile : undefined,
    'full-backing-filename': hasBacking ? fullBackingName(node) : undefined,
    'backing-filename-format':
      hasBacking && node.backingFormat !== '' ? node.backingFormat : undefined,
    snapshots: snapshots === undefined || snapshots.length === 0 ? undefined : snapshots,
    // QMP has a type for facts about files, which holds none.
    'format-specific':
      facts?.formatSpecific ??
      (node.driver.name === 'file' ? { type: 'file', data: {} } : undefined),
  };
}

/** Bytes on the host: the driver's own count, or those of the children that store data. */
export async function actualSize(node: BlockNode): Promise<number | undefined> {
  const { instance } = node;
  if (instance.allocatedBytes !== undefined) return instance.allocatedBytes();
  if (node.driver.kind === 'protocol') return undefined;
  let sum = 0;
  for (const child of node.children.values()) {
    if (child.name === 'backing') continue;
    const bytes = await actualSize(child.node);
    if (bytes === undefined) return undefined;
    sum += bytes;
  }
  return sum;
}

function fullBackingName(node: BlockNode): string | undefined {
  const { files } = node.graph.host;
  if (files === undefined) return undefined;
  try {
    return nameSeenFrom(files, node, node.backingFile);
  } catch {
    // The image has no folder that the name could be relative to.
    return undefined;
  }
}
