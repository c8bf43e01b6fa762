/** Commands that start backups. */
import { runActions } from '../actions/action.js';
import { blockdevBackupAction, driveBackupAction } from '../actions/backup.js';
import { defineCommand } from '../command.js';
import * as types from '../types/backup.js';

const blockdevBackup = defineCommand({
  name: 'blockdev-backup',
  doc:
    'Starts a job that copies a disk, as it is at this moment, to an open node, while guests go ' +
    'on writing.',
  args: types.blockdevBackup,
  since: '2.3',
  givenOnly: true,
  run: (context, args) => runActions(context, [blockdevBackupAction(args)]),
});

const driveBackup = defineCommand({
  name: 'drive-backup',
  doc: 'As blockdev-backup, to an image that is made, or opened, first.',
  args: types.driveBackup,
  since: '1.6',
  features: ['deprecated'],
  givenOnly: true,
  run: (context, args) => runActions(context, [driveBackupAction(args)]),
});

export const backupCommands = [blockdevBackup, driveBackup] as const;
