/** The events that there are. */
import { t } from '../options/schema.js';
import { defineEvent } from './events.js';
import { migrationStatus } from './types/migration.js';
import { jobStatus, jobType } from './types/job.js';

/** Events that a disk can cause any number of times come once a second at most, as in QEMU. */
const SECOND = 1000;

const shutdownCause = t.enumOf(
  'none',
  'host-error',
  'host-qmp-quit',
  'host-qmp-system-reset',
  'host-signal',
  'host-ui',
  'guest-shutdown',
  'guest-reset',
  'guest-panic',
  'subsystem-reset',
  'snapshot-load',
  { name: 'ShutdownCause' },
);

const quorumOperation = t.enumOf('read', 'write', 'flush', { name: 'QuorumOpType' });

const operation = t.enumOf('read', 'write', { name: 'IoOperationType' });
const action = t.enumOf('ignore', 'report', 'stop', { name: 'BlockErrorAction' });

const blockJobFacts = {
  type: jobType,
  device: t.str({ doc: 'ID of the job' }),
  len: t.int({}, { doc: 'bytes to do' }),
  offset: t.int({}, { doc: 'bytes done' }),
  speed: t.int({}, { doc: 'bytes a second; 0: no limit' }),
};

const jobEventKinds = [
  defineEvent({
    name: 'JOB_STATUS_CHANGE',
    doc: 'A job is in another state.',
    data: t.struct('q_obj_JOB_STATUS_CHANGE-arg', { id: t.str(), status: jobStatus }),
  }),
  defineEvent({
    name: 'BLOCK_JOB_COMPLETED',
    doc: 'A job on disks has ended, with an error or without.',
    data: t.struct('q_obj_BLOCK_JOB_COMPLETED-arg', {
      ...blockJobFacts,
      error: t.optional(t.str({ doc: 'why it failed' })),
    }),
  }),
  defineEvent({
    name: 'BLOCK_JOB_CANCELLED',
    doc: 'A job on disks was cancelled and has ended.',
    data: t.struct('q_obj_BLOCK_JOB_CANCELLED-arg', blockJobFacts),
  }),
  defineEvent({
    name: 'BLOCK_JOB_ERROR',
    doc: 'A request of a job failed.',
    data: t.struct('q_obj_BLOCK_JOB_ERROR-arg', {
      device: t.str({ doc: 'ID of the job' }),
      operation,
      action,
    }),
  }),
  defineEvent({
    name: 'BLOCK_JOB_READY',
    doc: 'A job on disks may be completed.',
    data: t.struct('q_obj_BLOCK_JOB_READY-arg', blockJobFacts),
  }),
  defineEvent({
    name: 'BLOCK_JOB_PENDING',
    doc: 'A job on disks waits for block-job-finalize.',
    data: t.struct('q_obj_BLOCK_JOB_PENDING-arg', { type: jobType, id: t.str() }),
  }),
];

/** Events of a program with a machine. */
const machineEvents = [
  defineEvent({
    name: 'SHUTDOWN',
    doc: 'The program ends; `guest`: because the guest has switched itself off.',
    data: t.struct('q_obj_SHUTDOWN-arg', { guest: t.bool(), reason: shutdownCause }),
  }),
  defineEvent({
    name: 'POWERDOWN',
    doc: 'The power button was pressed.',
    data: undefined,
  }),
  defineEvent({
    name: 'RESET',
    doc: 'The machine was reset; `guest`: by the guest itself.',
    data: t.struct('q_obj_RESET-arg', { guest: t.bool(), reason: shutdownCause }),
  }),
  defineEvent({ name: 'STOP', doc: 'The guest stands still.', data: undefined }),
  defineEvent({ name: 'RESUME', doc: 'The guest goes on.', data: undefined }),
  defineEvent({
    name: 'DEVICE_DELETED',
    doc: 'A device has gone.',
    data: t.struct('q_obj_DEVICE_DELETED-arg', {
      device: t.optional(t.str({ doc: 'ID of the device' })),
      path: t.str({ doc: 'its place among the objects' }),
    }),
  }),
  defineEvent({
    name: 'DEVICE_TRAY_MOVED',
    doc: 'The tray of a device was opened or closed.',
    data: t.struct('q_obj_DEVICE_TRAY_MOVED-arg', {
      device: t.str(),
      id: t.str(),
      'tray-open': t.bool(),
    }),
  }),
  defineEvent({
    name: 'BLOCK_IO_ERROR',
    doc: 'A request of a device failed.',
    data: t.struct('q_obj_BLOCK_IO_ERROR-arg', {
      'qom-path': t.str(),
      device: t.str(),
      'node-name': t.optional(t.str()),
      operation,
      action,
      nospace: t.optional(t.bool()),
      reason: t.str(),
    }),
    intervalMs: SECOND,
    keys: ['device'],
  }),
];

export const eventKinds = [
  ...jobEventKinds,
  ...machineEvents,
  defineEvent({
    name: 'BLOCK_IMAGE_CORRUPTED',
    doc: 'Damage was found in an image; when it is fatal, the image cannot be used any more.',
    data: t.struct('q_obj_BLOCK_IMAGE_CORRUPTED-arg', {
      device: t.str(),
      'node-name': t.optional(t.str()),
      msg: t.str(),
      offset: t.optional(t.int()),
      size: t.optional(t.int()),
      fatal: t.bool(),
    }),
  }),
  defineEvent({
    name: 'BLOCK_WRITE_THRESHOLD',
    doc: 'A write reached beyond the offset that block-set-write-threshold named.',
    data: t.struct('q_obj_BLOCK_WRITE_THRESHOLD-arg', {
      'node-name': t.str(),
      'amount-exceeded': t.uint(),
      'write-threshold': t.uint(),
    }),
  }),
  defineEvent({
    name: 'QUORUM_FAILURE',
    doc: 'The children of a quorum node did not agree.',
    data: t.struct('q_obj_QUORUM_FAILURE-arg', {
      reference: t.str(),
      'sector-num': t.int(),
      'sectors-count': t.int(),
    }),
    intervalMs: SECOND,
  }),
  defineEvent({
    name: 'QUORUM_REPORT_BAD',
    doc: 'A child of a quorum node failed or was outvoted.',
    data: t.struct('q_obj_QUORUM_REPORT_BAD-arg', {
      type: quorumOperation,
      error: t.optional(t.str()),
      'node-name': t.str(),
      'sector-num': t.int(),
      'sectors-count': t.int(),
    }),
    intervalMs: SECOND,
    keys: ['node-name'],
  }),
  defineEvent({
    name: 'BLOCK_EXPORT_DELETED',
    doc: 'An export is gone, and its ID free.',
    data: t.struct('q_obj_BLOCK_EXPORT_DELETED-arg', { id: t.str() }),
  }),
  defineEvent({
    name: 'MIGRATION',
    doc: 'The migration is in another state; only with the capability `events`.',
    data: t.struct('q_obj_MIGRATION-arg', { status: migrationStatus }),
  }),
];
