/**
 * Creation (and amend) options of image formats: `-o name=value,…`.
 *
 * ```ts
 * const set = createOptionSet('raw', [
 *   { name: 'size', type: 'size', help: 'Virtual disk size' },
 *   { name: 'nocow', type: 'bool', help: 'Turn off copy-on-write (btrfs)' },
 * ]);
 * const values = CreateValues.parse(set, ['size=1G,nocow=on']);
 * values.size('size'); // 1073741824
 * ```
 *
 * The order of the declarations is the order of the "Formatting …" line; `help` lists by name.
 * A declaration's `default` counts as given in that line and in the accessors.
 */
import { optBool, optNumber, optSize } from './opt-values.js';
import { OptionError } from './option-error.js';

export type CreateOptionType = 'str' | 'bool' | 'size' | 'number';

export interface CreateOption {
  readonly name: string;
  readonly type: CreateOptionType;
  readonly help: string;
  /** As text, in the form that the "Formatting" line prints (`65536`, `off`). */
  readonly default?: string;
}

export interface CreateOptionSet {
  /** Driver name, for messages. */
  readonly driver: string;
  readonly options: readonly CreateOption[];
}

/** Declares a set; names are unique. */
export function createOptionSet(driver: string, options: readonly CreateOption[]): CreateOptionSet {
  return { driver, options };
}

/** Options of two sets, those of `first` winning: a format on top of its protocol. */
export function joinOptionSets(first: CreateOptionSet, second: CreateOptionSet): CreateOptionSet {
  const names = new Set(first.options.map((o) => o.name));
  const rest = second.options.filter((o) => !names.has(o.name));
  return { driver: first.driver, options: [...first.options, ...rest] };
}

/** Splits `a=1,b=x,,y` at single commas; `,,` stands for a comma within a value. */
export function splitOptionList(text: string): { name: string; value: string | undefined }[] {
  const out: { name: string; value: string | undefined }[] = [];
  let at = 0;
  while (at < text.length) {
    let item = '';
    for (; at < text.length; at++) {
      if (text[at] === ',') {
        if (text[at + 1] !== ',') break;
        at++;
      }
      item += text[at] ?? '';
    }
    at++;
    const eq = item.indexOf('=');
    if (eq >= 0) out.push({ name: item.slice(0, eq), value: item.slice(eq + 1) });
    else out.push({ name: item, value: undefined });
  }
  return out;
}

/** Whether a list asks for help: the item `help` or `?` stands in it. */
export function asksForHelp(text: string): boolean {
  return splitOptionList(text).some((o) => o.value === undefined && /^(help|\?)$/.test(o.name));
}

/** The listing of `-o help`: one line an option, sorted by name. */
export function optionHelpLines(set: CreateOptionSet): string[] {
  const types = { str: 'str', bool: 'bool (on/off)', size: 'size', number: 'num' } as const;
  return [...set.options]
    .sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
    .map((o) => `  ${`${o.name}=<${types[o.type]}>`.padEnd(22)} - ${o.help}`);
}

/** Checked values of creation options. Absent and defaulted ones can be told apart. */
export class CreateValues {
  readonly set: CreateOptionSet;
  readonly #given = new Map<string, string>();

  constructor(set: CreateOptionSet) {
    this.set = set;
  }

  /** Reads `-o` texts; later ones win. Throws OptionError in QEMU's words. */
  static parse(set: CreateOptionSet, texts: readonly string[]): CreateValues {
    const values = new CreateValues(set);
    for (const text of texts) {
      for (const { name, value } of splitOptionList(text)) values.#item(name, value);
    }
    return values;
  }

  #item(name: string, value: string | undefined): void {
    if (value !== undefined) {
      this.put(name, value);
    } else if (this.#find(name) === undefined && name.startsWith('no')) {
      this.put(name.slice(2), 'off');
    } else {
      this.put(name, 'on');
    }
  }

  /** Sets an option from its text; throws OptionError for unknown names and bad values. */
  put(name: string, text: string): void {
    const option = this.#find(name);
    if (option === undefined) throw new OptionError(`Invalid parameter '${name}'`, name);
    if (option.type === 'bool') optBool(name, text);
    else if (option.type === 'size') optSize(name, text);
    else if (option.type === 'number') optNumber(name, text);
    this.#given.set(name, text);
  }

  /** Takes an option back. */
  unset(name: string): void {
    this.#given.delete(name);
  }

  /** Whether the user gave it (a default does not count). */
  has(name: string): boolean {
    return this.#given.has(name);
  }

  /** Names that the user gave, in the order of the declarations. */
  givenNames(): string[] {
    return this.set.options.map((o) => o.name).filter((n) => this.#given.has(n));
  }

  /** The text in force: given or default. */
  str(name: string): string | undefined {
    return this.#given.get(name) ?? this.#find(name)?.default;
  }

  /** A flag; undefined when neither given nor defaulted. */
  bool(name: string): boolean | undefined {
    const text = this.str(name);
    return text === undefined ? undefined : optBool(name, text);
  }

  /** A size in bytes, or undefined. */
  size(name: string): number | undefined {
    const text = this.str(name);
    return text === undefined ? undefined : optSize(name, text);
  }

  /** An integer, or undefined. Values beyond 2^53 - 1 are refused by name. */
  number(name: string): number | undefined {
    const text = this.str(name);
    if (text === undefined) return undefined;
    const value = optNumber(name, text);
    if (value > BigInt(Number.MAX_SAFE_INTEGER) || value < BigInt(Number.MIN_SAFE_INTEGER)) {
      throw new OptionError(`Value '${text}' is too large for parameter '${name}'`, name);
    }
    return Number(value);
  }

  /** `name=value …` of all options in force, as the "Formatting" line prints them. */
  format(): string {
    const out: string[] = [];
    for (const option of this.set.options) {
      const text = this.str(option.name);
      if (text !== undefined) out.push(`${option.name}=${this.#shown(option, text)}`);
    }
    return out.join(' ');
  }

  #shown(option: CreateOption, text: string): string {
    if (option.type === 'bool') return optBool(option.name, text) ? 'on' : 'off';
    if (option.type === 'size') return String(optSize(option.name, text));
    if (option.type === 'number') return String(optNumber(option.name, text));
    return text;
  }

  #find(name: string): CreateOption | undefined {
    return this.set.options.find((o) => o.name === name);
  }
}
