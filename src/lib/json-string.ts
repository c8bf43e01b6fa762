/**
 * The content of JSON string tokens: escapes and UTF-8, with QEMU's error texts. Part of
 * json-text.ts.
 */

/** JSON that cannot be read; `message` is QEMU's text. */
export class JsonError extends Error {
  override readonly name = 'JsonError';
}

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const lenient = new TextDecoder('utf-8', { ignoreBOM: true });

/** Up to this length, building a string byte by byte is faster than calling a decoder. */
const MAX_SHORT = 128;

/** Text of a few ASCII bytes without backslash and NUL; undefined when they are not that. */
function shortAscii(bytes: Uint8Array, from: number, to: number): string | undefined {
  if (to - from > MAX_SHORT) return undefined;
  let text = '';
  for (let index = from; index < to; index++) {
    const byte = bytes[index] ?? 0;
    if (byte >= 0x80 || byte === 0x5c || byte === 0) return undefined;
    text += String.fromCharCode(byte);
  }
  return text;
}

/** Whether `bytes` are text in UTF-8. */
export function isUtf8(bytes: Uint8Array): boolean {
  try {
    strict.decode(bytes);
    return true;
  } catch {
    return false;
  }
}

/** Bytes as text for an error message: bad UTF-8 replaced, and cut at a NUL as C would. */
export function textOf(bytes: Uint8Array): string {
  const simple = shortAscii(bytes, 0, bytes.length);
  if (simple !== undefined) return simple;
  const text = lenient.decode(bytes);
  const nul = text.indexOf('\0');
  return nul < 0 ? text : text.slice(0, nul);
}

const ESCAPED = new Map<number, string>([
  [0x22, '"'],
  [0x27, "'"],
  [0x5c, '\\'],
  [0x2f, '/'],
  [0x62, '\b'],
  [0x66, '\f'],
  [0x6e, '\n'],
  [0x72, '\r'],
  [0x74, '\t'],
]);

/** U+FDD0–U+FDEF and the last two code points of each plane are no characters. */
function isNoncharacter(code: number): boolean {
  return (code >= 0xfdd0 && code <= 0xfdef) || (code & 0xfffe) === 0xfffe;
}

/** Value of the four hexadecimal digits at `at`, or undefined. */
function hexUnit(token: Uint8Array, at: number): number | undefined {
  let value = 0;
  for (let index = at; index < at + 4; index++) {
    const digit = Number.parseInt(String.fromCharCode(token[index] ?? 0), 16);
    if (Number.isNaN(digit)) return undefined;
    value = value * 16 + digit;
  }
  return value;
}

function badCharacter(token: Uint8Array, from: number, to: number): JsonError {
  const shown = textOf(token.subarray(from, Math.min(to, token.length)));
  return new JsonError(`JSON parse error, ${shown} is not a valid Unicode character`);
}

const isHigh = (unit: number): boolean => unit >= 0xd800 && unit <= 0xdbff;
const isLow = (unit: number): boolean => unit >= 0xdc00 && unit <= 0xdfff;

/** The character of `\uXXXX` (or a pair of them) at `at`, and the index after it. */
function unicodeEscape(token: Uint8Array, at: number): { text: string; end: number } | JsonError {
  const first = hexUnit(token, at + 2);
  if (first === undefined) return badCharacter(token, at, at + 6);
  if (isHigh(first)) {
    const marked = token[at + 6] === 0x5c && token[at + 7] === 0x75;
    const second = marked ? hexUnit(token, at + 8) : undefined;
    if (second !== undefined && isLow(second)) {
      const code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
      if (isNoncharacter(code)) return badCharacter(token, at, at + 12);
      return { text: String.fromCodePoint(code), end: at + 12 };
    }
  }
  if (isHigh(first) || isLow(first) || isNoncharacter(first)) {
    return badCharacter(token, at, at + 6);
  }
  return { text: String.fromCharCode(first), end: at + 6 };
}

/** Bytes without escapes; undefined when they are not UTF-8 or hold noncharacters. */
function plainText(bytes: Uint8Array): string | undefined {
  let text: string;
  try {
    text = strict.decode(bytes);
  } catch {
    return undefined;
  }
  for (let index = 0; index < text.length; index++) {
    const unit = text.charCodeAt(index);
    if (unit >= 0xd800 && isNoncharacter(text.codePointAt(index) ?? 0)) return undefined;
  }
  return text;
}

/** The value of a string token (with its quotes), or what is wrong with it. */
export function decodeJsonString(token: Uint8Array): string | JsonError {
  const last = token.length - 1;
  const simple = shortAscii(token, 1, last);
  if (simple !== undefined) return simple;
  let value = '';
  let at = 1;
  while (at < last) {
    const escape = token.indexOf(0x5c, at);
    const stop = escape < 0 || escape > last ? last : escape;
    if (stop > at) {
      const text = plainText(token.subarray(at, stop));
      if (text === undefined) {
        return new JsonError('JSON parse error, invalid UTF-8 sequence in string');
      }
      value += text;
      at = stop;
      continue;
    }
    const short = ESCAPED.get(token[at + 1] ?? 0);
    if (short !== undefined) {
      value += short;
      at += 2;
    } else if (token[at + 1] === 0x75) {
      const found = unicodeEscape(token, at);
      if (found instanceof JsonError) return found;
      value += found.text;
      at = found.end;
    } else {
      return new JsonError('JSON parse error, invalid escape sequence in string');
    }
  }
  return value;
}
