/** Actions that make snapshots: overlays (external) and inside an image (internal). */
import { inactivateNode } from '../../block/activity.js';
import { appendNode } from '../../block/append.js';
import { refuseCycle } from '../../block/chain.js';
import { createImage, prepareCreate } from '../../block/create.js';
import type { SnapshotCapability } from '../../block/driver.js';
import type { BlockNode } from '../../block/node.js';
import { reopenNode } from '../../block/reopen.js';
import { Perm } from '../../block/types.js';
import { checkOp } from '../../block/op-blockers.js';
import { cumulativePerms } from '../../block/permissions.js';
import type { Infer } from '../../options/schema.js';
import { lookupNode } from '../commands/blockdev.js';
import type { MonitorContext } from '../context.js';
import { QmpError } from '../qmp-error.js';
import type {
  blockdevSnapshot,
  blockdevSnapshotInternal,
  blockdevSnapshotSync,
} from '../types/snapshot.js';
import type { Action, ActionStep } from './action.js';

type SyncArgs = Infer<typeof blockdevSnapshotSync>;

/** The node that a command names that works on whole disks. Throws QmpError. */
export function rootNode({ graph }: MonitorContext, name: string): BlockNode {
  const node = lookupNode(graph, name, name);
  // A node that others stand on belongs to them, and one that a job works on to the job.
  const isRoot = [...node.parents].every(
    ({ parent }) => parent.asNode === undefined && parent.staysAtNode !== true,
  );
  if (!isRoot) throw new QmpError('Need a root block node');
  return node;
}

/** blockdev-snapshot: an open node becomes the overlay. */
export function snapshotAction(args: Infer<typeof blockdevSnapshot>): Action {
  return async (context) => {
    const { graph } = context;
    const old = lookupNode(graph, args.node, args.node);
    checkOp(old, 'external-snapshot');
    await flushBefore(old);
    const overlay = lookupNode(graph, args.overlay, args.overlay);
    overlay.refs++;
    return insertOverlay(context, old, overlay);
  };
}

/** blockdev-snapshot-sync: the overlay is made, or opened, first. */
export function snapshotSyncAction(args: SyncArgs): Action {
  return async (context) => {
    const { graph } = context;
    const name = args['snapshot-node-name'];
    const old = lookupNode(graph, args.device, args['node-name']);
    checkOp(old, 'external-snapshot');
    await flushBefore(old);
    if (args['node-name'] !== undefined && name === undefined) {
      throw new QmpError('New overlay node-name missing');
    }
    if (name !== undefined && graph.tryNode(name) !== undefined) {
      throw new QmpError('New overlay node-name already in use');
    }
    const format = args.format ?? 'qcow2';
    if (args.mode !== 'existing') await createOverlay(context, old, args['snapshot-file'], format);
    const overlay = await graph.open({
      filename: args['snapshot-file'],
      options: { driver: format, ...(name === undefined ? {} : { 'node-name': name }) },
      flags: { ...old.flags, noBacking: true, writable: !old.staysReadOnly },
    });
    return insertOverlay(context, old, overlay);
  };
}

async function flushBefore(node: BlockNode): Promise<void> {
  if (node.readOnly) return;
  try {
    await node.flush();
  } catch {
    throw new QmpError('An IO error has occurred');
  }
}

async function createOverlay(
  { graph, print }: MonitorContext,
  old: BlockNode,
  filename: string,
  format: string,
): Promise<void> {
  const prepared = await prepareCreate(graph, {
    filename,
    format,
    backingFile: old.filename,
    backingFormat: old.driver.name,
    size: old.size,
    // It is open here, and locked.
    backing: 'ignore',
  });
  print(`Formatting '${filename}', fmt=${format} ${prepared.summary}`);
  await createImage(graph, prepared);
}

/** Puts `overlay`, of which the caller holds a handle, on top of `old`. */
async function insertOverlay(
  { graph }: MonitorContext,
  old: BlockNode,
  overlay: BlockNode,
): Promise<ActionStep> {
  let undo: () => Promise<void>;
  try {
    checkOverlay(overlay, old);
    // Nobody may write before the machine is here.
    if (!old.isActive && overlay.isActive) await inactivateNode(overlay);
    undo = await appendNode(overlay, old);
  } catch (e) {
    await graph.release(overlay);
    throw e;
  }
  old.refs++;
  return {
    commit: async () => {
      // Whoever cannot be read-only stays as it is; nobody writes to it through the overlay.
      await reopenNode(old, { options: { 'read-only': true } }).catch(() => undefined);
    },
    abort: undo,
    clean: async () => {
      await graph.release(old);
      await graph.release(overlay);
    },
  };
}

function checkOverlay(overlay: BlockNode, old: BlockNode): void {
  if ((cumulativePerms(overlay).perm & Perm.consistentRead) !== 0) {
    throw new QmpError('The overlay is already in use');
  }
  if (overlay.driver.kind === 'filter') throw new QmpError('Filters cannot be used as overlays');
  if (overlay.backing !== undefined) throw new QmpError('The overlay already has a backing image');
  if (overlay.driver.supportsBacking !== true) {
    throw new QmpError('The overlay does not support backing images');
  }
  refuseCycle(overlay, 'backing', old);
}

/** blockdev-snapshot-internal-sync */
export function internalSnapshotAction(args: Infer<typeof blockdevSnapshotInternal>): Action {
  return async (context) => {
    const { device, name } = args;
    const node = rootNode(context, device);
    checkOp(node, 'internal-snapshot');
    const readOnly = new QmpError(`Device '${device}' is read only`);
    if (node.staysReadOnly) throw readOnly;
    const snapshots = snapshotsOf(node, device);
    // Somebody else may use the image.
    if (node.readOnly) throw readOnly;
    if (name === '') throw new QmpError('Name is empty');
    if ((await snapshots.list()).some((each) => each.name === name)) {
      throw new QmpError(`Snapshot with name '${name}' already exists on device '${device}'`);
    }
    const now = Date.now();
    try {
      await snapshots.create({
        name,
        vmStateSize: 0,
        vmClockNsec: BigInt(now) * 1_000_000n,
        icount: -1n,
        dateSec: Math.floor(now / 1000),
        dateNsec: (now % 1000) * 1_000_000,
      });
    } catch {
      throw new QmpError(`Failed to create snapshot '${name}' on device '${device}'`);
    }
    return { abort: () => snapshots.delete(undefined, name) };
  };
}

/** What the node offers for internal snapshots. Throws QmpError when that is nothing. */
function snapshotsOf(node: BlockNode, device: string): SnapshotCapability {
  const { snapshots } = node.instance;
  if (snapshots !== undefined) return snapshots;
  throw new QmpError(
    `Block format '${node.driver.name}' used by device '${device}' does not support internal ` +
      'snapshots',
  );
}
