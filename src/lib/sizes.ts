/**
 * Sizes as text: QEMU's `1.5G` grammar in, its `1.5 GiB (1610612736 bytes)` out.
 *
 * - `parseSize(text)`: a whole string to bytes. Answers a tagged result, never throws, because
 *   every caller words the error in its own way.
 * - `scanSize(text)`: the same for the beginning of a string; `end` tells where it stopped.
 * - `parseInteger(text)`: C's integer grammar with base detection (`12`, `0x1f`, `017`).
 * - `formatSize(bytes)`: three significant digits and a binary unit: `196 KiB`.
 * - `formatSizeExact(bytes)`: `1 GiB (1073741824 bytes)`, as `virtual size:` is printed.
 *
 * Grammar of a size: optional blanks and `+`; then hexadecimal digits after `0x` (no suffix, no
 * fraction), or decimal digits with an optional fraction; then one optional suffix out of
 * b k m g t p e in either case, each 1024 times the one before. A fraction that is not zero needs
 * a suffix above bytes; the fractional part is rounded to the nearest byte. No octal, no exponent.
 */

/**
 * The greatest offset or size, in bytes, that vdisk handles: 2^53 - 1. Up to here every byte has
 * an exact `number`. It is 8 PiB, which is a thousand times what file systems hold today.
 */
export const MAX_SIZE = Number.MAX_SAFE_INTEGER;

/** How the limit is named in error texts. */
export const MAX_SIZE_TEXT = '9007199254740991 (2^53 - 1)';

const TWO_64 = 1n << 64n;

/** Letters in order of their power of 1024. */
const SUFFIXES = 'bkmgtpe';

/**
 * What became of a text that should be a size:
 * - `ok`: `bytes` is the value;
 * - `limit`: well-formed and below 2^64, but above {@link MAX_SIZE}; `value` is exact;
 * - `range`: negative, or 2^64 and above (QEMU's ERANGE);
 * - `invalid`: not a size (QEMU's EINVAL).
 */
export type SizeResult =
  | { readonly status: 'ok'; readonly bytes: number }
  | { readonly status: 'limit'; readonly value: bigint }
  | { readonly status: 'range' }
  | { readonly status: 'invalid' };

/** A size found at the beginning of a text; `end` is the index after it. */
export interface SizeScan {
  readonly result: SizeResult;
  readonly end: number;
}

const BLANKS = /^[ \t\n\v\f\r]*/;
const NEGATIVE = /^[ \t\n\v\f\r]*-(?:0[xX][0-9a-fA-F]+|\d+|\.\d+)/;
const HEX = /^\+?0[xX]([0-9a-fA-F]+)/;
const DECIMAL = /^\+?(\d*)(\.\d*)?/;

const INVALID: SizeResult = { status: 'invalid' };
const RANGE: SizeResult = { status: 'range' };

/** Multiplier of a suffix letter, or undefined when the character is none. */
function multiplierOf(letter: string): bigint | undefined {
  const power = letter === '' ? -1 : SUFFIXES.indexOf(letter.toLowerCase());
  return power < 0 ? undefined : 1n << BigInt(10 * power);
}

function classify(value: bigint): SizeResult {
  if (value >= TWO_64) return RANGE;
  if (value > BigInt(MAX_SIZE)) return { status: 'limit', value };
  return { status: 'ok', bytes: Number(value) };
}

/**
 * Reads a size at the beginning of `text`. `defaultSuffix` is the unit when none is written.
 * With status `invalid`, `end` is 0; with the others, it is the index after what was read.
 */
export function scanSize(text: string, defaultSuffix = 'b'): SizeScan {
  const negative = NEGATIVE.exec(text);
  if (negative !== null) return { result: RANGE, end: negative[0].length };
  const start = BLANKS.exec(text)?.[0].length ?? 0;
  const rest = text.slice(start);
  const hex = HEX.exec(rest);
  if (hex !== null) {
    return { result: classify(BigInt(`0x${hex[1] ?? '0'}`)), end: start + hex[0].length };
  }
  const decimal = DECIMAL.exec(rest);
  const whole = decimal?.[1] ?? '';
  const fraction = (decimal?.[2] ?? '').slice(1);
  if (decimal === null || (whole === '' && fraction === '')) return { result: INVALID, end: 0 };
  let end = start + decimal[0].length;
  const written = multiplierOf(text.charAt(end));
  if (written !== undefined) end++;
  const multiplier = written ?? multiplierOf(defaultSuffix) ?? 1n;
  const part = fraction === '' ? 0 : Number('0.' + fraction);
  if (part !== 0 && multiplier === 1n) return { result: INVALID, end: 0 };
  const extra = BigInt(Math.floor(part * Number(multiplier) + 0.5));
  return { result: classify(BigInt(whole === '' ? '0' : whole) * multiplier + extra), end };
}

/** Reads a whole text as a size in bytes; see the head of this file for the grammar. */
export function parseSize(text: string, defaultSuffix = 'b'): SizeResult {
  const { result, end } = scanSize(text, defaultSuffix);
  return end === text.length ? result : INVALID;
}

const INTEGER = /^[ \t\n\v\f\r]*([+-]?)(?:0[xX]([0-9a-fA-F]+)|0([0-7]*)|([1-9]\d*))$/;

/**
 * Reads a whole text as C's strtoll does with base 0 (decimal, 0x…, 0… octal; blanks before it).
 * Returns undefined when it is no integer. The caller checks the range.
 */
export function parseInteger(text: string): bigint | undefined {
  const found = INTEGER.exec(text);
  if (found === null) return undefined;
  const [, sign, hex, octal, decimal] = found;
  let value: bigint;
  if (hex !== undefined) value = BigInt('0x' + hex);
  else if (octal !== undefined) value = BigInt('0o0' + octal);
  else value = BigInt(decimal ?? '0');
  return sign === '-' ? -value : value;
}

const UNITS = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'];

/**
 * bytes / 1024^unit (below 1024) with three significant digits as C's "%.3g" prints it: ties go to
 * the even digit, and a value that rounds to 1000 becomes `1e+03`.
 */
function threeDigits(bytes: number, unit: number): string {
  const divisor = 1n << BigInt(10 * unit);
  const approximate = bytes / Number(divisor);
  const decimals = approximate >= 100 ? 0 : approximate >= 10 ? 1 : approximate >= 1 ? 2 : 3;
  const scaled = BigInt(bytes) * 10n ** BigInt(decimals);
  let digits = scaled / divisor;
  const twice = 2n * (scaled % divisor);
  if (twice > divisor || (twice === divisor && digits % 2n === 1n)) digits++;
  if (decimals === 0 && digits >= 1000n) return '1e+03';
  return String(Number(digits) / 10 ** decimals);
}

/**
 * A number of bytes (0 or more) in the largest binary unit in which its integer part does not
 * pass three digits: `512 B`, `196 KiB`, `0.977 KiB` for 1000, `1.5 GiB`.
 */
export function formatSize(bytes: number): string {
  let unit = 0;
  let value = bytes;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${threeDigits(bytes, unit)} ${UNITS[unit] ?? ''}B`;
}

/** All digits of an integer; `String` rounds those from 2^53 on. */
export function formatInteger(value: number): string {
  return Number.isSafeInteger(value) ? String(value) : String(BigInt(value));
}

/** `1 GiB (1073741824 bytes)`. */
export function formatSizeExact(bytes: number): string {
  return `${formatSize(bytes)} (${formatInteger(bytes)} bytes)`;
}
