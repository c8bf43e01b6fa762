/**
 * Filter `replication`: one end of a disk that two machines keep equal between checkpoints.
 *
 * `primary` stands over the other machine's disk (an NBD client) and passes what the guest writes;
 * a write that fails is noted, and the guest is not told, for its own disk has the data.
 * `secondary` stands over the active disk, an empty image over the hidden disk over the secondary
 * disk: what its own guest writes stays in the active disk, what the primary overwrites in the
 * secondary disk goes to the hidden disk first. At a checkpoint both are emptied.
 *
 * What begins, empties and ends this is job/replication.ts; here is only what requests meet.
 *
 * Invariants
 *  R1  No request is carried out before replication runs; in `primary` none after it has ended.
 *  R2  When a failover could not bring all data into the secondary disk, what the active and the
 *      hidden disk hold stays what is read, and is what is overwritten.
 */
import { onFile } from '../block/blockdev-types.js';
import type { Child } from '../block/child.js';
import type { Driver, DriverInstance, OpenContext } from '../block/driver.js';
import { BlockError } from '../block/errors.js';
import type { BlockNode } from '../block/node.js';
import { passThrough, unchangedReopen } from '../block/pass-through.js';
import { chainStatus } from '../block/status.js';
import { Perm, Req, Role } from '../block/types.js';
import { t } from '../options/schema.js';

export type ReplicationMode = 'primary' | 'secondary';

export type ReplicationStage = 'none' | 'running' | 'failover' | 'failover-failed' | 'done';

/** One end, for whoever controls it. */
export interface ReplicationEnd {
  readonly node: BlockNode;
  readonly mode: ReplicationMode;
  /** Device or node on top of the chain of a secondary end. */
  readonly topId: string | undefined;
  stage: ReplicationStage;
  /** What failed first and was not told to a guest. */
  error: unknown;
  /** The secondary disk, while a failover needs it. */
  secondary: Child | undefined;
  /** The node is being closed. */
  onClose: (() => Promise<void>) | undefined;
}

export const replicationEnds = new WeakMap<DriverInstance, ReplicationEnd>();

/** Throws EIO when the stage does not let requests pass (R1). */
function checkStage({ mode, stage }: ReplicationEnd): void {
  if (stage === 'none' || (mode === 'primary' && stage !== 'running')) throw new BlockError('EIO');
}

/** Calls `write` with the disk that holds each part of the range (R2). */
async function byPlace(
  end: ReplicationEnd,
  file: Child,
  offset: number,
  bytes: number,
  write: (disk: Child, offset: number, bytes: number) => Promise<void>,
): Promise<void> {
  const { secondary } = end;
  if (end.stage !== 'failover-failed' || secondary === undefined) {
    await write(file, offset, bytes);
    return;
  }
  const stop = offset + bytes;
  for (let at = offset; at < stop;) {
    const run = await chainStatus(file.node, secondary.node, at, stop - at, false);
    await write(run.allocated ? file : secondary, at, run.bytes);
    at += run.bytes;
  }
}

function makeInstance(end: ReplicationEnd, file: Child): DriverInstance {
  const change = async (
    offset: number,
    bytes: number,
    write: (disk: Child, offset: number, bytes: number) => Promise<void>,
  ): Promise<void> => {
    checkStage(end);
    try {
      await byPlace(end, file, offset, bytes, write);
    } catch (e) {
      if (end.mode === 'secondary') throw e;
      end.error ??= e;
    }
  };
  return {
    ...passThrough(file),
    read: async (offset, iov, flags) => {
      checkStage(end);
      try {
        await file.read(offset, iov, flags);
      } catch (e) {
        if (end.mode === 'primary') end.error ??= e;
        throw e;
      }
    },
    write: (offset, iov, flags) =>
      change(offset, iov.bytes, (disk, at, n) => disk.write(at, iov.slice(at - offset, n), flags)),
    writeCompressed: (offset, iov) =>
      change(offset, iov.bytes, (disk, at, n) =>
        disk.write(at, iov.slice(at - offset, n), Req.compressed),
      ),
    writeZeroes: (offset, bytes, flags) =>
      change(offset, bytes, (disk, at, n) => disk.writeZeroes(at, n, flags)),
    discard: (offset, bytes) => change(offset, bytes, (disk, at, n) => disk.discard(at, n)),
    childPerm: (child) => {
      const { node } = end;
      const writes = child === file || end.stage === 'failover-failed';
      const write = writes && !node.readOnly && node.isActive ? Perm.write : 0;
      return {
        perm: (child === file ? Perm.consistentRead : 0) | write,
        shared: Perm.consistentRead | Perm.write | Perm.writeUnchanged,
      };
    },
    strongOptions: () => ({
      mode: end.mode,
      ...(end.topId === undefined ? {} : { 'top-id': end.topId }),
    }),
    reopenPrepare: unchangedReopen,
    close: async () => {
      await end.onClose?.();
    },
  };
}

function invalid(message: string): BlockError {
  return new BlockError('EINVAL', message);
}

function readOptions({ options }: OpenContext): { mode: ReplicationMode; topId?: string } {
  const { mode, 'top-id': topId } = options;
  if (mode === undefined) throw invalid('Missing the option mode');
  if (mode === 'primary') {
    if (topId === undefined) return { mode };
    throw invalid('The primary side does not support option top-id');
  }
  if (mode !== 'secondary') {
    throw invalid("The option mode's value should be primary or secondary");
  }
  if (typeof topId !== 'string') throw invalid('Missing the option top-id');
  return { mode, topId };
}

export const replicationDriver: Driver = {
  name: 'replication',
  kind: 'filter',
  needsFile: true,
  optionNames: ['mode', 'top-id'],
  blockdev: t.struct('BlockdevOptionsReplication', {
    ...onFile,
    mode: t.enumOf('primary', 'secondary', { name: 'ReplicationMode' }),
    'top-id': t.optional(t.str({ doc: 'secondary: device or node on top of the chain' })),
  }),
  async open(context) {
    const file = await context.openChild('file', { role: Role.filtered | Role.primary });
    const { mode, topId } = readOptions(context);
    const end: ReplicationEnd = {
      node: context.node,
      mode,
      topId,
      stage: 'none',
      error: undefined,
      secondary: undefined,
      onClose: undefined,
    };
    const instance = makeInstance(end, file);
    replicationEnds.set(instance, end);
    return instance;
  },
};
