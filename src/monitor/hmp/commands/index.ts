/** The lists of the human monitor's commands. */
import type { HmpCommand } from '../command.js';
import { controlCommands, controlInfos, helpCommands } from './control.js';
import { driveCommands } from './drives.js';
import { jobCommands, jobInfos } from './jobs.js';
import { migrationCommands, migrationInfos } from './migration.js';
import { nbdCommands } from './nbd.js';
import { blockInfos } from './block-info.js';
import { snapshotCommands, snapshotInfos } from './snapshots.js';

const byName = (a: HmpCommand, b: HmpCommand): number => (a.name < b.name ? -1 : 1);

/** What stands behind `info`. */
export const infoCommands: readonly HmpCommand[] = [
  ...blockInfos,
  ...controlInfos,
  ...jobInfos,
  ...migrationInfos,
  ...snapshotInfos,
].sort(byName);

export const hmpCommands: readonly HmpCommand[] = [
  ...controlCommands,
  ...driveCommands,
  ...jobCommands,
  ...migrationCommands,
  ...nbdCommands,
  ...snapshotCommands,
  ...helpCommands(() => ({ commands: hmpCommands, infos: infoCommands })),
].sort(byName);
