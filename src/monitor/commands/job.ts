/** Commands for all jobs, and those for jobs on disks, which are older. */
import { blockdevAmendOptions, blockdevCreateOptions } from '../../catalog/blockdev-types.js';
import { amendOf, amendWork } from '../../job/blockdev-amend.js';
import { createWork } from '../../job/blockdev-create.js';
import type { Job } from '../../job/job.js';
import { t } from '../../options/schema.js';
import { defineCommand, definePlainCommand } from '../command.js';
import type { MonitorContext } from '../context.js';
import { QmpError } from '../qmp-error.js';
import { lookupNode } from './blockdev.js';
import { blockJobChange, blockJobInfo, jobInfo } from '../types/job.js';

/** The job with this ID. Throws QmpError. */
export function findJob({ jobs }: Pick<MonitorContext, 'jobs'>, id: string): Job {
  const job = jobs.tryFind(id);
  if (job === undefined) throw new QmpError('Job not found');
  return job;
}

/** The job on disks with this ID. Throws QmpError. */
export function findBlockJob({ jobs }: Pick<MonitorContext, 'jobs'>, id: string): Job {
  const job = jobs.tryFind(id);
  if (job?.isBlockJob === true) return job;
  throw new QmpError(`Block job '${id}' not found`, 'DeviceNotActive');
}

interface Verb<N extends string = string> {
  readonly name: N;
  readonly doc: string;
  /** QEMU's version that had the block-job- form first. */
  readonly since: string;
  run(this: void, job: Job): void | Promise<void>;
}

/** The block-job- form names the job `device`. */
const deviceVerbs: readonly Verb<'pause' | 'resume' | 'complete'>[] = [
  {
    name: 'pause',
    doc: 'Pauses a job: it stops at its next pause point.',
    since: '1.3',
    run: (job) => {
      job.pauseByUser();
    },
  },
  {
    name: 'resume',
    doc: 'Lets a paused job go on.',
    since: '1.3',
    run: (job) => {
      job.resumeByUser();
    },
  },
  {
    name: 'complete',
    doc: 'Completes a job that is ready.',
    since: '1.3',
    run: (job) => job.complete(),
  },
];

/** The block-job- form names the job `id`. */
const idVerbs: readonly Verb<'dismiss' | 'finalize'>[] = [
  {
    name: 'dismiss',
    doc: 'Forgets a job that is concluded.',
    since: '2.12',
    run: (job) => {
      job.dismiss();
    },
  },
  {
    name: 'finalize',
    doc: 'Lets a pending job, and the others of its transaction, take effect.',
    since: '2.12',
    run: (job) => job.finalize(),
  },
];

const jobId = t.str({ doc: 'ID of the job' });

const jobVerbs = [...deviceVerbs, ...idVerbs].map(({ name, doc, run }) =>
  defineCommand({
    name: `job-${name}`,
    doc,
    args: t.struct(`q_obj_job-${name}-arg`, { id: jobId }),
    since: '3.0',
    run: (context, { id }) => run(findJob(context, id)),
  }),
);

const blockJobDeviceVerbs = deviceVerbs.map(({ name, doc, since, run }) =>
  defineCommand({
    name: `block-job-${name}`,
    doc,
    since,
    args: t.struct(`q_obj_block-job-${name}-arg`, { device: jobId }),
    run: (context, { device }) => run(findBlockJob(context, device)),
  }),
);

const blockJobIdVerbs = idVerbs.map(({ name, doc, since, run }) =>
  defineCommand({
    name: `block-job-${name}`,
    doc,
    since,
    args: t.struct(`q_obj_block-job-${name}-arg`, { id: jobId }),
    run: (context, { id }) => run(findBlockJob(context, id)),
  }),
);

const jobCancel = defineCommand({
  name: 'job-cancel',
  doc: 'Ends a job by force; what it has copied so far stays where it is.',
  args: t.struct('q_obj_job-cancel-arg', { id: jobId }),
  since: '3.0',
  run: (context, { id }) => findJob(context, id).cancelByUser(true),
});

const blockJobCancel = defineCommand({
  name: 'block-job-cancel',
  doc:
    'Ends a job on disks. One that is ready completes without making its target the disk, unless ' +
    'force is given.',
  args: t.struct('q_obj_block-job-cancel-arg', {
    device: jobId,
    force: t.optional(t.bool({ doc: 'end it at once, though it is paused or ready' })),
  }),
  since: '1.1',
  run: async (context, { device, force = false }) => {
    const job = findBlockJob(context, device);
    if (job.isUserPaused && !force) {
      throw new QmpError(`The block job for device '${device}' is currently paused`);
    }
    await job.cancelByUser(force);
  },
});

const setSpeed = defineCommand({
  name: 'block-job-set-speed',
  doc: 'Limits how fast a job is.',
  args: t.struct('q_obj_block-job-set-speed-arg', {
    device: jobId,
    speed: t.int({}, { doc: 'bytes a second; 0: no limit' }),
  }),
  since: '1.1',
  run: (context, { device, speed }) => {
    findBlockJob(context, device).setSpeed(speed);
  },
});

const blockJobChangeCommand = defineCommand({
  name: 'block-job-change',
  doc: 'Changes options of a job while it runs.',
  args: blockJobChange,
  since: '8.2',
  run: (context, options) => findBlockJob(context, options.id).change(options),
});

const queryJobs = definePlainCommand({
  name: 'query-jobs',
  doc: 'Lists all jobs.',
  returns: t.arrayOf(jobInfo),
  since: '3.0',
  run: ({ jobs }) => jobs.all.map((job) => job.jobInfo()),
});

const queryBlockJobs = definePlainCommand({
  name: 'query-block-jobs',
  doc: 'Lists the jobs on disks.',
  returns: t.arrayOf(blockJobInfo),
  since: '1.1',
  run: ({ jobs }) => jobs.all.filter((job) => job.isBlockJob).map((job) => job.blockJobInfo()),
});

const blockdevCreate = defineCommand({
  name: 'blockdev-create',
  doc: 'Starts a job that makes a file, or an image on nodes that are open.',
  args: t.struct('q_obj_blockdev-create-arg', { 'job-id': jobId, options: blockdevCreateOptions }),
  since: '3.0',
  givenOnly: true,
  run: async ({ graph, jobs }, { 'job-id': id, options }) => {
    const work = createWork(graph, options);
    const job = await jobs.create({ id, work, autoDismiss: false });
    job.start();
  },
});

const blockdevAmend = defineCommand({
  name: 'x-blockdev-amend',
  doc: 'Starts a job that changes options of an image that is open: keys of its encryption.',
  args: t.struct('q_obj_x-blockdev-amend-arg', {
    'job-id': jobId,
    'node-name': t.str({ doc: 'node of the image' }),
    options: blockdevAmendOptions,
    force: t.optional(t.bool({ doc: 'even if that loses data' })),
  }),
  since: '5.1',
  features: ['unstable'],
  givenOnly: true,
  run: async ({ graph, jobs }, { 'job-id': id, 'node-name': name, options, force }) => {
    const node = lookupNode(graph, undefined, name);
    // Told before a wrong job id, as in QEMU.
    amendOf(node, options);
    jobs.checkId(id);
    const work = amendWork(node, options, force === true);
    const job = await jobs.create({ id, work, autoDismiss: false });
    job.start();
  },
});

export const jobCommands = [
  blockdevAmend,
  blockdevCreate,
  ...jobVerbs,
  jobCancel,
  queryJobs,
  ...blockJobDeviceVerbs,
  ...blockJobIdVerbs,
  blockJobCancel,
  setSpeed,
  blockJobChangeCommand,
  queryBlockJobs,
] as const;
