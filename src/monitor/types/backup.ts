/** QMP's types of backups and mirrors. */
import type { Fields } from '../../options/schema.js';
import { t } from '../../options/schema.js';
import { blockdevOnError, mirrorCopyMode } from './job.js';
import { newImageMode } from './snapshot.js';

export const mirrorSyncMode = t.enumOf('top', 'full', 'none', 'incremental', 'bitmap', {
  name: 'MirrorSyncMode',
  doc: 'what is copied: all, what the topmost image holds, what a bitmap names, or new writes only',
});

const bitmapSyncMode = t.enumOf('on-success', 'never', 'always', {
  name: 'BitmapSyncMode',
  doc: 'when the bitmap is made to tell what is not in the backup',
});

const backupPerf = t.struct('BackupPerf', {
  'use-copy-range': t.optional(t.bool({ doc: 'let the host copy; taken, and decided here' })),
  'max-workers': t.optional(t.int({}, { doc: 'copies in flight at most; never more than 8' })),
  'max-chunk': t.optional(t.int({}, { doc: 'bytes of one copy at most; 0: any' })),
  'min-cluster-size': t.optional(
    t.size({ doc: 'bytes that are copied at least, a power of two', since: '9.2' }),
  ),
});

const common = {
  'job-id': t.optional(t.str({ doc: 'ID of the job; default: name of the device' })),
  device: t.str({ doc: 'device or node that is copied' }),
  sync: mirrorSyncMode,
  speed: t.optional(t.int({}, { doc: 'bytes a second; default 0: no limit' })),
  bitmap: t.optional(t.str({ doc: 'name of a bitmap of the node' })),
  'bitmap-mode': t.optional(bitmapSyncMode),
  compress: t.optional(t.bool({ doc: 'store the data compressed', since: '2.8' })),
  'on-source-error': t.optional(blockdevOnError),
  'on-target-error': t.optional(blockdevOnError),
  'auto-finalize': t.optional(
    t.bool({ doc: 'take effect without job-finalize; default true', since: '2.12' }),
  ),
  'auto-dismiss': t.optional(
    t.bool({ doc: 'forget the job when it is concluded; default true', since: '2.12' }),
  ),
  'filter-node-name': t.optional(t.str({ doc: 'name of the node that the job puts in' })),
  'discard-source': t.optional(
    t.bool({ doc: 'discard in the source what was copied', since: '9.1' }),
  ),
  'x-perf': t.optional(backupPerf),
} satisfies Fields;

const mirrorFields = {
  'job-id': t.optional(t.str({ doc: 'ID of the job; default: name of the device' })),
  device: t.str({ doc: 'device or root node that is copied' }),
  replaces: t.optional(t.str({ doc: 'node whose place the target takes; default the source' })),
  sync: mirrorSyncMode,
  speed: t.optional(t.int({}, { doc: 'bytes a second; default 0: no limit' })),
  granularity: t.optional(t.uint({ bits: 32 }, { doc: 'bytes that are copied at least' })),
  'buf-size': t.optional(t.int({}, { doc: 'bytes in flight at most; default 16 MiB' })),
  'on-source-error': t.optional(blockdevOnError),
  'on-target-error': t.optional(blockdevOnError),
  'copy-mode': t.optional(mirrorCopyMode),
  'auto-finalize': t.optional(
    t.bool({ doc: 'take effect without job-finalize; default true', since: '3.1' }),
  ),
  'auto-dismiss': t.optional(
    t.bool({ doc: 'forget the job when it is concluded; default true', since: '3.1' }),
  ),
} satisfies Fields;

// Fields stand, and are checked, in the order of QMP's declarations.
const { 'job-id': mirrorJob, device: mirrorDevice, replaces, sync, ...moreMirror } = mirrorFields;

export const blockdevMirror = t.struct('q_obj_blockdev-mirror-arg', {
  'job-id': mirrorJob,
  device: mirrorDevice,
  target: t.str({ doc: 'device or node that is written' }),
  replaces,
  sync,
  ...moreMirror,
  'filter-node-name': t.optional(
    t.str({ doc: 'name of the node that the job puts in', since: '2.9' }),
  ),
});

export const driveMirror = t.struct('DriveMirror', {
  'job-id': mirrorJob,
  device: mirrorDevice,
  target: t.str({ doc: 'file name of the image that is written' }),
  format: t.optional(t.str({ doc: 'its format; default: that of the source' })),
  'node-name': t.optional(t.str({ doc: 'name of its node', since: '2.3' })),
  replaces,
  sync,
  mode: t.optional(newImageMode),
  ...moreMirror,
  unmap: t.optional(
    t.bool({ doc: 'zeroes may be deallocated in the target; default true', since: '2.4' }),
  ),
});

export const blockdevBackup = t.struct('BlockdevBackup', {
  ...common,
  target: t.str({ doc: 'device or node that is written' }),
});

export const driveBackup = t.struct('DriveBackup', {
  ...common,
  target: t.str({ doc: 'file name of the image that is written' }),
  format: t.optional(t.str({ doc: 'its format; default: that of the source' })),
  mode: t.optional(newImageMode),
});
