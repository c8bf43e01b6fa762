/**
 * Values of QEMU's old option lists (`-o`, `--image-opts`, `-drive`): text to boolean, number and
 * size, with the error texts of those lists. `name` is the option's name as the user wrote it.
 * Every function throws OptionError (class GenericError).
 */
import { MAX_SIZE_TEXT, parseInteger, parseSize } from '../lib/sizes.js';
import { OptionError } from './option-error.js';

const TRUE_WORDS = new Set(['on', 'yes', 'true', 'y']);
const FALSE_WORDS = new Set(['off', 'no', 'false', 'n']);

const SIZE_HINT =
  'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n' +
  'and exabytes, respectively.';

const IDENTIFIER_HINT =
  "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.";

/** The truth value of a word on a command line (on, yes, true, y and their opposites). */
export function parseBoolWord(word: string): boolean | undefined {
  if (TRUE_WORDS.has(word)) return true;
  return FALSE_WORDS.has(word) ? false : undefined;
}

/** A boolean, or "Parameter 'x' expects 'on' or 'off'". */
export function optBool(name: string, text: string): boolean {
  const found = parseBoolWord(text);
  if (found === undefined) {
    throw new OptionError(`Parameter '${name}' expects 'on' or 'off'`, name);
  }
  return found;
}

const TWO_64 = 1n << 64n;

/** An integer in C's notation from -2^64 to 2^64, both exclusive, or "… expects a number". */
export function optNumber(name: string, text: string): bigint {
  const value = parseInteger(text);
  if (value === undefined) throw new OptionError(`Parameter '${name}' expects a number`, name);
  if (value >= TWO_64 || value <= -TWO_64) {
    throw new OptionError(`Value '${text}' is too large for parameter '${name}'`, name);
  }
  return value;
}

/** A size in bytes up to 2^53 - 1, with optional suffix. */
export function optSize(name: string, text: string): number {
  const size = parseSize(text);
  switch (size.status) {
    case 'ok':
      return size.bytes;
    case 'limit':
      throw new OptionError(`Parameter '${name}' expects a value from 0 to ${MAX_SIZE_TEXT}`, name);
    case 'range':
      throw new OptionError(`Value '${text}' is out of range for parameter '${name}'`, name);
    case 'invalid':
      throw new OptionError(
        `Parameter '${name}' expects a non-negative number below 2^64`,
        name,
        SIZE_HINT,
      );
  }
}

/** Whether a text can be an `id`: a letter, then letters, digits, '-', '.', '_'. */
export function isIdentifier(text: string): boolean {
  return /^[A-Za-z][A-Za-z0-9._-]*$/.test(text);
}

/** The text itself when it can be an `id`; else "Parameter 'id' expects an identifier". */
export function optIdentifier(name: string, text: string): string {
  if (isIdentifier(text)) return text;
  throw new OptionError(`Parameter '${name}' expects an identifier`, name, IDENTIFIER_HINT);
}
