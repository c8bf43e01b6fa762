/** QMP's types of migration. */
import { socketAddressTypes } from '../../block/socket-address.js';
import { t } from '../../options/schema.js';

export const migrationStatuses = [
  'none',
  'setup',
  'cancelling',
  'cancelled',
  'active',
  'postcopy-active',
  'postcopy-paused',
  'postcopy-recover-setup',
  'postcopy-recover',
  'completed',
  'failed',
  'colo',
  'pre-switchover',
  'device',
  'wait-unplug',
] as const;

export const migrationStatus = t.enumOf(...migrationStatuses, { name: 'MigrationStatus' });

export const capabilityNames = [
  'xbzrle',
  'rdma-pin-all',
  'auto-converge',
  'zero-blocks',
  'events',
  'postcopy-ram',
  'x-colo',
  'release-ram',
  'return-path',
  'pause-before-switchover',
  'multifd',
  'dirty-bitmaps',
  'postcopy-blocktime',
  'late-block-activate',
  'x-ignore-shared',
  'validate-uuid',
  'background-snapshot',
  'zero-copy-send',
  'postcopy-preempt',
  'switchover-ack',
  'dirty-limit',
  'mapped-ram',
] as const;

/** Name of a capability. */
export type CapabilityName = (typeof capabilityNames)[number];

export const capability = t.enumOf(...capabilityNames, { name: 'MigrationCapability' });

export const capabilityStatus = t.struct('MigrationCapabilityStatus', {
  capability,
  state: t.bool({ doc: 'whether it is on' }),
});

const socket = t.union('MigrationSocketAddress', 'type', socketAddressTypes);

export const migrationAddress = t.union('MigrationAddress', 'transport', {
  socket,
  exec: t.struct('MigrationExecCommand', {
    args: t.arrayOf(t.str(), { doc: 'path of the program, and its arguments' }),
  }),
  file: t.struct('FileMigrationArgs', {
    filename: t.str({ doc: 'path of the file' }),
    offset: t.uint({}, { doc: 'where in the file the state begins' }),
  }),
});

export const migrationChannel = t.struct('MigrationChannel', {
  'channel-type': t.enumOf('main', { name: 'MigrationChannelType' }),
  addr: migrationAddress,
});

export const bitmapAlias = t.struct('BitmapMigrationBitmapAlias', {
  name: t.str({ doc: 'name of the bitmap' }),
  alias: t.str({ doc: 'its name in the stream' }),
  transform: t.optional(
    t.struct('BitmapMigrationBitmapAliasTransform', {
      persistent: t.optional(t.bool({ doc: 'whether the bitmap will be persistent there' })),
    }),
  ),
});

export const bitmapNodeAlias = t.struct('BitmapMigrationNodeAlias', {
  'node-name': t.str({ doc: 'node' }),
  alias: t.str({ doc: 'its name in the stream' }),
  bitmaps: t.arrayOf(bitmapAlias, { doc: 'its bitmaps that are sent or taken' }),
});

export const migrationParameters = t.struct('MigrationParameters', {
  'max-bandwidth': t.optional(t.uint({}, { doc: 'bytes a second; 0: as fast as it goes' })),
  'block-bitmap-mapping': t.optional(
    t.arrayOf(bitmapNodeAlias, { doc: 'names of nodes and bitmaps in the stream' }),
  ),
});

const stats = t.struct('MigrationStats', {
  transferred: t.int({}, { doc: 'bytes that were sent' }),
  remaining: t.int({}, { doc: 'bytes of RAM that are left' }),
  total: t.int({}, { doc: 'bytes of RAM' }),
  duplicate: t.int({}, { doc: 'pages that were zero' }),
  normal: t.int({}, { doc: 'other pages' }),
  'normal-bytes': t.int({}, { doc: 'bytes of these' }),
  'dirty-pages-rate': t.int(),
  mbps: t.number(),
  'dirty-sync-count': t.int(),
  'postcopy-requests': t.int(),
  'page-size': t.int(),
  'multifd-bytes': t.uint(),
  'pages-per-second': t.uint(),
  'precopy-bytes': t.uint(),
  'downtime-bytes': t.uint(),
  'postcopy-bytes': t.uint(),
  'dirty-sync-missed-zero-copy': t.uint(),
});

export const migrationInfo = t.struct('MigrationInfo', {
  status: t.optional(migrationStatus),
  ram: t.optional(stats),
  'total-time': t.optional(t.int({}, { doc: 'milliseconds from the beginning' })),
  downtime: t.optional(t.int({}, { doc: 'milliseconds for which no guest ran' })),
  'error-desc': t.optional(t.str({ doc: 'why it failed' })),
  'blocked-reasons': t.optional(t.arrayOf(t.str(), { doc: 'why it cannot begin' })),
});
