/** QMP's types of jobs. */
import { jobStatuses, jobTypes } from '../../job/states.js';
import type { OnError } from '../../job/job.js';
import { t } from '../../options/schema.js';

export const jobStatus = t.enumOf(...jobStatuses, { name: 'JobStatus' });

export const jobType = t.enumOf(...jobTypes, { name: 'JobType' });

export const jobInfo = t.struct('JobInfo', {
  id: t.str({ doc: 'ID of the job' }),
  type: jobType,
  status: jobStatus,
  'current-progress': t.int({}, { doc: 'what is done, in a unit of the job’s own' }),
  'total-progress': t.int({}, { doc: 'what there is to do as far as known now; may grow' }),
  error: t.optional(t.str({ doc: 'why it failed' })),
});

export const blockdevOnError = t.enumOf('report', 'ignore', 'enospc', 'stop', 'auto', {
  name: 'BlockdevOnError',
  doc: 'what a failed request does to the job',
});

/** What a job does on an error when a command does not say. */
export const defaultOnError: OnError = 'report';

const nothing = t.struct('q_empty', {});

const mirrorInfo = t.struct('BlockJobInfoMirror', {
  'actively-synced': t.bool({ doc: 'source and target are equal, and writes go to both' }),
});

export const blockJobInfo = t.union(
  'BlockJobInfo',
  'type',
  {
    commit: nothing,
    stream: nothing,
    mirror: mirrorInfo,
    backup: nothing,
    create: nothing,
    amend: nothing,
    'snapshot-load': nothing,
    'snapshot-save': nothing,
    'snapshot-delete': nothing,
  },
  {
    base: {
      type: jobType,
      device: t.str({ doc: 'ID of the job' }),
      len: t.int({}, { doc: 'bytes to do as far as known now' }),
      offset: t.int({}, { doc: 'bytes done' }),
      busy: t.bool({ doc: 'works at this moment' }),
      paused: t.bool({ doc: 'a client, an error or a change of the graph holds it' }),
      speed: t.int({}, { doc: 'bytes a second; 0: no limit' }),
      'io-status': t.enumOf('ok', 'failed', 'nospace', { name: 'BlockDeviceIoStatus' }),
      ready: t.bool({ doc: 'may be completed' }),
      status: jobStatus,
      'auto-finalize': t.bool(),
      'auto-dismiss': t.bool(),
      error: t.optional(t.str({ doc: 'why it failed' })),
    },
  },
);

export const mirrorCopyMode = t.enumOf('background', 'write-blocking', { name: 'MirrorCopyMode' });

export const blockJobChange = t.union(
  'BlockJobChangeOptions',
  'type',
  {
    commit: nothing,
    stream: nothing,
    mirror: t.struct('BlockJobChangeOptionsMirror', { 'copy-mode': mirrorCopyMode }),
    backup: nothing,
    create: nothing,
    amend: nothing,
    'snapshot-load': nothing,
    'snapshot-save': nothing,
    'snapshot-delete': nothing,
  },
  { base: { id: t.str({ doc: 'ID of the job' }), type: jobType } },
);

/** Arguments that every command has that starts a job which moves data. */
export const startFields = {
  speed: t.optional(t.int({}, { doc: 'bytes a second; default 0: no limit' })),
  'on-error': t.optional(blockdevOnError),
  'filter-node-name': t.optional(t.str({ doc: 'name of the node that the job puts in' })),
  'auto-finalize': t.optional(
    t.bool({ doc: 'take effect without job-finalize; default true', since: '3.1' }),
  ),
  'auto-dismiss': t.optional(
    t.bool({ doc: 'forget the job when it is concluded; default true', since: '3.1' }),
  ),
};
