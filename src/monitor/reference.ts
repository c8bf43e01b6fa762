/** The reference of commands and events in Markdown, from their declarations. */
import type { Decl, Fields, Shape } from '../options/schema.js';
import type { Command } from './command.js';
import type { EventKind } from './events.js';

/**
 * The text of docs/qmp-reference.md. `common`: names of the commands that every program has; the
 * others are marked as those of a machine.
 */
export function qmpReference(
  commands: readonly Command[],
  common: ReadonlySet<string>,
  events: readonly EventKind[],
  types: ReadonlyMap<string, Decl>,
): string {
  const byName = (a: { name: string }, b: { name: string }): number => (a.name < b.name ? -1 : 1);
  const lines = [
    '# Commands and events of the monitor',
    '',
    'Made from the declarations in `src/monitor`; do not edit. How to talk to a monitor: ' +
      '[qmp.md](qmp.md). A name with `?` may be left out; the value behind `=` is then taken. ' +
      'Where nothing else is said, `vdisk-storage-daemon`, `vdisk-system` and the library have ' +
      'a command.',
    '',
    '## Commands',
    '',
  ];
  for (const command of [...commands].sort(byName)) {
    lines.push(`### ${command.name}`, '', command.doc, '');
    const marks = [
      ...(common.has(command.name) ? [] : ['`vdisk-system` only']),
      ...(command.since === undefined ? [] : [`since QEMU ${command.since}`]),
      ...(command.features ?? []),
    ];
    if (marks.length > 0) lines.push(`(${marks.join(', ')})`, '');
    if (command.args !== undefined) lines.push(...argumentLines(command.args, types), '');
  }
  lines.push('## Events', '');
  for (const event of [...events].sort(byName)) {
    const limit = (event.intervalMs ?? 0) > 0 ? ' At most one a second from each source.' : '';
    lines.push(`### ${event.name}`, '', event.doc + limit, '');
    if (event.data !== undefined) lines.push(...argumentLines(event.data, types), '');
  }
  return `${lines.join('\n').trimEnd()}\n`;
}

function resolve(decl: Decl, types: ReadonlyMap<string, Decl>): Shape {
  const { shape } = decl;
  if (shape.kind === 'lazy') return resolve(shape.get(), types);
  const found = shape.kind === 'ref' ? types.get(shape.name) : undefined;
  return found === undefined ? shape : resolve(found, types);
}

function argumentLines(decl: Decl, types: ReadonlyMap<string, Decl>): string[] {
  const shape = resolve(decl, types);
  if (shape.kind === 'struct') return fieldLines(shape.fields, types, '');
  if (shape.kind !== 'union') return [];
  const lines = fieldLines(shape.base, types, '');
  for (const [word, branch] of Object.entries(shape.branches)) {
    const inner = resolve(branch, types);
    const fields = inner.kind === 'struct' ? inner.fields : {};
    lines.push(`- with \`${shape.discriminator}\` = \`${word}\`:`);
    lines.push(...fieldLines(fields, types, '  '));
  }
  return lines;
}

function fieldLines(fields: Fields, types: ReadonlyMap<string, Decl>, indent: string): string[] {
  return Object.entries(fields).map(([name, field]) => {
    const { doc } = field.meta;
    const mark = field.presence === 'required' ? '' : '?';
    const value = field.presence === 'defaulted' ? ` = ${shownDefault(field)}` : '';
    const text = doc === undefined ? '' : `: ${doc}`;
    return `${indent}- \`${name}${mark}\` (${typeText(field, types)})${value}${text}`;
  });
}

function shownDefault({ meta }: Decl): string {
  return typeof meta.default === 'string' ? meta.default : JSON.stringify(meta.default);
}

/** A type in a few words; named ones by their name. */
function typeText(decl: Decl, types: ReadonlyMap<string, Decl>): string {
  const { shape } = decl;
  switch (shape.kind) {
    case 'enum':
      return shape.values.length > 12
        ? (shape.name ?? 'word')
        : shape.values.map((value) => `\`${value}\``).join(', ');
    case 'array':
      return `list of ${typeText(shape.of, types)}`;
    case 'struct':
      return `object: ${Object.keys(shape.fields)
        .map((name) => `\`${name}\``)
        .join(', ')}`;
    case 'union':
    case 'alternate':
    case 'ref':
      return shape.name;
    case 'lazy':
      return typeText(shape.get(), types);
    case 'str':
      return 'text';
    case 'id64':
      return 'int';
    default:
      return shape.kind;
  }
}
