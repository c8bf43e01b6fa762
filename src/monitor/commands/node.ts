/** Commands that change one node. */
import { activateAll, activateNode, inactivateAll, inactivateNode } from '../../block/activity.js';
import { Backend } from '../../block/backend.js';
import { BlockError, errorText, messageOf } from '../../block/errors.js';
import type { BlockGraph } from '../../block/graph.js';
import type { BlockNode } from '../../block/node.js';
import { checkOp } from '../../block/op-blockers.js';
import { reopenNode } from '../../block/reopen.js';
import { below } from '../../block/status.js';
import { Perm, tooLongForAny } from '../../block/types.js';
import { t } from '../../options/schema.js';
import { defineCommand } from '../command.js';
import { QmpError } from '../qmp-error.js';
import { rootNode } from '../actions/snapshot.js';
import { findNode, lookupNode } from './blockdev.js';

/** Runs `work` with a backend that may resize the node, while nobody else uses it. */
async function withResize(
  graph: BlockGraph,
  node: BlockNode,
  work: (backend: Backend) => Promise<void>,
): Promise<void> {
  const backend = new Backend({ graph, name: '', perm: Perm.resize, shared: Perm.all });
  await backend.attach(node);
  try {
    await work(backend);
  } finally {
    await backend.close();
  }
}

const blockResize = defineCommand({
  name: 'block_resize',
  doc: 'Changes the length of a disk that is in use.',
  args: t.struct('q_obj_block_resize-arg', {
    device: t.optional(t.str({ doc: 'device' })),
    'node-name': t.optional(t.str({ doc: 'node' })),
    size: t.size64({ qapi: 'int', doc: 'new length in bytes' }),
  }),
  since: '0.14',
  run: async ({ graph }, args) => {
    const node = lookupNode(graph, args.device, args['node-name']);
    const { size } = args;
    if (size < 0) throw new QmpError("Parameter 'size' expects a >0 size");
    if (typeof size === 'bigint') {
      throw new BlockError('EFBIG', tooLongForAny(size) ?? 'Image size is too large');
    }
    checkOp(node, 'resize');
    await withResize(graph, node, async () => {
      await graph.drainBegin(node);
      try {
        await node.truncate(size, { exact: false });
      } finally {
        graph.drainEnd(node);
      }
    });
  },
});

const setWriteThreshold = defineCommand({
  name: 'block-set-write-threshold',
  doc:
    'Sends BLOCK_WRITE_THRESHOLD once when a write to a node reaches beyond an offset, so that ' +
    'thin storage below it can be enlarged in time.',
  args: t.struct('q_obj_block-set-write-threshold-arg', {
    'node-name': t.str({ doc: 'node to watch' }),
    'write-threshold': t.uint({}, { doc: 'offset in bytes; 0: none' }),
  }),
  since: '2.3',
  run: ({ graph, emit }, args) => {
    const name = args['node-name'];
    const node = graph.tryNode(name);
    if (node === undefined) throw new QmpError(`Device '${name}' not found`);
    const threshold = args['write-threshold'];
    node.writeThreshold = threshold;
    node.onThreshold = (excess): void => {
      emit('BLOCK_WRITE_THRESHOLD', {
        'node-name': name,
        'amount-exceeded': excess,
        'write-threshold': threshold,
      });
    };
  },
});

/** Whether `wanted` is `top` or below it in its backing chain. */
function chainContains(top: BlockNode, wanted: BlockNode): boolean {
  for (let node: BlockNode | undefined = top; node !== undefined; node = below(node)) {
    if (node === wanted) return true;
  }
  return false;
}

const changeBackingFile = defineCommand({
  name: 'change-backing-file',
  doc: 'Changes the name of the backing file that an image has in its header, and nothing else.',
  args: t.struct('q_obj_change-backing-file-arg', {
    device: t.str({ doc: 'node on top of the chain' }),
    'image-node-name': t.str({ doc: 'node of the chain whose image is changed' }),
    'backing-file': t.str({ doc: 'new name' }),
  }),
  since: '2.1',
  run: async (context, args) => {
    const { graph } = context;
    const top = rootNode(context, args.device);
    const image = lookupNode(graph, undefined, args['image-node-name']);
    if (below(image) === undefined) {
      throw new QmpError('not allowing backing file change on an image without a backing file');
    }
    checkOp(top, 'change');
    if (!chainContains(top, image)) {
      throw new QmpError(`'${args.device}' and image file are not in the same chain`);
    }
    const { staysReadOnly: readOnly } = image;
    if (readOnly) await reopenNode(image, { options: { 'read-only': false } });
    const name = args['backing-file'];
    try {
      if (image.instance.changeBackingFile === undefined) throw new BlockError('ENOTSUP');
      await image.instance.changeBackingFile(name, image.driver.name);
    } catch (e) {
      throw new QmpError(`Could not change backing file to '${name}': ${errorText(e)}`);
    } finally {
      if (readOnly) await reopenNode(image, { options: { 'read-only': true } });
    }
  },
});

const setActive = defineCommand({
  name: 'blockdev-set-active',
  doc:
    'Gives images up, so that another machine may use them, or takes them back. What is below a ' +
    'node follows it.',
  args: t.struct('q_obj_blockdev-set-active-arg', {
    'node-name': t.optional(t.str({ doc: 'node; default: all' })),
    active: t.bool({ doc: 'whether the node is to be active' }),
  }),
  since: '10.0',
  run: async ({ graph }, args) => {
    const name = args['node-name'];
    const node = name === undefined ? undefined : findNode(graph, name);
    if (args.active) {
      if (node === undefined) await activateAll(graph);
      else await activateNode(node);
      return;
    }
    try {
      if (node === undefined) await inactivateAll(graph);
      else await inactivateNode(node);
    } catch (e) {
      if (messageOf(e) === 'Node has active parent node') throw e;
      const what = node === undefined ? 'all nodes' : 'node';
      throw new QmpError(`Failed to inactivate ${what}: ${errorText(e)}`);
    }
    return undefined;
  },
});

const blockdevChange = defineCommand({
  name: 'x-blockdev-change',
  doc:
    'Adds a node to those that a quorum has, or takes one away. Who adds one sees to it that it ' +
    'holds what the others do.',
  args: t.struct('q_obj_x-blockdev-change-arg', {
    parent: t.str({ doc: 'device or node of the quorum' }),
    child: t.optional(t.str({ doc: 'name of the child to remove: children.0, …' })),
    node: t.optional(t.str({ doc: 'node to add, which nobody uses' })),
  }),
  since: '2.7',
  features: ['unstable'],
  run: async ({ graph }, args) => {
    const parent = lookupNode(graph, args.parent, args.parent);
    const { child: name, node } = args;
    if (name !== undefined && node !== undefined) {
      throw new QmpError('The parameters child and node are in conflict');
    }
    const change = name === undefined ? adding(graph, parent, node) : removing(parent, name);
    await graph.drainBegin(parent);
    try {
      await change();
    } finally {
      graph.drainEnd(parent);
    }
  },
});

function adding(graph: BlockGraph, parent: BlockNode, name?: string): () => Promise<void> {
  if (name === undefined) throw new QmpError('Either child or node must be specified');
  const node = graph.tryNode(name);
  if (node === undefined) throw new QmpError(`Node '${name}' not found`);
  const { members } = parent.instance;
  if (members === undefined) {
    throw new QmpError(`The node ${parent.name} does not support adding a child`);
  }
  if (node.parents.size > 0) throw new QmpError(`The node ${name} already has a parent`);
  return () => members.add(node);
}

function removing(parent: BlockNode, name: string): () => Promise<void> {
  const child = parent.children.get(name);
  if (child === undefined) {
    throw new QmpError(`Node '${parent.name}' does not have child '${name}'`);
  }
  const { members } = parent.instance;
  if (members === undefined) {
    throw new QmpError(`The node ${parent.name} does not support removing a child`);
  }
  return () => members.remove(child);
}

const setIothread = defineCommand({
  name: 'x-blockdev-set-iothread',
  doc: 'Accepted: one loop serves all nodes, whatever threads were asked for.',
  args: t.struct('q_obj_x-blockdev-set-iothread-arg', {
    'node-name': t.str({ doc: 'node' }),
    iothread: t.alternate({ str: t.str(), null: t.null() }, { name: 'StrOrNull' }),
    force: t.optional(t.bool({ doc: 'even if somebody uses the node' })),
  }),
  since: '2.12',
  features: ['unstable'],
  run: ({ graph, objects }, args) => {
    const { iothread } = args;
    findNode(graph, args['node-name']);
    const isThere = objects.list().some(([id, kind]) => id === iothread && kind === 'iothread');
    if (iothread !== null && !isThere) {
      throw new QmpError(`Cannot find iothread ${iothread}`);
    }
  },
});

export const nodeCommands = [
  setActive,
  blockdevChange,
  setIothread,
  setWriteThreshold,
  changeBackingFile,
  blockResize,
] as const;
