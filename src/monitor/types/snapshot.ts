/** QMP's types of snapshots. */
import { t } from '../../options/schema.js';

export const newImageMode = t.enumOf('existing', 'absolute-paths', {
  name: 'NewImageMode',
  doc: 'existing: the file is there; absolute-paths: make it',
});

export const blockdevSnapshot = t.struct('BlockdevSnapshot', {
  node: t.str({ doc: 'node that gets an overlay' }),
  overlay: t.str({ doc: 'open node, without a backing file, that becomes it' }),
});

export const blockdevSnapshotSync = t.struct('BlockdevSnapshotSync', {
  device: t.optional(t.str({ doc: 'device whose disk gets an overlay' })),
  'node-name': t.optional(t.str({ doc: 'node that gets an overlay' })),
  'snapshot-file': t.str({ doc: 'file name of the overlay' }),
  'snapshot-node-name': t.optional(t.str({ doc: 'name of its node' })),
  format: t.optional(t.str({ doc: 'its format; default qcow2' })),
  mode: t.optional(newImageMode),
});

export const blockdevSnapshotInternal = t.struct('BlockdevSnapshotInternal', {
  device: t.str({ doc: 'node that gets the snapshot' }),
  name: t.str({ doc: 'name of the snapshot' }),
});
