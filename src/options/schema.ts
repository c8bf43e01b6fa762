/**
 * One declaration of an option, command argument or type; everything else comes from it.
 *
 * ```ts
 * const nullOptions = t.struct('BlockdevOptionsNull', {
 *   size: t.size({ default: 1 << 30, doc: 'size of the device in bytes' }),
 *   'latency-ns': t.optional(t.uint({ bits: 64 }, { doc: 'wait before each answer' })),
 *   'read-zeroes': t.bool({ default: false, since: '4.1' }),
 * });
 * type NullOptions = Infer<typeof nullOptions>; // {size: number; 'latency-ns'?: number; …}
 * const options = parseValue(nullOptions, value, { from: 'qmp' });
 * ```
 *
 * - A field is required, unless `t.optional(x)` (key may be missing in the result) or its meta has
 *   a `default` (key may be missing in the input, is always there in the result).
 * - `parseValue` checks and converts; it throws {@link OptionError} in QEMU 10's words.
 *   `from: 'qmp'` takes typed JSON values only; `from: 'keyval'` also takes text for scalars
 *   (`on`, `64k`, `12`), as `--blockdev` and `--object` do; `from: 'opts'` is for `--image-opts`,
 *   `json:` file names and `-drive`, whose rules and error texts are older. `how.unexpected`
 *   words the error for unknown names ("Block protocol 'file' doesn't support the option 'x'").
 * - Results have no prototype, hold declared names only, and share nothing with the input except
 *   values of `t.any()`. A key of value undefined counts as missing.
 * - Numbers are `number` and at most 2^53 - 1 (`MAX_SIZE`); greater ones are refused by that name.
 *   `t.id64()` is for 64-bit identifiers and gives `bigint`.
 * - `t.ref<T>('Name')` names a declaration that only the caller of `parseValue` knows
 *   (`how.types`): a format's `file` child is a `t.ref('BlockdevRef')`, and the catalogue supplies
 *   it. Where no such type is given, any value passes. `t.lazy(() => decl)` is for recursion.
 * - `decl.shape` and `decl.meta` are plain data for help texts, schema introspection, man pages.
 */
import { assert } from '../lib/assert.js';
import { parse } from './schema-parse.js';
import type { ParseHow } from './schema-parse.js';

export { OptionError } from './option-error.js';
export type { ParseHow } from './schema-parse.js';

/** What is known about an option beyond its type. */
export interface Meta<T = unknown> {
  /** One or two sentences for help and reference. */
  readonly doc?: string;
  /** Value when the input has none; the field is then optional in the input. */
  readonly default?: T;
  /** QEMU version (or vdisk's) that first had it. */
  readonly since?: string;
  /** The value must not be shown in logs and error texts. */
  readonly secret?: boolean;
  /** May be changed while the node is open. */
  readonly reopen?: boolean;
  /** Still accepted; the text says what to use. */
  readonly deprecated?: string;
  /** QAPI's special features (`unstable`, `fdset`), which schema introspection shows. */
  readonly features?: readonly string[];
}

/** Meta of an alternate: `name` is the type's name in error texts (`BlockdevRef`). */
export interface AlternateMeta<T = unknown> extends Meta<T> {
  readonly name?: string;
}

/** Meta of a union: `base` are the fields that all branches share. */
export interface UnionMeta<F extends Fields = Fields> extends Meta {
  readonly base?: F;
}

export type Presence = 'required' | 'optional' | 'defaulted';

declare const TYPE: unique symbol;
declare const INPUT: unique symbol;

/**
 * A declaration of values of type T, made from typed input of type I (which may leave out what has
 * a default); `presence` matters where it is a field.
 */
export interface Decl<T = unknown, P extends Presence = Presence, I = T> {
  readonly shape: Shape;
  readonly meta: Meta;
  readonly presence: P;
  /** Only in the type system. */
  readonly [TYPE]?: T;
  /** Only in the type system. */
  readonly [INPUT]?: I;
}

/** Declarations by field name. */
export type Fields = Readonly<Record<string, Decl>>;

/** The alternatives of an alternate, by the JSON type that selects them. */
export interface Alternatives {
  readonly str?: Decl;
  readonly object?: Decl;
  readonly array?: Decl;
  readonly bool?: Decl;
  readonly number?: Decl;
  readonly null?: Decl;
}

/** The structure of a declaration, as plain data. */
export type Shape =
  | { readonly kind: 'str' | 'bool' | 'number' | 'null' | 'any' | 'id64' }
  | { readonly kind: 'size'; readonly qapi: 'size' | 'int'; readonly wide?: boolean }
  | {
      readonly kind: 'int';
      /** Name of C's type in error texts, or undefined when min and max are no C type's. */
      readonly type: string | undefined;
      readonly unsigned: boolean;
      readonly min: number;
      readonly max: number;
    }
  | {
      readonly kind: 'enum';
      readonly name: string | undefined;
      readonly values: readonly string[];
      readonly invalid: ((value: string) => string) | undefined;
    }
  | { readonly kind: 'struct'; readonly name: string; readonly fields: Fields }
  | { readonly kind: 'array'; readonly of: Decl }
  | { readonly kind: 'alternate'; readonly name: string; readonly branches: Alternatives }
  | {
      readonly kind: 'union';
      readonly name: string;
      readonly discriminator: string;
      readonly base: Fields;
      readonly branches: Fields;
    }
  | { readonly kind: 'ref'; readonly name: string }
  | { readonly kind: 'lazy'; readonly get: () => Decl };

type Simplify<T> = { [K in keyof T]: T[K] } & {};

type MayLack<F, P extends Presence> = {
  [K in keyof F]: F[K] extends { readonly presence: P } ? K : never;
}[keyof F];

type InferFields<F> = Simplify<
  { readonly [K in Exclude<keyof F, MayLack<F, 'optional'>>]: Infer<F[K]> } & {
    readonly [K in MayLack<F, 'optional'>]?: Infer<F[K]>;
  }
>;

type InputFields<F> = Simplify<
  { readonly [K in Exclude<keyof F, MayLack<F, 'optional' | 'defaulted'>>]: InferInput<F[K]> } & {
    readonly [K in MayLack<F, 'optional' | 'defaulted'>]?: InferInput<F[K]>;
  }
>;

type InferUnion<D extends string, B, Base> = {
  [K in keyof B]: Simplify<{ readonly [P in D]: K } & Omit<InferFields<Base>, D> & Infer<B[K]>>;
}[keyof B];

type InputUnion<D extends string, B, Base> = {
  [K in keyof B]: Simplify<
    { readonly [P in D]: K } & Omit<InputFields<Base>, D> & InferInput<B[K]>
  >;
}[keyof B];

/** The type of the values that a declaration lets through: defaults are filled in. */
export type Infer<D> = D extends { readonly [TYPE]?: infer T } ? Exclude<T, undefined> : never;

/** The type of what a typed caller passes: fields with a default may be missing. */
export type InferInput<D> = D extends { readonly [INPUT]?: infer I }
  ? Exclude<I, undefined>
  : never;

type PresenceOf<M> = M extends { readonly default: unknown } ? 'defaulted' : 'required';

function make<T, P extends Presence, I = T>(shape: Shape, meta: Meta | undefined): Decl<T, P, I> {
  const presence: Presence = meta !== undefined && 'default' in meta ? 'defaulted' : 'required';
  return { shape, meta: meta ?? {}, presence: presence as P };
}

/** Bounds of an integer: either a C type's bits, or any range within +-(2^53 - 1). */
export interface IntBounds {
  readonly bits?: 8 | 16 | 32 | 64;
  readonly min?: number;
  readonly max?: number;
}

const INT_TYPES = [8, 16, 32] as const;

/** Shape of an integer; a range that equals a C type's takes its name in error texts. */
function intShape(bounds: IntBounds, unsigned: boolean): Shape {
  const bits = bounds.bits ?? 64;
  const top = bits === 64 ? Number.MAX_SAFE_INTEGER : 2 ** (unsigned ? bits : bits - 1) - 1;
  const min = bounds.min ?? (unsigned ? 0 : bits === 64 ? -top : -top - 1);
  const max = bounds.max ?? top;
  let type: string | undefined;
  for (const each of INT_TYPES) {
    if (min === 0 && max === 2 ** each - 1) type = `uint${String(each)}_t`;
    if (min === -(2 ** (each - 1)) && max === 2 ** (each - 1) - 1) type = `int${String(each)}_t`;
  }
  return { kind: 'int', type, unsigned, min, max };
}

/** Meta of an enumeration; `name` is the type's name in the reference. */
export interface EnumMeta<T = unknown> extends Meta<T> {
  readonly name?: string;
  /** Error text of the old option lists; default "invalid parameter value: …". */
  readonly invalid?: (value: string) => string;
}

/**
 * Meta of a size; `qapi: 'int'` when QEMU's schema has a plain int there, which then takes no
 * suffix in `--blockdev` (but does in the old option lists) and is named integer in errors.
 */
export interface SizeMeta<T = unknown> extends Meta<T> {
  readonly qapi?: 'size' | 'int';
}

function enumOf<const V extends string>(...values: V[]): Decl<V, 'required'>;
function enumOf<const V extends readonly string[], const M extends EnumMeta<V[number]>>(
  ...valuesAndMeta: [...values: V, meta: M]
): Decl<V[number], PresenceOf<M>>;
function enumOf(...given: (string | EnumMeta)[]): Decl<string> {
  const values = given.filter((each) => typeof each === 'string');
  const meta = given.find((each) => typeof each !== 'string');
  const { name, invalid } = meta ?? {};
  return make({ kind: 'enum', name, values, invalid }, meta);
}

/** Builders of declarations; the last argument of each is its {@link Meta}. */
export const t = {
  /** A text. */
  str: <const M extends Meta<string>>(meta?: M): Decl<string, PresenceOf<M>> =>
    make({ kind: 'str' }, meta),

  /** true or false; `on`, `off`, `yes`, `no`, `true`, `false`, `y`, `n` on a command line. */
  bool: <const M extends Meta<boolean>>(meta?: M): Decl<boolean, PresenceOf<M>> =>
    make({ kind: 'bool' }, meta),

  /** A signed integer, of `bits` (default 64) or between `min` and `max`. */
  int: <const M extends Meta<number>>(
    bounds: IntBounds = {},
    meta?: M,
  ): Decl<number, PresenceOf<M>> => make(intShape(bounds, false), meta),

  /** An unsigned integer, of `bits` (default 64) or between `min` and `max`. */
  uint: <const M extends Meta<number>>(
    bounds: IntBounds = {},
    meta?: M,
  ): Decl<number, PresenceOf<M>> => make(intShape(bounds, true), meta),

  /** A 64-bit identifier, all values allowed: a bigint. */
  id64: <const M extends Meta<bigint>>(meta?: M): Decl<bigint, PresenceOf<M>> =>
    make({ kind: 'id64' }, meta),

  /** A number of bytes; with suffixes (`64k`, `1.5G`) on a command line. */
  size: <const M extends SizeMeta<number>>(meta?: M): Decl<number, PresenceOf<M>> =>
    make({ kind: 'size', qapi: meta?.qapi ?? 'size' }, meta),

  /** A number of bytes of 64 bits, a bigint from 2^53 on: who takes it says what is too much. */
  size64: <const M extends SizeMeta<number | bigint>>(
    meta?: M,
  ): Decl<number | bigint, PresenceOf<M>> =>
    make({ kind: 'size', qapi: meta?.qapi ?? 'size', wide: true }, meta),

  /** A floating-point number. */
  number: <const M extends Meta<number>>(meta?: M): Decl<number, PresenceOf<M>> =>
    make({ kind: 'number' }, meta),

  /** JSON's null. */
  null: (meta?: Meta<null>): Decl<null, 'required'> => make({ kind: 'null' }, meta),

  /** Anything at all, passed on as it is. */
  any: (meta?: Meta): Decl<unknown, 'required'> => make({ kind: 'any' }, meta),

  /** One of the given words. */
  enumOf,

  /** An object with the given fields and no others. */
  struct: <F extends Fields, const M extends Meta>(
    name: string,
    fields: F,
    meta?: M,
  ): Decl<InferFields<F>, PresenceOf<M>, InputFields<F>> =>
    make({ kind: 'struct', name, fields }, meta),

  /** A list. */
  arrayOf: <D extends Decl, const M extends Meta>(
    of: D,
    meta?: M,
  ): Decl<readonly Infer<D>[], PresenceOf<M>, readonly InferInput<D>[]> =>
    make({ kind: 'array', of }, meta),

  /** Different types, told apart by the JSON type of the value. */
  alternate: <A extends Alternatives, const M extends AlternateMeta>(
    branches: A,
    meta?: M,
  ): Decl<Infer<A[keyof A]>, PresenceOf<M>, InferInput<A[keyof A]>> =>
    make({ kind: 'alternate', name: meta?.name ?? 'alternate', branches }, meta),

  /** Structures of which one field, the discriminator, says which. */
  union: <D extends string, B extends Fields, const F extends Fields = Record<never, never>>(
    name: string,
    discriminator: D,
    branches: B,
    meta?: UnionMeta<F>,
  ): Decl<InferUnion<D, B, F>, 'required', InputUnion<D, B, F>> =>
    make({ kind: 'union', name, discriminator, base: meta?.base ?? {}, branches }, meta),

  /** The declaration that the caller of parseValue knows under this name. */
  ref: <T = unknown, I = T>(name: string, meta?: Meta): Decl<T, 'required', I> =>
    make({ kind: 'ref', name }, meta),

  /** A declaration that is made later, for types that contain themselves. */
  lazy: <T, I = T>(get: () => Decl<T, Presence, I>, meta?: Meta): Decl<T, 'required', I> =>
    make({ kind: 'lazy', get }, meta),

  /** The field may be missing; it is then missing in the result too. */
  optional: <T, I>(of: Decl<T, Presence, I>): Decl<T, 'optional', I> => ({
    shape: of.shape,
    meta: of.meta,
    presence: 'optional',
  }),
};

/** The fields of a struct's declaration, to declare another with. Throws BugError for others. */
export function fieldsOf({ shape }: Decl): Fields {
  assert(shape.kind === 'struct', `fieldsOf wants a struct, not ${shape.kind}`);
  return shape.fields;
}

/**
 * Checks `value` against a declaration and returns it converted: defaults filled in, texts turned
 * into values when they come from a command line. Throws {@link OptionError} (class GenericError)
 * at the first breach, and then nothing has changed anywhere.
 */
export function parseValue<D extends Decl>(decl: D, value: unknown, how: ParseHow): Infer<D> {
  return parse(decl, value, how) as Infer<D>;
}
