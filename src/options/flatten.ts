/**
 * Nested objects to dotted names and back: `{file: {filename: 'a'}}` ↔ `{'file.filename': 'a'}`.
 *
 * - `flatten(value)`: objects and arrays to one flat object; list indexes become names (`0`).
 *   Empty containers vanish, as in QEMU.
 * - `crumple(flat)`: the reverse, with QEMU's errors: names `a.0`, `a.1` make a list, and a name
 *   cannot be both scalar and container, or both list and object. A dot in a name is written `..`.
 * - `extract(flat, 'file')`: the members under `file.`, taken out of `flat`.
 *
 * Only own keys count, results have no prototype: `__proto__` is a name like any other.
 */
import { OptionError } from './option-error.js';

/** Scalars (any value that is no object or array) by dotted name. */
export type Flat = Record<string, unknown>;

function emptyRecord(): Record<string, unknown> {
  return Object.create(null) as Record<string, unknown>;
}

/** Whether flatten goes into a value: plain objects and arrays only, no class instances. */
function isContainer(value: unknown): value is object {
  if (typeof value !== 'object' || value === null) return false;
  if (Array.isArray(value)) return true;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === null || prototype === Object.prototype;
}

/** All scalars in `value` by dotted name. Values of undefined are left out. */
export function flatten(value: object): Flat {
  const flat = emptyRecord();
  const visit = (container: object, prefix: string): void => {
    for (const [key, each] of Object.entries(container) as [string, unknown][]) {
      const name = prefix + key;
      if (isContainer(each)) visit(each, `${name}.`);
      else if (each !== undefined) flat[name] = each;
    }
  };
  visit(value, '');
  return flat;
}

/** A tree on its way from names to values; a leaf has no members. */
interface Branch {
  readonly members: Map<string, Branch>;
  scalar: { readonly value: unknown } | undefined;
}

function newBranch(): Branch {
  return { members: new Map(), scalar: undefined };
}

const mixed = (): OptionError => new OptionError('Cannot mix scalar and non-scalar keys');

/** The first part of a dotted name and what follows; `..` stands for a dot. */
function splitName(name: string): { head: string; rest: string | undefined } {
  let head = '';
  let from = 0;
  for (;;) {
    const dot = name.indexOf('.', from);
    if (dot < 0) return { head: head + name.slice(from), rest: undefined };
    head += name.slice(from, dot);
    if (name.charAt(dot + 1) !== '.') return { head, rest: name.slice(dot + 1) };
    head += '.';
    from = dot + 2;
  }
}

function insert(root: Branch, name: string, value: unknown): void {
  let at = root;
  let left: string | undefined = name;
  while (left !== undefined) {
    if (at.scalar !== undefined) throw mixed();
    const { head, rest }: { head: string; rest: string | undefined } = splitName(left);
    let next = at.members.get(head);
    if (next === undefined) at.members.set(head, (next = newBranch()));
    at = next;
    left = rest;
  }
  if (at.members.size > 0 || at.scalar !== undefined) throw mixed();
  at.scalar = { value };
}

const INDEX = /^\s*[+-]?\d+$/;

function buildList(members: ReadonlyMap<string, Branch>): unknown[] {
  const largest = Math.max(...[...members.keys()].map(Number));
  const count = members.size;
  if (largest !== count - 1) {
    const saw = `saw ${String(count)} elements but ${String(largest)} largest index`;
    throw new OptionError(`List indices are not contiguous, ${saw}`);
  }
  const list: unknown[] = [];
  for (let index = 0; index < count; index++) {
    const member = members.get(String(index));
    if (member === undefined) throw new OptionError(`Missing list index ${String(index)}`);
    list.push(build(member));
  }
  return list;
}

function build(branch: Branch): unknown {
  if (branch.scalar !== undefined) return branch.scalar.value;
  const { members } = branch;
  let indexes = 0;
  for (const name of members.keys()) if (INDEX.test(name)) indexes++;
  if (indexes > 0 && indexes < members.size) {
    throw new OptionError('Cannot mix list and non-list keys');
  }
  if (indexes > 0) return buildList(members);
  const object = emptyRecord();
  for (const [name, member] of members) object[name] = build(member);
  return object;
}

/**
 * Dotted names to nested objects and lists. Values that are containers themselves keep their
 * place. Throws {@link OptionError} when names contradict each other, or when the whole would be
 * a list.
 */
export function crumple(flat: object): Record<string, unknown> {
  const root = newBranch();
  for (const [name, value] of Object.entries(flatten(flat))) insert(root, name, value);
  const built = build(root);
  if (Array.isArray(built)) {
    throw new OptionError("Invalid parameter type for '<anonymous>', expected: object");
  }
  return built as Record<string, unknown>;
}

/** The members of `flat` whose names begin with `name.`, without that, removed from `flat`. */
export function extract(flat: Flat, name: string): Flat {
  const prefix = `${name}.`;
  const found = emptyRecord();
  for (const key of Object.keys(flat)) {
    if (!key.startsWith(prefix)) continue;
    found[key.slice(prefix.length)] = flat[key];
    Reflect.deleteProperty(flat, key);
  }
  return found;
}
