/** Options that several subcommands share, and how their arguments are read. */
import type { Argument, CommandSpec } from '../../options/getopt.js';
import { formatOptions, readArgs } from '../../options/getopt.js';
import { parseInteger, parseSize } from '../../lib/sizes.js';
import type { Program } from '../program.js';
import { Failure, UsageError } from '../program.js';

/** A subcommand: its declaration and what it does; resolves to the exit status. */
export interface ImgCommand {
  readonly spec: CommandSpec;
  readonly usage: readonly string[];
  run(program: Program, args: readonly string[]): Promise<number>;
}

export const shared = {
  help: { short: 'h', long: 'help', doc: 'show this text' },
  quiet: { short: 'q', long: 'quiet', doc: 'print nothing but errors' },
  progress: {
    short: 'p',
    long: 'progress',
    arg: 'json',
    optionalArg: 'long',
    complete: ['json'],
    doc:
      'show the progress; on a terminal as a bar with rate and time left; --progress=json: one ' +
      'line of JSON for each step',
  },
  format: {
    short: 'f',
    long: 'format',
    arg: 'FMT',
    complete: 'format',
    doc: 'format of FILENAME; without it, it is guessed from the content',
  },
  imageOpts: {
    long: 'image-opts',
    doc: 'FILENAME is a list of options (driver=…,file.filename=…), not a name',
  },
  cache: {
    short: 't',
    long: 'cache',
    arg: 'CACHE',
    complete: ['none', 'writeback', 'writethrough', 'directsync', 'unsafe'],
    doc: 'cache mode of FILENAME; default writeback',
  },
  sourceCache: {
    short: 'T',
    long: 'cache',
    arg: 'CACHE',
    complete: ['none', 'writeback', 'writethrough', 'directsync', 'unsafe'],
    doc: 'cache mode of the images that are read; default writeback',
  },
  object: {
    long: 'object',
    arg: 'OBJDEF',
    doc: 'object that options refer to: secret,id=ID,data=… or file=…',
  },
  forceShare: {
    short: 'U',
    long: 'force-share',
    doc: 'open although another process may be writing the image',
  },
  output: {
    long: 'output',
    arg: 'human|json',
    complete: ['human', 'json'],
    doc: 'how to print the result; default human',
  },
  rate: { short: 'r', long: 'rate', arg: 'RATE', doc: 'most bytes per second' },
} as const;

/** The arguments in order; `--help` prints the command's help and ends the command. */
export function* commandArguments<C extends CommandSpec>(
  program: Program,
  spec: C,
  usage: readonly string[],
  args: readonly string[],
): Generator<Argument<Extract<keyof C['options'], string>>> {
  for (const argument of readArgs(spec, args)) {
    if (argument.key === 'help') {
      program.print(helpText(program, spec, usage));
      throw new Failure(undefined, 0);
    }
    yield argument;
  }
}

/** The help of a subcommand: what it does, how it is written, its options. */
export function helpText(program: Program, spec: CommandSpec, usage: readonly string[]): string {
  const lines = usage.map(
    (line, i) => `${i === 0 ? `  ${program.commandName} ` : '      '}${line}`,
  );
  const doc = spec.doc === undefined ? '' : `\n${spec.doc}\n`;
  return (
    `${spec.name}: ${spec.summary}\n\nUsage:\n${lines.join('\n')}\n${doc}\n` +
    `Options:\n${formatOptions(spec)}\n`
  );
}

export type OutputFormat = 'human' | 'json';

export function outputFormat(value: string | undefined): OutputFormat {
  if (value === 'human' || value === 'json') return value;
  throw new UsageError(`--output expects 'human' or 'json' not '${value ?? ''}'`);
}

/** Refuses `-f` beside `--image-opts`. */
export function checkImageOpts(imageOpts: boolean, format: string | undefined): void {
  if (imageOpts && format !== undefined) {
    throw new Failure('--image-opts and --format are mutually exclusive');
  }
}

/** How the greatest 64-bit offset is written in messages. */
const INT64_MAX = '9223372036854775807';

/** A size argument within bounds (bytes, both included), in qemu-img's words. */
export function sizeArgument(
  name: string,
  text: string,
  min = 0,
  max = Number.MAX_SAFE_INTEGER,
): number {
  const size = parseSize(text);
  if (size.status === 'invalid') throw new Failure(`Invalid ${name} specified: '${text}'.`);
  if (size.status === 'ok' && size.bytes >= min && size.bytes <= max) return size.bytes;
  const beyond = max === Number.MAX_SAFE_INTEGER && !(size.status === 'limit' && fits(size.value));
  const most = beyond ? INT64_MAX : String(max);
  throw new Failure(`Invalid ${name} specified. Must be between ${String(min)} and ${most}.`);
}

/** An offset that may lie behind the end of every image; as exact as a number can be. */
export function offsetArgument(name: string, text: string): number {
  const size = parseSize(text);
  if (size.status === 'limit' && fits(size.value)) return Number(size.value);
  return sizeArgument(name, text);
}

/** A number without unit (decimal, 0x…, 0…) within bounds, both included; qemu-img's words. */
export function countArgument(
  name: string,
  text: string,
  min = 0,
  max = Number.MAX_SAFE_INTEGER,
): number {
  const count = parseInteger(text);
  if (count === undefined) throw new Failure(`Invalid ${name} specified: '${text}'.`);
  if (count >= min && count <= max) return Number(count);
  const most = max === Number.MAX_SAFE_INTEGER && !fits(count) ? INT64_MAX : String(max);
  throw new Failure(`Invalid ${name} specified. Must be between ${String(min)} and ${most}.`);
}

/** Whether QEMU would take the value, and only vdisk's own limit stands against it. */
function fits(value: bigint): boolean {
  return value >= 0n && value <= BigInt(INT64_MAX);
}

/** The one file name of a command that takes one. */
export function oneOperand(operands: readonly string[]): string {
  const [first] = operands;
  if (first === undefined || operands.length > 1) {
    throw new UsageError('Expecting one image file name');
  }
  return first;
}
