/** Arguments of QMP commands at random, made from what query-qmp-schema tells. */
import type { Random } from '../support/index.js';
import type { Message } from './support.js';

interface Member {
  readonly name: string;
  readonly type: string;
  readonly default?: unknown;
}

export interface SchemaType {
  readonly name: string;
  readonly 'meta-type': string;
  readonly 'json-type'?: string;
  readonly 'element-type'?: string;
  readonly 'arg-type'?: string;
  readonly members?: readonly Member[];
  readonly tag?: string;
  readonly variants?: readonly { readonly case: string; readonly type: string }[];
}

export interface Taste {
  /** How often a value is one of a wrong type; a member one that there is not. */
  readonly wrong: number;
  /** Texts for the member of this name. */
  readonly texts: (member: string) => readonly string[];
  /** Values of an enumeration that are taken, of those given. */
  readonly values?: (values: readonly string[]) => readonly string[];
}

const plain: Taste = { wrong: 0.12, texts: () => ['n0', 'x', '', 'a/b', 'j', '__proto__'] };

export class RandomArguments {
  readonly #types: ReadonlyMap<string, SchemaType>;
  readonly #random: Random;
  readonly #taste: Taste;

  constructor(types: readonly SchemaType[], random: Random, taste = plain) {
    this.#types = new Map(types.map((type) => [type.name, type]));
    this.#random = random;
    this.#taste = taste;
  }

  #pick<T>(of: readonly T[]): T {
    return of[this.#random.int(0, of.length - 1)]!;
  }

  #wrong(): unknown {
    return this.#pick([null, true, 0, -1, 5, 1.5, '', 'x', 'on', [], {}, [1], { x: 1 }]);
  }

  /** A value of a type, or, now and then, of another. `member`: what it is for. */
  make(name: string, depth = 0, member = ''): unknown {
    if (this.#random.chance(this.#taste.wrong)) return this.#wrong();
    const type = this.#types.get(name)!;
    switch (type['meta-type']) {
      case 'builtin':
        return this.#builtin(type['json-type'], member);
      case 'enum': {
        const values = [...type.members!.map((each) => each.name), 'bogus'];
        return this.#pick(this.#taste.values?.(values) ?? values);
      }
      case 'array': {
        const count = this.#pick([1, 1, 2]);
        const of = type['element-type']!;
        return Array.from({ length: count }, () => this.make(of, depth + 1, member));
      }
      case 'alternate':
        return this.make(this.#pick(type.members!).type, depth + 1, member);
      default:
        return depth > 5 ? {} : this.#object(type, depth);
    }
  }

  #builtin(type: string | undefined, member: string): unknown {
    if (type === 'string') return this.#pick(this.#taste.texts(member));
    if (type === 'int') return this.#pick([0, 1, 512, 65536, 2 ** 31, 2 ** 32]);
    if (type === 'number') return this.#pick([0, 1, 1.5]);
    if (type === 'boolean') return this.#random.chance(0.5);
    return type === 'null' ? null : this.#wrong();
  }

  #object(type: SchemaType, depth: number): Message {
    const out: Message = {};
    const fill = ({ members = [], tag, variants }: SchemaType): void => {
      for (const { name, type: of, ...rest } of members) {
        const rate = 'default' in rest ? 0.25 : 0.93;
        if (this.#random.chance(rate)) out[name] = this.make(of, depth + 1, name);
      }
      const chosen = tag === undefined ? undefined : variants?.find((v) => v.case === out[tag]);
      if (chosen !== undefined) fill(this.#types.get(chosen.type)!);
    };
    fill(type);
    if (this.#random.chance(this.#taste.wrong * 0.7)) {
      const name = this.#pick(['bogus', '__proto__', 'constructor']);
      Object.defineProperty(out, name, { value: this.#wrong(), enumerable: true });
    }
    return out;
  }
}
