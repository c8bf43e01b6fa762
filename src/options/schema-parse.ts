/**
 * Checks values against declarations: the code behind `parseValue` of schema.ts.
 *
 * Wording, as QEMU 10 has it: a type or presence error names the full path; a value that is no
 * member of an enumeration, an integer out of its C type's range, and a value that fits no branch
 * of an alternate name the last part only (`null` inside a list). Fields are checked in the order
 * of their declaration, names that nobody declared come last.
 */
import { JsonDouble } from '../lib/json-text.js';
import { MAX_SIZE_TEXT, parseInteger, parseSize } from '../lib/sizes.js';
import { optBool, optNumber, optSize, parseBoolWord } from './opt-values.js';
import { OptionError } from './option-error.js';
import type { Alternatives, Decl, Fields, Shape } from './schema.js';

/** Where a value comes from, and what it is called. */
export interface ParseHow {
  /**
   * 'qmp': typed JSON values only. 'keyval': scalars may be text, errors as `--blockdev` and
   * `--object` word them. 'opts': the same with the rules and errors of the old option lists, as
   * for `--image-opts` and `json:` file names (sizes with suffix wherever a size is meant, typed
   * scalars taken as their text, null as missing).
   */
  readonly from: 'qmp' | 'keyval' | 'opts';
  /** Path of the value itself, put before the names in error texts. */
  readonly path?: string;
  /** Declarations that `t.ref(name)` stands for. */
  readonly types?: ReadonlyMap<string, Decl>;
  /** Fields that the input lacks stay away although they have a default. */
  readonly withoutDefaults?: boolean;
  /** Words the error for a name that nobody declared; default "Parameter 'x' is unexpected". */
  readonly unexpected?: (path: string) => OptionError;
}

interface Place {
  /** With dots and indexes, from the root. */
  readonly path: string;
  /** Last part only; `null` inside a list and at the root, which is what QEMU prints there. */
  readonly name: string;
}

type JsonKind = 'str' | 'bool' | 'number' | 'null' | 'array' | 'object' | 'none';

function kindOf(value: unknown): JsonKind {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'array';
  if (value instanceof JsonDouble) return 'number';
  switch (typeof value) {
    case 'string':
      return 'str';
    case 'boolean':
      return 'bool';
    case 'number':
    case 'bigint':
      return 'number';
    case 'object':
      return 'object';
    default:
      return 'none';
  }
}

/** The path as error texts show it. */
function full(at: Place): string {
  return at.path === '' ? '<anonymous>' : at.path;
}

function wrongType(at: Place, expected: string): OptionError {
  const text = `Invalid parameter type for '${full(at)}', expected: ${expected}`;
  return new OptionError(text, at.path);
}

/** A scalar was expected, but dotted keys made an object or list of it. */
function refuseContainer(value: unknown, at: Place, how: ParseHow): void {
  if (how.from !== 'qmp' && typeof value === 'object' && value !== null) {
    if (value instanceof JsonDouble) return;
    throw new OptionError(`Parameters '${at.path}.*' are unexpected`, at.path);
  }
}

/** In 'opts' mode: the text of a typed scalar; other values as they are. */
function scalarText(value: unknown, how: ParseHow): unknown {
  if (how.from !== 'opts') return value;
  if (typeof value === 'boolean') return value ? 'on' : 'off';
  if (value instanceof JsonDouble) return String(value.value);
  return typeof value === 'number' || typeof value === 'bigint' ? String(value) : value;
}

function expects(shown: string, at: Place, what: string): OptionError {
  return new OptionError(`Parameter '${shown}' expects ${what}`, at.path);
}

function member(at: Place, key: string): Place {
  return { path: at.path === '' ? key : `${at.path}.${key}`, name: key };
}

function element(at: Place, index: number, how: ParseHow): Place {
  const mark = how.from === 'keyval' ? `.${String(index)}` : `[${String(index)}]`;
  return { path: at.path + mark, name: 'null' };
}

function parseBool(value: unknown, at: Place, how: ParseHow): boolean {
  if (typeof value === 'boolean') return value;
  if (how.from === 'qmp' || typeof value !== 'string') throw wrongType(at, 'boolean');
  if (how.from === 'opts') return optBool(at.path, value);
  const found = parseBoolWord(value);
  if (found === undefined) throw expects(full(at), at, "'on' or 'off'");
  return found;
}

const TWO_63 = 1n << 63n;
const TWO_64 = 1n << 64n;

/** The exact integer in a JSON value or number text, or undefined when it is none. */
function exactInteger(value: unknown, how: ParseHow): bigint | undefined {
  if (typeof value === 'bigint') return value;
  if (typeof value === 'number') return Number.isInteger(value) ? BigInt(value) : undefined;
  return how.from !== 'qmp' && typeof value === 'string' ? parseInteger(value) : undefined;
}

/** An integer within 64 bits, negative ones taken modulo 2^64 when unsigned, as QEMU does. */
function parseInt64(value: unknown, at: Place, how: ParseHow, unsigned: boolean): bigint {
  const isText = how.from !== 'qmp' && typeof value === 'string';
  const exact =
    isText && how.from === 'opts' ? optNumber(at.path, value) : exactInteger(value, how);
  const top = unsigned ? TWO_64 : TWO_63;
  if (exact === undefined || exact >= top || exact < -TWO_63) {
    if (isText) throw expects(full(at), at, 'integer');
    if (unsigned && how.from === 'qmp') throw expects(full(at), at, 'uint64');
    throw wrongType(at, 'integer');
  }
  return unsigned && exact < 0n ? exact + TWO_64 : exact;
}

function parseInt(
  shape: Extract<Shape, { kind: 'int' }>,
  value: unknown,
  at: Place,
  how: ParseHow,
): number {
  const exact = parseInt64(value, at, how, shape.unsigned);
  if (exact >= BigInt(shape.min) && exact <= BigInt(shape.max)) return Number(exact);
  if (shape.type !== undefined) throw expects(at.name, at, shape.type);
  const limit = Number.MAX_SAFE_INTEGER;
  const least = shape.min === -limit ? `-${MAX_SIZE_TEXT}` : String(shape.min);
  const most = shape.max === limit ? MAX_SIZE_TEXT : String(shape.max);
  throw expects(full(at), at, `a value from ${least} to ${most}`);
}

function parseSizeValue(
  shape: Extract<Shape, { kind: 'size' }>,
  value: unknown,
  at: Place,
  how: ParseHow,
): number | bigint {
  if (how.from === 'opts' && typeof value === 'string') return optSize(at.path, value);
  if (how.from === 'keyval' && typeof value === 'string' && shape.qapi === 'size') {
    const size = parseSize(value);
    if (size.status === 'ok') return size.bytes;
    if (size.status !== 'limit') throw expects(full(at), at, 'size');
    throw expects(full(at), at, `a value from 0 to ${MAX_SIZE_TEXT}`);
  }
  const unsigned = shape.qapi === 'size';
  if (shape.wide === true) {
    const exact = parseInt64(value, at, how, unsigned);
    const near = Number(exact);
    return Number.isSafeInteger(near) ? near : exact;
  }
  const integer = { kind: 'int', type: undefined, unsigned, min: 0 } as const;
  return parseInt({ ...integer, max: Number.MAX_SAFE_INTEGER }, value, at, how);
}

function parseNumber(value: unknown, at: Place, how: ParseHow): number {
  if (value instanceof JsonDouble) return value.value;
  if (typeof value === 'number' && Number.isFinite(value)) return value;
  if (typeof value === 'bigint') return Number(value);
  if (how.from !== 'qmp' && typeof value === 'string') {
    const found = value.trim() === '' ? NaN : Number(value);
    if (!Number.isFinite(found)) throw expects(full(at), at, 'number');
    return found;
  }
  throw wrongType(at, 'number');
}

function parseEnum(
  shape: Extract<Shape, { kind: 'enum' }>,
  value: unknown,
  at: Place,
  how: ParseHow,
): string {
  if (typeof value !== 'string') throw wrongType(at, 'string');
  if (shape.values.includes(value)) return value;
  const text =
    how.from === 'opts'
      ? (shape.invalid?.(value) ?? `invalid parameter value: ${value}`)
      : `Parameter '${at.name}' does not accept value '${value}'`;
  throw new OptionError(text, at.path);
}

function asObject(value: unknown, at: Place, how: ParseHow): Map<string, unknown> {
  if (kindOf(value) !== 'object') throw wrongType(at, 'object');
  const members = new Map<string, unknown>();
  for (const [key, each] of Object.entries(value as object)) {
    const missing = each === undefined || (each === null && how.from === 'opts');
    if (!missing) members.set(key, each);
  }
  return members;
}

/** Moves the declared fields from `input` to `output`; what stays in `input` was not declared. */
function parseFields(
  fields: Fields,
  input: Map<string, unknown>,
  output: Record<string, unknown>,
  at: Place,
  how: ParseHow,
): void {
  for (const key of Object.keys(fields)) {
    const decl = fields[key];
    if (decl === undefined || key in output) continue;
    const place = member(at, key);
    if (input.has(key)) {
      output[key] = parseAt(decl, input.get(key), place, how);
      input.delete(key);
    } else if (decl.presence === 'defaulted') {
      if (how.withoutDefaults !== true) output[key] = decl.meta.default;
    } else if (decl.presence === 'required') {
      throw new OptionError(`Parameter '${place.path}' is missing`, place.path);
    }
  }
}

function refuseRest(input: Map<string, unknown>, at: Place, how: ParseHow): void {
  for (const key of input.keys()) {
    const { path } = member(at, key);
    if (how.unexpected !== undefined) throw how.unexpected(path);
    throw new OptionError(`Parameter '${path}' is unexpected`, path);
  }
}

/** An object without a prototype, so that names like `__proto__` are names like any other. */
function emptyRecord(): Record<string, unknown> {
  return Object.create(null) as Record<string, unknown>;
}

function parseStruct(fields: Fields, value: unknown, at: Place, how: ParseHow): unknown {
  const input = asObject(value, at, how);
  const output = emptyRecord();
  parseFields(fields, input, output, at, how);
  refuseRest(input, at, how);
  return output;
}

function parseUnion(
  shape: Extract<Shape, { kind: 'union' }>,
  value: unknown,
  at: Place,
  how: ParseHow,
): unknown {
  const input = asObject(value, at, how);
  const output = emptyRecord();
  const { discriminator, base, branches } = shape;
  // Where the base declares the selector, it has its place among the base's fields.
  if (!Object.hasOwn(base, discriminator)) {
    const selector: Decl = {
      shape: { kind: 'enum', name: undefined, values: Object.keys(branches), invalid: undefined },
      meta: {},
      presence: 'required',
    };
    parseFields({ [discriminator]: selector }, input, output, at, how);
  }
  parseFields(base, input, output, at, how);
  const chosen = output[discriminator];
  const branch =
    typeof chosen === 'string' && Object.hasOwn(branches, chosen) ? branches[chosen] : undefined;
  if (branch !== undefined) parseBranch(branch, input, output, at, how);
  refuseRest(input, at, how);
  return output;
}

/** A branch is a struct, or a union again (one type inside another); its fields join the object. */
function parseBranch(
  branch: Decl,
  input: Map<string, unknown>,
  output: Record<string, unknown>,
  at: Place,
  how: ParseHow,
): void {
  const { shape } = resolve(branch, how);
  if (shape.kind === 'struct') {
    parseFields(shape.fields, input, output, at, how);
  } else if (shape.kind === 'union') {
    const inner = parseUnion(shape, Object.fromEntries(input), at, how);
    input.clear();
    Object.assign(output, inner);
  }
}

function parseAlternate(
  shape: Extract<Shape, { kind: 'alternate' }>,
  value: unknown,
  at: Place,
  how: ParseHow,
): unknown {
  const branch = chooseBranch(shape.branches, value, how);
  if (branch !== undefined) return parseAt(branch, value, at, how);
  throw new OptionError(
    `Invalid parameter type for '${at.name}', expected: ${shape.name}`,
    at.path,
  );
}

function chooseBranch(branches: Alternatives, value: unknown, how: ParseHow): Decl | undefined {
  const kind = kindOf(value);
  if (kind === 'none') return undefined;
  if (kind !== 'str' || branches.str !== undefined || how.from === 'qmp') return branches[kind];
  return branches.bool ?? branches.number;
}

function parseArray(of: Decl, value: unknown, at: Place, how: ParseHow): unknown[] {
  if (!Array.isArray(value)) throw wrongType(at, 'array');
  return value.map((each: unknown, index) => parseAt(of, each, element(at, index, how), how));
}

/** Follows `ref` and `lazy` to the declaration they stand for. */
function resolve(decl: Decl, how: ParseHow): Decl {
  let found = decl;
  for (;;) {
    const { shape } = found;
    if (shape.kind === 'lazy') {
      found = shape.get();
    } else if (shape.kind === 'ref') {
      const named = how.types?.get(shape.name);
      if (named === undefined) return { shape: { kind: 'any' }, meta: {}, presence: 'required' };
      found = named;
    } else {
      return found;
    }
  }
}

function plain(value: unknown): unknown {
  return value instanceof JsonDouble ? value.value : value;
}

function parseAt(decl: Decl, value: unknown, at: Place, how: ParseHow): unknown {
  const { shape } = resolve(decl, how);
  switch (shape.kind) {
    case 'any':
      return plain(value);
    case 'struct':
      return parseStruct(shape.fields, value, at, how);
    case 'array':
      return parseArray(shape.of, value, at, how);
    case 'alternate':
      return parseAlternate(shape, value, at, how);
    case 'union':
      return parseUnion(shape, value, at, how);
    default:
      refuseContainer(value, at, how);
      return parseScalar(shape, scalarText(value, how), at, how);
  }
}

function parseScalar(shape: Shape, value: unknown, at: Place, how: ParseHow): unknown {
  switch (shape.kind) {
    case 'str':
      if (typeof value !== 'string') throw wrongType(at, 'string');
      return value;
    case 'bool':
      return parseBool(value, at, how);
    case 'int':
      return parseInt(shape, value, at, how);
    case 'id64':
      return parseInt64(value, at, how, true);
    case 'size':
      return parseSizeValue(shape, value, at, how);
    case 'number':
      return parseNumber(value, at, how);
    case 'enum':
      return parseEnum(shape, value, at, how);
    default:
      if (value !== null) throw wrongType(at, 'null');
      return null;
  }
}

/** See parseValue in schema.ts, which gives this a type. */
export function parse(decl: Decl, value: unknown, how: ParseHow): unknown {
  const path = how.path ?? '';
  const dot = path.lastIndexOf('.');
  const name = path === '' ? 'null' : path.slice(dot + 1);
  return parseAt(decl, value, { path, name }, how);
}
