/**
 * The states of a job, which follow on which, and what a job may be told in each.
 * docs/internals/job-states.md draws them.
 */

/** QMP's JobStatus. */
export const jobStatuses = [
  'undefined',
  'created',
  'running',
  'paused',
  'ready',
  'standby',
  'waiting',
  'pending',
  'aborting',
  'concluded',
  'null',
] as const;

export type JobStatus = (typeof jobStatuses)[number];

/** QMP's JobType. */
export const jobTypes = [
  'commit',
  'stream',
  'mirror',
  'backup',
  'create',
  'amend',
  'snapshot-load',
  'snapshot-save',
  'snapshot-delete',
] as const;

export type JobType = (typeof jobTypes)[number];

/** What follows on each state. */
const next: Readonly<Record<JobStatus, readonly JobStatus[]>> = {
  undefined: ['created', 'null'],
  created: ['running', 'aborting', 'null'],
  running: ['paused', 'ready', 'waiting', 'aborting'],
  paused: ['running'],
  ready: ['standby', 'waiting', 'aborting'],
  standby: ['ready'],
  waiting: ['pending', 'aborting'],
  pending: ['aborting', 'concluded'],
  aborting: ['aborting', 'concluded'],
  concluded: ['null'],
  null: [],
};

/** QMP's JobVerb. */
export const jobVerbs = [
  'cancel',
  'pause',
  'resume',
  'set-speed',
  'complete',
  'dismiss',
  'finalize',
  'change',
] as const;

export type JobVerb = (typeof jobVerbs)[number];

const unfinished: readonly JobStatus[] = ['created', 'running', 'paused', 'ready', 'standby'];

/** The states in which a job takes each verb. */
const taken: Readonly<Record<JobVerb, readonly JobStatus[]>> = {
  cancel: [...unfinished, 'waiting', 'pending'],
  pause: unfinished,
  resume: unfinished,
  'set-speed': unfinished,
  complete: ['ready', 'standby'],
  dismiss: ['concluded'],
  finalize: ['pending'],
  change: unfinished,
};

/** Whether `to` may follow on `from`. */
export function mayFollow(from: JobStatus, to: JobStatus): boolean {
  return next[from].includes(to);
}

/** Whether a job in this state takes the verb. */
export function accepts(status: JobStatus, verb: JobVerb): boolean {
  return taken[verb].includes(status);
}
