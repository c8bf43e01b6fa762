/** `--object help` and `--object KIND,help`. */
import { objectKinds } from '../../block/object-options.js';
import type { Decl } from '../../options/schema.js';
import { fieldsOf } from '../../options/schema.js';
import { OptionError } from '../../options/option-error.js';

/** Kinds that are declared only to be refused with a reason. */
const refused = new Set(['tls-creds-anon']);

function typeName({ shape }: Decl): string {
  switch (shape.kind) {
    case 'str':
      return 'string';
    case 'enum':
      return shape.name ?? 'string';
    case 'struct':
    case 'union':
      return shape.name;
    case 'size':
      return 'int';
    default:
      return shape.kind;
  }
}

/** The text that is asked for; undefined: the argument describes an object. */
export function tryObjectHelp(argument: string): string | undefined {
  const words = argument.split(',');
  if (argument === 'help' || argument === '?') {
    const names = Object.keys(objectKinds).filter((name) => !refused.has(name));
    return ['List of user creatable objects:', ...names.sort().map((n) => `  ${n}`), ''].join('\n');
  }
  if (!words.includes('help') && !words.includes('?')) return undefined;
  const kind = (words[0] ?? '').replace(/^qom-type=/, '');
  const decl = Object.entries(objectKinds).find(([name]) => name === kind)?.[1];
  if (decl === undefined) throw new OptionError(`invalid object type: ${kind}`);
  const lines = Object.entries(fieldsOf(decl)).map(([name, field]) => {
    const { doc } = field.meta;
    const type = `  ${name}=<${typeName(field)}>`;
    return doc === undefined ? type : `${type.padEnd(22)} - ${doc}`;
  });
  return [`${kind} options:`, ...lines.sort(), ''].join('\n');
}
