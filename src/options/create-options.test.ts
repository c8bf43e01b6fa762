// Goal: creation options are read, printed and listed as qemu-img 10 does. Method: a set like
// qcow2's over one like the file protocol's; texts as qemu-img 10.0.2 create printed them.
import { describe, expect, expectTypeOf, it } from 'vitest';
import {
  createHelpTexts,
  createOptions,
  formatCreateHelp,
  formatCreateSummary,
  mergeCreateOptions,
  parseCreateOptions,
  typedValues,
} from './create-options.js';
import type { CreateValues } from './create-options.js';
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

const format = createOptions({
  'encrypt.format': { type: 'str', help: 'Kind of encryption' },
  cluster_size: { type: 'size', default: '65536', help: 'Size of a cluster' },
  preallocation: { type: 'str', values: ['off', 'full'], help: 'Allocate at once' },
  size: { type: 'size', help: 'Virtual disk size' },
  compat: { type: 'str', values: ['v2', 'v3'], qapiName: 'version', help: 'Version' },
  backing_file: { type: 'str', help: 'Base image' },
  lazy_refcounts: { type: 'bool', default: 'off', help: 'Write refcounts late' },
  refcount_bits: { type: 'number', default: '16', help: 'Bits of a refcount' },
});
const protocol = createOptions({
  size: { type: 'size', help: 'another text' },
  nocow: { type: 'bool', help: 'No copy on write (btrfs)' },
});
const both = mergeCreateOptions(format, protocol);

const summary = (...texts: string[]) =>
  formatCreateSummary(both, parseCreateOptions(both, texts).values);

describe('parseCreateOptions', () => {
  it('reads several lists as one, the last value of a name counts', () => {
    const { values, help } = parseCreateOptions(both, [
      'cluster_size=64k,cluster_size=128k,lazy_refcounts',
      'refcount_bits=0x10,backing_file=b a,,se.raw,nonocow,id=7',
    ]);
    expect(help).toBe(false);
    expect(values).toEqual({
      cluster_size: 131072,
      lazy_refcounts: true,
      refcount_bits: 16,
      backing_file: 'b a,se.raw',
      nocow: false,
    });
  });

  it.each<[string, string]>([
    ['', 'Invalid option list: '],
    [',', 'Invalid option list: ,'],
    ['a=b,', 'Invalid option list: a=b,'],
    [',lazy_refcounts', 'Invalid option list: ,lazy_refcounts'],
    ['foo=1', "Invalid parameter 'foo'"],
    ['foo', "Invalid parameter 'foo'"],
    ['nofoo', "Invalid parameter 'foo'"],
    ['nocow', "Invalid parameter 'cow'"],
    ['no', "Invalid parameter ''"],
    ['=1', "Invalid parameter ''"],
    ['lazy_refcounts,,x', "Invalid parameter ''"],
    ['Cluster_Size=64k', "Invalid parameter 'Cluster_Size'"],
    ['__proto__=1', "Invalid parameter '__proto__'"],
    ['lazy_refcounts=x', "Parameter 'lazy_refcounts' expects 'on' or 'off'"],
    ['refcount_bits=1k', "Parameter 'refcount_bits' expects a number"],
    ['cluster_size', "Parameter 'cluster_size' expects a non-negative number below 2^64"],
    ['cluster_size=16E', "Value '16E' is out of range for parameter 'cluster_size'"],
    [
      'refcount_bits=18446744073709551615',
      "Parameter 'refcount_bits' expects a value from " +
        '-9007199254740991 (2^53 - 1) to 9007199254740991 (2^53 - 1)',
    ],
  ])('refuses %j: %s', (text, message) => {
    expect(messageOf(() => parseCreateOptions(both, [text]))).toBe(message);
  });

  it('asks for help before anything is checked', () => {
    expect(parseCreateOptions(both, ['foo=1,help'])).toEqual({ values: {}, help: true });
    expect(parseCreateOptions(both, ['cluster_size=x', '?'])).toEqual({ values: {}, help: true });
  });

  it('tells that a name is for creation only', () => {
    const amend = createOptions({ compat: { type: 'str', help: 'Version' } });
    let caught: unknown;
    try {
      parseCreateOptions(amend, ['cluster_size=4k'], format);
    } catch (error) {
      caught = error;
    }
    expect(caught).toMatchObject({
      message: "Invalid parameter 'cluster_size'",
      hint: 'This option is only supported for image creation',
    });
    expect(() => parseCreateOptions(amend, ['foo=1'], format)).toThrow("Invalid parameter 'foo'");
  });
});

describe('formatCreateSummary', () => {
  it('prints given values and defaults in the order of declaration', () => {
    expect(summary('size=1M')).toBe(
      'cluster_size=65536 size=1048576 lazy_refcounts=off refcount_bits=16',
    );
    expect(summary('nocow=on,refcount_bits=-1,backing_file=a,,b,encrypt.format=x')).toBe(
      'encrypt.format=x cluster_size=65536 backing_file=a,,b lazy_refcounts=off ' +
        'refcount_bits=-1 nocow=on',
    );
  });
});

describe('typedValues', () => {
  it('fills in defaults and gives types', () => {
    const values = typedValues(format, { size: 5, preallocation: 'full', nocow: true });
    expect(values).toEqual({
      cluster_size: 65536,
      preallocation: 'full',
      size: 5,
      lazy_refcounts: false,
      refcount_bits: 16,
    });
    expectTypeOf(values.cluster_size).toEqualTypeOf<number>();
    expectTypeOf(values.lazy_refcounts).toEqualTypeOf<boolean>();
    expectTypeOf(values.preallocation).toEqualTypeOf<'off' | 'full' | undefined>();
    expectTypeOf(values.backing_file).toEqualTypeOf<string | undefined>();
  });

  it('takes texts for anything, as a program may pass them', () => {
    expect(typedValues(format, { cluster_size: '4k', lazy_refcounts: 'on' })).toMatchObject({
      cluster_size: 4096,
      lazy_refcounts: true,
    });
  });

  it.each<[unknown, string]>([
    [{ preallocation: 'foo' }, "Parameter 'preallocation' does not accept value 'foo'"],
    [{ preallocation: '' }, "Parameter 'preallocation' does not accept value ''"],
    [{ compat: '9' }, "Parameter 'version' does not accept value '9'"],
    [{ size: true }, "Invalid parameter type for 'size', expected: number"],
    [{ backing_file: 1 }, "Invalid parameter type for 'backing_file', expected: string"],
  ])('refuses %j: %s', (values, message) => {
    expect(messageOf(() => typedValues(format, values as CreateValues))).toBe(message);
  });
});

describe('formatCreateHelp', () => {
  it('lists names in order, types and what they do', () => {
    expect(formatCreateHelp(both).split('\n')).toEqual([
      '  backing_file=<str>     - Base image',
      '  cluster_size=<size>    - Size of a cluster',
      '  compat=<str>           - Version',
      '  encrypt.format=<str>   - Kind of encryption',
      '  lazy_refcounts=<bool (on/off)> - Write refcounts late',
      '  nocow=<bool (on/off)>  - No copy on write (btrfs)',
      '  preallocation=<str>    - Allocate at once',
      '  refcount_bits=<num>    - Bits of a refcount',
      '  size=<size>            - Virtual disk size',
    ]);
    expect(createHelpTexts.formatHeading('raw')).toBe('Supported raw options:');
    expect(createHelpTexts.amendHeading('qcow2')).toBe("Amend options for 'qcow2':");
  });
});
