/** The list of commands, in the order in which query-commands tells them. */
import { qmpCapabilities } from '../session.js';
import { backupCommands } from './backup.js';
import { bitmapCommands } from './bitmap.js';
import { blockdevCommands } from './blockdev.js';
import { blockJobCommands } from './block-job.js';
import { chardevCommands } from './chardev.js';
import { controlCommands } from './control.js';
import { exportCommands } from './export.js';
import { jobCommands } from './job.js';
import { mirrorCommands } from './mirror.js';
import { nodeCommands } from './node.js';
import { objectCommands } from './object.js';
import { queryBlockCommands } from './query-block.js';
import { snapshotCommands } from './snapshot.js';
import { systemCommands } from './system.js';
import { transactionCommands } from './transaction.js';

export const commands = [
  ...objectCommands,
  ...controlCommands,
  qmpCapabilities,
  ...transactionCommands,
  ...chardevCommands,
  ...exportCommands,
  ...snapshotCommands,
  ...nodeCommands,
  ...blockdevCommands,
  ...bitmapCommands,
  ...jobCommands,
  ...blockJobCommands,
  ...backupCommands,
  ...mirrorCommands,
  ...queryBlockCommands,
] as const;

/** The commands of a program with a machine. */
export const systemProgramCommands = [...systemCommands, ...commands] as const;
