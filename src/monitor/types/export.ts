/** QMP's types of exports and of the NBD server. */
import { socketAddress, socketAddressLegacy } from '../../block/socket-address.js';
import { t } from '../../options/schema.js';
import { bitmapOrName } from './bitmap.js';

/** QEMU's defaults for its server. */
const serverBase = {
  'handshake-max-seconds': t.uint(
    { bits: 32 },
    { default: 10, doc: 'seconds in which a client must have agreed; 0: no limit', since: '10.0' },
  ),
  'tls-creds': t.optional(t.str({ doc: 'ID of the TLS credentials' })),
  'tls-authz': t.optional(t.str({ doc: 'ID of the list of names that may connect' })),
  'max-connections': t.uint(
    { bits: 32 },
    { default: 100, doc: 'connections at a time; 0: no limit' },
  ),
};

/** As `--nbd-server` has it. */
export const nbdServerOptions = t.struct('NbdServerOptions', {
  ...serverBase,
  addr: socketAddress,
});

/** As the command nbd-server-start has it. */
export const nbdServerOptionsLegacy = t.struct('NbdServerOptionsLegacy', {
  ...serverBase,
  addr: socketAddressLegacy,
});

const exportNames = {
  name: t.optional(t.str({ doc: "name that clients ask for; default: the node's" })),
  description: t.optional(t.str({ doc: 'what clients that list exports are told' })),
};

const nbdExport = t.struct('BlockExportOptionsNbd', {
  ...exportNames,
  bitmaps: t.optional(
    t.arrayOf(bitmapOrName, { doc: 'dirty bitmaps to offer as qemu:dirty-bitmap:NAME' }),
  ),
  'allocation-depth': t.optional(t.bool({ doc: 'offer qemu:allocation-depth' })),
});

/** QMP's BlockExportType, as far as there are such exports. */
export const blockExportType = t.enumOf('nbd', { name: 'BlockExportType' });

export const blockExportOptions = t.union(
  'BlockExportOptions',
  'type',
  { nbd: nbdExport },
  {
    base: {
      type: blockExportType,
      id: t.str({ doc: 'name of the export in the monitor' }),
      'fixed-iothread': t.optional(t.bool({ doc: 'accepted: there is one loop' })),
      iothread: t.optional(t.str({ doc: 'ID of a loop thread; there is one loop all the same' })),
      'node-name': t.str({ doc: 'node to export' }),
      writable: t.optional(t.bool({ doc: 'clients may write; default off' })),
      'allow-inactive': t.optional(
        t.bool({ doc: 'leave an inactive node so, and let it become so; default off' }),
      ),
      writethrough: t.optional(t.bool({ doc: 'writes are durable when they are answered' })),
    },
  },
);

/** Arguments of nbd-server-add. */
export const nbdServerAddOptions = t.struct('NbdServerAddOptions', {
  ...exportNames,
  device: t.str({ doc: 'node to export' }),
  writable: t.optional(t.bool({ doc: 'clients may write; default off' })),
  bitmap: t.optional(t.str({ doc: 'dirty bitmap to offer' })),
});

/** QMP's BlockExportRemoveMode. */
export const removeMode = t.enumOf('safe', 'hard', {
  name: 'BlockExportRemoveMode',
  doc: 'safe: fail while clients use it; hard: cut them off',
});

/** QMP's BlockExportInfo. */
export const blockExportInfo = t.struct('BlockExportInfo', {
  id: t.str(),
  type: blockExportType,
  'node-name': t.str(),
  'shutting-down': t.bool(),
});
