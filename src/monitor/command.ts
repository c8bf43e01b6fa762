/**
 * Commands of the monitor. One declaration gives arguments, results and documentation; the QMP
 * session checks the arguments against it, `query-qmp-schema` and the reference tell it.
 *
 * ```ts
 * export const blockdevDel = defineCommand({
 *   name: 'blockdev-del',
 *   doc: 'Closes a node that blockdev-add opened and nobody uses.',
 *   args: t.struct('q_obj_blockdev-del-arg', { 'node-name': t.str() }),
 *   run: ({ graph }, args) => …args['node-name']…,
 * });
 * ```
 */
import type { Decl, Infer, InferInput } from '../options/schema.js';
import type { MonitorContext } from './context.js';

/** A command as the monitor holds it. */
export interface Command {
  readonly name: string;
  /** One or two sentences for the reference. */
  readonly doc: string;
  /** A struct or a union; undefined: the command takes no arguments. */
  readonly args: Decl | undefined;
  /** Type of the result; undefined: the empty object. */
  readonly returns: Decl | undefined;
  /** QEMU's version that has had it first. */
  readonly since: string | undefined;
  /** QAPI's special features of the command itself. */
  readonly features: readonly string[] | undefined;
  /** The command looks at which arguments were given: defaults are not filled in. */
  readonly givenOnly: boolean;
  /** Arguments that are not declared are passed on as they are: the command checks them. */
  readonly takesMore?: boolean;
  /** Does what it is for. Throws QmpError, BlockError or OptionError; then nothing has changed. */
  run(context: MonitorContext, args: unknown): unknown;
}

declare const ARGUMENTS: unique symbol;
declare const RESULT: unique symbol;

/** A command whose names, arguments and results the type system knows, from its declaration. */
export interface TypedCommand<N extends string, A, R> extends Command {
  readonly name: N;
  /** Only in the type system. */
  readonly [ARGUMENTS]?: A;
  /** Only in the type system. */
  readonly [RESULT]?: R;
}

/** What a caller passes to a command of this type. */
export type ArgumentsOf<C> = C extends { readonly [ARGUMENTS]?: infer A }
  ? Exclude<A, undefined>
  : never;

/** What a command of this type resolves to. */
export type ResultOf<C> = C extends { readonly [RESULT]?: infer R } ? Exclude<R, undefined> : never;

/** What commands without a result return. */
export type Nothing = Readonly<Record<never, never>>;

type Returned<R> = R extends Decl ? Infer<R> : Nothing;

interface AnyCommandInit<N extends string, R extends Decl | undefined> {
  readonly name: N;
  readonly doc: string;
  readonly returns?: R;
  readonly since?: string;
  readonly features?: readonly string[];
}

interface CommandInit<
  N extends string,
  A extends Decl,
  R extends Decl | undefined,
> extends AnyCommandInit<N, R> {
  readonly args: A;
  readonly givenOnly?: boolean;
  run(this: void, context: MonitorContext, args: Infer<A>): unknown;
}

interface PlainCommandInit<N extends string, R extends Decl | undefined> extends AnyCommandInit<
  N,
  R
> {
  run(this: void, context: MonitorContext): unknown;
}

/** Declares a command with arguments. */
export function defineCommand<
  const N extends string,
  A extends Decl,
  R extends Decl | undefined = undefined,
>(init: CommandInit<N, A, R>): TypedCommand<N, InferInput<A>, Returned<R>> {
  return {
    name: init.name,
    doc: init.doc,
    args: init.args,
    returns: init.returns,
    since: init.since,
    features: init.features,
    givenOnly: init.givenOnly ?? false,
    // The session has checked the arguments against `args`.
    run: (context, args) => init.run(context, args as Infer<A>),
  };
}

/** Declares a command that takes no arguments. */
export function definePlainCommand<const N extends string, R extends Decl | undefined = undefined>(
  init: PlainCommandInit<N, R>,
): TypedCommand<N, Nothing, Returned<R>> {
  return {
    name: init.name,
    doc: init.doc,
    args: undefined,
    returns: init.returns,
    since: init.since,
    features: init.features,
    givenOnly: false,
    run: (context) => init.run(context),
  };
}
