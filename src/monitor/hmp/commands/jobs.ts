/** Block jobs, and what is done to images in the background or at once. */
import { errorText } from '../../../block/errors.js';
import { commit } from '../../../job/commit.js';
import { HmpError } from '../arguments.js';
import type { HmpCommand, HmpRun } from '../command.js';

const device = { args: 'device:B', params: 'device' };

/** A command whose QMP command takes the device, and perhaps a flag or a number. */
function onJob(name: string, help: string): HmpCommand {
  return {
    name,
    ...device,
    help,
    run: async (run) => {
      await run.qmp(name.replaceAll('_', '-'), { device: run.text('device') });
    },
  };
}

async function commitDevice(run: HmpRun): Promise<void> {
  const name = run.text('device');
  const { backends } = run.context.graph;
  const all = name === 'all';
  const chosen = all ? [...backends.values()] : [backends.get(name)];
  for (const backend of chosen) {
    if (backend === undefined) throw new HmpError(`Device '${name}' not found`);
    if (!backend.isInserted) {
      if (all) continue;
      throw new HmpError(`Device '${name}' has no medium`);
    }
    if (all && backend.node.backing === undefined) continue;
    try {
      await commit(backend, { inUse: true });
    } catch (e) {
      throw new HmpError(`'commit' error for '${name}': ${errorText(e)}`);
    }
  }
}

/** What `drive_mirror` and `drive_backup` share. */
async function copyDrive(run: HmpRun, command: string, more: object): Promise<void> {
  const format = run.tryText('format');
  await run.qmp(command, {
    device: run.text('device'),
    target: run.text('target'),
    ...(format === undefined ? {} : { format }),
    sync: run.flag('full') ? 'full' : 'top',
    mode: run.flag('reuse') ? 'existing' : 'absolute-paths',
    ...more,
  });
}

export const jobCommands: readonly HmpCommand[] = [
  {
    name: 'commit',
    ...device,
    params: 'device|all',
    help: 'write what an image holds into its backing file',
    run: commitDevice,
  },
  {
    name: 'block_stream',
    args: 'device:B,speed:o?,base:s?',
    params: 'device [speed [base]]',
    help: 'copy from backing files into the image, in the background',
    run: async (run) => {
      const name = run.text('device');
      const base = run.tryText('base');
      const speed = run.tryNumber('speed');
      await run.qmp('block-stream', {
        'job-id': name,
        device: name,
        ...(base === undefined ? {} : { base }),
        ...(speed === undefined ? {} : { speed }),
        'on-error': 'report',
      });
    },
  },
  {
    name: 'block_job_set_speed',
    args: 'device:B,speed:o',
    params: 'device speed',
    help: 'limit the speed of a job',
    run: async (run) => {
      const speed = run.tryNumber('speed') ?? 0;
      await run.qmp('block-job-set-speed', { device: run.text('device'), speed });
    },
  },
  {
    name: 'block_job_cancel',
    args: 'force:-f,device:B',
    params: '[-f] device',
    help: 'end a job (-f: even one that waits to be completed)',
    run: async (run) => {
      const force = run.flag('force');
      await run.qmp('block-job-cancel', { device: run.text('device'), force });
    },
  },
  onJob('block_job_complete', 'let a job that is ready come to its end'),
  onJob('block_job_pause', 'let a job stand still'),
  onJob('block_job_resume', 'let a job go on'),
  {
    name: 'drive_mirror',
    args: 'reuse:-n,full:-f,device:B,target:s,format:s?',
    params: '[-n] [-f] device target [format]',
    help: 'copy a disk, and go on copying what changes (-n: the file is there; -f: all of it)',
    run: (run) => copyDrive(run, 'drive-mirror', { unmap: true }),
  },
  {
    name: 'drive_backup',
    args: 'reuse:-n,full:-f,compress:-c,device:B,target:s,format:s?',
    params: '[-n] [-f] [-c] device target [format]',
    help: 'copy a disk as it is now (-n: the file is there; -f: all of it; -c: compressed)',
    run: (run) => copyDrive(run, 'drive-backup', run.flag('compress') ? { compress: true } : {}),
  },
];

interface JobInfo {
  readonly type: string;
  readonly device: string;
  readonly offset: number;
  readonly len: number;
  readonly speed: number;
}

export const jobInfos: readonly HmpCommand[] = [
  {
    name: 'block-jobs',
    args: '',
    params: '',
    help: 'the jobs and how far they are',
    run: async (run) => {
      const jobs = (await run.qmp('query-block-jobs')) as readonly JobInfo[];
      if (jobs.length === 0) run.print('No active jobs\n');
      for (const job of jobs) {
        const what = job.type === 'stream' ? 'Streaming' : `Type ${job.type},`;
        const done = `${String(job.offset)} of ${String(job.len)} bytes`;
        const limit = `speed limit ${String(job.speed)} bytes/s`;
        run.print(`${what} device ${job.device}: Completed ${done}, ${limit}\n`);
      }
    },
  },
];
