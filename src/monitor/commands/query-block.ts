/** Queries of the graph. */
import { t } from '../../options/schema.js';
import {
  blockDeviceInfo,
  describeGraph,
  deviceInfo,
  deviceStats,
  nodesOf,
  nodeStats,
} from '../block-info.js';
import { allBackends } from '../devices.js';
import { defineCommand, definePlainCommand } from '../command.js';
import * as types from '../types/block.js';

const queryBlock = definePlainCommand({
  name: 'query-block',
  doc: 'Lists devices and what is in them.',
  returns: t.arrayOf(types.blockInfo),
  since: '0.14',
  run: ({ graph }) => Promise.all(allBackends(graph).map(deviceInfo)),
});

const queryBlockstats = defineCommand({
  name: 'query-blockstats',
  doc: 'Tells statistics of devices, or of nodes.',
  args: t.struct('q_obj_query-blockstats-arg', {
    'query-nodes': t.optional(t.bool({ doc: 'tell those of all nodes instead of devices' })),
  }),
  returns: t.arrayOf(types.blockStats),
  since: '0.14',
  run: ({ graph }, args) =>
    args['query-nodes'] === true
      ? nodesOf(graph).map((node) => nodeStats(node))
      : allBackends(graph).map(deviceStats),
});

const queryNamedBlockNodes = defineCommand({
  name: 'query-named-block-nodes',
  doc: 'Lists all nodes with their images.',
  args: t.struct('q_obj_query-named-block-nodes-arg', {
    flat: t.optional(t.bool({ doc: 'leave out the images below each', since: '5.0' })),
  }),
  returns: t.arrayOf(types.blockDeviceInfo),
  since: '2.0',
  run: async ({ graph }, args) => {
    const infos: unknown[] = [];
    for (const node of nodesOf(graph)) infos.push(await blockDeviceInfo(node, args.flat === true));
    return infos.reverse();
  },
});

const queryBlockGraph = definePlainCommand({
  name: 'x-debug-query-block-graph',
  doc: 'Tells all nodes and edges with their permissions.',
  returns: types.blockGraph,
  since: '4.0',
  features: ['unstable'],
  run: ({ graph }) => describeGraph(graph),
});

export const queryBlockCommands = [
  queryBlock,
  queryBlockstats,
  queryNamedBlockNodes,
  queryBlockGraph,
] as const;
