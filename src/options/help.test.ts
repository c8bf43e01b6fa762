// Goal: a declaration tells its options. Method: a struct and a union with every kind of field.
import { describe, expect, it } from 'vitest';
import { describeFields, formatFieldHelp, typeText } from './help.js';
import { t } from './schema.js';
import type { Decl } from './schema.js';

const secret = t.struct('SecretProperties', {
  data: t.optional(t.str({ doc: 'the secret itself', secret: true })),
  format: t.enumOf('raw', 'base64', { default: 'raw', doc: 'encoding of the data' }),
  limits: t.struct('Limits', { 'iops-total': t.optional(t.int()) }),
  loaded: t.bool({ default: false, deprecated: 'has no effect' }),
});

describe('typeText', () => {
  it.each<[Decl, string]>([
    [t.str(), 'string'],
    [t.bool(), 'bool'],
    [t.size(), 'size'],
    [t.int(), 'int'],
    [t.uint(), 'uint64'],
    [t.uint({ bits: 32 }), 'uint32'],
    [t.int({ min: 1, max: 9 }), '1..9'],
    [t.id64(), 'uint64'],
    [t.number(), 'number'],
    [t.null(), 'null'],
    [t.any(), 'value'],
    [t.enumOf('a', 'b'), 'a|b'],
    [t.arrayOf(t.str()), 'list of string'],
    [t.lazy(() => secret), 'SecretProperties'],
    [t.ref('BlockdevRef'), 'BlockdevRef'],
    [t.alternate({ str: t.str() }, { name: 'StrOrNull' }), 'StrOrNull'],
  ])('%#: %s', (decl, text) => {
    expect(typeText(decl)).toBe(text);
  });
});

describe('describeFields', () => {
  it('goes into structs and says what is required and what the default is', () => {
    const rows = describeFields(secret);
    expect(rows.map(({ name, required, default: value }) => [name, required, value])).toEqual([
      ['data', false, undefined],
      ['format', false, 'raw'],
      ['limits.iops-total', false, undefined],
      ['loaded', false, 'off'],
    ]);
    expect(rows[0]?.meta.secret).toBe(true);
  });

  it('tells for which branch of a union an option is', () => {
    const union = t.union(
      'U',
      'driver',
      { file: t.struct('F', { filename: t.str() }), raw: t.struct('R', { size: t.size() }) },
      { base: { driver: t.enumOf('file', 'raw') } },
    );
    expect(describeFields(union).map(({ name, when }) => [name, when])).toEqual([
      ['driver', undefined],
      ['filename', 'driver=file'],
      ['size', 'driver=raw'],
    ]);
    expect(describeFields(t.lazy(() => union))).toHaveLength(3);
    expect(describeFields(t.str())).toEqual([]);
  });
});

describe('formatFieldHelp', () => {
  it('lists options by name', () => {
    expect(formatFieldHelp('secret options', secret)).toBe(
      [
        'secret options:',
        '  data=<string>          - the secret itself',
        '  format=<raw|base64>    - encoding of the data (default: raw)',
        '  limits.iops-total=<int>',
        '  loaded=<bool>',
      ].join('\n'),
    );
  });
});
