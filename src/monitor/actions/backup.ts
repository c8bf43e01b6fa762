/** Actions that start backups. */
import { findBitmap, readableBitmap } from '../../block/bitmaps.js';
import { createImage, prepareCreate } from '../../block/create.js';
import type { DirtyBitmap } from '../../block/dirty-bitmap.js';
import { prepend } from '../../block/errors.js';
import type { BlockNode } from '../../block/node.js';
import { checkOp } from '../../block/op-blockers.js';
import { attachChild, checkNodeName } from '../../block/open.js';
import { below, skipFilters } from '../../block/status.js';
import { Role } from '../../block/types.js';
import type { BackupSync, BitmapSync } from '../../job/backup.js';
import { createBackup } from '../../job/backup.js';
import { checkSpeed } from '../../job/job.js';
import type { JobTransaction } from '../../job/transaction.js';
import type { Infer } from '../../options/schema.js';
import { lookupNode } from '../commands/blockdev.js';
import type { MonitorContext } from '../context.js';
import { QmpError } from '../qmp-error.js';
import type { blockdevBackup, driveBackup } from '../types/backup.js';
import type { Action, ActionStep } from './action.js';

type BlockdevArgs = Infer<typeof blockdevBackup>;
type DriveArgs = Infer<typeof driveBackup>;
type Common = Omit<BlockdevArgs, 'target'>;

/** blockdev-backup: to a node that is open. */
export function blockdevBackupAction(args: BlockdevArgs, group?: JobTransaction): Action {
  return async (context) => {
    const { graph } = context;
    const source = lookupNode(graph, args.device, args.device);
    const target = lookupNode(graph, args.target, args.target);
    return start(context, args, source, target, group);
  };
}

/** drive-backup: to an image that is made, or opened, first. */
export function driveBackupAction(args: DriveArgs, group?: JobTransaction): Action {
  return async (context) => {
    const { graph } = context;
    const source = lookupNode(graph, args.device, args.device);
    checkOp(source, 'backup-source');
    const base = args.sync === 'top' ? below(skipFilters(source)) : undefined;
    const sync = args.sync === 'top' && base === undefined ? 'full' : args.sync;
    const backing = sync === 'none' ? source : base;
    const isNew = args.mode !== 'existing';
    const format = args.format ?? (isNew ? source.driver.name : undefined);
    if (isNew) {
      const judge = (): void => {
        judgeNames(context, args, source, 'Could not create node: ');
        judgeBackup(source, { ...args, sync });
      };
      await makeTarget(context, { filename: args.target, format, source, backing, judge });
    }
    const target = await graph.open({
      filename: args.target,
      options: format === undefined ? {} : { driver: format },
      flags: { ...source.flags, writable: true, unmap: true, noBacking: sync === 'none' },
    });
    try {
      if (sync === 'none') await attachChild(graph, target, source, 'backing', Role.cow);
      return await start(context, { ...args, sync }, source, target, group);
    } finally {
      // The job holds it.
      await graph.release(target);
    }
  };
}

export interface NewTarget {
  readonly filename: string;
  /** Its driver; none: '' is refused by name. */
  readonly format: string | undefined;
  readonly source: BlockNode;
  readonly backing: BlockNode | undefined;
  /** Throws when the command will be refused: what it overwrites is lost for good. */
  readonly judge: () => void;
}

/** Makes the image that a drive-… command writes to. */
export async function makeTarget(
  { graph, print }: MonitorContext,
  { filename, format = '', source, backing, judge }: NewTarget,
): Promise<void> {
  const image = backing && skipFilters(backing);
  const below =
    image === undefined
      ? {}
      : // It is open here, and locked.
        {
          backingFile: image.filename,
          backingFormat: image.driver.name,
          backing: 'ignore' as const,
        };
  const prepared = await prepareCreate(graph, { filename, format, size: source.size, ...below });
  judge();
  print(`Formatting '${filename}', fmt=${format} ${prepared.summary}`);
  await createImage(graph, prepared);
}

type Names = Pick<Common, 'job-id' | 'filter-node-name' | 'speed'>;

/** Whether a job could be made of these. Throws BlockError, `prefix` before what a filter has. */
export function judgeNames(
  context: MonitorContext,
  args: Names,
  source: BlockNode,
  prefix = '',
): void {
  const filter = args['filter-node-name'];
  try {
    if (filter !== undefined) checkNodeName(context.graph, filter);
  } catch (e) {
    throw prepend(prefix, e);
  }
  context.jobs.checkId(args['job-id'] ?? deviceOf(context, source));
  checkSpeed(args.speed ?? 0);
}

async function start(
  context: MonitorContext,
  args: Common,
  source: BlockNode,
  target: BlockNode,
  transaction: JobTransaction | undefined,
): Promise<ActionStep> {
  const { sync, bitmap, bitmapSync } = judgeBackup(source, args);
  checkSource(source, target, args);
  const perf = args['x-perf'];
  const job = await createBackup(context.jobs, {
    id: args['job-id'] ?? deviceOf(context, source),
    source,
    target,
    sync,
    bitmap,
    bitmapSync,
    compress: args.compress,
    discardSource: args['discard-source'],
    minClusterSize: perf?.['min-cluster-size'],
    maxChunk: perf?.['max-chunk'],
    maxWorkers: perf?.['max-workers'],
    speed: args.speed,
    onSourceError: args['on-source-error'],
    onTargetError: args['on-target-error'],
    filterName: args['filter-node-name'],
    autoFinalize: args['auto-finalize'],
    autoDismiss: args['auto-dismiss'],
    transaction,
  });
  return {
    commit: () => {
      job.start();
    },
    abort: () => job.cancel(true),
  };
}

/** What can be said of the arguments without a target. Throws QmpError. */
function judgeBackup(source: BlockNode, args: Common): BitmapUse {
  checkPerf(args);
  return bitmapOf(source, args);
}

/** Name of the device that stands on the node; '' when none does. */
export function deviceOf({ graph }: MonitorContext, node: BlockNode): string {
  for (const [name, backend] of graph.backends) {
    if (backend.isInserted && backend.node === node) return name;
  }
  return '';
}

function checkPerf(args: Common): void {
  const perf = args['x-perf'];
  const workers = perf?.['max-workers'] ?? 1;
  if (workers < 1 || workers > 2 ** 31 - 1) {
    throw new QmpError('max-workers must be between 1 and 2147483647');
  }
  if ((perf?.['max-chunk'] ?? 0) < 0) {
    throw new QmpError('max-chunk must be zero (which means no limit) or positive');
  }
}

function checkSource(source: BlockNode, target: BlockNode, args: Common): void {
  if (source === target) throw new QmpError('Source and target cannot be the same');
  if (args.compress === true && !takesCompressed(target)) {
    throw new QmpError('Compression is not supported for this drive ');
  }
  checkOp(source, 'backup-source');
  checkOp(target, 'backup-target');
}

function takesCompressed(node: BlockNode): boolean {
  return skipFilters(node).instance.writeCompressed !== undefined;
}

interface BitmapUse {
  readonly sync: BackupSync;
  readonly bitmap?: DirtyBitmap;
  readonly bitmapSync?: BitmapSync;
}

/** What the arguments say of a bitmap. Throws QmpError when they contradict each other. */
function bitmapOf(source: BlockNode, args: Common): BitmapUse {
  const { sync: asked, bitmap: name } = args;
  let mode = args['bitmap-mode'];
  const usesBits = asked === 'incremental' || asked === 'bitmap';
  if (usesBits && name === undefined) {
    throw new QmpError(`must provide a valid bitmap name for '${asked}' sync mode`);
  }
  if (asked === 'incremental') {
    if (mode !== undefined && mode !== 'on-success') {
      throw new QmpError(
        "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'",
      );
    }
    mode = 'on-success';
  }
  const sync = asked === 'incremental' ? 'bitmap' : asked;
  if (name === undefined) {
    if (mode !== undefined) throw new QmpError('Cannot specify bitmap sync mode without a bitmap');
    return { sync };
  }
  if (!source.dirtyBitmaps.has(name)) throw new QmpError(`Bitmap '${name}' could not be found`);
  if (mode === undefined) {
    throw new QmpError('Bitmap sync mode must be given when providing a bitmap');
  }
  readableBitmap(source, name);
  if (sync === 'none') {
    throw new QmpError("sync mode 'none' does not produce meaningful bitmap outputs");
  }
  if (mode === 'never' && sync !== 'bitmap') {
    throw new QmpError(
      `Bitmap sync mode 'never' has no meaningful effect when combined with sync mode '${sync}'`,
    );
  }
  return { sync, bitmap: findBitmap(source, name), bitmapSync: mode };
}
