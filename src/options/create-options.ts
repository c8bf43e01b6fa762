/**
 * Options of image creation and amendment: what `qemu-img create -o` takes.
 *
 * A format declares them once, in the order in which "Formatting …" prints them:
 * ```ts
 * export const vdiCreateOptions = createOptions({
 *   size: { type: 'size', help: 'Virtual disk size' },
 *   static: { type: 'bool', default: 'off', help: 'Allocate all blocks at once' },
 *   preallocation: { type: 'str', values: ['off', 'full'], help: 'Allocation mode' },
 * });
 * ```
 * - `parseCreateOptions(set, texts)` reads the `-o` arguments into {@link CreateValues}: what the
 *   user gave, converted, without defaults. Throws OptionError in qemu-img's words.
 * - `typedValues(set, values)`, in the driver: the same with defaults and the set's own types;
 *   here `values` of a `str` are enforced ("Parameter 'preallocation' does not accept value 'x'"),
 *   since QEMU also finds that out only in the driver, after it has printed "Formatting".
 * - `mergeCreateOptions(format, protocol)`: the first declaration of a name counts.
 * - `formatCreateSummary(set, values)`: the end of the "Formatting" line.
 * - `formatCreateHelp(set)`: the lines of `-o help`; `createHelpTexts` are what stands around them.
 */
import { MAX_SIZE_TEXT } from '../lib/sizes.js';
import { optBool, optNumber, optSize } from './opt-values.js';
import { OptionError } from './option-error.js';
import { hasHelp, isOptionList, splitOpts } from './qemu-opts.js';

/** Declaration of one option. */
export interface CreateOptionSpec {
  readonly type: 'str' | 'bool' | 'size' | 'number';
  /** What it does, in a few words. */
  readonly help: string;
  /** Value when not given, as the user would write it; printed with "Formatting". */
  readonly default?: string;
  /** Words that a `str` may be. */
  readonly values?: readonly string[];
  /** The same where the driver itself judges the word; for completion. */
  readonly words?: readonly string[];
  /** Name in the error when the word is none of `values` (QMP's name, `version` for `compat`). */
  readonly qapiName?: string;
}

/** An option with its name. */
export interface CreateOption extends CreateOptionSpec {
  readonly name: string;
}

/** The options of a format or protocol. */
export interface CreateOptionSet {
  readonly options: readonly CreateOption[];
}

declare const SPEC: unique symbol;

/** A set that knows the types of its options. */
export interface TypedCreateOptionSet<S> extends CreateOptionSet {
  /** Only in the type system. */
  readonly [SPEC]?: S;
}

/** Values by option name, as the user gave them. `number` for sizes (bytes) and numbers. */
export interface CreateValues {
  readonly size?: number;
  readonly [name: string]: string | number | boolean | undefined;
}

type ValueOf<S> = S extends { readonly type: 'bool' }
  ? boolean
  : S extends { readonly type: 'size' | 'number' }
    ? number
    : S extends { readonly values: readonly (infer V)[] }
      ? V
      : string;

type WithDefault<S> = {
  [K in keyof S]: S[K] extends { readonly default: string } ? K : never;
}[keyof S];

/** The values of a set, defaults filled in. */
export type InferCreate<S> = { readonly [K in WithDefault<S>]: ValueOf<S[K]> } & {
  readonly [K in Exclude<keyof S, WithDefault<S>>]?: ValueOf<S[K]>;
};

/** Declares options. Names keep their order. */
export function createOptions<const S extends Readonly<Record<string, CreateOptionSpec>>>(
  spec: S,
): TypedCreateOptionSet<S> {
  return { options: Object.entries(spec).map(([name, each]) => ({ name, ...each })) };
}

/** The options of several sets; of equal names the first set's counts. */
export function mergeCreateOptions(...sets: readonly CreateOptionSet[]): CreateOptionSet {
  const byName = new Map<string, CreateOption>();
  for (const option of sets.flatMap((set) => set.options)) {
    if (!byName.has(option.name)) byName.set(option.name, option);
  }
  return { options: [...byName.values()] };
}

function convert(option: CreateOption, text: string): string | number | boolean {
  switch (option.type) {
    case 'str':
      return text;
    case 'bool':
      return optBool(option.name, text);
    case 'size':
      return optSize(option.name, text);
    case 'number': {
      const value = Number(optNumber(option.name, text));
      if (Number.isSafeInteger(value)) return value;
      const range = `-${MAX_SIZE_TEXT} to ${MAX_SIZE_TEXT}`;
      throw new OptionError(`Parameter '${option.name}' expects a value from ${range}`);
    }
  }
}

/** What `-o` arguments say. */
export interface ParsedCreateOptions {
  readonly values: CreateValues;
  /** `help` or `?` was among them; the values are then empty and nothing was checked. */
  readonly help: boolean;
}

/**
 * Reads the `-o` arguments (each a list of its own) against a set. `creation` is for amending:
 * names that only creation knows get a hint. Throws {@link OptionError}.
 */
export function parseCreateOptions(
  set: CreateOptionSet,
  texts: readonly string[],
  creation?: CreateOptionSet,
): ParsedCreateOptions {
  for (const text of texts) {
    if (!isOptionList(text)) throw new OptionError(`Invalid option list: ${text}`);
  }
  const joined = texts.join(',');
  const values = Object.create(null) as Record<string, string | number | boolean>;
  if (hasHelp(joined)) return { values, help: true };
  for (const { name, value } of splitOpts(joined)) {
    if (name === 'id') continue;
    const option = set.options.find((each) => each.name === name);
    if (option === undefined) throw unknownOption(name, joined, creation);
    values[name] = convert(option, value);
  }
  return { values, help: false };
}

/** The hint stands only where the whole list would do for a new image. */
function unknownOption(
  name: string,
  joined: string,
  creation: CreateOptionSet | undefined,
): OptionError {
  const known = creation !== undefined && wouldParse(creation, joined);
  const hint = known ? 'This option is only supported for image creation' : undefined;
  return new OptionError(`Invalid parameter '${name}'`, name, hint);
}

function wouldParse(set: CreateOptionSet, text: string): boolean {
  try {
    parseCreateOptions(set, [text]);
    return true;
  } catch {
    return false;
  }
}

/**
 * Values with defaults and types, for the driver. A text given for a boolean, size or number is
 * converted. Throws {@link OptionError} when a word is none of the declared ones, or a type is
 * wrong. Values whose names the set does not have are left out.
 */
export function typedValues<S>(set: TypedCreateOptionSet<S>, values: CreateValues): InferCreate<S> {
  const typed = Object.create(null) as Record<string, string | number | boolean>;
  for (const option of set.options) {
    const given = values[option.name];
    if (given === undefined && option.default === undefined) continue;
    const value =
      typeof given === 'string' || given === undefined
        ? convert(option, given ?? option.default ?? '')
        : given;
    if (option.values !== undefined && !option.values.includes(String(value))) {
      const shown = option.qapiName ?? option.name;
      const text = `Parameter '${shown}' does not accept value '${String(value)}'`;
      throw new OptionError(text, option.name);
    }
    if (typeof value !== jsType(option)) {
      const text = `Invalid parameter type for '${option.name}', expected: ${jsType(option)}`;
      throw new OptionError(text, option.name);
    }
    typed[option.name] = value;
  }
  return typed as InferCreate<S>;
}

function jsType(option: CreateOption): string {
  if (option.type === 'str') return 'string';
  return option.type === 'bool' ? 'boolean' : 'number';
}

function summaryValue(value: string | number | boolean): string {
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  if (typeof value === 'string') return value.replaceAll(',', ',,');
  // Sizes that no image can have are written in full all the same.
  return value >= 1e15 ? String(BigInt(value)) : String(value);
}

/** `size=1048576 lazy_refcounts=off`: given values and defaults in the order of the set. */
export function formatCreateSummary(set: CreateOptionSet, values: CreateValues): string {
  const parts: string[] = [];
  for (const option of set.options) {
    const fallback = option.default === undefined ? undefined : convert(option, option.default);
    const value = values[option.name] ?? fallback;
    if (value !== undefined) parts.push(`${option.name}=${summaryValue(value)}`);
  }
  return parts.join(' ');
}

const TYPE_WORDS = { str: 'str', bool: 'bool (on/off)', size: 'size', number: 'num' } as const;

/** One line per option, sorted by name: `  size=<size>            - Virtual disk size`. */
export function formatCreateHelp(set: CreateOptionSet): string {
  const lines = set.options.map(({ name, type, help }) => {
    const form = `  ${name}=<${TYPE_WORDS[type]}>`;
    return help === '' ? form : `${form.padEnd(24)} - ${help}`;
  });
  return lines.sort((a, b) => (a < b ? -1 : 1)).join('\n');
}

/** The lines around `formatCreateHelp`, without newline at the end. */
export const createHelpTexts = {
  /** Format and protocol are known. */
  heading: 'Supported options:',
  /** Only the format is known, since no file name was given. */
  formatHeading: (format: string) => `Supported ${format} options:`,
  /** Follows the options of a format alone. */
  formatFooter:
    '\nThe protocol level may support further options.\n' +
    'Specify the target filename to include those options.',
  amendHeading: (format: string) => `Amend options for '${format}':`,
} as const;
