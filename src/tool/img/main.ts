/** `vdisk-img`: finds the subcommand and runs it. Subcommands are loaded when they are called. */
import type { CommandSpec } from '../../options/getopt.js';
import { command, formatOptions, readArgs } from '../../options/getopt.js';
import type { IoOutput } from '../io/output.js';
import { ProcessOutput } from '../io/output.js';
import { acceptTrace, Program, runTool, UsageError } from '../program.js';
import type { Example } from '../reference.js';
import { exampleLines, wordLines } from '../reference.js';
import { isTerminal } from '../terminal.js';
import { versionText } from '../version.js';
import type { ImgCommand } from './options.js';

interface Entry {
  readonly name: string;
  readonly summary: string;
  load(): Promise<ImgCommand>;
}

/** All subcommands, in the order of the help. */
export const imgCommands: readonly Entry[] = [
  {
    name: 'amend',
    summary: 'change format-specific options of an image',
    load: async () => (await import('./amend.js')).amend,
  },
  {
    name: 'bench',
    summary: 'measure the speed of requests to an image',
    load: async () => (await import('./bench.js')).bench,
  },
  {
    name: 'bitmap',
    summary: 'change persistent bitmaps of an image',
    load: async () => (await import('./bitmap.js')).bitmap,
  },
  {
    name: 'check',
    summary: 'check an image for damage and repair it',
    load: async () => (await import('./check.js')).check,
  },
  {
    name: 'commit',
    summary: 'write the changes of an image into its backing file',
    load: async () => (await import('./commit.js')).commit,
  },
  {
    name: 'compare',
    summary: 'compare the content of two images',
    load: async () => (await import('./compare.js')).compare,
  },
  {
    name: 'convert',
    summary: 'copy images to a new one, of any format',
    load: async () => (await import('./convert.js')).convert,
  },
  {
    name: 'create',
    summary: 'make a new image',
    load: async () => (await import('./create.js')).create,
  },
  {
    name: 'dd',
    summary: 'copy blocks of an image to a new one',
    load: async () => (await import('./dd.js')).dd,
  },
  {
    name: 'info',
    summary: 'show what an image is',
    load: async () => (await import('./info.js')).info,
  },
  {
    name: 'map',
    summary: 'show where the data of an image is',
    load: async () => (await import('./map.js')).map,
  },
  {
    name: 'measure',
    summary: 'tell how large a new image would be',
    load: async () => (await import('./measure.js')).measure,
  },
  {
    name: 'rebase',
    summary: 'give an image another backing file',
    load: async () => (await import('./rebase.js')).rebase,
  },
  {
    name: 'resize',
    summary: 'change the size of an image',
    load: async () => (await import('./resize.js')).resize,
  },
  {
    name: 'snapshot',
    summary: 'list, make, apply or delete internal snapshots',
    load: async () => (await import('./snapshot.js')).snapshot,
  },
];

export const imgSpec = command({
  name: 'vdisk-img',
  summary: 'make, inspect, convert and repair disk images',
  operands: 'COMMAND …',
  stopAtOperand: true,
  options: {
    help: { short: 'h', long: 'help', doc: 'show this text' },
    version: { short: 'V', long: 'version', doc: 'show the version' },
    trace: {
      short: 'T',
      long: 'trace',
      arg: 'PATTERN',
      doc: 'accepted for compatibility; there are no trace events',
    },
  },
});

/** What people mostly want, without the program's name. */
export const imgExamples: readonly Example[] = [
  ['info disk.qcow2', 'see what is in it'],
  ['convert -p -O qcow2 disk.raw disk.qcow2', 'convert an image'],
  ['create -f qcow2 disk.qcow2 20G', 'make a new one'],
  ['create -f qcow2 -b base.qcow2 -F qcow2 new.qcow2', '... on top of another'],
  ['map disk.qcow2', 'see where its data is'],
  ['check -r all disk.qcow2', 'check and repair it'],
  ['compare a.qcow2 b.raw', 'compare two'],
  ['resize disk.qcow2 +10G', 'make it larger'],
  ['snapshot -c before-update disk.qcow2', 'keep its state'],
];

async function overview(name: string): Promise<string> {
  const { drivers } = await import('../../catalog/drivers.js');
  const spec: CommandSpec = imgSpec;
  const width = Math.max(...imgCommands.map((each) => each.name.length));
  const list = imgCommands.map((each) => `  ${each.name.padEnd(width)}  ${each.summary}`);
  const formats = drivers.map((driver) => driver.name).sort();
  return [
    `${name}: ${spec.summary}`,
    '',
    'Usage:',
    `  ${name} [OPTIONS] COMMAND [--help | ARGUMENTS]`,
    '',
    'For example:',
    ...exampleLines(imgExamples.map(([line, what]) => [`${name} ${line}`, what])),
    '',
    'Options:',
    formatOptions(spec),
    '',
    `Commands (${name} COMMAND --help tells more):`,
    ...list,
    '',
    'Supported image formats:',
    ...wordLines(formats),
    '',
  ].join('\n');
}

/**
 * Runs `vdisk-img ARGS`; resolves to the exit status when everything has been printed. `name`
 * stands before messages; `output` takes what is printed (default: this process's own).
 */
export async function imgMain(
  name: string,
  args: readonly string[],
  output: IoOutput = new ProcessOutput(isTerminal(1)),
): Promise<number> {
  const program = new Program(name, output);
  return runTool(program, () => dispatch(program, args));
}

async function dispatch(program: Program, args: readonly string[]): Promise<number> {
  const words: string[] = [];
  for (const { key, value } of readArgs(imgSpec, args)) {
    if (key === 'help') {
      program.print(await overview(program.name));
      return 0;
    }
    if (key === 'version') {
      program.print(versionText(program.name));
      return 0;
    }
    if (key === 'trace') acceptTrace(value ?? '');
    if (key === undefined) words.push(value ?? '');
  }
  const [name, ...rest] = words;
  if (name === undefined) throw new UsageError('Not enough arguments');
  const entry = imgCommands.find((each) => each.name === name);
  if (entry === undefined) throw new UsageError(`Command not found: ${name}`);
  const loaded = await entry.load();
  program.commandName = `${program.name} ${name}`;
  return loaded.run(program, rest);
}
