/**
 * QEMU's old option lists: `file=a.img,if=none,readonly` as in `-drive`, `--image-opts` and `-o`.
 *
 * - `splitOpts(text, implied)`: the grammar alone: parameters in order, nothing checked.
 * - `parseOpts(text, { implied, warnFlags })`: names and values (the last of equal names counts),
 *   `id` checked and taken out, warnings for `flag` without `=on`.
 * - `hasHelp(text)`: whether `help` or `?` stands among the parameters.
 * - `isOptionList(text)`: what `qemu-img -o` asks before it joins several lists with commas.
 *
 * Grammar: parameters are separated by `,`; in a value `,,` is a comma. A parameter is
 * `name=value`, or `name` (value `on`), or `noname` (value `off`, whatever the name is: `nocow`
 * sets `cow`). With an implied name, a first parameter without `=` is that name's value.
 *
 * Typed values: opt-values.ts. Image creation options: create-options.ts. Dotted names to nested
 * objects: flatten.ts.
 */
import { optIdentifier } from './opt-values.js';

/** One parameter of an option list. */
export interface OptsParameter {
  readonly name: string;
  readonly value: string;
  /** As it was written when there was no `=`: `readonly`, `nocow`. */
  readonly flag: string | undefined;
}

/** The value that begins at `at`, and the index after the comma that ends it. */
function readValue(text: string, at: number): { value: string; end: number } {
  let value = '';
  let from = at;
  for (;;) {
    const comma = text.indexOf(',', from);
    if (comma < 0) return { value: value + text.slice(from), end: text.length };
    value += text.slice(from, comma);
    if (text.charAt(comma + 1) !== ',') return { value, end: comma + 1 };
    value += ',';
    from = comma + 2;
  }
}

function flagParameter(flag: string): OptsParameter {
  const off = flag.startsWith('no');
  return { name: off ? flag.slice(2) : flag, value: off ? 'off' : 'on', flag };
}

/** Splits an option list into its parameters; see the head of this file for the grammar. */
export function splitOpts(text: string, implied?: string): OptsParameter[] {
  const found: OptsParameter[] = [];
  let at = 0;
  while (at < text.length) {
    const stop = text.slice(at).search(/[=,]/);
    const nameEnd = stop < 0 ? text.length : at + stop;
    if (text.charAt(nameEnd) === '=') {
      const { value, end } = readValue(text, nameEnd + 1);
      found.push({ name: text.slice(at, nameEnd), value, flag: undefined });
      at = end;
    } else if (at === 0 && implied !== undefined) {
      const { value, end } = readValue(text, 0);
      found.push({ name: implied, value, flag: undefined });
      at = end;
    } else {
      found.push(flagParameter(text.slice(at, nameEnd)));
      at = nameEnd + 1;
    }
  }
  return found;
}

/** How to read an option list. */
export interface OptsHow {
  /** Name of a first parameter that has none. */
  readonly implied?: string;
  /** Add a warning for each parameter without `=`. */
  readonly warnFlags?: boolean;
}

/** An option list as read. */
export interface Opts {
  readonly id: string | undefined;
  /** In the order of the first mention of each name; `id` is not among them. */
  readonly values: ReadonlyMap<string, string>;
  /** Texts for `PROGRAM: warning: …`, possibly of two lines. */
  readonly warnings: readonly string[];
}

/** Reads an option list. Throws OptionError when `id` is no identifier. */
export function parseOpts(text: string, how: OptsHow = {}): Opts {
  const values = new Map<string, string>();
  const warnings: string[] = [];
  let id: string | undefined;
  for (const { name, value, flag } of splitOpts(text, how.implied)) {
    if (flag !== undefined && how.warnFlags === true) {
      const instead = `Please use ${name}=${value} instead`;
      warnings.push(`short-form boolean option '${flag}' deprecated\n${instead}`);
    }
    if (name === 'id') id ??= optIdentifier('id', value);
    else values.set(name, value);
  }
  return { id, values, warnings };
}

/** Whether a list asks for help: one of its parameters is `help` or `?`. */
export function hasHelp(text: string): boolean {
  return splitOpts(text).some(({ flag }) => flag === 'help' || flag === '?');
}

/**
 * Whether a text can be joined with other lists by commas: not empty, no comma at its beginning,
 * and none at its end that would escape or be escaped.
 */
export function isOptionList(text: string): boolean {
  if (text === '' || text.startsWith(',')) return false;
  const commas = /,*$/.exec(text)?.[0].length ?? 0;
  return commas % 2 === 0;
}
