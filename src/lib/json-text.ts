/**
 * JSON as QEMU reads and writes it.
 *
 * - `parseJson(text)`: one value out of a string or bytes (a `json:{…}` file name, a `--blockdev`
 *   argument). Throws {@link JsonError} with QEMU's text: "JSON parse error, duplicate key".
 * - `JsonStream`: any number of values out of a stream of pieces (a QMP socket); errors come in
 *   order between the values, and reading goes on after them at the same place as QEMU.
 * - `formatJson(value)`: one line, `{"return": [1, 2]}`; `formatJsonPretty(value)`: four spaces
 *   per level, as `qemu-img info --output=json`. Everything outside printable ASCII is escaped.
 *
 * What differs from ECMAScript's JSON: strings may have single quotes; a key given twice is an
 * error; nesting ends at 1024 levels; U+FFFE, U+FFFF, U+FDD0–U+FDEF and their like are refused in
 * strings; integers stay exact: `number` up to 2^53 - 1, `bigint` beyond, and a double (rounded)
 * outside -2^63 … 2^64 - 1. With `doubles: 'keep'`, numbers written with a fraction or exponent
 * come as {@link JsonDouble}, so that 1.0 can be told from 1 (the schema needs it for QMP).
 *
 * Objects that are read have no prototype, so a key `__proto__` is a key like any other; copy them
 * with `{ ...value }`, never with Object.assign into an ordinary object.
 */
import { BugError } from './assert.js';
import { JsonLexer } from './json-lexer.js';
import type { JsonTokenKind } from './json-lexer.js';
import { decodeJsonString, JsonError, textOf } from './json-string.js';

export { JsonError } from './json-string.js';

/** A JSON number written with a fraction or an exponent, kept apart from the integers. */
export class JsonDouble {
  constructor(readonly value: number) {}
}

/** What the readers give. */
export type JsonValue =
  null | boolean | number | bigint | string | JsonDouble | JsonValue[] | JsonObject;

/** An object without a prototype. */
export interface JsonObject {
  [key: string]: JsonValue;
}

/** Limits of a reader; each default is QEMU's. */
export interface JsonOptions {
  /** Sum of the lengths of one value's tokens, in bytes. Default 64 MiB. */
  readonly maxBytes?: number;
  /** Number of one value's tokens. Default 2 Mi. */
  readonly maxTokens?: number;
  /** Nesting of arrays and objects. Default 1024. */
  readonly maxDepth?: number;
  /** 'keep': JsonDouble for numbers with a fraction or exponent; 'plain' (default): number. */
  readonly doubles?: 'keep' | 'plain';
}

/** One outcome of reading: a value, or what was wrong. */
export type JsonResult = { readonly value: JsonValue } | { readonly error: JsonError };

interface Frame {
  readonly array: JsonValue[] | undefined;
  readonly object: JsonObject | undefined;
  /** What may come next inside this container. */
  expect: 'value-or-end' | 'value' | 'key-or-end' | 'key' | 'colon' | 'separator-or-end';
  key: string;
  /** It stands where a key should: an error, but one that is told only at its end. */
  readonly isKey: boolean;
}

const TWO_63 = 1n << 63n;
const TWO_64 = 1n << 64n;

function syntax(text: string): JsonError {
  return new JsonError(`JSON parse error, ${text}`);
}

/** Reads values from pieces of bytes or text; see the head of this file. */
export class JsonStream {
  private readonly lexer: JsonLexer;
  private readonly maxBytes: number;
  private readonly maxTokens: number;
  private readonly maxDepth: number;
  private readonly keepDoubles: boolean;
  private results: JsonResult[] = [];
  private readonly encoder = new TextEncoder();

  // Of the value in work:
  private stack: Frame[] = [];
  private root: JsonValue | undefined;
  private tokens = 0;
  private bytes = 0;
  private braces = 0;
  private brackets = 0;
  /** First breach of the grammar; told when the brackets balance, as QEMU does. */
  private failed: JsonError | undefined;

  constructor(options: JsonOptions = {}) {
    this.maxBytes = options.maxBytes ?? 64 * 1024 * 1024;
    this.maxTokens = options.maxTokens ?? 2 * 1024 * 1024;
    this.maxDepth = options.maxDepth ?? 1024;
    this.keepDoubles = options.doubles === 'keep';
    this.lexer = new JsonLexer((kind, text) => {
      this.token(kind, text);
    }, this.maxBytes);
  }

  /** Takes the next piece and returns what became complete with it. */
  push(piece: Uint8Array | string): JsonResult[] {
    this.lexer.push(typeof piece === 'string' ? this.encoder.encode(piece) : piece);
    return this.take();
  }

  /** The input ends here: returns what that completes, or leaves incomplete. */
  end(): JsonResult[] {
    this.lexer.end();
    if (this.tokens > 0) this.finish(this.failed ?? syntax('premature EOI'));
    return this.take();
  }

  private take(): JsonResult[] {
    const { results } = this;
    this.results = [];
    return results;
  }

  /** Ends the value in work, with an error or with what was built. */
  private finish(error: JsonError | undefined): void {
    if (error !== undefined) this.results.push({ error });
    else if (this.root !== undefined) this.results.push({ value: this.root });
    this.stack = [];
    this.root = undefined;
    this.tokens = 0;
    this.bytes = 0;
    this.braces = 0;
    this.brackets = 0;
    this.failed = undefined;
  }

  private token(kind: JsonTokenKind, text: Uint8Array): void {
    if (kind === 'stray') {
      this.finish(syntax(`stray '${textOf(text)}'`));
      return;
    }
    this.count(kind);
    this.tokens++;
    this.bytes += text.length;
    const limit = this.breached(kind);
    if (limit !== undefined) {
      this.finish(new JsonError(`JSON ${limit} limit exceeded`));
      return;
    }
    if (this.failed === undefined) this.failed = this.accept(kind, text);
    const balanced = this.braces === 0 && this.brackets === 0;
    if (balanced || this.braces < 0 || this.brackets < 0) this.finish(this.failed);
  }

  private count(kind: JsonTokenKind): void {
    if (kind === '{') this.braces++;
    else if (kind === '}') this.braces--;
    else if (kind === '[') this.brackets++;
    else if (kind === ']') this.brackets--;
  }

  private breached(kind: JsonTokenKind): string | undefined {
    if (kind === 'too-long' || this.bytes > this.maxBytes) return 'token size';
    if (this.tokens > this.maxTokens) return 'token count';
    return this.braces + this.brackets > this.maxDepth ? 'nesting depth' : undefined;
  }

  /** Puts a token into the value in work; returns the error when it does not fit. */
  private accept(kind: JsonTokenKind, text: Uint8Array): JsonError | undefined {
    const frame = this.stack.at(-1);
    switch (frame?.expect) {
      case 'colon':
        if (kind !== ':') return syntax('missing : in object pair');
        frame.expect = 'value';
        return undefined;
      case 'separator-or-end':
        return this.acceptSeparator(frame, kind);
      case 'value-or-end':
        return kind === ']' ? this.close() : this.acceptValue(kind, text);
      case 'key-or-end':
        return kind === '}' ? this.close() : this.acceptKey(frame, kind, text);
      case 'key':
        return this.acceptKey(frame, kind, text);
      default:
        return this.acceptValue(kind, text);
    }
  }

  private acceptSeparator(frame: Frame, kind: JsonTokenKind): JsonError | undefined {
    const inArray = frame.array !== undefined;
    if (kind === ',') {
      frame.expect = inArray ? 'value' : 'key';
    } else if (kind === (inArray ? ']' : '}')) {
      return this.close();
    } else {
      return syntax(inArray ? 'expected separator in list' : 'expected separator in dict');
    }
    return undefined;
  }

  private acceptKey(frame: Frame, kind: JsonTokenKind, text: Uint8Array): JsonError | undefined {
    if (kind === '{' || kind === '[') return this.open(kind, true);
    const key = this.scalar(kind, text);
    if (key instanceof JsonError) return key;
    if (typeof key !== 'string') return syntax('key is not a string in object');
    frame.key = key;
    frame.expect = 'colon';
    return undefined;
  }

  private acceptValue(kind: JsonTokenKind, text: Uint8Array): JsonError | undefined {
    if (kind === '{' || kind === '[') return this.open(kind, false);
    const value = this.scalar(kind, text);
    return value instanceof JsonError ? value : this.attach(value);
  }

  private open(kind: '{' | '[', isKey: boolean): JsonError | undefined {
    const array: JsonValue[] | undefined = kind === '[' ? [] : undefined;
    const object = array === undefined ? (Object.create(null) as JsonObject) : undefined;
    const error = isKey ? undefined : this.attach(array ?? object ?? null);
    const expect = array === undefined ? 'key-or-end' : 'value-or-end';
    this.stack.push({ array, object, expect, key: '', isKey });
    return error;
  }

  private close(): JsonError | undefined {
    const isKey = this.stack.pop()?.isKey === true;
    return isKey ? syntax('key is not a string in object') : undefined;
  }

  /** Adds a value to the innermost container, or makes it the root. */
  private attach(value: JsonValue): JsonError | undefined {
    const frame = this.stack.at(-1);
    if (frame === undefined) {
      this.root = value;
      return undefined;
    }
    frame.expect = 'separator-or-end';
    if (frame.object === undefined) {
      frame.array?.push(value);
    } else {
      if (frame.key in frame.object) return syntax('duplicate key');
      frame.object[frame.key] = value;
    }
    return undefined;
  }

  private scalar(kind: JsonTokenKind, text: Uint8Array): JsonValue | JsonError {
    switch (kind) {
      case 'string':
        return decodeJsonString(text);
      case 'integer':
        return this.integer(textOf(text));
      case 'double':
        return this.double(Number(textOf(text)));
      case 'word':
        return wordValue(textOf(text));
      default:
        return syntax('expecting value');
    }
  }

  private integer(text: string): JsonValue {
    const near = Number(text);
    if (Number.isSafeInteger(near)) return near;
    const exact = BigInt(text);
    return exact >= -TWO_63 && exact < TWO_64 ? exact : this.double(near);
  }

  private double(value: number): JsonValue {
    return this.keepDoubles ? new JsonDouble(value) : value;
  }
}

function wordValue(word: string): JsonValue | JsonError {
  if (word === 'true') return true;
  if (word === 'false') return false;
  return word === 'null' ? null : syntax(`invalid keyword '${word}'`);
}

/** Reads exactly one value. Throws {@link JsonError}. */
export function parseJson(text: string | Uint8Array, options: JsonOptions = {}): JsonValue {
  const stream = new JsonStream(options);
  const results = [...stream.push(text), ...stream.end()];
  const [first, second] = results;
  if (first === undefined) throw new JsonError('Expecting a JSON value');
  if ('error' in first) throw first.error;
  if (second !== undefined) throw new JsonError('Expecting at most one JSON value');
  return first.value;
}

const ESCAPES = new Map([
  ['"', '\\"'],
  ['\\', '\\\\'],
  ['\b', '\\b'],
  ['\f', '\\f'],
  ['\n', '\\n'],
  ['\r', '\\r'],
  ['\t', '\\t'],
]);

function escapeUnit(unit: string): string {
  const code = unit.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0');
  return ESCAPES.get(unit) ?? `\\u${code}`;
}

const SPECIAL = /["\\]|[^ -~]/;

/** A string with its quotes; lone surrogates become U+FFFD. */
function formatString(text: string): string {
  if (!SPECIAL.test(text)) return `"${text}"`;
  const sound = text.replace(/\p{Surrogate}/gu, '\ufffd');
  return `"${sound.replace(/["\\]|[^ -~]/g, escapeUnit)}"`;
}

/** A double as C's "%.17g" prints it. */
function formatDouble(value: number): string {
  if (Object.is(value, -0)) return '-0';
  if (value === 0) return '0';
  const [mantissa = '', power = '0'] = value.toExponential(16).split('e');
  const exponent = Number(power);
  if (exponent < -4 || exponent >= 17) {
    const sign = exponent < 0 ? '-' : '+';
    return `${trimZeros(mantissa)}e${sign}${String(Math.abs(exponent)).padStart(2, '0')}`;
  }
  return trimZeros(value.toFixed(Math.max(0, 16 - exponent)));
}

function trimZeros(digits: string): string {
  return digits.includes('.') ? digits.replace(/\.?0+$/, '') : digits;
}

function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return 'null';
  if (Number.isSafeInteger(value)) return String(value);
  // Sizes and offsets from 2^53 on, in full.
  const isInt64 = Number.isInteger(value) && Math.abs(value) < 2 ** 63;
  return isInt64 ? String(BigInt(value)) : formatDouble(value);
}

function formatScalar(value: unknown): string {
  if (value instanceof JsonDouble) {
    return Number.isFinite(value.value) ? formatDouble(value.value) : 'null';
  }
  switch (typeof value) {
    case 'string':
      return formatString(value);
    case 'number':
      return formatNumber(value);
    case 'boolean':
    case 'bigint':
      return String(value);
    default:
      if (value === null) return 'null';
      throw new BugError(`vdisk bug: a ${typeof value} is no JSON value`);
  }
}

/** `indent` is the text before this value's members, or undefined for one line. */
function format(value: unknown, indent: string | undefined): string {
  if (typeof value !== 'object' || value === null || value instanceof JsonDouble) {
    return formatScalar(value);
  }
  const inner = indent === undefined ? undefined : indent + '    ';
  const parts: string[] = [];
  if (Array.isArray(value)) {
    for (const each of value as readonly unknown[]) parts.push(format(each, inner));
  } else {
    for (const [key, each] of Object.entries(value)) {
      if (each !== undefined) parts.push(`${formatString(key)}: ${format(each, inner)}`);
    }
  }
  const [open, close] = Array.isArray(value) ? ['[', ']'] : ['{', '}'];
  if (indent === undefined || inner === undefined) return open + parts.join(', ') + close;
  const lines = parts.length === 0 ? '' : `\n${inner}${parts.join(`,\n${inner}`)}`;
  return `${open}${lines}\n${indent}${close}`;
}

/**
 * A value on one line: `{"a": 1, "b": [true, null]}`. Members of value undefined are left out;
 * infinite numbers, which JSON lacks, become null. Keys keep their order.
 */
export function formatJson(value: unknown): string {
  return format(value, undefined);
}

/** A value over several lines, without a newline at the end; empty containers take two lines. */
export function formatJsonPretty(value: unknown): string {
  return format(value, '');
}
