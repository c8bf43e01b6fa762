// Goal: JSON is read and printed as QEMU 10 does. Method: tables of what qemu-img 10.0.2 said to
// `json:…` names and qemu-storage-daemon 10.0.2 to QMP input; properties against JSON.parse.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { JsonResult } from './json-text.js';
import {
  formatJson,
  formatJsonPretty,
  JsonDouble,
  JsonError,
  JsonStream,
  parseJson,
} from './json-text.js';

const bytes = (...parts: (string | number)[]) =>
  Uint8Array.from(
    parts.flatMap((p) => (typeof p === 'number' ? [p] : [...new TextEncoder().encode(p)])),
  );

/** Characters that QEMU's JSON does not have. */
const foreign = /\p{Noncharacter_Code_Point}|\p{Surrogate}|\\u(?:d[89a-f]|fd[de]|fff[ef])/u;

/** Without big integers, which JSON.stringify refuses, and with -0 as 0. */
function plain(value: unknown): unknown {
  const text = JSON.stringify(value, (_key, each: unknown) =>
    typeof each === 'bigint' ? Number(each) : each,
  );
  return JSON.parse(text);
}

function messageOf(text: string | Uint8Array): string {
  try {
    parseJson(text);
  } catch (error) {
    if (error instanceof JsonError) return error.message;
    throw error;
  }
  return 'no error';
}

const errors: [string, string][] = [
  ['', 'Expecting a JSON value'],
  [' ', 'Expecting a JSON value'],
  ['{"a":1} x', 'Expecting at most one JSON value'],
  ['{}{}', 'Expecting at most one JSON value'],
  ['{} @', 'Expecting at most one JSON value'],
  ['{"a":tru} x', "JSON parse error, invalid keyword 'tru'"],
  ['+1', "JSON parse error, stray '+'"],
  ['[01]', "JSON parse error, stray '01'"],
  ['[-01]', "JSON parse error, stray '-01'"],
  ['[1.]', "JSON parse error, stray '1.]'"],
  ['1.', "JSON parse error, stray '1.'"],
  ['[.5]', "JSON parse error, stray '.'"],
  ['[1e]', "JSON parse error, stray '1e]'"],
  ['[0x10]', 'JSON parse error, expected separator in list'],
  ['[-]', "JSON parse error, stray '-]'"],
  ['[- 1]', "JSON parse error, stray '- '"],
  ['[--1]', "JSON parse error, stray '--'"],
  ['[1e5.3]', "JSON parse error, stray '.'"],
  ['True', "JSON parse error, stray 'T'"],
  ['[nul]', "JSON parse error, invalid keyword 'nul'"],
  ['[1true]', 'JSON parse error, expected separator in list'],
  ['a-b', "JSON parse error, invalid keyword 'a'"],
  ['[a-b]', "JSON parse error, stray '-b'"],
  ['"\\z"', 'JSON parse error, invalid escape sequence in string'],
  ['"\\UABCD"', 'JSON parse error, invalid escape sequence in string'],
  ['"\\u12"', 'JSON parse error, \\u12" is not a valid Unicode character'],
  ["['\\u12']", "JSON parse error, \\u12' is not a valid Unicode character"],
  ['"\\ué"', 'JSON parse error, \\ué" is not a valid Unicode character'],
  ['"\\u+123"', 'JSON parse error, \\u+123 is not a valid Unicode character'],
  ['"\\ud800"', 'JSON parse error, \\ud800 is not a valid Unicode character'],
  ['"\\udc00"', 'JSON parse error, \\udc00 is not a valid Unicode character'],
  ['"\\ud83d\\n"', 'JSON parse error, \\ud83d is not a valid Unicode character'],
  ['"\\ud83d\\ud"', 'JSON parse error, \\ud83d is not a valid Unicode character'],
  ['"\\ud83f\\udffe"', 'JSON parse error, \\ud83f\\udffe is not a valid Unicode character'],
  ['"\\ufffe"', 'JSON parse error, \\ufffe is not a valid Unicode character'],
  ['"\\ufdd0"', 'JSON parse error, \\ufdd0 is not a valid Unicode character'],
  ['"\uffff"', 'JSON parse error, invalid UTF-8 sequence in string'],
  ['"\u{1fffe}"', 'JSON parse error, invalid UTF-8 sequence in string'],
  ['"\t"', "JSON parse error, stray '\"\t'"],
  ['"a\nb"', "JSON parse error, stray '\"a\n'"],
  ['["abc]', "JSON parse error, stray '\"abc]'"],
  ["'abc", "JSON parse error, stray ''abc'"],
  ['[1,]', 'JSON parse error, expecting value'],
  ['[1 2]', 'JSON parse error, expected separator in list'],
  ['[1 2', 'JSON parse error, expected separator in list'],
  ['[,]', 'JSON parse error, expecting value'],
  ['{,}', 'JSON parse error, expecting value'],
  ['{"a"}', 'JSON parse error, missing : in object pair'],
  ['{"a" 1', 'JSON parse error, missing : in object pair'],
  ['{"a":}', 'JSON parse error, expecting value'],
  ['{"a":1,}', 'JSON parse error, expecting value'],
  ['{"a":1 "b":2}', 'JSON parse error, expected separator in dict'],
  ['{a:1}', "JSON parse error, invalid keyword 'a'"],
  ['{1:1}', 'JSON parse error, key is not a string in object'],
  ['{true:1}', 'JSON parse error, key is not a string in object'],
  ['{[]:1}', 'JSON parse error, key is not a string in object'],
  ['{"a":1,"a":2}', 'JSON parse error, duplicate key'],
  ['{"a":1,"a":2', 'JSON parse error, duplicate key'],
  ['{"a":{"x":1,"x":1}}', 'JSON parse error, duplicate key'],
  ['{"__proto__":1,"__proto__":2}', 'JSON parse error, duplicate key'],
  ['[%d]', "JSON parse error, stray '%'"],
  ['/*c*/1', "JSON parse error, stray '/'"],
  ['é', "JSON parse error, stray '\ufffd'"],
  ['\u0000', "JSON parse error, stray ''"],
  ['[', 'JSON parse error, premature EOI'],
  ['{"a":1,', 'JSON parse error, premature EOI'],
  [']', 'JSON parse error, expecting value'],
  ['[}', 'JSON parse error, expecting value'],
  ['[1}', 'JSON parse error, expected separator in list'],
  ['{"a" 1, @}', "JSON parse error, stray '@'"],
];

describe('parseJson', () => {
  it.each(errors)('refuses %j: %s', (text, message) => {
    expect(messageOf(text)).toBe(message);
  });

  it('refuses bytes that are no UTF-8', () => {
    const bad = 'JSON parse error, invalid UTF-8 sequence in string';
    expect(messageOf(bytes('"', 0xed, 0xa0, 0x80, '"'))).toBe(bad);
    expect(messageOf(bytes('"', 0xf4, 0x90, 0x80, 0x80, '"'))).toBe(bad);
    expect(messageOf(bytes('"', 0x80, '"'))).toBe(bad);
    expect(messageOf(bytes('"', 0xff, '"'))).toBe("JSON parse error, stray '\"\ufffd'");
    expect(messageOf(bytes(0xff))).toBe("JSON parse error, stray '\ufffd'");
  });

  it('takes single quotes, escapes and characters outside the first plane', () => {
    expect(parseJson(`{'a"b': "it's", "c": '\\'\\"\\/\\b\\f\\n\\r\\t\\\\'}`)).toEqual({
      'a"b': "it's",
      c: '\'"/\b\f\n\r\t\\',
    });
    expect(parseJson('"\\u0000\\u00e9é\\ud83d\\ude00😀\u007f"')).toBe('\0éé😀😀\u007f');
  });

  it('keeps integers exact, rounds what has more than 64 bits', () => {
    expect(parseJson('[9007199254740991, 9007199254740993, -9223372036854775808]')).toEqual([
      9007199254740991,
      9007199254740993n,
      -9223372036854775808n,
    ]);
    expect(parseJson('[18446744073709551615, 18446744073709551616]')).toEqual([
      18446744073709551615n,
      18446744073709551616,
    ]);
  });

  it('tells 1.0 from 1 when asked to', () => {
    const kept = parseJson('[1, 1.0, 1e3, 99999999999999999999]', { doubles: 'keep' });
    expect(kept).toEqual([1, new JsonDouble(1), new JsonDouble(1000), new JsonDouble(1e20)]);
    expect(parseJson('[1.0, 1E+3, -0.5]')).toEqual([1, 1000, -0.5]);
  });

  it('keeps __proto__ a name like any other', () => {
    const value = parseJson('{"__proto__": {"polluted": true}, "constructor": 1}');
    expect(Object.keys(value as object)).toEqual(['__proto__', 'constructor']);
    expect(Object.getPrototypeOf(value)).toBeNull();
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  });

  it('stops at 1024 levels', () => {
    expect(messageOf('['.repeat(1024) + ']'.repeat(1024))).toBe('no error');
    expect(messageOf('['.repeat(1025))).toBe('JSON nesting depth limit exceeded');
    expect(messageOf('{"a":'.repeat(1025))).toBe('JSON nesting depth limit exceeded');
  });

  it('stops at its limits of bytes and tokens', () => {
    expect(() => parseJson('[1, 2, 3]', { maxTokens: 6 })).toThrow('JSON token count limit');
    expect(parseJson('[1, 2, 3]', { maxTokens: 7 })).toEqual([1, 2, 3]);
    expect(() => parseJson('["abc", "def"]', { maxBytes: 9 })).toThrow('JSON token size limit');
    expect(() => parseJson(`"${'a'.repeat(99)}`, { maxBytes: 9 })).toThrow('JSON token size limit');
    expect(parseJson('["abc", "def"]', { maxBytes: 10 })).toEqual(['abc', 'def']);
  });

  it('reads all that JSON.stringify writes', () => {
    fc.assert(
      fc.property(fc.jsonValue({ stringUnit: 'binary' }), (value) => {
        const text = JSON.stringify(value);
        if (foreign.test(text)) return;
        expect(plain(parseJson(text))).toEqual(plain(JSON.parse(text)));
      }),
    );
  });
});

function outcomes(results: JsonResult[]): unknown[] {
  return results.map((each) => ('error' in each ? each.error.message : each.value));
}

function readAll(text: string | Uint8Array): unknown[] {
  const stream = new JsonStream();
  return outcomes([...stream.push(text), ...stream.end()]);
}

describe('JsonStream', () => {
  const expectingValue = 'JSON parse error, expecting value';

  it.each<[string, unknown[]]>([
    ['{"a":1} {"b":2}\n', [{ a: 1 }, { b: 2 }]],
    ['@@@ 1', ["JSON parse error, stray '@'"]],
    ['@abc\n1 ', ["JSON parse error, stray '@'", 1]],
    ['@\t5 ', ["JSON parse error, stray '@'"]],
    ['@\x015 ', ["JSON parse error, stray '@'", "JSON parse error, stray '\x01'"]],
    ['@,5 ', ["JSON parse error, stray '@'", expectingValue, 5]],
    ['"\x01{}', ["JSON parse error, stray '\"\x01'", {}]],
    ['"abc\n"{}', ["JSON parse error, stray '\"abc\n'", {}]],
    ['[1}]', ['JSON parse error, expected separator in list', expectingValue]],
    ['[{]}]', [expectingValue, expectingValue]],
    ['{"a":[}]}', [expectingValue, expectingValue]],
    ['{"a":tru} 1 ', ["JSON parse error, invalid keyword 'tru'", 1]],
    ['x 1 ', ["JSON parse error, invalid keyword 'x'", 1]],
    [`${'['.repeat(1025)}] 5 `, ['JSON nesting depth limit exceeded', expectingValue, 5]],
  ])('goes on after errors where QEMU does: %j', (text, expected) => {
    expect(readAll(text)).toEqual(expected);
  });

  it('needs no delimiter after a closing bracket, but one after a number', () => {
    const stream = new JsonStream();
    expect(outcomes(stream.push('{"a":1}'))).toEqual([{ a: 1 }]);
    expect(outcomes(stream.push('12'))).toEqual([]);
    expect(outcomes(stream.push(' '))).toEqual([12]);
    expect(outcomes(stream.end())).toEqual([]);
  });

  it('gives the same whatever pieces the input comes in', () => {
    const alphabet = fc.constantFrom(...'{}[],:"\'\\u0123.e-+ntrualsfé@ \n\t\x01'.split(''));
    const text = fc.oneof(
      fc.array(alphabet, { maxLength: 60 }).map((units) => units.join('')),
      fc.jsonValue().map((value) => JSON.stringify(value)),
    );
    fc.assert(
      fc.property(text, fc.array(fc.nat(7), { minLength: 1, maxLength: 9 }), (whole, cuts) => {
        const input = new TextEncoder().encode(whole);
        const stream = new JsonStream();
        const results: JsonResult[] = [];
        let at = 0;
        for (let turn = 0; at < input.length; turn++) {
          const end = at + (cuts[turn % cuts.length] ?? 0) + 1;
          results.push(...stream.push(input.subarray(at, end)));
          at = end;
        }
        results.push(...stream.end());
        expect(outcomes(results)).toEqual(readAll(whole));
      }),
      { numRuns: 500 },
    );
  });

  it('does not keep a token that is too long', () => {
    const stream = new JsonStream({ maxBytes: 1000 });
    const results: JsonResult[] = [...stream.push('"')];
    for (let turn = 0; turn < 1000; turn++) results.push(...stream.push('a'.repeat(100)));
    results.push(...stream.push('" \n5 '));
    expect(outcomes(results)).toEqual(['JSON token size limit exceeded', 5]);
  });
});

describe('formatJson', () => {
  it('prints one line with a blank after colons and commas', () => {
    expect(formatJson({ a: [1, true, null, { b: 'x' }], c: {}, d: [], e: undefined })).toBe(
      '{"a": [1, true, null, {"b": "x"}], "c": {}, "d": []}',
    );
  });

  it('escapes as QEMU does', () => {
    expect(formatJson('\0\x01\x7f\x80é😀/\'"\\\b\f\n\r\t\u2028\ud800')).toBe(
      '"\\u0000\\u0001\\u007F\\u0080\\u00E9\\uD83D\\uDE00/\'\\"\\\\\\b\\f\\n\\r\\t\\u2028\\uFFFD"',
    );
  });

  it.each<[unknown, string]>([
    [2.5, '2.5'],
    [0.1, '0.10000000000000001'],
    [new JsonDouble(1000), '1000'],
    [1e22, '1e+22'],
    [1e17, '100000000000000000'],
    [2 ** 55, '36028797018963968'],
    [1e19, '1e+19'],
    [1.5e-7, '1.4999999999999999e-07'],
    [new JsonDouble(-0), '-0'],
    [0.30000000000000004, '0.30000000000000004'],
    [0.0001, '0.0001'],
    [123456789012345678n, '123456789012345678'],
    [18446744073709551615n, '18446744073709551615'],
    [-0, '0'],
    [Infinity, 'null'],
  ])('prints the number %s as %s', (value, text) => {
    expect(formatJson(value)).toBe(text);
  });

  it('prints over several lines as qemu-img info --output=json does', () => {
    expect(formatJsonPretty({ children: [], 'format-specific': { data: {}, a: [1, 2] } })).toBe(
      [
        '{',
        '    "children": [',
        '    ],',
        '    "format-specific": {',
        '        "data": {',
        '        },',
        '        "a": [',
        '            1,',
        '            2',
        '        ]',
        '    }',
        '}',
      ].join('\n'),
    );
  });

  it('prints what it reads back', () => {
    fc.assert(
      fc.property(fc.jsonValue({ stringUnit: 'binary' }), fc.boolean(), (value, pretty) => {
        const text = pretty ? formatJsonPretty(value) : formatJson(value);
        if (foreign.test(JSON.stringify(value))) return;
        expect(plain(parseJson(text))).toEqual(plain(value));
      }),
    );
  });
});
