/**
 * Command-line arguments as getopt_long takes them, from a declaration that also carries what
 * help texts, shell completion and man pages need.
 *
 * ```ts
 * const info = command({
 *   name: 'info',
 *   summary: 'show what an image is',
 *   operands: 'FILENAME',
 *   options: {
 *     format: { short: 'f', long: 'format', arg: 'FMT', doc: 'format of FILENAME' },
 *     object: { long: 'object', arg: 'OBJDEF', repeat: true, doc: 'object to create first' },
 *     forceShare: { short: 'U', long: 'force-share', doc: 'open although others write' },
 *   },
 * });
 * for (const { key, value } of readArgs(info, argv)) …     // in order, operands have key undefined
 * const { values, operands } = parseArgs(info, argv);      // values.format?: string,
 *                                                          // values.object: readonly string[],
 *                                                          // values.forceShare: boolean
 * ```
 *
 * - `readArgs` yields one argument at a time, so that a tool can refuse the second option after it
 *   has acted on the first, as qemu-img does. Options come in the order of the line, the operands
 *   after them (GNU permutation), unless `stopAtOperand` is set.
 * - Errors are {@link GetoptError} with glibc's text: "unrecognized option '--foo'". The tool puts
 *   its name before it and "Try 'NAME --help' for more info" after it.
 * - Long options may be cut to a unique prefix. The order of declaration is the order in which
 *   "is ambiguous; possibilities: …" lists them.
 * - `optionForms(option)` and `formatOptions(command)` are for help texts.
 */

/** One option of a command. */
export interface OptionSpec {
  /** One character. */
  readonly short?: string;
  /** Without the dashes. */
  readonly long?: string;
  /** More long names for the same. */
  readonly aliases?: readonly string[];
  /** Name of the argument in help texts (`FMT`, `human|json`); absent: takes none. */
  readonly arg?: string;
  /**
   * The argument may be missing (`--opt` or `--opt=x`, never `--opt x`); `'long'`: the short form
   * takes none at all, so that letters may follow it.
   */
  readonly optionalArg?: boolean | 'long';
  /** Each use counts: the value is a list. */
  readonly repeat?: boolean;
  /** One or two sentences for help and man page. */
  readonly doc: string;
  /** Words or kind of words for shell completion of the argument. */
  readonly complete?:
    readonly string[] | 'file' | 'format' | 'protocol' | 'create-options' | 'amend-options';
  /** With `create-options` and `amend-options`: key of the option that names the format. */
  readonly of?: string;
  /**
   * Long names (all, or these) that cannot be cut: an addition must not make another option's
   * abbreviation unclear.
   */
  readonly exact?: boolean | readonly string[];
  /** Accepted but not shown. */
  readonly hidden?: boolean;
}

/** A command (a subcommand of a tool, or a tool without subcommands). */
export interface CommandSpec {
  readonly name: string;
  /** A few words, for the list of commands. */
  readonly summary: string;
  /** As in a usage line: `FILENAME [SIZE]`. */
  readonly operands?: string;
  /** What completes an operand. */
  readonly completeOperand?: OptionSpec['complete'];
  /** Sentences for help and man page. */
  readonly doc?: string;
  /** Options end at the first operand (a tool with subcommands). */
  readonly stopAtOperand?: boolean;
  readonly options: Readonly<Record<string, OptionSpec>>;
}

/** Declares a command; gives `parseArgs` the types of its values. */
export function command<const C extends CommandSpec>(spec: C): C {
  return spec;
}

/** A command line that getopt refuses. */
export class GetoptError extends Error {
  override readonly name = 'GetoptError';
}

/** One argument: an option with its key, or an operand. */
export interface Argument<K extends string = string> {
  /** Key of the option in the declaration; undefined for an operand. */
  readonly key: K | undefined;
  /** The option's argument, or the operand; undefined when the option has none. */
  readonly value: string | undefined;
  /** The option as it was written (`-f`, `--form`), or the operand itself. */
  readonly written: string;
}

interface LongName {
  readonly name: string;
  readonly key: string;
  readonly spec: OptionSpec;
}

function longNames(spec: CommandSpec): LongName[] {
  const found: LongName[] = [];
  for (const [key, option] of Object.entries(spec.options)) {
    const names = [...(option.long === undefined ? [] : [option.long]), ...(option.aliases ?? [])];
    for (const name of names) found.push({ name, key, spec: option });
  }
  return found;
}

/** The option that a long name, possibly cut, means; `text` is what follows the dashes. */
function findLong(names: readonly LongName[], name: string, text: string): LongName {
  const exact = names.find((each) => each.name === name);
  if (exact !== undefined) return exact;
  const possible = names.filter((each) => each.name.startsWith(name) && mayBeCut(each));
  const [first] = possible;
  if (first === undefined) throw new GetoptError(`unrecognized option '--${text}'`);
  if (possible.every((each) => each.key === first.key)) return first;
  const listed = possible.map((each) => `'--${each.name}'`).join(' ');
  throw new GetoptError(`option '--${text}' is ambiguous; possibilities: ${listed}`);
}

function mayBeCut({ name, spec: { exact = false } }: LongName): boolean {
  return typeof exact === 'boolean' ? !exact : !exact.includes(name);
}

function mayMiss({ optionalArg = false }: OptionSpec): boolean {
  return optionalArg !== false;
}

class Reader {
  private readonly names: readonly LongName[];
  private readonly shorts = new Map<string, { key: string; spec: OptionSpec }>();
  private next = 0;

  constructor(
    private readonly spec: CommandSpec,
    private readonly argv: readonly string[],
  ) {
    this.names = longNames(spec);
    for (const [key, option] of Object.entries(spec.options)) {
      if (option.short !== undefined) this.shorts.set(option.short, { key, spec: option });
    }
  }

  *read(): Generator<Argument> {
    const operands: string[] = [];
    while (this.next < this.argv.length) {
      const word = this.argv[this.next++] ?? '';
      if (word === '--') break;
      if (word.startsWith('--')) yield this.long(word);
      else if (word.length > 1 && word.startsWith('-')) yield* this.cluster(word);
      else {
        operands.push(word);
        if (this.spec.stopAtOperand === true) break;
      }
    }
    for (const value of [...operands, ...this.argv.slice(this.next)]) {
      yield { key: undefined, value, written: value };
    }
  }

  private long(word: string): Argument {
    const text = word.slice(2);
    const equals = text.indexOf('=');
    const name = equals < 0 ? text : text.slice(0, equals);
    const found = findLong(this.names, name, text);
    const written = `--${name}`;
    const given = equals < 0 ? undefined : text.slice(equals + 1);
    if (found.spec.arg === undefined) {
      if (given !== undefined) {
        throw new GetoptError(`option '--${found.name}' doesn't allow an argument`);
      }
      return { key: found.key, value: undefined, written };
    }
    if (given !== undefined || mayMiss(found.spec)) {
      return { key: found.key, value: given, written };
    }
    if (this.next >= this.argv.length) {
      throw new GetoptError(`option '--${found.name}' requires an argument`);
    }
    return { key: found.key, value: this.argv[this.next++], written };
  }

  private *cluster(word: string): Generator<Argument> {
    const letters = Array.from(word.slice(1));
    for (const [index, letter] of letters.entries()) {
      const found = this.shorts.get(letter);
      if (found === undefined) throw new GetoptError(`invalid option -- '${letter}'`);
      const { key, spec } = found;
      const written = `-${letter}`;
      if (spec.arg === undefined || spec.optionalArg === 'long') {
        yield { key, value: undefined, written };
        continue;
      }
      const rest = letters.slice(index + 1).join('');
      if (rest !== '') {
        yield { key, value: rest, written };
      } else if (mayMiss(spec)) {
        yield { key, value: undefined, written };
      } else {
        if (this.next >= this.argv.length) {
          throw new GetoptError(`option requires an argument -- '${letter}'`);
        }
        yield { key, value: this.argv[this.next++], written };
      }
      return;
    }
  }
}

/**
 * The arguments of a line one by one: options in order, then operands. Throws {@link GetoptError}
 * at the place of the first one that does not fit.
 */
export function readArgs<C extends CommandSpec>(
  spec: C,
  argv: readonly string[],
): Generator<Argument<Extract<keyof C['options'], string>>> {
  const reader: Generator<Argument> = new Reader(spec, argv).read();
  return reader as Generator<Argument<Extract<keyof C['options'], string>>>;
}

type ValueOf<O> = O extends { readonly repeat: true }
  ? readonly string[]
  : O extends { readonly arg: string }
    ? string | undefined
    : boolean;

/** Values of a command's options by key: list when repeated, text or undefined, or boolean. */
export type ArgValues<C extends CommandSpec> = {
  readonly [K in keyof C['options']]: ValueOf<C['options'][K]>;
};

/**
 * Reads a whole line. Of an option given twice the last value counts, unless it has `repeat`;
 * an optional argument that is missing reads as ''. Throws {@link GetoptError}.
 */
export function parseArgs<C extends CommandSpec>(
  spec: C,
  argv: readonly string[],
): { readonly values: ArgValues<C>; readonly operands: readonly string[] } {
  const values: Record<string, string | string[] | boolean | undefined> = {};
  const lists = new Map<string, string[]>();
  const operands: string[] = [];
  for (const [key, option] of Object.entries(spec.options)) {
    const list: string[] = [];
    if (option.repeat === true) lists.set(key, list);
    values[key] = option.repeat === true ? list : option.arg === undefined ? false : undefined;
  }
  for (const { key, value } of readArgs<CommandSpec>(spec, argv)) {
    if (key === undefined) operands.push(value ?? '');
    else if (lists.has(key)) lists.get(key)?.push(value ?? '');
    else values[key] = spec.options[key]?.arg === undefined ? true : (value ?? '');
  }
  return { values: values as ArgValues<C>, operands };
}

/** How an option is written: `-f, --format FMT`, `--sync[=MODE]`. */
export function optionForms(option: OptionSpec): string {
  const { short, long, arg } = option;
  const names: string[] = [];
  if (short !== undefined) names.push(`-${short}`);
  if (long !== undefined) names.push(`--${long}`);
  const written = names.join(', ');
  if (arg === undefined) return written;
  if (mayMiss(option)) return `${written}[${long === undefined ? '' : '='}${arg}]`;
  return `${written} ${arg}`;
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(/\s+/)) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === '' ? word : `${line} ${word}`;
    }
  }
  if (line !== '') lines.push(line);
  return lines;
}

/** The options of a command for its help text: forms, and below each its doc, up to 79 columns. */
export function formatOptions(spec: CommandSpec): string {
  const lines: string[] = [];
  for (const option of Object.values(spec.options)) {
    if (option.hidden === true) continue;
    lines.push(`  ${optionForms(option)}`);
    for (const line of wrap(option.doc, 74)) lines.push(`     ${line}`);
  }
  return lines.join('\n');
}
