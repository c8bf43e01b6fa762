/** Commands about the monitor itself. */
import { introspect } from '../../options/introspect.js';
import { t } from '../../options/schema.js';
import type { Command } from '../command.js';
import { definePlainCommand } from '../command.js';
import type { MonitorContext } from '../context.js';
import { eventKinds } from '../event-kinds.js';
import { imageInfo, blockStats } from '../types/block.js';

const versionTriple = t.struct('VersionTriple', { major: t.int(), minor: t.int(), micro: t.int() });

const queryVersion = definePlainCommand({
  name: 'query-version',
  doc: 'Tells the release of QEMU that the monitor behaves like, and what it really is.',
  returns: t.struct('VersionInfo', { qemu: versionTriple, package: t.str() }),
  since: '0.14',
  run: ({ version }) => version,
});

const queryCommands = definePlainCommand({
  name: 'query-commands',
  doc: 'Lists the names of all commands.',
  returns: t.arrayOf(t.struct('CommandInfo', { name: t.str() })),
  since: '0.13',
  run: ({ commands }) => [...commands.keys()].map((name) => ({ name })),
});

const quit = definePlainCommand({
  name: 'quit',
  doc: 'Ends the program: exports are closed and images flushed.',
  since: '0.14',
  // As from QEMU's daemon, the reply comes after the events of what is closed.
  run: (context) => context.quit(),
});

/** The schema is the same for a program's whole life. */
const schemas = new WeakMap<ReadonlyMap<string, Command>, unknown>();

function schemaOf({ commands, types }: MonitorContext): unknown {
  let schema = schemas.get(commands);
  if (schema === undefined) {
    const all = new Map([...types, ['ImageInfo', imageInfo], ['BlockStats', blockStats]]);
    schema = introspect([...commands.values()], eventKinds, all);
    schemas.set(commands, schema);
  }
  return schema;
}

const queryQmpSchema = definePlainCommand({
  name: 'query-qmp-schema',
  doc: 'Describes all commands, events and types, so that clients need not guess by the version.',
  returns: t.arrayOf(t.any()),
  since: '2.5',
  run: schemaOf,
});

export const controlCommands = [queryVersion, queryCommands, quit, queryQmpSchema] as const;
