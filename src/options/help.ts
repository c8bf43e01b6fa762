/**
 * What a schema declaration tells people: for `help` parameters, reference pages, man pages.
 *
 * - `typeText(decl)`: `string`, `bool`, `size`, `uint32`, `auto|on|off`, `BlockdevRef`.
 * - `describeFields(decl)`: one row per option in the order of declaration, nested structs with
 *   dotted names, branches of a union with the value of the discriminator that selects them.
 * - `formatFieldHelp(title, decl)`: the lines of `--object secret,help`.
 */
import type { Decl, Fields, Meta } from './schema.js';

/** One option of a declaration. */
export interface FieldDescription {
  /** With dots: `cache.direct`. */
  readonly name: string;
  readonly type: string;
  readonly required: boolean;
  /** Default as text, if there is one. */
  readonly default: string | undefined;
  /** `driver=file` when the option exists only in that branch of a union. */
  readonly when: string | undefined;
  readonly meta: Meta;
}

/** The type of a declaration in a word or a few. */
export function typeText(decl: Decl): string {
  const { shape } = decl;
  switch (shape.kind) {
    case 'str':
      return 'string';
    case 'bool':
    case 'number':
    case 'null':
    case 'size':
      return shape.kind;
    case 'any':
      return 'value';
    case 'id64':
      return 'uint64';
    case 'int':
      if (shape.type !== undefined) return shape.type.replace('_t', '');
      if (Math.abs(shape.min) + shape.max >= Number.MAX_SAFE_INTEGER) {
        return shape.unsigned ? 'uint64' : 'int';
      }
      return `${String(shape.min)}..${String(shape.max)}`;
    case 'enum':
      return shape.values.join('|');
    case 'array':
      return `list of ${typeText(shape.of)}`;
    case 'lazy':
      return typeText(shape.get());
    case 'struct':
    case 'union':
    case 'alternate':
    case 'ref':
      return shape.name;
  }
}

function defaultText(value: unknown): string | undefined {
  if (value === undefined) return undefined;
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  if (typeof value === 'string') return value;
  if (typeof value === 'number' || typeof value === 'bigint') return String(value);
  return JSON.stringify(value);
}

function describe(
  fields: Fields,
  prefix: string,
  when: string | undefined,
  rows: FieldDescription[],
): void {
  for (const [key, decl] of Object.entries(fields)) {
    const { shape, meta, presence } = decl;
    const name = prefix + key;
    if (shape.kind === 'struct') {
      describe(shape.fields, `${name}.`, when, rows);
      continue;
    }
    const required = presence === 'required';
    rows.push({
      name,
      type: typeText(decl),
      required,
      default: defaultText(meta.default),
      when,
      meta,
    });
  }
}

/** The options of a struct or union; nothing for other declarations. */
export function describeFields(decl: Decl): readonly FieldDescription[] {
  const { shape } = decl;
  const rows: FieldDescription[] = [];
  if (shape.kind === 'lazy') return describeFields(shape.get());
  if (shape.kind === 'struct') describe(shape.fields, '', undefined, rows);
  if (shape.kind !== 'union') return rows;
  describe(shape.base, '', undefined, rows);
  for (const [value, branch] of Object.entries(shape.branches)) {
    const when = `${shape.discriminator}=${value}`;
    for (const row of describeFields(branch)) {
      rows.push({ ...row, when: row.when === undefined ? when : `${when}, ${row.when}` });
    }
  }
  return rows;
}

/**
 * A title and one line per option, sorted by name: `  data=<string>` and, where there is a doc,
 * ` - ` and the doc, with the default at its end.
 */
export function formatFieldHelp(title: string, decl: Decl): string {
  const lines = describeFields(decl).map((row) => {
    const form = `  ${row.name}=<${row.type}>`;
    const { doc } = row.meta;
    if (doc === undefined) return form;
    const ending = row.default === undefined ? '' : ` (default: ${row.default})`;
    return `${form.padEnd(24)} - ${doc}${ending}`;
  });
  return [`${title}:`, ...lines.sort((a, b) => (a < b ? -1 : 1))].join('\n');
}
