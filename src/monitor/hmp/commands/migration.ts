/** Migration. */
import { parseSize } from '../../../lib/sizes.js';
import type { Infer } from '../../../options/schema.js';
import { fieldsOf } from '../../../options/schema.js';
import { QmpError } from '../../qmp-error.js';
import type { migrationInfo } from '../../types/migration.js';
import { capabilityNames, migrationParameters } from '../../types/migration.js';
import type { HmpCommand, HmpRun } from '../command.js';

async function migrate(run: HmpRun): Promise<void> {
  const resume = run.flag('resume');
  await run.qmp('migrate', { uri: run.text('uri'), ...(resume ? { resume } : {}) });
  if (run.flag('detach')) return;
  run.print('terminal does not allow synchronous migration, continuing detached\n');
}

/** The names are said as QEMU says that a word is none of them. */
function checkName(name: string, known: readonly string[]): void {
  if (!known.includes(name)) throw new QmpError(`invalid parameter value: ${name}`);
}

async function setParameter(run: HmpRun): Promise<void> {
  const name = run.text('parameter');
  const value = run.text('value');
  checkName(name, Object.keys(fieldsOf(migrationParameters)));
  if (name === 'block-bitmap-mapping') {
    throw new QmpError('The block-bitmap-mapping parameter can only be set through QMP');
  }
  const size = parseSize(value, 'm');
  if (size.status !== 'ok') throw new QmpError(`Invalid size ${value}`);
  await run.qmp('migrate-set-parameters', { [name]: size.bytes });
}

async function setCapability(run: HmpRun): Promise<void> {
  const capability = run.text('capability');
  checkName(capability, capabilityNames);
  const state = run.flag('state');
  await run.qmp('migrate-set-capabilities', { capabilities: [{ capability, state }] });
}

export const migrationCommands: readonly HmpCommand[] = [
  {
    name: 'migrate',
    args: 'detach:-d,resume:-r,uri:s',
    params: '[-d] [-r] uri',
    help: 'begin to move the machine to another program (it never waits; -r is refused)',
    run: migrate,
  },
  {
    name: 'migrate_cancel',
    args: '',
    params: '',
    help: 'give the migration up',
    run: async (run) => {
      await run.qmp('migrate_cancel');
    },
  },
  {
    name: 'migrate_continue',
    args: 'state:s',
    params: 'state',
    help: 'go on with a migration that waits in this state',
    run: async (run) => {
      await run.qmp('migrate-continue', { state: run.text('state') });
    },
  },
  {
    name: 'migrate_incoming',
    args: 'uri:s',
    params: 'uri',
    help: 'wait for a machine, after -incoming defer',
    run: async (run) => {
      await run.qmp('migrate-incoming', { uri: run.text('uri') });
    },
  },
  {
    name: 'migrate_set_capability',
    args: 'capability:s,state:b',
    params: 'capability state',
    help: 'switch a capability of migration on or off',
    run: setCapability,
  },
  {
    name: 'migrate_set_parameter',
    args: 'parameter:s,value:s',
    params: 'parameter value',
    help: 'set a parameter of migration; a size is in MiB',
    run: setParameter,
  },
  {
    name: 'migrate_start_postcopy',
    args: '',
    params: '',
    help: 'accepted where bitmaps are migrated',
    run: async (run) => {
      await run.qmp('migrate-start-postcopy');
    },
  },
];

function ramLines(ram: NonNullable<Infer<typeof migrationInfo>['ram']>): string[] {
  const kbytes = (bytes: number): string => `${String(Math.floor(bytes / 1024))} kbytes`;
  return [
    `transferred ram: ${kbytes(ram.transferred)}`,
    `throughput: ${ram.mbps.toFixed(2)} mbps`,
    `remaining ram: ${kbytes(ram.remaining)}`,
    `total ram: ${kbytes(ram.total)}`,
    `duplicate: ${String(ram.duplicate)} pages`,
    `normal: ${String(ram.normal)} pages`,
    `normal bytes: ${kbytes(ram['normal-bytes'])}`,
    `dirty sync count: ${String(ram['dirty-sync-count'])}`,
    `page size: ${kbytes(ram['page-size'])}`,
    `downtime ram: ${kbytes(ram['downtime-bytes'])}`,
  ];
}

function infoMigrate({ machine, print }: HmpRun): void {
  const info = machine.migration.info();
  const lines: string[] = [];
  const blocked = info['blocked-reasons'] ?? [];
  if (blocked.length > 0) lines.push('Outgoing migration blocked:');
  for (const reason of blocked) lines.push(`  ${reason}`);
  const error = info['error-desc'];
  if (info.status !== undefined) {
    lines.push(`Migration status: ${info.status}${error === undefined ? '' : ` (${error})`}`);
  }
  const total = info['total-time'];
  if (total !== undefined) lines.push(`total time: ${String(total)} ms`);
  if (info.downtime !== undefined) lines.push(`downtime: ${String(info.downtime)} ms`);
  if (info.ram !== undefined) lines.push(...ramLines(info.ram));
  print(lines.map((line) => `${line}\n`).join(''));
}

function infoParameters({ machine, print }: HmpRun): void {
  const { parameters } = machine.migration.settings;
  print(`max-bandwidth: ${String(parameters['max-bandwidth'] ?? 0)} bytes/second\n`);
  const mapping = parameters['block-bitmap-mapping'];
  if (mapping === undefined) return;
  print('block-bitmap-mapping:\n');
  for (const { 'node-name': node, alias, bitmaps } of mapping) {
    print(`  '${node}' -> '${alias}'\n`);
    for (const each of bitmaps) print(`    '${each.name}' -> '${each.alias}'\n`);
  }
}

function infoCapabilities({ machine, print }: HmpRun): void {
  for (const { capability, state } of machine.migration.settings.capabilities()) {
    print(`${capability}: ${state ? 'on' : 'off'}\n`);
  }
}

const plain = { args: '', params: '' };

export const migrationInfos: readonly HmpCommand[] = [
  { ...plain, name: 'migrate', help: 'what becomes of migration', run: infoMigrate },
  {
    ...plain,
    name: 'migrate_capabilities',
    help: 'which capabilities of migration are on',
    run: infoCapabilities,
  },
  {
    ...plain,
    name: 'migrate_parameters',
    help: 'the parameters of migration',
    run: infoParameters,
  },
];
