/** Commands that make and delete snapshots. */
import { snapshotFacts } from '../../block/image-info.js';
import { checkOp } from '../../block/op-blockers.js';
import { t } from '../../options/schema.js';
import { runActions } from '../actions/action.js';
import * as actions from '../actions/snapshot.js';
import { defineCommand } from '../command.js';
import { QmpError } from '../qmp-error.js';
import { snapshotInfo } from '../types/block.js';
import * as types from '../types/snapshot.js';

const snapshot = defineCommand({
  name: 'blockdev-snapshot',
  doc: 'Puts an open node as an overlay on top of another, for all that use that one.',
  args: types.blockdevSnapshot,
  since: '2.5',
  features: ['allow-write-only-overlay'],
  run: (context, args) => runActions(context, [actions.snapshotAction(args)]),
});

const snapshotSync = defineCommand({
  name: 'blockdev-snapshot-sync',
  doc: 'Makes an image and puts it as an overlay on top of a node, for all that use that one.',
  args: types.blockdevSnapshotSync,
  since: '0.14',
  run: (context, args) => runActions(context, [actions.snapshotSyncAction(args)]),
});

const internal = defineCommand({
  name: 'blockdev-snapshot-internal-sync',
  doc: 'Makes a snapshot inside an image.',
  args: types.blockdevSnapshotInternal,
  since: '1.7',
  run: (context, args) => runActions(context, [actions.internalSnapshotAction(args)]),
});

const deleteInternal = defineCommand({
  name: 'blockdev-snapshot-delete-internal-sync',
  doc: 'Deletes a snapshot inside an image, found by ID, by name, or by both; tells what it was.',
  args: t.struct('q_obj_blockdev-snapshot-delete-internal-sync-arg', {
    device: t.str({ doc: 'node that has the snapshot' }),
    id: t.optional(t.str()),
    name: t.optional(t.str()),
  }),
  returns: snapshotInfo,
  since: '1.7',
  run: async (context, { device, id, name }) => {
    const node = actions.rootNode(context, device);
    if (id === undefined && name === undefined) throw new QmpError('Name or id must be provided');
    checkOp(node, 'internal-snapshot-delete');
    const { snapshots } = node.instance;
    if (snapshots === undefined) {
      throw new QmpError('Failed to get a snapshot list: Operation not supported');
    }
    const found = (await snapshots.list()).find(
      (each) => (id === undefined || each.id === id) && (name === undefined || each.name === name),
    );
    if (found === undefined) {
      throw new QmpError(
        `Snapshot with id '${id ?? 'null'}' and name '${name ?? 'null'}' does not exist on ` +
          `device '${device}'`,
      );
    }
    const resume = await context.graph.drainAll();
    try {
      await snapshots.delete(found.id, found.name);
    } finally {
      resume();
    }
    return snapshotFacts(found);
  },
});

export const snapshotCommands = [deleteInternal, internal, snapshot, snapshotSync] as const;
