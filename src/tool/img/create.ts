/** `create`: a new image. */
import { createImage, creator, prepareCreate } from '../../block/create.js';
import { prepend } from '../../block/errors.js';
import { parseSize } from '../../lib/sizes.js';
import { createHelpTexts, formatCreateHelp } from '../../options/create-options.js';
import { hasHelp, isOptionList } from '../../options/qemu-opts.js';
import { command } from '../../options/getopt.js';
import { toolGraph } from '../images.js';
import { ToolObjects } from '../objects.js';
import type { Program } from '../program.js';
import { Failure, UsageError } from '../program.js';
import type { ImgCommand } from './options.js';
import { commandArguments, shared, sizeArgument } from './options.js';

const spec = command({
  name: 'create',
  summary: 'make a new image',
  operands: 'FILENAME [SIZE]',
  completeOperand: 'file',
  doc:
    'SIZE is the virtual size in bytes, or with a suffix k, M, G, T, P. Without it the new\n' +
    'image is as large as its backing file. An existing FILENAME is overwritten.',
  options: {
    help: shared.help,
    quiet: shared.quiet,
    object: shared.object,
    format: {
      short: 'f',
      long: 'format',
      arg: 'FMT',
      complete: 'format',
      doc: 'format of the new image; default raw',
    },
    options: {
      short: 'o',
      long: 'options',
      arg: 'OPTIONS',
      complete: 'create-options',
      of: 'format',
      doc: "options of the format, as in cluster_size=2M,compat=0.10; '-o help' lists them",
    },
    backing: {
      short: 'b',
      long: 'backing',
      arg: 'BACKING_FILE',
      complete: 'file',
      doc: 'the new image holds only what differs from BACKING_FILE',
    },
    backingFormat: {
      short: 'F',
      long: 'backing-format',
      arg: 'BACKING_FMT',
      complete: 'format',
      doc: 'format of BACKING_FILE',
    },
    backingUnsafe: {
      short: 'u',
      long: 'backing-unsafe',
      doc: 'do not open BACKING_FILE: it may be missing',
    },
  },
});

const usage = ['[-f FMT] [-o OPTIONS] [-b BACKING_FILE -F BACKING_FMT] [-u] FILENAME [SIZE]'];

interface Asked {
  format: string;
  optionTexts: string[];
  backingFile: string | undefined;
  backingFormat: string | undefined;
  unsafe: boolean;
  quiet: boolean;
}

/** Prints what `-o` may hold for a format; the exit status. */
export async function printCreateHelp(
  program: Program,
  format: string,
  filename: string | undefined,
): Promise<number> {
  const { driver, set } = await creator(toolGraph(program), format, filename);
  const heading =
    filename === undefined ? createHelpTexts.formatHeading(driver.name) : createHelpTexts.heading;
  program.print(`${heading}\n${formatCreateHelp(set)}\n`);
  if (filename === undefined) program.print(`${createHelpTexts.formatFooter}\n`);
  return 0;
}

/** Refuses a list that could not be joined with others. */
export function addOptionText(texts: string[], text: string): void {
  if (!isOptionList(text)) throw new Failure(`Invalid option list: ${text}`);
  texts.push(text);
}

async function run(program: Program, args: readonly string[]): Promise<number> {
  const objects = new ToolObjects();
  const asked: Asked = {
    format: 'raw',
    optionTexts: [],
    backingFile: undefined,
    backingFormat: undefined,
    unsafe: false,
    quiet: false,
  };
  const operands: string[] = [];
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) operands.push(value);
    else if (key === 'format') asked.format = value;
    else if (key === 'options') addOptionText(asked.optionTexts, value);
    else if (key === 'backing') asked.backingFile = value;
    else if (key === 'backingFormat') asked.backingFormat = value;
    else if (key === 'backingUnsafe') asked.unsafe = true;
    else if (key === 'quiet') asked.quiet = true;
    else if (key === 'object') await objects.add(value);
  }
  const [filename, sizeText, extra] = operands;
  if (hasHelp(asked.optionTexts.join(','))) {
    return printCreateHelp(program, asked.format, filename);
  }
  if (filename === undefined) throw new UsageError('Expecting image file name');
  const size = sizeText === undefined ? undefined : imageSize(sizeText);
  if (extra !== undefined) throw new UsageError(`Unexpected argument: ${extra}`);
  await makeImage(program, objects, asked, filename, size);
  return 0;
}

/**
 * The size of the new image. One beyond vdisk's limit is passed on where it can be written as a
 * number: the format refuses it in its own words.
 */
export function imageSize(text: string): number {
  const size = parseSize(text);
  if (size.status === 'limit' && BigInt(Number(size.value)) === size.value) {
    if (size.value < 1n << 63n) return Number(size.value);
  }
  return sizeArgument('image size', text);
}

async function makeImage(
  program: Program,
  objects: ToolObjects,
  asked: Asked,
  filename: string,
  size: number | undefined,
): Promise<void> {
  const graph = toolGraph(program, objects);
  try {
    const prepared = await prepareCreate(graph, {
      filename,
      format: asked.format,
      optionTexts: asked.optionTexts,
      backingFile: asked.backingFile,
      backingFormat: asked.backingFormat,
      size,
      backing: asked.unsafe ? 'trust' : 'open',
    });
    if (!asked.quiet) {
      program.print(`Formatting '${filename}', fmt=${asked.format} ${prepared.summary}\n`);
      program.output.flush();
    }
    await createImage(graph, prepared);
  } catch (e) {
    throw prepend(`${filename}: `, e);
  } finally {
    await graph.close();
  }
}

export const create: ImgCommand = { spec, usage, run };
