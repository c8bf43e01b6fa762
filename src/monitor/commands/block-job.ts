/** Commands that start jobs which move data along a backing chain. */
import { chainDown, findBacking } from '../../block/chain.js';
import type { BlockNode } from '../../block/node.js';
import { checkOp } from '../../block/op-blockers.js';
import { cumulativePerms } from '../../block/permissions.js';
import { below, skipFilters } from '../../block/status.js';
import { Perm } from '../../block/types.js';
import { startStream } from '../../job/block-stream.js';
import { startActiveCommit } from '../../job/commit-active.js';
import { startCommit } from '../../job/commit-job.js';
import type { ChainJobOptions } from '../../job/start.js';
import { t } from '../../options/schema.js';
import { rootNode } from '../actions/snapshot.js';
import { defineCommand } from '../command.js';
import type { MonitorContext } from '../context.js';
import { QmpError } from '../qmp-error.js';
import { startFields } from '../types/job.js';
import { lookupNode } from './blockdev.js';

interface StartArgs {
  readonly speed?: number;
  readonly 'on-error'?: ChainJobOptions['onError'];
  readonly 'filter-node-name'?: string;
  readonly 'auto-finalize'?: boolean;
  readonly 'auto-dismiss'?: boolean;
}

/** What the arguments say that all such commands have. */
export function startOptions(id: string, args: StartArgs): ChainJobOptions {
  return {
    id,
    speed: args.speed,
    onError: args['on-error'],
    filterName: args['filter-node-name'],
    autoFinalize: args['auto-finalize'],
    autoDismiss: args['auto-dismiss'],
  };
}

/** The ID that a job gets: only devices have a name for it. */
export function jobId(
  { graph }: MonitorContext,
  given: string | undefined,
  device: string,
): string {
  return given ?? (graph.backends.has(device) ? device : '');
}

/** Whether `wanted` is `top` or below it. */
function isInChain(top: BlockNode, wanted: BlockNode): boolean {
  for (let at: BlockNode | undefined = top; at !== undefined; at = below(at)) {
    if (at === wanted) return true;
  }
  return false;
}

interface StreamRange {
  readonly base?: string;
  readonly 'base-node'?: string;
  readonly bottom?: string;
}

/** Throws QmpError when the end of a stream is named in two ways. */
function checkStreamRange({ base, 'base-node': baseNode, bottom }: StreamRange): void {
  const both = (a: string, b: string): QmpError =>
    new QmpError(`'${a}' and '${b}' cannot be specified at the same time`);
  if (base !== undefined && baseNode !== undefined) throw both('base', 'base-node');
  if (base !== undefined && bottom !== undefined) throw both('base', 'bottom');
  if (bottom !== undefined && baseNode !== undefined) throw both('bottom', 'base-node');
}

/** The ends of the chain that a client names, at most one of which it may. */
async function streamRange(
  { graph }: MonitorContext,
  node: BlockNode,
  args: StreamRange,
): Promise<{ base?: BlockNode; bottom?: BlockNode }> {
  const { base, 'base-node': baseNode, bottom } = args;
  if (base !== undefined) {
    const found = await findBacking(node, base);
    if (found === undefined) throw new QmpError(`Can't find '${base}' in the backing chain`);
    return { base: found };
  }
  if (baseNode !== undefined) {
    const found = lookupNode(graph, undefined, baseNode);
    if (found !== node && isInChain(node, found)) return { base: found };
    throw new QmpError(`Node '${found.name}' is not a backing image of '${node.name}'`);
  }
  if (bottom === undefined) return {};
  const found = lookupNode(graph, undefined, bottom);
  if (found.driver.kind === 'filter') {
    throw new QmpError(`Node '${bottom}' is a filter, use a non-filter node as 'bottom' instead`);
  }
  if (isInChain(node, found)) return { bottom: found };
  const name = `'${node.name}'`;
  throw new QmpError(`Node '${bottom}' is not in a chain starting from ${name}`);
}

const blockStream = defineCommand({
  name: 'block-stream',
  doc:
    'Starts a job that copies data of backing files up into an image, which then does without ' +
    'them.',
  args: t.struct('q_obj_block-stream-arg', {
    'job-id': t.optional(t.str({ doc: 'ID of the job; default: name of the device' })),
    device: t.str({ doc: 'device or node whose image takes the data' }),
    base: t.optional(t.str({ doc: 'file name of the image that it stands on afterwards' })),
    'base-node': t.optional(t.str({ doc: 'the same as a node', since: '2.8' })),
    'backing-file': t.optional(t.str({ doc: 'name of that image for the header' })),
    'backing-mask-protocol': t.optional(
      t.bool({ doc: 'the header names the format raw for a bare protocol', since: '9.0' }),
    ),
    bottom: t.optional(t.str({ doc: 'lowest node whose data is copied', since: '6.0' })),
    ...startFields,
  }),
  since: '1.1',
  givenOnly: true,
  run: async (context, args) => {
    const { graph, jobs } = context;
    checkStreamRange(args);
    const node = lookupNode(graph, args.device, args.device);
    const range = await streamRange(context, node, args);
    const end = range.bottom === undefined ? range.base : below(range.bottom);
    for (let at: BlockNode | undefined = node; at !== undefined && at !== end; at = below(at)) {
      checkOp(at, 'stream');
    }
    const backingFile = args['backing-file'];
    if (range.base === undefined && backingFile !== undefined) {
      throw new QmpError('backing file specified, but streaming the entire chain');
    }
    await startStream(graph, jobs, {
      ...startOptions(jobId(context, args['job-id'], args.device), args),
      node,
      ...range,
      backingFile,
      maskProtocol: args['backing-mask-protocol'],
    });
  },
});

/** The disk that block-commit works on. Throws QmpError. */
function commitDisk(context: MonitorContext, device: string): BlockNode {
  const { graph } = context;
  if (graph.backends.get(device) === undefined && graph.tryNode(device) === undefined) {
    throw new QmpError(`Device '${device}' not found`, 'DeviceNotFound');
  }
  return rootNode(context, device);
}

interface CommitRange {
  readonly top?: string;
  readonly 'top-node'?: string;
  readonly base?: string;
  readonly 'base-node'?: string;
}

function notInChain(name: string): QmpError {
  return new QmpError(`'${name}' is not in this backing file chain`);
}

async function commitTop(
  { graph }: MonitorContext,
  disk: BlockNode,
  { top, 'top-node': topNode }: CommitRange,
): Promise<BlockNode> {
  if (top !== undefined && topNode !== undefined) {
    throw new QmpError("'top-node' and 'top' are mutually exclusive");
  }
  if (topNode !== undefined) {
    const found = lookupNode(graph, undefined, topNode);
    if (isInChain(disk, found)) return found;
    throw notInChain(topNode);
  }
  if (top === undefined || top === disk.filename) return disk;
  const found = await findBacking(disk, top);
  if (found === undefined) throw new QmpError(`Top image file ${top} not found`);
  return found;
}

async function commitBase(
  { graph }: MonitorContext,
  top: BlockNode,
  { base, 'base-node': baseNode }: CommitRange,
): Promise<BlockNode> {
  if (base !== undefined && baseNode !== undefined) {
    throw new QmpError("'base-node' and 'base' are mutually exclusive");
  }
  if (baseNode !== undefined) {
    const found = lookupNode(graph, undefined, baseNode);
    if (isInChain(top, found)) return found;
    throw notInChain(baseNode);
  }
  if (base === undefined) return chainDown(top).at(-1) ?? top;
  const found = await findBacking(top, base);
  if (found === undefined) throw new QmpError(`Can't find '${base}' in the backing chain`);
  return found;
}

const blockCommit = defineCommand({
  name: 'block-commit',
  doc:
    'Starts a job that writes what images hold into one below them. When one of them is what ' +
    'guests write, the job gets ready, and completing it makes the lower one the disk.',
  args: t.struct('q_obj_block-commit-arg', {
    'job-id': t.optional(t.str({ doc: 'ID of the job; default: name of the device' })),
    device: t.str({ doc: 'device or root node of the chain' }),
    'base-node': t.optional(t.str({ doc: 'image that takes the data; default the lowest' })),
    base: t.optional(t.str({ doc: 'the same by its file name', deprecated: 'base-node' })),
    'top-node': t.optional(t.str({ doc: 'highest image that is committed; default the disk' })),
    top: t.optional(t.str({ doc: 'the same by its file name', deprecated: 'top-node' })),
    'backing-file': t.optional(t.str({ doc: 'name of the base for the header above' })),
    'backing-mask-protocol': t.optional(
      t.bool({ doc: 'the header names the format raw for a bare protocol', since: '9.0' }),
    ),
    ...startFields,
  }),
  since: '1.3',
  givenOnly: true,
  run: async (context, args) => {
    const { graph, jobs } = context;
    const disk = commitDisk(context, args.device);
    checkOp(disk, 'commit-source');
    const top = await commitTop(context, disk, args);
    const base = await commitBase(context, top, args);
    const end = below(base);
    for (let at: BlockNode | undefined = top; at !== undefined && at !== end; at = below(at)) {
      checkOp(at, 'commit-target');
    }
    if (top === base) throw new QmpError('cannot commit an image into itself');
    const backingFile = args['backing-file'];
    const common = {
      ...startOptions(jobId(context, args['job-id'], args.device), args),
      top,
      base,
    };
    const isDisk = skipFilters(top) === skipFilters(disk);
    if (isDisk || (cumulativePerms(top).perm & Perm.write) !== 0) {
      if (backingFile !== undefined) {
        const why = isDisk ? 'is the active layer' : 'has a writer on it';
        throw new QmpError(`'backing-file' specified, but 'top' ${why}`);
      }
      await startActiveCommit(graph, jobs, common);
      return;
    }
    const images = [skipFilters(disk), ...chainDown(disk)];
    const overlay = images[images.indexOf(skipFilters(top)) - 1];
    if (overlay !== undefined) checkOp(overlay, 'commit-target');
    const maskProtocol = args['backing-mask-protocol'];
    await startCommit(graph, jobs, { ...common, node: disk, backingFile, maskProtocol });
  },
});

export const blockJobCommands = [blockStream, blockCommit] as const;
