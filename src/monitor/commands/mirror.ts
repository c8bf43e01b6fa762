/** Commands that start mirrors. */
import { isReplaceable, noVisibleChange } from '../../block/insert-filter.js';
import { checkNodeName } from '../../block/open.js';
import { below, hasZeroInit, skipFilters } from '../../block/status.js';
import type { BlockNode } from '../../block/node.js';
import { checkOp } from '../../block/op-blockers.js';
import type { MirrorOptions } from '../../job/mirror.js';
import { checkGranularity, startMirror } from '../../job/mirror.js';
import type { Infer } from '../../options/schema.js';
import { deviceOf, judgeNames, makeTarget } from '../actions/backup.js';
import { defineCommand } from '../command.js';
import type { MonitorContext } from '../context.js';
import { QmpError } from '../qmp-error.js';
import * as types from '../types/backup.js';
import { findNode, lookupNode } from './blockdev.js';

type BlockdevArgs = Infer<typeof types.blockdevMirror>;
type DriveArgs = Infer<typeof types.driveMirror>;
type Common = Omit<BlockdevArgs & DriveArgs, 'target'>;

function syncOf(asked: Common['sync']): 'full' | 'top' | 'none' {
  if (asked !== 'incremental' && asked !== 'bitmap') return asked;
  throw new QmpError(`Sync mode '${asked}' not supported`);
}

/** The node whose place the target takes. Throws QmpError when guests would see a change. */
function replacedBy({ graph }: MonitorContext, source: BlockNode, name: string): BlockNode {
  const found = findNode(graph, name);
  checkOp(found, 'replace');
  if (isReplaceable(source, found)) return found;
  const what = `'${name}' by a node mirrored from '${source.name}'`;
  throw new QmpError(`Cannot replace ${what}, because it cannot be ${noVisibleChange}`);
}

type Ends = Pick<MirrorOptions, 'source' | 'target' | 'sync' | 'zeroTarget' | 'backing'>;

/** What both commands do when the target is open. */
async function start(context: MonitorContext, args: Common, ends: Ends): Promise<void> {
  const { source, target } = ends;
  checkOp(target, 'mirror-target');
  const replaced = judgeMirror(context, args, source);
  await startMirror(context.jobs, {
    id: args['job-id'] ?? deviceOf(context, source),
    ...ends,
    replaces: replaced,
    granularity: args.granularity,
    bufferBytes: args['buf-size'],
    copyMode: args['copy-mode'],
    unmap: args.unmap,
    speed: args.speed,
    onSourceError: args['on-source-error'],
    onTargetError: args['on-target-error'],
    filterName: args['filter-node-name'],
    autoFinalize: args['auto-finalize'],
    autoDismiss: args['auto-dismiss'],
  });
}

/** What can be said of the arguments without a target; the node to be replaced. */
function judgeMirror(
  context: MonitorContext,
  args: Common,
  source: BlockNode,
): BlockNode | undefined {
  const { replaces } = args;
  const replaced = replaces === undefined ? undefined : replacedBy(context, source, replaces);
  if (replaced !== undefined && replaced.size !== source.size) {
    throw new QmpError('cannot replace image with a mirror image of different size');
  }
  if ((args['buf-size'] ?? 0) < 0) throw new QmpError("Invalid parameter 'buf-size'");
  if (args.granularity !== undefined) checkGranularity(args.granularity);
  return replaced;
}

const blockdevMirror = defineCommand({
  name: 'blockdev-mirror',
  doc:
    'Starts a job that copies a disk to an open node while guests go on writing; when both are ' +
    'equal it is ready, and completing it makes the target the disk.',
  args: types.blockdevMirror,
  since: '2.6',
  givenOnly: true,
  run: async (context, args) => {
    const { graph } = context;
    const source = lookupNode(graph, args.device, args.device);
    const target = lookupNode(graph, args.target, args.target);
    const sync = syncOf(args.sync);
    checkOp(source, 'mirror-source');
    await start(context, args, { source, target, sync });
  },
});

/** Opens the image that is written, which is made first where it is not there. */
async function driveTarget(
  context: MonitorContext,
  args: DriveArgs,
  source: BlockNode,
  backing: BlockNode | undefined,
): Promise<BlockNode> {
  const { graph } = context;
  const isNew = args.mode !== 'existing';
  const format = args.format ?? (isNew ? source.driver.name : undefined);
  const name = args['node-name'];
  const judge = (): void => {
    if (name !== undefined) checkNodeName(graph, name);
    judgeMirror(context, args, source);
    judgeNames(context, args, source);
  };
  if (isNew) await makeTarget(context, { filename: args.target, format, source, backing, judge });
  return graph.open({
    filename: args.target,
    options: {
      ...(name === undefined ? {} : { 'node-name': name }),
      ...(format === undefined ? {} : { driver: format }),
    },
    // The source's chain stays below it until the job has come to its end.
    flags: { ...source.flags, writable: true, noBacking: true },
  });
}

const driveMirror = defineCommand({
  name: 'drive-mirror',
  doc: 'As blockdev-mirror, to an image that is made, or opened, first.',
  args: types.driveMirror,
  since: '1.3',
  givenOnly: true,
  run: async (context, args) => {
    const { graph } = context;
    const source = lookupNode(graph, args.device, args.device);
    checkOp(source, 'mirror-source');
    const asked = syncOf(args.sync);
    const chain = below(skipFilters(source));
    const sync = asked === 'top' && chain === undefined ? 'full' : asked;
    if (args.replaces !== undefined && args['node-name'] === undefined) {
      throw new QmpError('a node-name must be provided when replacing a named node of the graph');
    }
    const isNew = args.mode !== 'existing';
    const base = sync === 'none' ? source : sync === 'top' ? chain : undefined;
    const target = await driveTarget(context, args, source, base);
    try {
      const zeroTarget = sync === 'full' && (!isNew || !(await hasZeroInit(target)));
      const backing = isNew ? 'source' : 'header';
      await start(context, args, { source, target, sync, zeroTarget, backing });
    } finally {
      // The job holds it.
      await graph.release(target);
    }
  },
});

export const mirrorCommands = [blockdevMirror, driveMirror] as const;
