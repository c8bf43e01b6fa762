// Goal: the old option lists read as QEMU 10's. Method: what qemu-img 10.0.2 made of them in
// create -o and info --image-opts.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { isIdentifier, optBool, optNumber, optSize } from './opt-values.js';
import { OptionError } from './option-error.js';
import { hasHelp, isOptionList, parseOpts, splitOpts } from './qemu-opts.js';

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

const pairs = (text: string, implied?: string) =>
  splitOpts(text, implied).map(({ name, value }) => `${name}=${value}`);

describe('splitOpts', () => {
  it.each<[string, string[]]>([
    ['', []],
    ['a=1,b=2', ['a=1', 'b=2']],
    ['a=1=2', ['a=1=2']],
    ['a=x,,y,b=', ['a=x,y', 'b=']],
    ['a=off,,,,b=on', ['a=off,,b=on']],
    ['a=64k,,,flag', ['a=64k,', 'flag=on']],
    ['flag', ['flag=on']],
    ['noflag', ['flag=off']],
    ['nocow', ['cow=off']],
    ['no', ['=off']],
    ['no_such', ['_such=off']],
    ['a,,b=1', ['a=on', '=on', 'b=1']],
    ['=1', ['=1']],
    [' a =1', [' a =1']],
    ['a=1,', ['a=1']],
  ])('%j', (text, expected) => {
    expect(pairs(text)).toEqual(expected);
  });

  it('gives a first value without name to the implied one, commas unescaped', () => {
    expect(pairs('a.img,b=1', 'file')).toEqual(['file=a.img', 'b=1']);
    expect(pairs('a,,b.img', 'file')).toEqual(['file=a,b.img']);
    expect(pairs(',', 'file')).toEqual(['file=']);
    expect(pairs('x=1,flag', 'file')).toEqual(['x=1', 'flag=on']);
  });
});

describe('parseOpts', () => {
  it('lets the last of equal names count and takes the id out', () => {
    const { id, values, warnings } = parseOpts('size=1k,id=d0,size=2k,flag', { implied: 'file' });
    expect(id).toBe('d0');
    expect([...values]).toEqual([
      ['size', '2k'],
      ['flag', 'on'],
    ]);
    expect(warnings).toEqual([]);
  });

  it('warns of flags where QEMU does', () => {
    expect(parseOpts('a=1,flag,noother', { warnFlags: true }).warnings).toEqual([
      "short-form boolean option 'flag' deprecated\nPlease use flag=on instead",
      "short-form boolean option 'noother' deprecated\nPlease use other=off instead",
    ]);
  });

  it('refuses what is no identifier, with a hint', () => {
    let caught: unknown;
    try {
      parseOpts('id=1');
    } catch (error) {
      caught = error;
    }
    expect(caught).toMatchObject({
      message: "Parameter 'id' expects an identifier",
      hint: "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
    });
    expect(isIdentifier('a.b-c_1')).toBe(true);
    expect(isIdentifier('')).toBe(false);
  });

  it('reads back any values whose commas are doubled', () => {
    const name = fc.stringMatching(/^[a-z][a-z._-]{0,6}$/).filter((each) => each !== 'id');
    fc.assert(
      fc.property(fc.dictionary(name, fc.string(), { noNullPrototype: true }), (given) => {
        const text = Object.entries(given)
          .map(([key, value]) => `${key}=${value.replaceAll(',', ',,')}`)
          .join(',');
        expect(Object.fromEntries(parseOpts(text).values)).toEqual(given);
      }),
    );
  });
});

describe('hasHelp', () => {
  it.each([
    ['help', true],
    ['?', true],
    ['a=1,help', true],
    ['x,,help,y', true],
    ['help,a=1', true],
    ['a=,,help', false],
    ['a=help', false],
    ['help=1', false],
    ['nohelp', false],
    ['helpx', false],
    ['', false],
  ])('%j: %s', (text, expected) => {
    expect(hasHelp(text)).toBe(expected);
  });
});

describe('isOptionList', () => {
  it.each([
    ['a=b', true],
    ['a=b,,', true],
    ['a=b,,,,', true],
    ['', false],
    [',', false],
    [',,', false],
    [',a=b', false],
    ['a=b,', false],
    ['a=b,,,', false],
  ])('%j: %s', (text, expected) => {
    expect(isOptionList(text)).toBe(expected);
  });
});

describe('values', () => {
  it.each<[() => unknown, string]>([
    [() => optBool('x', '1'), "Parameter 'x' expects 'on' or 'off'"],
    [() => optBool('x', 'On'), "Parameter 'x' expects 'on' or 'off'"],
    [() => optNumber('x', '1k'), "Parameter 'x' expects a number"],
    [() => optNumber('x', ''), "Parameter 'x' expects a number"],
    [() => optNumber('x', '99999999999999999999999'), tooLarge('99999999999999999999999')],
    [() => optSize('x', '64kB'), "Parameter 'x' expects a non-negative number below 2^64"],
    [() => optSize('x', '20E'), "Value '20E' is out of range for parameter 'x'"],
    [
      () => optSize('x', '8E'),
      "Parameter 'x' expects a value from 0 to 9007199254740991 (2^53 - 1)",
    ],
  ])('are refused: %s', (act, message) => {
    expect(messageOf(act)).toBe(message);
  });

  it('are converted', () => {
    expect(['on', 'yes', 'true', 'y'].map((word) => optBool('x', word))).not.toContain(false);
    expect(['off', 'no', 'false', 'n'].map((word) => optBool('x', word))).not.toContain(true);
    expect(optNumber('x', '0x10')).toBe(16n);
    expect(optNumber('x', '-1')).toBe(-1n);
    expect(optSize('x', ' 64k')).toBe(65536);
  });
});

function tooLarge(text: string): string {
  return `Value '${text}' is too large for parameter 'x'`;
}
