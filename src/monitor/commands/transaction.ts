/** Several actions at once: all of them, or none. */
import type { Decl, Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';
import type { Action } from '../actions/action.js';
import { runActions } from '../actions/action.js';
import * as backup from '../actions/backup.js';
import * as bitmap from '../actions/bitmap.js';
import * as snapshot from '../actions/snapshot.js';
import { JobTransaction } from '../../job/transaction.js';
import { defineCommand } from '../command.js';
import { QmpError } from '../qmp-error.js';
import * as backupTypes from '../types/backup.js';
import * as bitmapTypes from '../types/bitmap.js';
import * as snapshotTypes from '../types/snapshot.js';

const wrapped = <D extends Decl>(name: string, data: D) => t.struct(name, { data });

const named = wrapped('BlockDirtyBitmapWrapper', bitmapTypes.blockDirtyBitmap);

const transactionAction = t.union('TransactionAction', 'type', {
  abort: wrapped('AbortWrapper', t.struct('Abort', {})),
  'block-dirty-bitmap-add': wrapped('BlockDirtyBitmapAddWrapper', bitmapTypes.blockDirtyBitmapAdd),
  'block-dirty-bitmap-remove': named,
  'block-dirty-bitmap-clear': named,
  'block-dirty-bitmap-enable': named,
  'block-dirty-bitmap-disable': named,
  'block-dirty-bitmap-merge': wrapped(
    'BlockDirtyBitmapMergeWrapper',
    bitmapTypes.blockDirtyBitmapMerge,
  ),
  'blockdev-backup': wrapped('BlockdevBackupWrapper', backupTypes.blockdevBackup),
  'blockdev-snapshot': wrapped('BlockdevSnapshotWrapper', snapshotTypes.blockdevSnapshot),
  'blockdev-snapshot-internal-sync': wrapped(
    'BlockdevSnapshotInternalWrapper',
    snapshotTypes.blockdevSnapshotInternal,
  ),
  'blockdev-snapshot-sync': wrapped(
    'BlockdevSnapshotSyncWrapper',
    snapshotTypes.blockdevSnapshotSync,
  ),
  'drive-backup': wrapped('DriveBackupWrapper', backupTypes.driveBackup),
});

type TransactionAction = Infer<typeof transactionAction>;

function actionOf(given: TransactionAction, group?: JobTransaction): Action {
  switch (given.type) {
    case 'abort':
      return () => {
        throw new QmpError('Transaction aborted using Abort action');
      };
    case 'block-dirty-bitmap-add':
      return bitmap.addBitmapAction(given.data);
    case 'block-dirty-bitmap-remove':
      return bitmap.removeBitmapAction(given.data);
    case 'block-dirty-bitmap-clear':
      return bitmap.clearBitmapAction(given.data);
    case 'block-dirty-bitmap-enable':
      return bitmap.enableBitmapAction(given.data);
    case 'block-dirty-bitmap-disable':
      return bitmap.disableBitmapAction(given.data);
    case 'block-dirty-bitmap-merge':
      return bitmap.mergeBitmapAction(given.data);
    case 'blockdev-backup':
      return backup.blockdevBackupAction(given.data, group);
    case 'drive-backup':
      return backup.driveBackupAction(given.data, group);
    case 'blockdev-snapshot':
      return snapshot.snapshotAction(given.data);
    case 'blockdev-snapshot-internal-sync':
      return snapshot.internalSnapshotAction(given.data);
    case 'blockdev-snapshot-sync':
      return snapshot.snapshotSyncAction(given.data);
  }
}

/** Only actions that start jobs can be grouped. */
const groupable: ReadonlySet<string> = new Set(['blockdev-backup', 'drive-backup']);

function groupedAction(given: TransactionAction, group: JobTransaction): Action {
  const { type } = given;
  if (groupable.has(type)) return actionOf(given, group);
  return () => {
    throw new QmpError(
      `Action '${type}' does not support transaction property completion-mode = grouped`,
    );
  };
}

const transaction = defineCommand({
  name: 'transaction',
  doc: 'Carries out actions at one moment: all of them, or none when one fails.',
  args: t.struct('q_obj_transaction-arg', {
    actions: t.arrayOf(transactionAction, { doc: 'actions with the arguments of their commands' }),
    properties: t.optional(
      t.struct('TransactionProperties', {
        'completion-mode': t.optional(
          t.enumOf('individual', 'grouped', {
            name: 'ActionCompletionMode',
            doc: 'whether jobs that the actions start stand and fall together',
          }),
        ),
      }),
    ),
  }),
  since: '1.1',
  run: (context, { actions, properties }) => {
    const grouped = properties?.['completion-mode'] === 'grouped';
    const group = new JobTransaction();
    return runActions(
      context,
      actions.map((each) => (grouped ? groupedAction(each, group) : actionOf(each))),
    );
  },
});

export const transactionCommands = [transaction] as const;
