// Goal: dotted names and nested objects turn into each other as in QEMU 10. Method: the errors that
// qemu-img 10.0.2 --image-opts driver=nbd,server.… answered, and properties.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { crumple, extract, flatten } from './flatten.js';
import { OptionError } from './option-error.js';

/** Text of the OptionError that `act` throws. */
function messageOf(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (error instanceof OptionError) return error.message;
    throw error;
  }
  return 'no error';
}

const listFail = "Invalid parameter type for '<anonymous>', expected: object";

const bad: [object, string][] = [
  [{ 'x.0': 'a', 'x.2': 'b' }, contiguous(2, 2)],
  [{ 'x.1': 'a' }, contiguous(1, 1)],
  [{ 'x.-1': 'a' }, contiguous(1, -1)],
  [{ 'x.+1': 'a' }, contiguous(1, 1)],
  [{ 'x.2147483648': 'a' }, contiguous(1, 2147483648)],
  [{ 'x.00': 'a' }, 'Missing list index 0'],
  [{ 'x.01': 'a', 'x.0': 'b' }, 'Missing list index 1'],
  [{ 'x.0': 'a', 'x.y': 'b' }, 'Cannot mix list and non-list keys'],
  [{ 'x.y.0': 'a', 'x.y.z': 'b' }, 'Cannot mix list and non-list keys'],
  [{ 'x.y': 'a', 'x.y.z': 'b' }, 'Cannot mix scalar and non-scalar keys'],
  [{ 'x.0.y': 'a', 'x.0': 'b' }, 'Cannot mix scalar and non-scalar keys'],
  [{ 'x.y.z': 'a', x: { y: 'b' } }, 'Cannot mix scalar and non-scalar keys'],
  [{ '0': 'a', '1': 'b' }, listFail],
];

function contiguous(count: number, largest: number): string {
  const saw = `saw ${String(count)} elements but ${String(largest)} largest index`;
  return `List indices are not contiguous, ${saw}`;
}

describe('flatten', () => {
  it('names scalars by their path and drops empty containers', () => {
    const nested = { a: { b: [1, { c: null }], d: {}, e: [] }, f: true, g: undefined, 'h.i': 2 };
    expect(flatten(nested)).toEqual({ 'a.b.0': 1, 'a.b.1.c': null, f: true, 'h.i': 2 });
  });

  it('does not go into instances of classes', () => {
    const secret = new Uint8Array(2);
    expect(flatten({ a: { key: secret } })).toEqual({ 'a.key': secret });
  });
});

describe('crumple', () => {
  it.each(bad)('refuses %j: %s', (flat, message) => {
    expect(messageOf(() => crumple(flat))).toBe(message);
  });

  it('nests names, makes lists, joins what is nested already', () => {
    const flat = { 'a.b.1': 'y', 'a.b.0': 'x', 'file.driver': 'f', file: { name: 'n' }, s: 1 };
    expect(crumple(flat)).toEqual({
      a: { b: ['x', 'y'] },
      file: { driver: 'f', name: 'n' },
      s: 1,
    });
  });

  it('takes two dots for one in a name', () => {
    expect(crumple({ 'a..b.c': 1, 'd..': 2 })).toEqual({ 'a.b': { c: 1 }, 'd.': 2 });
  });

  it('keeps __proto__ a name like any other', () => {
    const value = crumple({ '__proto__.polluted': 1 });
    expect(Object.getPrototypeOf(value)).toBeNull();
    expect(Object.keys(value)).toEqual(['__proto__']);
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  });

  it('is the reverse of flatten for values without empty containers', () => {
    const name = fc.stringMatching(/^[a-z_][a-z0-9_-]{0,4}$/);
    const { object } = fc.letrec<{ value: unknown; object: Record<string, unknown> }>((tie) => ({
      value: fc.oneof(
        { depthSize: 'small' },
        fc.oneof(fc.string(), fc.integer(), fc.boolean(), fc.constant(null)),
        fc.array(tie('value'), { minLength: 1, maxLength: 12 }),
        fc.dictionary(name, tie('value'), { minKeys: 1, maxKeys: 3 }),
      ),
      object: fc.dictionary(name, tie('value'), { minKeys: 1, maxKeys: 4 }),
    }));
    fc.assert(
      fc.property(object, (value) => {
        expect(crumple(flatten(value))).toEqual(value);
      }),
    );
  });
});

describe('extract', () => {
  it('takes the members of one name out', () => {
    const flat = flatten({ file: { driver: 'x', node: { a: 1 } }, filename: 'y' });
    expect(extract(flat, 'file')).toEqual({ driver: 'x', 'node.a': 1 });
    expect(flat).toEqual({ filename: 'y' });
  });
});
