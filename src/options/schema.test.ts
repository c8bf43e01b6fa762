// Goal: declarations check, convert and type values as QEMU 10's visitors do. Method: a small
// schema like the block layer's, and for each breach the text that qemu-storage-daemon 10.0.2
// printed for it (QMP and --blockdev) or qemu-img 10.0.2 (--image-opts).
import fc from 'fast-check';
import { describe, expect, expectTypeOf, it } from 'vitest';
import { JsonDouble, parseJson } from '../lib/json-text.js';
import { OptionError, parseValue, t } from './schema.js';
import type { Decl, Infer, InferInput, ParseHow } from './schema.js';

type How = ParseHow['from'];

const blockRef = t.alternate(
  { str: t.str(), object: t.ref<object>('BlockdevOptions') },
  { name: 'BlockdevRef' },
);
const base = {
  driver: t.enumOf('file', 'null-co', 'qcow2', 'quorum', 'nbd'),
  'node-name': t.optional(t.str()),
  cache: t.optional(t.struct('Cache', { direct: t.optional(t.bool()) })),
  discard: t.optional(t.enumOf('ignore', 'unmap', { invalid: () => 'Invalid discard option' })),
  'read-only': t.bool({ default: false }),
};
const address = t.union('SocketAddress', 'type', {
  inet: t.struct('Inet', { host: t.str(), port: t.str(), 'keep-alive': t.optional(t.bool()) }),
  unix: t.struct('Unix', { path: t.str() }),
});
const overlap = t.alternate(
  { str: t.enumOf('none', 'all'), object: t.struct('Flags', { template: t.optional(t.str()) }) },
  { name: 'Qcow2OverlapChecks' },
);
const blockdev = t.union(
  'BlockdevOptions',
  'driver',
  {
    file: t.struct('File', { filename: t.str(), aio: t.enumOf('threads', { default: 'threads' }) }),
    'null-co': t.struct('Null', {
      size: t.optional(t.size({ qapi: 'int' })),
      'latency-ns': t.optional(t.uint({ bits: 64 })),
      'read-zeroes': t.bool({ default: false }),
    }),
    qcow2: t.struct('Qcow2', {
      file: blockRef,
      backing: t.optional(
        t.alternate(
          { str: t.str(), object: t.ref<object>('BlockdevOptions'), null: t.null() },
          { name: 'BlockdevRefOrNull' },
        ),
      ),
      'overlap-check': t.optional(overlap),
    }),
    quorum: t.struct('Quorum', { children: t.arrayOf(blockRef), 'vote-threshold': t.int() }),
    nbd: t.struct('Nbd', {
      server: address,
      'reconnect-delay': t.uint({ bits: 32 }, { default: 0 }),
    }),
  },
  { base },
);
const types = new Map<string, Decl>([['BlockdevOptions', blockdev]]);

function messageOf(decl: Decl, value: unknown, from: How): string {
  try {
    parseValue(decl, value, { from, types });
  } catch (error) {
    if (error instanceof OptionError) return error.message;
    throw error;
  }
  return 'no error';
}

const qmpErrors: [string, string][] = [
  ['{"foo":1}', "Parameter 'driver' is missing"],
  ['{"driver":1}', "Invalid parameter type for 'driver', expected: string"],
  ['{"driver":null}', "Invalid parameter type for 'driver', expected: string"],
  ['{"driver":"foo"}', "Parameter 'driver' does not accept value 'foo'"],
  [
    '{"driver":"null-co","read-only":1}',
    "Invalid parameter type for 'read-only', expected: boolean",
  ],
  [
    '{"driver":"null-co","read-only":"on"}',
    "Invalid parameter type for 'read-only', expected: boolean",
  ],
  ['{"driver":"null-co","size":"on"}', "Invalid parameter type for 'size', expected: integer"],
  ['{"driver":"null-co","size":1.5}', "Invalid parameter type for 'size', expected: integer"],
  ['{"driver":"null-co","size":1.0}', "Invalid parameter type for 'size', expected: integer"],
  [
    '{"driver":"null-co","size":9223372036854775808}',
    "Invalid parameter type for 'size', expected: integer",
  ],
  ['{"driver":"null-co","latency-ns":1.0}', "Parameter 'latency-ns' expects uint64"],
  ['{"driver":"null-co","latency-ns":"1"}', "Parameter 'latency-ns' expects uint64"],
  [
    '{"driver":"null-co","latency-ns":99999999999999999999}',
    "Parameter 'latency-ns' expects uint64",
  ],
  ['{"driver":"null-co","foo":1}', "Parameter 'foo' is unexpected"],
  ['{"driver":"null-co","__proto__":{"x":1}}', "Parameter '__proto__' is unexpected"],
  ['{"driver":"null-co","cache":1}', "Invalid parameter type for 'cache', expected: object"],
  ['{"driver":"null-co","cache":{"foo":1}}', "Parameter 'cache.foo' is unexpected"],
  [
    '{"driver":"null-co","cache":{"direct":1}}',
    "Invalid parameter type for 'cache.direct', expected: boolean",
  ],
  ['{"driver":"null-co","discard":"maybe"}', "Parameter 'discard' does not accept value 'maybe'"],
  ['{"driver":"qcow2","file":1}', "Invalid parameter type for 'file', expected: BlockdevRef"],
  ['{"driver":"qcow2","file":null}', "Invalid parameter type for 'file', expected: BlockdevRef"],
  ['{"driver":"qcow2"}', "Parameter 'file' is missing"],
  ['{"driver":"qcow2","file":{}}', "Parameter 'file.driver' is missing"],
  ['{"driver":"qcow2","file":{"driver":"file"}}', "Parameter 'file.filename' is missing"],
  [
    '{"driver":"qcow2","file":{"driver":"file","filename":1}}',
    "Invalid parameter type for 'file.filename', expected: string",
  ],
  [
    '{"driver":"qcow2","file":{"driver":"qcow2","file":1}}',
    "Invalid parameter type for 'file', expected: BlockdevRef",
  ],
  [
    '{"driver":"qcow2","file":"x","backing":1}',
    "Invalid parameter type for 'backing', expected: BlockdevRefOrNull",
  ],
  ['{"driver":"qcow2","file":"x","backing":null}', 'no error'],
  [
    '{"driver":"qcow2","file":"x","overlap-check":1}',
    "Invalid parameter type for 'overlap-check', expected: Qcow2OverlapChecks",
  ],
  [
    '{"driver":"qcow2","file":"x","overlap-check":"foo"}',
    "Parameter 'overlap-check' does not accept value 'foo'",
  ],
  [
    '{"driver":"qcow2","file":"x","overlap-check":{"a":1}}',
    "Parameter 'overlap-check.a' is unexpected",
  ],
  ['{"driver":"quorum","children":1}', "Invalid parameter type for 'children', expected: array"],
  [
    '{"driver":"quorum","children":[1]}',
    "Invalid parameter type for 'null', expected: BlockdevRef",
  ],
  [
    '{"driver":"quorum","children":[{"driver":1}]}',
    "Invalid parameter type for 'children[0].driver', expected: string",
  ],
  [
    '{"driver":"quorum","children":["a",{"driver":"file","filename":"x","q":1}]}',
    "Parameter 'children[1].q' is unexpected",
  ],
  ['{"driver":"nbd","server":{"type":"x"}}', "Parameter 'type' does not accept value 'x'"],
  ['{"driver":"nbd","server":{"type":"inet","host":"x"}}', "Parameter 'server.port' is missing"],
  [
    '{"driver":"nbd","server":{"type":"unix","path":"x"},"reconnect-delay":4294967296}',
    "Parameter 'reconnect-delay' expects uint32_t",
  ],
  [
    '{"driver":"nbd","server":{"type":"unix","path":"x"},"reconnect-delay":-1}',
    "Parameter 'reconnect-delay' expects uint32_t",
  ],
  [
    '{"driver":"nbd","server":{"type":"unix","path":"x"},"reconnect-delay":"x"}',
    "Parameter 'reconnect-delay' expects uint64",
  ],
];

const keyvalErrors: [object, string][] = [
  [{ driver: 'null-co', 'read-only': '1' }, "Parameter 'read-only' expects 'on' or 'off'"],
  [{ driver: 'null-co', 'read-only': 'ON' }, "Parameter 'read-only' expects 'on' or 'off'"],
  [{ driver: 'null-co', 'read-only': '' }, "Parameter 'read-only' expects 'on' or 'off'"],
  [{ driver: 'null-co', 'read-only': 'yes' }, 'no error'],
  [{ driver: 'null-co', size: '1G' }, "Parameter 'size' expects integer"],
  [{ driver: 'null-co', size: '9223372036854775808' }, "Parameter 'size' expects integer"],
  [{ driver: 'null-co', size: '0x10' }, 'no error'],
  [{ driver: 'null-co', 'latency-ns': '1.5' }, "Parameter 'latency-ns' expects integer"],
  [{ driver: 'null-co', 'latency-ns': '' }, "Parameter 'latency-ns' expects integer"],
  [{ driver: 'null-co', cache: '1' }, "Invalid parameter type for 'cache', expected: object"],
  [{ driver: 'null-co', cache: { direct: '1' } }, "Parameter 'cache.direct' expects 'on' or 'off'"],
  [{ driver: 'null-co', size: { a: '1' } }, "Parameters 'size.*' are unexpected"],
  [{ driver: { x: '1' } }, "Parameters 'driver.*' are unexpected"],
  [{ driver: 'file', filename: ['x'] }, "Parameters 'filename.*' are unexpected"],
  [{ driver: 'qcow2', file: { driver: 'file', filename: 'x', aio: '1' } }, notAccepted('aio', '1')],
  [
    { driver: 'quorum', children: ['a', { driver: 'null-co', foo: '1' }] },
    "Parameter 'children.1.foo' is unexpected",
  ],
  [{ driver: 'quorum', children: 'a' }, "Invalid parameter type for 'children', expected: array"],
  [
    { driver: 'quorum', children: ['a'], 'vote-threshold': 'x' },
    "Parameter 'vote-threshold' expects integer",
  ],
  [
    { driver: 'nbd', server: { type: 'inet', host: { x: '1' } } },
    "Parameters 'server.host.*' are unexpected",
  ],
  [
    { driver: 'qcow2', file: 'x', 'overlap-check': ['x'] },
    "Invalid parameter type for 'overlap-check', expected: Qcow2OverlapChecks",
  ],
];

const optsErrors: [object, string][] = [
  [{ driver: 'null-co', 'read-only': '1' }, "Parameter 'read-only' expects 'on' or 'off'"],
  [{ driver: 'null-co', 'read-only': 1 }, "Parameter 'read-only' expects 'on' or 'off'"],
  [{ driver: 'null-co', 'read-only': true }, 'no error'],
  [{ driver: 'null-co', size: '1.5G' }, 'no error'],
  [{ driver: 'null-co', size: 1024 }, 'no error'],
  [{ driver: 'null-co', size: null }, 'no error'],
  [{ driver: 'null-co', size: 'x' }, "Parameter 'size' expects a non-negative number below 2^64"],
  [{ driver: 'null-co', size: 1.5 }, "Parameter 'size' expects a non-negative number below 2^64"],
  [{ driver: 'null-co', size: '-1' }, "Value '-1' is out of range for parameter 'size'"],
  [{ driver: 'null-co', 'latency-ns': 'x' }, "Parameter 'latency-ns' expects a number"],
  [
    { driver: 'null-co', 'latency-ns': '99999999999999999999' },
    "Value '99999999999999999999' is too large for parameter 'latency-ns'",
  ],
  [{ driver: 'null-co', discard: 'foo' }, 'Invalid discard option'],
  [{ driver: 'file', filename: 'x', aio: 'foo' }, 'invalid parameter value: foo'],
  [{ driver: 'file', filename: 5 }, 'no error'],
];

function notAccepted(name: string, value: string): string {
  return `Parameter '${name}' does not accept value '${value}'`;
}

describe('parseValue', () => {
  it.each(qmpErrors)('answers QMP %s: %s', (json, message) => {
    expect(messageOf(blockdev, parseJson(json, { doubles: 'keep' }), 'qmp')).toBe(message);
  });

  it.each(keyvalErrors)('answers --blockdev %j: %s', (value, message) => {
    expect(messageOf(blockdev, value, 'keyval')).toBe(message);
  });

  it.each(optsErrors)('answers --image-opts %j: %s', (value, message) => {
    expect(messageOf(blockdev, value, 'opts')).toBe(message);
  });

  it('converts text, fills in defaults, leaves out what is missing', () => {
    const value = { driver: 'null-co', size: '0x10', 'latency-ns': ' 12', 'read-only': 'on' };
    const parsed = parseValue(blockdev, value, { from: 'keyval' });
    expect(parsed).toEqual({
      driver: 'null-co',
      'read-only': true,
      size: 16,
      'latency-ns': 12,
      'read-zeroes': false,
    });
    expect(Object.getPrototypeOf(parsed)).toBeNull();
    expect(Object.keys(parsed)).not.toContain('node-name');
  });

  it('takes suffixes of sizes except where QEMU has a plain integer', () => {
    const decl = t.struct('S', { a: t.size(), b: t.size({ qapi: 'int' }) });
    expect(parseValue(decl, { a: '1.5k', b: '7' }, { from: 'keyval' })).toEqual({ a: 1536, b: 7 });
    expect(messageOf(decl, { a: 'x', b: '7' }, 'keyval')).toBe("Parameter 'a' expects size");
    expect(messageOf(decl, { a: '1M', b: 7 }, 'qmp')).toBe("Parameter 'a' expects uint64");
  });

  it('names its limit for numbers above 2^53 - 1, except identifiers', () => {
    const range = 'expects a value from 0 to 9007199254740991 (2^53 - 1)';
    const value = { driver: 'null-co', size: 9007199254740992n };
    expect(messageOf(blockdev, value, 'qmp')).toBe(`Parameter 'size' ${range}`);
    expect(messageOf(t.size(), '8E', 'keyval')).toBe(`Parameter '<anonymous>' ${range}`);
    const text = { driver: 'null-co', size: '8E' };
    expect(messageOf(blockdev, text, 'opts')).toBe(`Parameter 'size' ${range}`);
    const negative = { driver: 'null-co', 'latency-ns': -1 };
    expect(messageOf(blockdev, negative, 'qmp')).toBe(`Parameter 'latency-ns' ${range}`);
    expect(parseValue(t.id64(), 18446744073709551615n, { from: 'qmp' })).toBe(2n ** 64n - 1n);
    expect(parseValue(t.id64(), 5, { from: 'qmp' })).toBe(5n);
  });

  it('knows the ranges of the integer types', () => {
    const at = (decl: Decl, value: number) =>
      messageOf(t.struct('S', { x: decl }), { x: value }, 'qmp');
    expect(at(t.int({ bits: 8 }), -129)).toBe("Parameter 'x' expects int8_t");
    expect(at(t.int({ bits: 32 }), 2 ** 31)).toBe("Parameter 'x' expects int32_t");
    expect(at(t.uint({ bits: 8 }), 256)).toBe("Parameter 'x' expects uint8_t");
    expect(at(t.uint({ bits: 16 }), 65536)).toBe("Parameter 'x' expects uint16_t");
    expect(at(t.int({ min: 1, max: 5 }), 6)).toBe("Parameter 'x' expects a value from 1 to 5");
    expect(at(t.int({ min: 1, max: 5 }), 5)).toBe('no error');
    expect(at(t.int(), 2 ** 53)).toMatch(/^Parameter 'x' expects a value from -9007199254740991/);
  });

  it('keeps the discriminator and what a union shares', () => {
    const value = { driver: 'file', filename: 'a', 'node-name': 'n' };
    expect(parseValue(blockdev, value, { from: 'qmp' })).toEqual({
      driver: 'file',
      'node-name': 'n',
      'read-only': false,
      filename: 'a',
      aio: 'threads',
    });
  });

  it('lets unions contain unions', () => {
    const inner = t.union('Inner', 'format', { luks: t.struct('L', { iter: t.int() }) });
    const outer = t.union('Outer', 'type', { crypto: inner, none: t.struct('N', {}) });
    const value = { type: 'crypto', format: 'luks', iter: 3 };
    expect(parseValue(outer, value, { from: 'qmp' })).toEqual(value);
    expect(messageOf(outer, { ...value, x: 1 }, 'qmp')).toBe("Parameter 'x' is unexpected");
    expect(messageOf(outer, { type: 'crypto' }, 'qmp')).toBe("Parameter 'format' is missing");
  });

  it('checks types that contain themselves, and passes references it does not know', () => {
    interface Tree {
      readonly value: number;
      readonly children?: readonly Tree[];
    }
    const tree: Decl<Tree> = t.struct('Tree', {
      value: t.int(),
      children: t.optional(t.arrayOf(t.lazy((): Decl<Tree> => tree))),
    });
    const good = { value: 1, children: [{ value: 2, children: [{ value: 3 }] }] };
    expect(parseValue(tree, good, { from: 'qmp' })).toEqual(good);
    const bad = { value: 1, children: [{ value: 2, children: [{ value: 'x' }] }] };
    expect(messageOf(tree, bad, 'qmp')).toBe(
      "Invalid parameter type for 'children[0].children[0].value', expected: integer",
    );
    const unknown = t.struct('S', { file: t.ref('Unknown') });
    expect(parseValue(unknown, { file: [1] }, { from: 'qmp' })).toEqual({ file: [1] });
  });

  it('puts the path of the caller before its own, and lets it word unknown names', () => {
    const decl = t.struct('S', { a: t.optional(t.int()) });
    const how = { from: 'qmp', path: 'x.y' } as const;
    expect(() => parseValue(decl, { a: 'b' }, how)).toThrow("for 'x.y.a', expected: integer");
    expect(() => parseValue(decl, 5, how)).toThrow("for 'x.y', expected: object");
    expect(() => parseValue(decl, 5, { from: 'qmp' })).toThrow(
      "for '<anonymous>', expected: object",
    );
    const unexpected = (path: string) => new OptionError(`no option ${path}`, path);
    expect(() => parseValue(decl, { b: 1 }, { ...how, unexpected })).toThrow('no option x.y.b');
  });

  it('tells path, class and hint', () => {
    let caught: unknown;
    try {
      parseValue(blockdev, { driver: 'null-co', size: 'x' }, { from: 'opts' });
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(OptionError);
    expect(caught).toMatchObject({ path: 'size', class: 'GenericError' });
    expect((caught as OptionError).hint).toMatch(/^Optional suffix k, M, G, T, P or E means/);
  });

  it('takes null, numbers and anything where that is declared', () => {
    const decl = t.struct('S', { n: t.null(), f: t.number(), x: t.any() });
    const value = { n: null, f: new JsonDouble(1.5), x: new JsonDouble(2) };
    expect(parseValue(decl, value, { from: 'qmp' })).toEqual({ n: null, f: 1.5, x: 2 });
    expect(parseValue(t.number(), '1.5', { from: 'keyval' })).toBe(1.5);
    expect(messageOf(t.struct('S', { f: t.number() }), { f: 'x' }, 'qmp')).toBe(
      "Invalid parameter type for 'f', expected: number",
    );
    expect(messageOf(t.struct('S', { n: t.null() }), { n: 1 }, 'qmp')).toBe(
      "Invalid parameter type for 'n', expected: null",
    );
  });

  it('counts undefined as missing', () => {
    const decl = t.struct('S', { a: t.int(), b: t.bool({ default: true }) });
    expect(parseValue(decl, { a: 1, b: undefined }, { from: 'qmp' })).toEqual({ a: 1, b: true });
    expect(messageOf(decl, { a: undefined }, 'qmp')).toBe("Parameter 'a' is missing");
  });

  it('answers anything with a value or an OptionError, and pollutes no prototype', () => {
    const names = fc.constantFrom('driver', 'file', 'children', '__proto__', 'constructor', 'size');
    const leaf = fc.oneof(fc.string(), fc.integer(), fc.double(), fc.constant(null), fc.boolean());
    const words = fc.constantFrom('file', 'null-co', 'qcow2', 'quorum', 'toString', '__proto__');
    const { value } = fc.letrec((tie) => ({
      value: fc.oneof({ depthSize: 'small' }, leaf, words, tie('list'), tie('object')),
      list: fc.array(tie('value'), { maxLength: 3 }),
      object: fc.dictionary(names, tie('value'), { maxKeys: 4, noNullPrototype: false }),
    }));
    fc.assert(
      fc.property(value, fc.constantFrom<How>('qmp', 'keyval', 'opts'), (input, from) => {
        messageOf(blockdev, input, from);
        expect(Object.keys(Object.prototype)).toEqual([]);
      }),
      { numRuns: 1000 },
    );
  });
});

describe('types', () => {
  it('follow from the declaration', () => {
    const decl = t.struct('S', {
      file: blockRef,
      size: t.optional(t.size()),
      ro: t.bool({ default: false }),
      mode: t.enumOf('a', 'b', { default: 'a' }),
      list: t.optional(t.arrayOf(t.int())),
      id: t.id64(),
    });
    expectTypeOf<Infer<typeof decl>>().toEqualTypeOf<{
      readonly file: string | object;
      readonly size?: number;
      readonly ro: boolean;
      readonly mode: 'a' | 'b';
      readonly list?: readonly number[];
      readonly id: bigint;
    }>();
    expectTypeOf<InferInput<typeof decl>>().toEqualTypeOf<{
      readonly file: string | object;
      readonly size?: number;
      readonly ro?: boolean;
      readonly mode?: 'a' | 'b';
      readonly list?: readonly number[];
      readonly id: bigint;
    }>();
    const narrow = (value: Infer<typeof address>) =>
      value.type === 'inet' ? value.host : value.path;
    expect(narrow({ type: 'unix', path: 'p' })).toBe('p');
    expect(decl.shape.kind).toBe('struct');
  });
});
