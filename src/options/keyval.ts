/**
 * QEMU's key=value lists with dotted keys: `--blockdev driver=qcow2,file.filename=a,,b.img`, also
 * `--object`, `--export`, `--nbd-server`.
 *
 * `parseKeyval(text, 'driver')` gives nested objects and lists of strings, ready for
 * `parseValue(decl, value, { from: 'keyval' })`. `isJsonArgument(text)` tells whether QEMU takes
 * such an argument as JSON instead (it begins with `{`).
 *
 * Grammar: parameters are separated by `,` (one more at the end is allowed); `,,` in a value is a
 * comma. A key is names and list indexes separated by dots: names are letters, digits, `-`, `_`,
 * beginning with a letter (or a `__RFQDN_` prefix); the first part is a name. With an implied key,
 * a first parameter without `=` is its value, which then has no commas. The last of equal keys
 * counts. Keys `a.0`, `a.1`, … make a list. `help` or `?` as a parameter of its own is a request
 * for help.
 */
import { OptionError } from './option-error.js';

/** Nested values as parseKeyval gives them; objects have no prototype. */
export type KeyvalValue = string | KeyvalValue[] | KeyvalObject;

/** An object of keyval strings, lists and objects. */
export interface KeyvalObject {
  [key: string]: KeyvalValue;
}

/** A key=value list as read. */
export interface Keyval {
  /** With `help`, lists are left as objects and not checked. */
  readonly value: KeyvalObject;
  /** A parameter was `help` or `?`. */
  readonly help: boolean;
}

type Tree = Map<string, string | Tree>;

/** Greatest length of one part of a key, as in QEMU. */
const MAX_PART = 127;

const NAME = /^(?:__[A-Za-z0-9.-]+_)?[A-Za-z][A-Za-z0-9_-]*/;
const INDEX = /^\d+$/;

/** Whether an argument is JSON rather than a key=value list. */
export function isJsonArgument(text: string): boolean {
  return text.startsWith('{');
}

/** Where a key leads: the map that holds its last part. */
interface Slot {
  readonly map: Tree;
  readonly last: string;
  readonly parts: readonly string[];
}

/** The part that `rest` begins with; a list index only after the first part. */
function firstPart(rest: string, parts: readonly string[], key: string): string {
  const part = NAME.exec(rest)?.[0] ?? (parts.length > 0 ? /^\d+/.exec(rest)?.[0] : undefined);
  if (part === undefined) throw new OptionError(`Invalid parameter '${key}'`, key);
  if (part.length > MAX_PART) {
    const what = parts.length === 0 ? 'Parameter' : 'Parameter fragment';
    throw new OptionError(`${what} '${part}' is too long`, key);
  }
  return part;
}

/**
 * Follows a key part by part, making the maps on its way. Each part is checked before the one
 * before it is followed. Throws "Invalid parameter 'KEY'", "Parameter 'KEY' is too long", or
 * "Parameters 'PREFIX.*' used inconsistently".
 */
function follow(root: Tree, key: string): Slot {
  const parts: string[] = [];
  let map = root;
  let rest = key;
  for (;;) {
    const part = firstPart(rest, parts, key);
    const before = parts.at(-1);
    if (before !== undefined) {
      let next = map.get(before);
      if (next === undefined) map.set(before, (next = new Map()));
      if (typeof next === 'string') throw inconsistent(parts);
      map = next;
    }
    parts.push(part);
    if (part.length === rest.length) return { map, last: part, parts };
    if (rest.charAt(part.length) !== '.') {
      throw new OptionError(`Invalid parameter '${key}'`, key);
    }
    rest = rest.slice(part.length + 1);
  }
}

function inconsistent(parts: readonly string[]): OptionError {
  const prefix = parts.join('.');
  return new OptionError(`Parameters '${prefix}.*' used inconsistently`, prefix);
}

function store({ map, last, parts }: Slot, value: string): void {
  if (map.get(last) instanceof Map) throw inconsistent(parts);
  map.set(last, value);
}

/** The value that begins at `at`, and the index after the comma that ends it. */
function readValue(text: string, at: number): { value: string; end: number } {
  let value = '';
  let from = at;
  for (;;) {
    const comma = text.indexOf(',', from);
    if (comma < 0) return { value: value + text.slice(from), end: text.length };
    value += text.slice(from, comma);
    if (text.charAt(comma + 1) !== ',') return { value, end: comma + 1 };
    value += ',';
    from = comma + 2;
  }
}

/** The tree as objects, indexes being names like any other. */
function objectsOf(tree: Tree): KeyvalObject {
  const object = Object.create(null) as KeyvalObject;
  for (const [name, each] of tree) object[name] = typeof each === 'string' ? each : objectsOf(each);
  return object;
}

/** The tree as objects and lists; maps whose names are all indexes become lists. */
function finish(tree: Tree, path: readonly string[]): KeyvalValue {
  const indexes = [...tree.keys()].filter((name) => INDEX.test(name)).length;
  if (indexes > 0 && indexes < tree.size) throw inconsistent(path);
  const members = new Map<string, KeyvalValue>();
  for (const [name, each] of tree) {
    members.set(name, typeof each === 'string' ? each : finish(each, [...path, name]));
  }
  if (indexes > 0) return finishList(members, path);
  const object = Object.create(null) as KeyvalObject;
  for (const [name, each] of members) object[name] = each;
  return object;
}

function finishList(members: ReadonlyMap<string, KeyvalValue>, path: readonly string[]) {
  const byIndex = new Map<number, KeyvalValue>();
  for (const [name, each] of members) byIndex.set(Number(name), each);
  const list: KeyvalValue[] = [];
  for (let index = 0; index < byIndex.size; index++) {
    const each = byIndex.get(index);
    if (each === undefined) {
      const missing = [...path, String(index)].join('.');
      throw new OptionError(`Parameter '${missing}' missing`, missing);
    }
    list.push(each);
  }
  return list;
}

/**
 * Reads a key=value list; `implied` is the key of a first parameter that has none.
 * Throws {@link OptionError} with QEMU's text.
 */
export function parseKeyval(text: string, implied?: string): Keyval {
  const root: Tree = new Map();
  let help = false;
  let at = 0;
  while (at < text.length) {
    const stop = text.slice(at).search(/[=,]/);
    const keyEnd = stop < 0 ? text.length : at + stop;
    const key = text.slice(at, keyEnd);
    const assigned = text.charAt(keyEnd) === '=';
    if (!assigned && (key === 'help' || key === '?')) {
      help = true;
      at = keyEnd + 1;
      continue;
    }
    if (!assigned && at === 0 && implied !== undefined && key !== '') {
      store(follow(root, implied), key);
      at = keyEnd + 1;
      continue;
    }
    const slot = follow(root, key);
    if (!assigned) throw new OptionError(`Expected '=' after parameter '${key}'`, key);
    const { value, end } = readValue(text, keyEnd + 1);
    store(slot, value);
    at = end;
  }
  return { value: help ? objectsOf(root) : (finish(root, []) as KeyvalObject), help };
}
