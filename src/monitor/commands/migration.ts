/** Migration: the commands, whose work is that of migration/migration.ts. */
import { t } from '../../options/schema.js';
import { defineCommand, definePlainCommand } from '../command.js';
import type { MonitorContext } from '../context.js';
import { readPlace } from '../migration/address.js';
import type { Migration } from '../migration/migration.js';
import { QmpError } from '../qmp-error.js';
import * as types from '../types/migration.js';

function migrationOf({ machine }: MonitorContext): Migration {
  if (machine === undefined) throw new QmpError('There is no machine');
  return machine.migration;
}

const place = {
  uri: t.optional(t.str({ doc: 'tcp:HOST:PORT, unix:PATH, exec:COMMAND, fd:N or file:PATH' })),
  channels: t.optional(
    t.arrayOf(types.migrationChannel, { doc: 'the same as a list of one channel' }),
  ),
};

const migrate = defineCommand({
  name: 'migrate',
  doc: 'Begins to move the machine to another program; events and query-migrate tell the rest.',
  args: t.struct('q_obj_migrate-arg', {
    ...place,
    detach: t.optional(t.bool({ doc: 'accepted: the command never waits' })),
    resume: t.optional(t.bool({ doc: 'only off: a migration that failed begins anew' })),
  }),
  since: '0.14',
  run: (context, { uri, channels, resume }) => {
    if (resume === true) throw new QmpError('Cannot resume if there is no paused migration');
    migrationOf(context).begin(readPlace('migrate', uri, channels));
  },
});

const migrateIncoming = defineCommand({
  name: 'migrate-incoming',
  doc: 'Waits for a machine, after -incoming defer.',
  args: t.struct('q_obj_migrate-incoming-arg', {
    ...place,
    'exit-on-error': t.optional(
      t.bool({ doc: 'whether the program ends when no machine comes; default on' }),
    ),
  }),
  since: '2.3',
  run: async (context, args) => {
    const { uri, channels } = args;
    const exits = args['exit-on-error'] ?? true;
    const where = readPlace('migrate-incoming', uri, channels);
    await migrationOf(context).wait(where, exits);
  },
});

const migrateCancel = definePlainCommand({
  name: 'migrate_cancel',
  doc: 'Gives the migration that is under way up.',
  since: '0.14',
  run: (context) => {
    migrationOf(context).cancel();
  },
});

const migrateContinue = defineCommand({
  name: 'migrate-continue',
  doc: 'Goes on with a migration that waits before the images change hands.',
  args: t.struct('q_obj_migrate-continue-arg', { state: types.migrationStatus }),
  since: '2.11',
  run: (context, { state }) => {
    migrationOf(context).goOn(state);
  },
});

const startPostcopy = definePlainCommand({
  name: 'migrate-start-postcopy',
  doc:
    'Accepted while a migration of bitmaps is under way: they go while the guest stands still, ' +
    'so that nothing is left for afterwards.',
  since: '2.5',
  run: (context) => {
    if (migrationOf(context).settings.has('dirty-bitmaps')) return;
    const text = 'Enable postcopy with migrate_set_capability before the start of migration';
    throw new QmpError(text);
  },
});

const setCapabilities = defineCommand({
  name: 'migrate-set-capabilities',
  doc: 'Switches capabilities of migration on or off; those that are not there stay off.',
  args: t.struct('q_obj_migrate-set-capabilities-arg', {
    capabilities: t.arrayOf(types.capabilityStatus, { doc: 'what is to change' }),
  }),
  since: '1.2',
  run: (context, { capabilities }) => {
    const migration = migrationOf(context);
    if (migration.isActive) throw new QmpError("There's a migration process in progress");
    migration.settings.switch(capabilities);
  },
});

const queryCapabilities = definePlainCommand({
  name: 'query-migrate-capabilities',
  doc: 'Tells which capabilities of migration are on.',
  returns: t.arrayOf(types.capabilityStatus),
  since: '1.2',
  run: (context) => migrationOf(context).settings.capabilities(),
});

const setParameters = defineCommand({
  name: 'migrate-set-parameters',
  doc: 'Sets parameters of migration.',
  args: types.migrationParameters,
  since: '2.4',
  run: (context, args) => {
    migrationOf(context).settings.set(args);
  },
});

const queryParameters = definePlainCommand({
  name: 'query-migrate-parameters',
  doc: 'Tells the parameters of migration.',
  returns: types.migrationParameters,
  since: '2.4',
  run: (context) => migrationOf(context).settings.parameters,
});

const queryMigrate = definePlainCommand({
  name: 'query-migrate',
  doc: 'Tells what becomes of the migration that began last.',
  returns: types.migrationInfo,
  since: '0.14',
  run: (context) => migrationOf(context).info(),
});

export const migrationCommands = [
  migrate,
  migrateIncoming,
  migrateCancel,
  migrateContinue,
  startPostcopy,
  setCapabilities,
  queryCapabilities,
  setParameters,
  queryParameters,
  queryMigrate,
] as const;
