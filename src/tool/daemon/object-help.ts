/** `--object help` and `--object KIND,help`. */
import { objectKinds } from '../../block/object-options.js';
import type { Decl } from '../../options/schema.js';
import { fieldsOf } from '../../options/schema.js';

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

/**
 * The text that is asked for; undefined: the argument describes an object. Of a kind that is not
 * known the list of all is the answer, as in QEMU.
 */
export function tryObjectHelp(argument: string, iothreads: boolean): string | undefined {
  const words = argument.split(',');
  if (!words.includes('help') && !words.includes('?')) return undefined;
  const known = Object.entries(objectKinds).filter(([name]) => iothreads || name !== 'iothread');
  const kind = (words[0] ?? '').replace(/^qom-type=/, '');
  const decl = known.find(([name]) => name === kind)?.[1];
  if (decl === undefined) {
    const names = known.map(([name]) => name).filter((name) => !refused.has(name));
    return ['List of user creatable objects:', ...names.sort().map((n) => `  ${n}`), ''].join('\n');
  }
  const lines = Object.entries(fieldsOf(decl)).map(([name, field]) => {
    const { doc } = field.meta;
    const type = `  ${name}=<${typeName(field)}>`;
    return doc === undefined ? type : `${type.padEnd(22)} - ${doc}`;
  });
  return [`${kind} options:`, ...lines.sort(), ''].join('\n');
}
