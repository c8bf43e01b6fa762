// Goal: command lines read as glibc's getopt_long reads them for qemu-img 10. Method: its texts,
// and a property: whatever order options and operands come in, the same is read.
import fc from 'fast-check';
import { describe, expect, expectTypeOf, it } from 'vitest';
import { command, formatOptions, GetoptError, optionForms, parseArgs, readArgs } from './getopt.js';

const info = command({
  name: 'info',
  summary: 'show what an image is',
  operands: 'FILENAME',
  options: {
    help: { short: 'h', long: 'help', doc: 'show this help' },
    format: { short: 'f', long: 'format', aliases: ['fmt'], arg: 'FMT', doc: 'format of the file' },
    output: { long: 'output', arg: 'human|json', complete: ['human', 'json'], doc: 'form' },
    object: { long: 'object', arg: 'OBJDEF', repeat: true, doc: 'object to create' },
    imageOpts: { long: 'image-opts', doc: 'the file name is an option list' },
    forceShare: { short: 'U', long: 'force-share', doc: 'open although others write' },
    quiet: { short: 'q', doc: 'print nothing' },
    sync: { short: 's', long: 'sync', arg: 'MODE', optionalArg: true, doc: 'how to write' },
    secret: { long: 'secret-thing', doc: 'hidden', hidden: true },
  },
});

const errorOf = (...argv: string[]): string => {
  try {
    parseArgs(info, argv);
  } catch (error) {
    if (error instanceof GetoptError) return error.message;
    throw error;
  }
  return 'no error';
};

describe('parseArgs', () => {
  it.each<[string[], string]>([
    [['--foo', 'a'], "unrecognized option '--foo'"],
    [['--foo=bar', 'a'], "unrecognized option '--foo=bar'"],
    [['---'], "unrecognized option '---'"],
    [['-Z'], "invalid option -- 'Z'"],
    [['-qZf', 'raw'], "invalid option -- 'Z'"],
    [['-U=x'], "invalid option -- '='"],
    [['-f'], "option requires an argument -- 'f'"],
    [['-Uf'], "option requires an argument -- 'f'"],
    [['--output'], "option '--output' requires an argument"],
    [['--outp'], "option '--output' requires an argument"],
    [['--image-opts=1'], "option '--image-opts' doesn't allow an argument"],
    [['--he=x'], "option '--help' doesn't allow an argument"],
    [['--o', 'json'], "option '--o' is ambiguous; possibilities: '--output' '--object'"],
    [['--s=5'], "option '--s=5' is ambiguous; possibilities: '--sync' '--secret-thing'"],
    [['--f'], "option '--f' is ambiguous; possibilities: '--format' '--fmt' '--force-share'"],
  ])('refuses %j: %s', (argv, message) => {
    expect(errorOf(...argv)).toBe(message);
  });

  it('reads clusters, joined and separate values, abbreviations, operands in between', () => {
    const { values, operands } = parseArgs(info, [
      ...['a', '-qUfraw', '--outp=json', '--object', 'x', 'b', '--image', '--object=y', '-'],
    ]);
    expect(operands).toEqual(['a', 'b', '-']);
    expect(values).toEqual({
      help: false,
      format: 'raw',
      output: 'json',
      object: ['x', 'y'],
      imageOpts: true,
      forceShare: true,
      quiet: true,
      sync: undefined,
      secret: false,
    });
    expectTypeOf(values.format).toEqualTypeOf<string | undefined>();
    expectTypeOf(values.object).toEqualTypeOf<readonly string[]>();
    expectTypeOf(values.quiet).toEqualTypeOf<boolean>();
  });

  it('takes any word as the value that an option needs', () => {
    expect(parseArgs(info, ['-f', '-U']).values).toMatchObject({ format: '-U', forceShare: false });
    expect(parseArgs(info, ['--output', '--', 'a'])).toMatchObject({
      values: { output: '--' },
      operands: ['a'],
    });
    expect(parseArgs(info, ['--format=']).values.format).toBe('');
    expect(parseArgs(info, ['-f', '']).values.format).toBe('');
  });

  it('does not abbreviate a name that exists, nor call two names of one option ambiguous', () => {
    expect(parseArgs(info, ['--fmt', 'x']).values.format).toBe('x');
    const two = command({
      name: 'x',
      summary: '',
      options: { a: { long: 'all', aliases: ['alles', 'al'], doc: '' } },
    });
    expect(parseArgs(two, ['--a']).values.a).toBe(true);
    expect(parseArgs(two, ['--al']).values.a).toBe(true);
  });

  it('ends options at --', () => {
    expect(parseArgs(info, ['-q', '--', '-f', '--']).operands).toEqual(['-f', '--']);
    expect(parseArgs(info, ['a', '--', '-f']).operands).toEqual(['a', '-f']);
  });

  it('takes an optional value only when it is joined', () => {
    expect(parseArgs(info, ['--sync', 'a'])).toMatchObject({
      values: { sync: '' },
      operands: ['a'],
    });
    expect(parseArgs(info, ['--sync=x']).values.sync).toBe('x');
    expect(parseArgs(info, ['-sx']).values.sync).toBe('x');
    expect(parseArgs(info, ['-s', 'x'])).toMatchObject({ values: { sync: '' }, operands: ['x'] });
  });

  it('takes an optional value of the long form only, when the short one is declared plain', () => {
    const copy = command({
      name: 'copy',
      summary: '',
      options: {
        progress: { short: 'p', long: 'progress', arg: 'json', optionalArg: 'long', doc: '' },
        quiet: { short: 'q', doc: '' },
      },
    });
    expect(parseArgs(copy, ['-pq', 'a'])).toEqual({
      values: { progress: '', quiet: true },
      operands: ['a'],
    });
    expect(parseArgs(copy, ['--prog=json', 'a']).values.progress).toBe('json');
    expect(parseArgs(copy, ['--progress', 'a']).operands).toEqual(['a']);
    expect(optionForms(copy.options.progress)).toBe('-p, --progress[=json]');
  });

  it('takes the names of additions in full only', () => {
    const copy = command({
      name: 'copy',
      summary: '',
      options: {
        progress: { long: 'progress', doc: '' },
        profile: { long: 'profile', exact: true, doc: '' },
      },
    });
    expect(parseArgs(copy, ['--pro']).values).toEqual({ progress: true, profile: false });
    expect(parseArgs(copy, ['--profile']).values.profile).toBe(true);
    expect(() => parseArgs(copy, ['--profil'])).toThrow("unrecognized option '--profil'");
  });

  it('stops at the first operand when told so', () => {
    const tool = command({
      name: 'vdisk-img',
      summary: 'disk images',
      stopAtOperand: true,
      options: { version: { short: 'V', long: 'version', doc: 'print the version' } },
    });
    expect(parseArgs(tool, ['-V', 'info', '-V', '--foo'])).toEqual({
      values: { version: true },
      operands: ['info', '-V', '--foo'],
    });
    expect(parseArgs(tool, ['--', '-V']).operands).toEqual(['-V']);
  });

  it('reads the same in whatever order options and operands come', () => {
    const groups = fc.shuffledSubarray([
      ...[['-q'], ['-f', 'raw'], ['--output=json'], ['--image-opts'], ['-Uh'], ['op1'], ['-s1']],
    ]);
    fc.assert(
      fc.property(groups, (chosen) => {
        const { values, operands } = parseArgs(info, chosen.flat());
        const has = (word: string) => chosen.some((group) => group[0] === word);
        expect(values.quiet).toBe(has('-q'));
        expect(values.format).toBe(has('-f') ? 'raw' : undefined);
        expect(values.forceShare).toBe(has('-Uh'));
        expect(operands).toEqual(has('op1') ? ['op1'] : []);
      }),
    );
  });
});

describe('readArgs', () => {
  it('yields what comes before an error, so that a tool can act on it first', () => {
    const seen: unknown[] = [];
    expect(() => {
      for (const each of readArgs(info, ['x', '--outp', 'xml', '-q', '--foo'])) seen.push(each);
    }).toThrow("unrecognized option '--foo'");
    expect(seen).toEqual([
      { key: 'output', value: 'xml', written: '--outp' },
      { key: 'quiet', value: undefined, written: '-q' },
    ]);
  });
});

describe('help', () => {
  it('shows forms', () => {
    const forms = Object.values(info.options).map(optionForms);
    expect(forms.slice(0, 5)).toEqual([
      '-h, --help',
      '-f, --format FMT',
      '--output human|json',
      '--object OBJDEF',
      '--image-opts',
    ]);
    expect(optionForms(info.options.sync)).toBe('-s, --sync[=MODE]');
  });

  it('lists all but hidden options, wrapped', () => {
    const long = command({
      name: 'x',
      summary: '',
      options: {
        a: { short: 'a', doc: 'word '.repeat(20).trim() },
        b: { long: 'bb', doc: 'never shown', hidden: true },
      },
    });
    const lines = formatOptions(long).split('\n');
    expect(lines[0]).toBe('  -a');
    expect(lines.slice(1).map((line) => line.slice(0, 9))).toEqual(['     word', '     word']);
    expect(lines.every((line) => line.length < 80)).toBe(true);
  });
});
