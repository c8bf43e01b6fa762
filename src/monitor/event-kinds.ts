/** The events that there are. */
import { t } from '../options/schema.js';
import type { EventKind } from './events.js';

/** Events that a disk can cause any number of times come once a second at most, as in QEMU. */
const SECOND = 1000;

const quorumOperation = t.enumOf('read', 'write', 'flush', { name: 'QuorumOpType' });

export const eventKinds: readonly EventKind[] = [
  {
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
  },
  {
    name: 'BLOCK_WRITE_THRESHOLD',
    doc: 'A write reached beyond the offset that block-set-write-threshold named.',
    data: t.struct('q_obj_BLOCK_WRITE_THRESHOLD-arg', {
      'node-name': t.str(),
      'amount-exceeded': t.uint(),
      'write-threshold': t.uint(),
    }),
  },
  {
    name: 'QUORUM_FAILURE',
    doc: 'The children of a quorum node did not agree.',
    data: t.struct('q_obj_QUORUM_FAILURE-arg', {
      reference: t.str(),
      'sector-num': t.int(),
      'sectors-count': t.int(),
    }),
    intervalMs: SECOND,
  },
  {
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
  },
  {
    name: 'BLOCK_EXPORT_DELETED',
    doc: 'An export is gone, and its ID free.',
    data: t.struct('q_obj_BLOCK_EXPORT_DELETED-arg', { id: t.str() }),
  },
];
