/** Commands of exports and of the NBD server. */
import { fromLegacy } from '../../block/socket-address.js';
import { t } from '../../options/schema.js';
import { defineCommand, definePlainCommand } from '../command.js';
import * as types from '../types/export.js';
import { lookupNode } from './blockdev.js';

const nbdServerStart = defineCommand({
  name: 'nbd-server-start',
  doc: 'Starts the NBD server, which then offers what is exported by block-export-add.',
  args: types.nbdServerOptionsLegacy,
  since: '1.3',
  run: ({ exports }, { addr, ...rest }) => exports.startServer({ ...rest, addr: fromLegacy(addr) }),
});

const nbdServerStop = definePlainCommand({
  name: 'nbd-server-stop',
  doc: 'Stops the NBD server; its clients are cut off and its exports deleted.',
  since: '1.3',
  run: ({ exports }) => exports.stopServer(),
});

const nbdServerAdd = defineCommand({
  name: 'nbd-server-add',
  doc: 'Exports a node over NBD: an older form of block-export-add.',
  args: types.nbdServerAddOptions,
  since: '1.3',
  features: ['deprecated'],
  run: async ({ exports, graph }, args) => {
    const { device, bitmap, name, description, writable } = args;
    const node = lookupNode(graph, device, device);
    const options = {
      type: 'nbd' as const,
      id: name ?? device,
      'node-name': node.name,
      name: name ?? device,
      ...(description === undefined ? {} : { description }),
      // Older clients ask for it whether they may or not.
      writable: writable === true && !node.staysReadOnly,
      ...(bitmap === undefined ? {} : { bitmaps: [bitmap] }),
    };
    await exports.add(options, graph.backends.get(device));
  },
});

const nbdServerRemove = defineCommand({
  name: 'nbd-server-remove',
  doc: 'Deletes an export: an older form of block-export-del.',
  args: t.struct('q_obj_nbd-server-remove-arg', {
    name: t.str({ doc: 'ID of the export' }),
    mode: t.optional(types.removeMode),
  }),
  since: '2.12',
  features: ['deprecated'],
  run: ({ exports }, { name, mode }) => exports.remove(name, mode === 'hard'),
});

const blockExportAdd = defineCommand({
  name: 'block-export-add',
  doc: 'Exports a node.',
  args: types.blockExportOptions,
  since: '5.2',
  run: ({ exports }, options) => exports.add(options),
});

const blockExportDel = defineCommand({
  name: 'block-export-del',
  doc: 'Deletes an export; BLOCK_EXPORT_DELETED tells when it is gone.',
  args: t.struct('q_obj_block-export-del-arg', {
    id: t.str({ doc: 'ID of the export' }),
    mode: t.optional(types.removeMode),
  }),
  since: '5.2',
  run: ({ exports }, { id, mode }) => exports.remove(id, mode === 'hard'),
});

const queryBlockExports = definePlainCommand({
  name: 'query-block-exports',
  doc: 'Lists all exports.',
  returns: t.arrayOf(types.blockExportInfo),
  since: '5.2',
  run: ({ exports }) =>
    exports.list().map(({ id, type, backend, shuttingDown }) => ({
      id,
      type,
      'node-name': backend.node.name,
      'shutting-down': shuttingDown,
    })),
});

export const exportCommands = [
  queryBlockExports,
  blockExportDel,
  blockExportAdd,
  nbdServerStop,
  nbdServerRemove,
  nbdServerAdd,
  nbdServerStart,
] as const;
