// Goal: key=value lists with dotted keys read as QEMU 10's. Method: tables of what
// qemu-storage-daemon 10.0.2 --blockdev answered, and properties.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isJsonArgument, parseKeyval } from './keyval.js';
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

const good: [string, unknown][] = [
  ['', {}],
  ['driver=x', { driver: 'x' }],
  ['x', { driver: 'x' }],
  ['x,', { driver: 'x' }],
  ['x{', { driver: 'x{' }],
  ['a=1,', { a: '1' }],
  ['a=', { a: '' }],
  ['a==b', { a: '=b' }],
  ['driver=x,,', { driver: 'x,' }],
  ['driver=x,,y,b=1', { driver: 'x,y', b: '1' }],
  ['a=1,,,b=2', { a: '1,', b: '2' }],
  ['a=1,a=2', { a: '2' }],
  ['a.b.c=1,a.d=2', { a: { b: { c: '1' }, d: '2' } }],
  ['a.0=x,a.1.b=y', { a: ['x', { b: 'y' }] }],
  ['a.1=y,a.0=x', { a: ['x', 'y'] }],
  ['a.00=x', { a: ['x'] }],
  ['A_b-1=1,a-=2,a_=3', { 'A_b-1': '1', 'a-': '2', a_: '3' }],
  ['__org.foo_bar=1', { '__org.foo_bar': '1' }],
  ['a.__b.c_d=1', { a: { '__b.c_d': '1' } }],
  ['help=,a=1', { help: '', a: '1' }],
  ['x.help', { driver: 'x.help' }],
  [`${'a'.repeat(127)}=1`, { ['a'.repeat(127)]: '1' }],
];

const bad: [string, string][] = [
  [',', "Invalid parameter ''"],
  [',a=1', "Invalid parameter ''"],
  ['=x', "Invalid parameter ''"],
  ['x,,y', "Invalid parameter ''"],
  ['a,,', "Invalid parameter ''"],
  ['a..b=1', "Invalid parameter 'a..b'"],
  ['.a=1', "Invalid parameter '.a'"],
  ['a.=1', "Invalid parameter 'a.'"],
  ['0=a', "Invalid parameter '0'"],
  ['1a=2', "Invalid parameter '1a'"],
  ['a.0b=1', "Invalid parameter 'a.0b'"],
  ['-a=1', "Invalid parameter '-a'"],
  ['_a=1', "Invalid parameter '_a'"],
  ['__a=1', "Invalid parameter '__a'"],
  ['__=1', "Invalid parameter '__'"],
  ['__proto__=1', "Invalid parameter '__proto__'"],
  ['a%=1', "Invalid parameter 'a%'"],
  ['ünï=1', "Invalid parameter 'ünï'"],
  [' a=1', "Invalid parameter ' a'"],
  ['a =1', "Invalid parameter 'a '"],
  ['a=1,?=3', "Invalid parameter '?'"],
  ['driver=x,b', "Expected '=' after parameter 'b'"],
  ['?,x', "Expected '=' after parameter 'x'"],
  ['help,a..b=1', "Invalid parameter 'a..b'"],
  ['a.0=a,a.2=b', "Parameter 'a.1' missing"],
  ['a.1=a', "Parameter 'a.0' missing"],
  ['a.9999999999999=1', "Parameter 'a.0' missing"],
  ['a.18446744073709551616=x,a.0=1', "Parameter 'a.1' missing"],
  ['a.0.1=1', "Parameter 'a.0.0' missing"],
  ['a.0=a,a.x=b', "Parameters 'a.*' used inconsistently"],
  ['a.0=a,a=b', "Parameters 'a.*' used inconsistently"],
  ['a=b,a.0=a', "Parameters 'a.*' used inconsistently"],
  ['a=1,a.b.c=2', "Parameters 'a.*' used inconsistently"],
  ['a.b.c=1,a.b=2', "Parameters 'a.b.*' used inconsistently"],
  ['a.b=1,a.b.c=2', "Parameters 'a.b.*' used inconsistently"],
  ['a.b.0=1,a.b.c=1', "Parameters 'a.b.*' used inconsistently"],
  [`${'a'.repeat(128)}=1`, `Parameter '${'a'.repeat(128)}' is too long`],
  [`b.${'a'.repeat(128)}=1`, `Parameter fragment '${'a'.repeat(128)}' is too long`],
];

describe('parseKeyval', () => {
  it.each(good)('reads %j', (text, value) => {
    expect(parseKeyval(text, 'driver')).toEqual({ value, help: false });
  });

  it.each(bad)('refuses %j: %s', (text, message) => {
    expect(messageOf(() => parseKeyval(text, 'driver'))).toBe(message);
  });

  it('sees requests for help and reads the rest', () => {
    expect(parseKeyval('help', 'driver')).toEqual({ value: {}, help: true });
    expect(parseKeyval('x,help,a=1', 'driver')).toEqual({
      value: { driver: 'x', a: '1' },
      help: true,
    });
    expect(parseKeyval('?')).toEqual({ value: {}, help: true });
  });

  it('needs keys where none is implied', () => {
    expect(() => parseKeyval('nbd')).toThrow("Expected '=' after parameter 'nbd'");
  });

  it('makes objects without prototype', () => {
    const { value } = parseKeyval('constructor=1,a.toString=2');
    expect(Object.getPrototypeOf(value)).toBeNull();
    expect(Object.getPrototypeOf(value['a'])).toBeNull();
    expect(Object.keys(value)).toEqual(['constructor', 'a']);
  });

  it('reads back any nested value written as dotted keys', () => {
    const name = fc.stringMatching(/^[A-Za-z][A-Za-z0-9_-]{0,5}$/);
    const text = fc.string().map((each) => each.replaceAll('\0', ''));
    const { object } = fc.letrec<{ value: unknown; object: Record<string, unknown> }>((tie) => ({
      value: fc.oneof(
        { depthSize: 'small' },
        text,
        fc.array(tie('value'), { minLength: 1, maxLength: 3 }),
        fc.dictionary(name, tie('value'), { minKeys: 1, maxKeys: 3 }),
      ),
      object: fc.dictionary(name, tie('value'), { minKeys: 1, maxKeys: 4 }),
    }));
    const write = (value: unknown, path: string): string[] =>
      typeof value === 'string'
        ? [`${path}=${value.replaceAll(',', ',,')}`]
        : Object.entries(value as object).flatMap(([key, each]) =>
            write(each, path === '' ? key : `${path}.${key}`),
          );
    fc.assert(
      fc.property(object, (value) => {
        expect(parseKeyval(write(value, '').join(',')).value).toEqual(value);
      }),
    );
  });

  it('answers any text with a value or an OptionError', () => {
    const text = fc.array(fc.constantFrom(...'ab01.,=-_ ?x'.split('')), { maxLength: 20 });
    fc.assert(
      fc.property(text, (units) => {
        try {
          parseKeyval(units.join(''), 'driver');
        } catch (error) {
          expect(error).toBeInstanceOf(OptionError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('isJsonArgument', () => {
  it('goes by the first character, as QEMU does', () => {
    expect(isJsonArgument('{"a":1}')).toBe(true);
    expect(isJsonArgument(' {}')).toBe(false);
    expect(isJsonArgument('[1]')).toBe(false);
  });
});
