/**
 * The words after a command of the human monitor, by a declaration such as
 * `force:-f,device:B,size:o,format:s?`:
 *
 * | type | a word that is |
 * |---|---|
 * | `s`, `F`, `B` | a text, a file name, a block device; `"…"` quotes, with `\n \r \\ \' \"` |
 * | `S` | all that is left of the line |
 * | `O` | a list of options (`driver,key=value`) |
 * | `l`, `i` | a number (`i`: of 32 bits) |
 * | `o` | a size with a suffix; without one in MiB |
 * | `b` | `on` or `off` |
 * | `-f` | a flag that may be there |
 *
 * `?` behind a type: it may be missing.
 */
import { parseInteger, parseSize } from '../../lib/sizes.js';

/** The arguments of a command, by name. */
export type HmpArguments = ReadonlyMap<string, string | number | boolean>;

/** A line that cannot be carried out; the message is what the user sees. */
export class HmpError extends Error {
  override readonly name = 'HmpError';
}

/** The words after a command are not what it takes; help may be of use. */
export class HmpArgumentError extends HmpError {}

interface Declared {
  readonly name: string;
  readonly type: string;
  readonly optional: boolean;
}

function declared(declaration: string): Declared[] {
  if (declaration === '') return [];
  return declaration.split(',').map((part) => {
    const [, name = '', type = '', mark] = /^(.+):(-?[A-Za-z])(\?)?$/.exec(part) ?? [];
    return { name, type, optional: mark === '?' };
  });
}

/** One line, read from the left. */
class Line {
  #rest: string;

  constructor(text: string) {
    this.#rest = text;
  }

  /** What is left, without the blanks before it. */
  get rest(): string {
    this.#rest = this.#rest.replace(/^\s+/, '');
    return this.#rest;
  }

  takeRest(): string {
    const { rest } = this;
    this.#rest = '';
    return rest;
  }

  /** The next word; undefined at the end. Throws HmpArgumentError for broken quotes. */
  word(): string | undefined {
    const { rest } = this;
    if (rest === '') return undefined;
    if (rest.startsWith('"')) return this.#quoted(rest);
    const word = /^\S+/.exec(rest)?.[0] ?? '';
    this.#rest = rest.slice(word.length);
    return word;
  }

  flag(letter: string): boolean {
    const found = new RegExp(`^-${letter}(?=\\s|$)`).test(this.rest);
    if (found) this.#rest = this.rest.slice(2);
    return found;
  }

  #quoted(rest: string): string {
    const escapes: Readonly<Record<string, string>> = { n: '\n', r: '\r' };
    let value = '';
    for (let at = 1; at < rest.length; at++) {
      const letter = rest.charAt(at);
      if (letter === '"') {
        this.#rest = rest.slice(at + 1);
        return value;
      }
      if (letter !== '\\') {
        value += letter;
        continue;
      }
      const next = rest.charAt(++at);
      const escaped = escapes[next] ?? (/["'\\]/.test(next) ? next : undefined);
      if (escaped === undefined) throw new HmpArgumentError(`unsupported escape code: '\\${next}'`);
      value += escaped;
    }
    throw new HmpArgumentError('unterminated string');
  }
}

const missing: Readonly<Record<string, string>> = {
  F: 'filename expected',
  B: 'block device name expected',
};

/**
 * Reads the words after the command `name`. Throws HmpArgumentError with QEMU's texts.
 */
export function readHmpArguments(name: string, declaration: string, text: string): HmpArguments {
  const line = new Line(text);
  const found = new Map<string, string | number | boolean>();
  const all = declared(declaration);
  for (const [index, each] of all.entries()) {
    if (each.type.startsWith('-')) {
      if (line.flag(each.type.charAt(1))) found.set(each.name, true);
      else refuseOtherFlag(name, line.rest, all.slice(index + 1));
      continue;
    }
    const value = readOne(name, each, line);
    if (value !== undefined) found.set(each.name, value);
  }
  if (line.rest !== '')
    throw new HmpArgumentError(`${name}: extraneous characters at the end of line`);
  return found;
}

function refuseOtherFlag(name: string, rest: string, later: readonly Declared[]): void {
  const letter = /^-(\D)(?:\s|$)/.exec(rest)?.[1];
  if (letter === undefined || later.some((each) => each.type === `-${letter}`)) return;
  throw new HmpArgumentError(`${name}: unsupported option -${letter}`);
}

function readOne(
  name: string,
  { type, optional }: Declared,
  line: Line,
): string | number | boolean | undefined {
  if (line.rest === '') {
    if (optional) return undefined;
    if (type === 'b') throw new HmpArgumentError("Expected 'on' or 'off'");
    throw new HmpArgumentError(`${name}: ${missing[type] ?? expectedOf(type)}`);
  }
  if (type === 'S') return line.takeRest();
  const word = line.word() ?? '';
  switch (type) {
    case 'i':
    case 'l':
      return readNumber(word, type);
    case 'o':
      return readMebibytes(word);
    case 'b':
      if (word === 'on' || word === 'off') return word === 'on';
      throw new HmpArgumentError("Expected 'on' or 'off'");
    default:
      return word;
  }
}

function expectedOf(type: string): string {
  if (type === 'i' || type === 'l') return 'integer expected';
  return type === 'o' ? 'size expected' : 'string expected';
}

function readNumber(word: string, type: string): number {
  const value = parseInteger(word);
  if (value === undefined)
    throw new HmpArgumentError(`invalid char '${word.charAt(0)}' in expression`);
  const number = Number(value);
  if (!Number.isSafeInteger(number)) throw new HmpArgumentError('number too large');
  if (type === 'i' && (number > 0xffffffff || number < -0x80000000)) {
    throw new HmpArgumentError('integer is for 32-bit values');
  }
  return number;
}

function readMebibytes(word: string): number {
  const value = parseSize(word, 'm');
  if (value.status !== 'ok') throw new HmpArgumentError('invalid size');
  return value.bytes;
}
