/** Snapshots. */
import { snapshotFacts } from '../../../block/image-info.js';
import { snapshotTable } from '../../../block/info-text.js';
import type { SnapshotInfo } from '../../../block/driver.js';
import { OptionError } from '../../../options/option-error.js';
import type { DiskSnapshots } from '../../migration/snapshots.js';
import { QmpError } from '../../qmp-error.js';
import { HmpError } from '../arguments.js';
import type { HmpCommand, HmpRun } from '../command.js';

export const snapshotCommands: readonly HmpCommand[] = [
  {
    name: 'snapshot_blkdev',
    args: 'reuse:-n,device:B,snapshot-file:s?,format:s?',
    params: '[-n] device [new-image-file] [format]',
    help: 'put an overlay on top of a disk (-n: the file is there)',
    run: async (run) => {
      const file = run.tryText('snapshot-file');
      const format = run.tryText('format');
      if (file === undefined) throw new OptionError("Parameter 'snapshot-file' is missing");
      await run.qmp('blockdev-snapshot-sync', {
        device: run.text('device'),
        'snapshot-file': file,
        ...(format === undefined ? {} : { format }),
        mode: run.flag('reuse') ? 'existing' : 'absolute-paths',
      });
    },
  },
  {
    name: 'snapshot_blkdev_internal',
    args: 'device:B,name:s',
    params: 'device name',
    help: 'make a snapshot inside an image',
    run: async (run) => {
      const args = { device: run.text('device'), name: run.text('name') };
      await run.qmp('blockdev-snapshot-internal-sync', args);
    },
  },
  {
    name: 'snapshot_delete_blkdev_internal',
    args: 'device:B,name:s,id:s?',
    params: 'device name [id]',
    help: 'delete a snapshot inside an image',
    run: async (run) => {
      const id = run.tryText('id');
      await run.qmp('blockdev-snapshot-delete-internal-sync', {
        device: run.text('device'),
        name: run.text('name'),
        ...(id === undefined ? {} : { id }),
      });
    },
  },
  {
    name: 'savevm',
    args: 'name:s?',
    params: 'tag',
    help: 'store the machine and a snapshot of each disk, in place of one of that name',
    run: (run) => run.machine.snapshots.save(run.tryText('name'), {}, true),
  },
  {
    name: 'loadvm',
    args: 'name:s',
    params: 'tag',
    help: 'go back to a stored machine',
    run: (run) => run.machine.snapshots.load(run.text('name'), {}),
  },
  {
    name: 'delvm',
    args: 'name:s',
    params: 'tag',
    help: 'delete a snapshot from all disks',
    run: (run) => run.machine.snapshots.delete(run.text('name')),
  },
];

/** As `info` says it: without `Error:`. */
async function snapshotsOf(run: HmpRun): Promise<DiskSnapshots[]> {
  try {
    return await run.machine.snapshots.list();
  } catch (e) {
    if (e instanceof QmpError) throw new HmpError(e.message);
    throw e;
  }
}

async function infoSnapshots(run: HmpRun): Promise<void> {
  const disks = await snapshotsOf(run);
  const [first] = disks;
  if (first === undefined || disks.every(({ snapshots }) => snapshots.length === 0)) {
    run.print('There is no snapshot available.\n');
    return;
  }
  const whole = first.snapshots.filter(({ name }) =>
    disks.every(({ snapshots }) => snapshots.some((each) => each.name === name)),
  );
  run.print('List of snapshots present on all disks:\n');
  if (whole.length === 0) run.print('None\n');
  else printTable(run, whole, '--');
  for (const { device, snapshots } of disks) {
    const partial = snapshots.filter(({ name }) => !whole.some((each) => each.name === name));
    if (partial.length === 0) continue;
    run.print(`\nList of partial (non-loadable) snapshots on '${device}':\n`);
    printTable(run, partial, undefined);
  }
}

/** `id` stands in the place of the snapshots' own, which need not be the same on all disks. */
function printTable(run: HmpRun, all: readonly SnapshotInfo[], id: string | undefined): void {
  const facts = all.map(snapshotFacts).map((each) => (id === undefined ? each : { ...each, id }));
  run.print(`${snapshotTable(facts).join('\n')}\n`);
}

export const snapshotInfos: readonly HmpCommand[] = [
  {
    name: 'snapshots',
    args: '',
    params: '',
    help: 'the snapshots that the disks have',
    run: infoSnapshots,
  },
];
