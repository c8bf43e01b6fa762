/**
 * What `query-qmp-schema` answers: QAPI's SchemaInfo list, made from declarations.
 *
 * `introspect(commands, events, types)` gives one entry for each command and event and for every
 * type that they reach. As in QEMU, types other than built-in ones have numbers for names (clients
 * shall follow references, not rely on names), arrays are named after their element (`[str]`,
 * `[12]`), and commands without arguments or results refer to one empty object.
 *
 * A struct, union, enumeration or alternate is one type per declaration object: declare a type
 * once and use it where it is needed. A union's branch that is a union itself is told as a plain
 * object of its common fields, for QAPI has no such thing.
 */
import { assert } from '../lib/assert.js';
import type { Decl, Fields, Shape } from './schema.js';

/** A command as introspection needs it. */
export interface CommandDecl {
  readonly name: string;
  /** A struct or a union; undefined: takes none. */
  readonly args: Decl | undefined;
  /** Undefined: returns the empty object. */
  readonly returns: Decl | undefined;
  readonly features?: readonly string[] | undefined;
  /** May be sent out of band. */
  readonly oob?: boolean | undefined;
}

/** An event as introspection needs it. */
export interface EventDecl {
  readonly name: string;
  readonly data: Decl | undefined;
}

/** One member of QAPI's union SchemaInfo. */
export type SchemaInfo = Readonly<Record<string, unknown>>;

const jsonTypes: Readonly<Record<string, string>> = {
  str: 'string',
  int: 'int',
  number: 'number',
  bool: 'boolean',
  null: 'null',
  any: 'value',
};

class Introspection {
  readonly #types: ReadonlyMap<string, Decl>;
  readonly #names = new Map<Shape, string>();
  readonly #queue: (() => SchemaInfo)[] = [];
  readonly #told = new Set<string>();
  #next = 0;
  #empty: string | undefined;

  constructor(types: ReadonlyMap<string, Decl>) {
    this.#types = types;
  }

  run(commands: readonly CommandDecl[], events: readonly EventDecl[]): SchemaInfo[] {
    const out: SchemaInfo[] = [];
    for (const event of events) {
      out.push({
        name: event.name,
        'meta-type': 'event',
        'arg-type': event.data === undefined ? this.#emptyObject() : this.#nameOf(event.data),
      });
    }
    for (const { name, args, returns, features, oob } of commands) {
      out.push({
        name,
        'meta-type': 'command',
        'arg-type': args === undefined ? this.#emptyObject() : this.#nameOf(args),
        'ret-type': returns === undefined ? this.#emptyObject() : this.#nameOf(returns),
        ...(features === undefined ? {} : { features }),
        ...(oob === true ? { 'allow-oob': true } : {}),
      });
    }
    for (let tell = this.#queue.shift(); tell !== undefined; tell = this.#queue.shift()) {
      out.push(tell());
    }
    return out;
  }

  #number(): string {
    return String(this.#next++);
  }

  #emptyObject(): string {
    if (this.#empty === undefined) {
      const name = (this.#empty = this.#number());
      this.#queue.push(() => ({ name, 'meta-type': 'object', members: [] }));
    }
    return this.#empty;
  }

  #resolve(decl: Decl): Shape {
    let { shape } = decl;
    for (;;) {
      if (shape.kind === 'lazy') {
        shape = shape.get().shape;
      } else if (shape.kind === 'ref') {
        const found = this.#types.get(shape.name);
        if (found === undefined) return { kind: 'any' };
        shape = found.shape;
      } else {
        return shape;
      }
    }
  }

  /** The name by which other entries refer to a type; its own entry will follow. */
  #nameOf(decl: Decl): string {
    const shape = this.#resolve(decl);
    switch (shape.kind) {
      case 'str':
      case 'bool':
      case 'number':
      case 'null':
      case 'any':
        return this.#builtin(shape.kind);
      case 'int':
      case 'size':
      case 'id64':
        return this.#builtin('int');
      case 'array':
        return this.#array(shape.of);
      default:
        return this.#numbered(shape);
    }
  }

  #builtin(name: string): string {
    if (!this.#told.has(name)) {
      this.#told.add(name);
      const jsonType = jsonTypes[name];
      this.#queue.push(() => ({ name, 'meta-type': 'builtin', 'json-type': jsonType }));
    }
    return name;
  }

  #array(of: Decl): string {
    const element = this.#nameOf(of);
    const name = `[${element}]`;
    if (!this.#told.has(name)) {
      this.#told.add(name);
      this.#queue.push(() => ({ name, 'meta-type': 'array', 'element-type': element }));
    }
    return name;
  }

  #numbered(shape: Shape): string {
    const known = this.#names.get(shape);
    if (known !== undefined) return known;
    const name = this.#number();
    this.#names.set(shape, name);
    this.#queue.push(() => this.#tell(name, shape));
    return name;
  }

  #tell(name: string, shape: Shape): SchemaInfo {
    switch (shape.kind) {
      case 'enum':
        return {
          name,
          'meta-type': 'enum',
          members: shape.values.map((value) => ({ name: value })),
          values: shape.values,
        };
      case 'struct':
        return { name, 'meta-type': 'object', members: this.#members(shape.fields) };
      case 'union':
        return this.#tellUnion(name, shape);
      default: {
        assert(shape.kind === 'alternate', `no SchemaInfo for ${shape.kind}`);
        const branches = Object.values(shape.branches) as Decl[];
        const members = branches.map((branch) => ({ type: this.#nameOf(branch) }));
        return { name, 'meta-type': 'alternate', members };
      }
    }
  }

  #tellUnion(name: string, shape: Extract<Shape, { kind: 'union' }>): SchemaInfo {
    const { discriminator, base, branches } = shape;
    const words = Object.keys(branches);
    const tag: Decl = base[discriminator] ?? {
      shape: { kind: 'enum', name: undefined, values: words, invalid: undefined },
      meta: {},
      presence: 'required',
    };
    const variants = words.map((word) => {
      const branch = branches[word];
      const inner = branch === undefined ? undefined : this.#resolve(branch);
      const isEmpty = inner?.kind === 'struct' && Object.keys(inner.fields).length === 0;
      const type = branch === undefined || isEmpty ? this.#emptyObject() : this.#nameOf(branch);
      return { case: word, type };
    });
    const members = this.#members({ ...base, [discriminator]: tag });
    return { name, 'meta-type': 'object', tag: discriminator, variants, members };
  }

  #members(fields: Fields): SchemaInfo[] {
    return Object.entries(fields).map(([name, field]) => {
      const { features, deprecated } = field.meta;
      const marks = [...(features ?? []), ...(deprecated === undefined ? [] : ['deprecated'])];
      return {
        name,
        type: this.#nameOf(field),
        ...(field.presence === 'required' ? {} : { default: null }),
        ...(marks.length === 0 ? {} : { features: marks }),
      };
    });
  }
}

/** The SchemaInfo list; `types` are what `t.ref` names stand for. */
export function introspect(
  commands: readonly CommandDecl[],
  events: readonly EventDecl[],
  types: ReadonlyMap<string, Decl> = new Map(),
): SchemaInfo[] {
  return new Introspection(types).run(commands, events);
}
