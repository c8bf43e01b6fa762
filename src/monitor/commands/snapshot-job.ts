/** Jobs that store a machine, bring one back, and delete what was stored. */
import type { JobWork } from '../../job/work.js';
import { t } from '../../options/schema.js';
import { defineCommand } from '../command.js';
import type { MonitorContext } from '../context.js';
import type { MachineSnapshots } from '../migration/snapshots.js';
import { QmpError } from '../qmp-error.js';

const job = { 'job-id': t.str({ doc: 'ID of the job' }), tag: t.str({ doc: 'the name' }) };
const vmstate = t.str({ doc: 'node that holds the state of the machine' });
const devices = t.arrayOf(t.str(), { doc: 'nodes that have the snapshot' });

interface Given {
  readonly 'job-id': string;
  readonly tag: string;
}

/** Starts the job: all is done at once, while no command is carried out. */
async function start(
  { machine, jobs }: MonitorContext,
  { 'job-id': id }: Given,
  type: JobWork['type'],
  run: (snapshots: MachineSnapshots) => Promise<void>,
): Promise<void> {
  if (machine === undefined) throw new QmpError('There is no machine');
  const work: JobWork = {
    type,
    run: async (control) => {
      control.progress.total = 1;
      try {
        await machine.exclusively(async () => {
          await control.pausePoint();
          await run(machine.snapshots);
        });
      } finally {
        control.progress.done = 1;
      }
    },
  };
  (await jobs.create({ id, work, autoDismiss: false })).start();
}

const save = defineCommand({
  name: 'snapshot-save',
  doc: 'Starts a job that stores the machine and a snapshot of the nodes, all of them or none.',
  args: t.struct('q_obj_snapshot-save-arg', { ...job, vmstate, devices }),
  since: '6.0',
  run: (context, args) =>
    start(context, args, 'snapshot-save', (snapshots) => snapshots.save(args.tag, args, false)),
});

const load = defineCommand({
  name: 'snapshot-load',
  doc: 'Starts a job that brings the machine and the nodes back to what they were.',
  args: t.struct('q_obj_snapshot-load-arg', { ...job, vmstate, devices }),
  since: '6.0',
  run: (context, args) =>
    start(context, args, 'snapshot-load', (snapshots) => snapshots.load(args.tag, args)),
});

const remove = defineCommand({
  name: 'snapshot-delete',
  doc: 'Starts a job that deletes a snapshot from the nodes that have it.',
  args: t.struct('q_obj_snapshot-delete-arg', { ...job, devices }),
  since: '6.0',
  run: (context, args) =>
    start(context, args, 'snapshot-delete', (snapshots) =>
      snapshots.delete(args.tag, args.devices),
    ),
});

export const snapshotJobCommands = [save, load, remove] as const;
