/** Commands that open, close and reopen nodes. */
import { Backend } from '../../block/backend.js';
import type { NodeOptions } from '../../block/driver.js';
import type { BlockGraph } from '../../block/graph.js';
import type { BlockNode } from '../../block/node.js';
import { checkOp } from '../../block/op-blockers.js';
import { blockdevOptions } from '../../catalog/blockdev-types.js';
import { t } from '../../options/schema.js';
import { defineCommand } from '../command.js';
import type { MonitorContext } from '../context.js';
import { QmpError } from '../qmp-error.js';

/** Opens a node that the monitor holds. Throws QmpError, BlockError or OptionError. */
export async function addNode(
  { graph, owned }: Pick<MonitorContext, 'graph' | 'owned'>,
  options: NodeOptions,
): Promise<BlockNode> {
  if (options['node-name'] === undefined) {
    throw new QmpError("'node-name' must be specified for the root node");
  }
  const node = await graph.open({ options, flags: { writable: true } });
  owned.add(node);
  return node;
}

/** The node of this name. Throws QmpError in the words of commands that take a node only. */
export function findNode(graph: BlockGraph, name: string): BlockNode {
  const node = graph.tryNode(name);
  if (node !== undefined) return node;
  throw new QmpError(`Failed to find node with node-name='${name}'`);
}

/**
 * The node that a device or a node name means; an empty one means nothing. Throws QmpError in the
 * words of commands that take either.
 */
export function lookupNode(
  graph: BlockGraph,
  device: string | undefined,
  name: string | undefined,
): BlockNode {
  const backend = device === undefined ? undefined : graph.backends.get(device);
  if (backend !== undefined) {
    if (backend.isInserted) return backend.node;
    throw new QmpError(`Device '${device ?? ''}' has no medium`);
  }
  const node = name === undefined ? undefined : graph.tryNode(name);
  if (node !== undefined) return node;
  throw new QmpError(`Cannot find device='${device ?? ''}' nor node-name='${name ?? ''}'`);
}

const blockdevAdd = defineCommand({
  name: 'blockdev-add',
  doc: 'Opens a node with the nodes below it; it stays until blockdev-del.',
  args: blockdevOptions,
  since: '2.9',
  givenOnly: true,
  run: async (context, options) => {
    await addNode(context, options);
  },
});

const blockdevDel = defineCommand({
  name: 'blockdev-del',
  doc: 'Closes a node that blockdev-add opened and that nobody uses.',
  args: t.struct('q_obj_blockdev-del-arg', { 'node-name': t.str({ doc: 'node to close' }) }),
  since: '2.9',
  run: async ({ graph, owned }, args) => {
    const node = findNode(graph, args['node-name']);
    const { name } = node;
    if ([...node.parents].some((edge) => edge.parent instanceof Backend)) {
      throw new QmpError(`Node ${name} is in use`);
    }
    checkOp(node, 'drive-del');
    if (!owned.has(node)) throw new QmpError(`Node ${name} is not owned by the monitor`);
    if (node.parents.size > 0 || node.refs > 1) {
      throw new QmpError(`Block device ${name} is in use`);
    }
    owned.delete(node);
    await graph.release(node);
  },
});

const blockdevReopen = defineCommand({
  name: 'blockdev-reopen',
  doc:
    'Gives nodes new options, flags and children: all of them, or none when one fails. Options ' +
    'that are not given get their defaults.',
  args: t.struct('q_obj_blockdev-reopen-arg', {
    options: t.arrayOf(blockdevOptions, { doc: 'one entry for each node' }),
  }),
  since: '6.1',
  givenOnly: true,
  run: async ({ graph }, { options }) => {
    const changes = options.map((each) => {
      const name = each['node-name'];
      if (typeof name !== 'string') throw new QmpError('node-name not specified');
      return { node: findNode(graph, name), options: each };
    });
    if (changes.length > 0) await graph.reopen(changes);
  },
});

export const blockdevCommands = [blockdevReopen, blockdevAdd, blockdevDel] as const;
