/** Commands that start mirrors. */
import { skipFilters } from '../../block/status.js';
import type { BlockNode } from '../../block/node.js';
import { checkOp } from '../../block/op-blockers.js';
import { startMirror } from '../../job/mirror.js';
import type { Infer } from '../../options/schema.js';
import { t } from '../../options/schema.js';
import { deviceOf } from '../actions/backup.js';
import type { Command } from '../command.js';
import { defineCommand } from '../command.js';
import type { MonitorContext } from '../context.js';
import { QmpError } from '../qmp-error.js';
import { mirrorSyncMode } from '../types/backup.js';
import { blockdevOnError, mirrorCopyMode } from '../types/job.js';
import { findNode, lookupNode } from './blockdev.js';

const mirrorArgs = t.struct('q_obj_blockdev-mirror-arg', {
  'job-id': t.optional(t.str({ doc: 'ID of the job; default: name of the device' })),
  device: t.str({ doc: 'device or root node that is copied' }),
  target: t.str({ doc: 'device or node that is written' }),
  replaces: t.optional(t.str({ doc: 'node whose place the target takes; default the source' })),
  sync: mirrorSyncMode,
  speed: t.optional(t.int({}, { doc: 'bytes a second; default 0: no limit' })),
  granularity: t.optional(t.uint({ bits: 32 }, { doc: 'bytes that are copied at least' })),
  'buf-size': t.optional(t.int({}, { doc: 'bytes in flight at most; default 16 MiB' })),
  'on-source-error': t.optional(blockdevOnError),
  'on-target-error': t.optional(blockdevOnError),
  'filter-node-name': t.optional(
    t.str({ doc: 'name of the node that the job puts in', since: '2.9' }),
  ),
  'copy-mode': t.optional(mirrorCopyMode),
  'auto-finalize': t.optional(
    t.bool({ doc: 'take effect without job-finalize; default true', since: '3.1' }),
  ),
  'auto-dismiss': t.optional(
    t.bool({ doc: 'forget the job when it is concluded; default true', since: '3.1' }),
  ),
});

type MirrorArgs = Infer<typeof mirrorArgs>;

function syncOf(asked: MirrorArgs['sync']): 'full' | 'top' | 'none' {
  if (asked !== 'incremental' && asked !== 'bitmap') return asked;
  throw new QmpError(`Sync mode '${asked}' not supported`);
}

/** The node whose place the target takes. Throws QmpError when guests would see a change. */
function replacedBy({ graph }: MonitorContext, source: BlockNode, name: string): BlockNode {
  const found = findNode(graph, name);
  checkOp(found, 'replace');
  if (skipFilters(source) === skipFilters(found)) return found;
  const held = [...source.children.values()].some((edge) => skipFilters(edge.node) === found);
  if (held && source.driver.name === 'quorum') return found;
  const where = `'${source.name}'`;
  throw new QmpError(
    `Cannot replace '${name}' by a node mirrored from ${where}, because it cannot be ` +
      'guaranteed that doing so would not lead to an abrupt change of visible data',
  );
}

const blockdevMirror = defineCommand({
  name: 'blockdev-mirror',
  doc:
    'Starts a job that copies a disk to an open node while guests go on writing; when both are ' +
    'equal it is ready, and completing it makes the target the disk.',
  args: mirrorArgs,
  since: '2.6',
  givenOnly: true,
  run: async (context, args) => {
    const { graph, jobs } = context;
    const source = lookupNode(graph, args.device, args.device);
    const target = lookupNode(graph, args.target, args.target);
    const sync = syncOf(args.sync);
    checkOp(source, 'mirror-source');
    checkOp(target, 'mirror-target');
    const { replaces } = args;
    const replaced = replaces === undefined ? undefined : replacedBy(context, source, replaces);
    if ((args['buf-size'] ?? 0) < 0) throw new QmpError("Invalid parameter 'buf-size'");
    await startMirror(jobs, {
      id: args['job-id'] ?? deviceOf(context, source),
      source,
      target,
      sync,
      replaces: replaced,
      granularity: args.granularity,
      bufferBytes: args['buf-size'],
      copyMode: args['copy-mode'],
      speed: args.speed,
      onSourceError: args['on-source-error'],
      onTargetError: args['on-target-error'],
      filterName: args['filter-node-name'],
      autoFinalize: args['auto-finalize'],
      autoDismiss: args['auto-dismiss'],
    });
  },
});

export const mirrorCommands: readonly Command[] = [blockdevMirror];
