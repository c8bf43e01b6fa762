/** Snapshots. */
import { snapshotFacts } from '../../../block/image-info.js';
import { snapshotTable } from '../../../block/info-text.js';
import type { SnapshotInfo } from '../../../block/driver.js';
import { OptionError } from '../../../options/option-error.js';
import { HmpError } from '../arguments.js';
import type { HmpCommand, HmpRun } from '../command.js';

/** The state of a machine cannot be stored yet; a snapshot of its disks alone would be no such. */
function refused(name: string, args: string, params: string, help: string): HmpCommand {
  return {
    name,
    args,
    params,
    help: `${help}: not supported, for the state of the machine cannot be stored`,
    run: () => {
      throw new HmpError(
        `${name} is not supported: the state of the machine cannot be stored. Snapshots of ` +
          'disks: snapshot_blkdev_internal',
      );
    },
  };
}

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
  refused('savevm', 'name:s?', 'tag', 'store the machine'),
  refused('loadvm', 'name:s', 'tag', 'go back to a stored machine'),
  {
    name: 'delvm',
    args: 'name:s',
    params: 'tag',
    help: 'delete a snapshot from all disks',
    run: async (run) => {
      const name = run.text('name');
      for (const { snapshots } of await devices(run)) {
        if (snapshots.some((each) => each.name === name)) await deleteAll(run, name);
      }
    },
  },
];

interface DiskSnapshots {
  readonly device: string;
  readonly snapshots: readonly SnapshotInfo[];
}

/** The devices whose images can have snapshots, with what they have. */
async function devices(run: HmpRun): Promise<DiskSnapshots[]> {
  const found: DiskSnapshots[] = [];
  for (const [device, backend] of run.context.graph.backends) {
    const capability = backend.isInserted ? backend.node.instance.snapshots : undefined;
    if (capability === undefined || backend.node.readOnly) continue;
    found.push({ device, snapshots: await capability.list() });
  }
  return found;
}

async function deleteAll(run: HmpRun, name: string): Promise<void> {
  for (const backend of run.context.graph.backends.values()) {
    const capability = backend.isInserted ? backend.node.instance.snapshots : undefined;
    if (capability === undefined) continue;
    const found = (await capability.list()).find((each) => each.name === name);
    if (found !== undefined) await capability.delete(found.id, found.name);
  }
}

async function infoSnapshots(run: HmpRun): Promise<void> {
  const disks = await devices(run);
  const [first] = disks;
  if (first === undefined) throw new HmpError('No block device supports snapshots');
  if (disks.every(({ snapshots }) => snapshots.length === 0)) {
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
