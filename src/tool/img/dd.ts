/** `dd`: blocks of an image into a new one. */
import type { Backend } from '../../block/backend.js';
import { createImage, prepareCreate } from '../../block/create.js';
import { BlockError, errorCode, errorText, prepend } from '../../block/errors.js';
import type { BlockGraph } from '../../block/graph.js';
import { convert } from '../../job/convert.js';
import { copyBlocks } from '../../job/dd.js';
import { ProgressMeter } from '../../job/operation.js';
import { streamOut } from '../../job/stream-out.js';
import { command } from '../../options/getopt.js';
import type { ImageArgument } from '../images.js';
import { openImage, toolGraph, writebackCache } from '../images.js';
import { watchInterrupts } from '../interrupt.js';
import { ToolObjects } from '../objects.js';
import type { Program } from '../program.js';
import { Failure } from '../program.js';
import type { ImgCommand } from './options.js';
import {
  checkImageOpts,
  commandArguments,
  countArgument,
  shared,
  sizeArgument,
} from './options.js';

const MAX_INT = 2147483647;
/** The name of standard input and output. */
const STANDARD = '-';

const spec = command({
  name: 'dd',
  summary: 'copy blocks of an image to a new one',
  operands: '[bs=SIZE] [count=BLOCKS] [skip=BLOCKS] if=INPUT of=OUTPUT',
  completeOperand: ['bs=', 'count=', 'if=', 'of=', 'skip='],
  doc:
    'bs= is the size of a block (default 512); count= copies so many blocks; skip= begins after\n' +
    'so many blocks of INPUT. if=- and of=- are standard input and output.',
  options: {
    help: shared.help,
    object: shared.object,
    format: shared.format,
    imageOpts: shared.imageOpts,
    outputFormat: {
      short: 'O',
      long: 'output-format',
      arg: 'FMT',
      complete: 'format',
      doc: 'format of OUTPUT; default raw',
    },
    forceShare: shared.forceShare,
  },
});

const usage = [
  '[-f FMT | --image-opts] [-O FMT] [-U] [bs=SIZE] [count=N] [skip=N] if=INPUT of=OUTPUT',
];

interface Asked {
  format: string | undefined;
  imageOpts: boolean;
  outputFormat: string;
  forceShare: boolean;
  input: string | undefined;
  output: string | undefined;
  blockBytes: number;
  count: number | undefined;
  skip: number;
}

async function run(program: Program, args: readonly string[]): Promise<number> {
  const objects = new ToolObjects();
  const asked: Asked = {
    format: undefined,
    imageOpts: false,
    outputFormat: 'raw',
    forceShare: false,
    input: undefined,
    output: undefined,
    blockBytes: 512,
    count: undefined,
    skip: 0,
  };
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) setOperand(asked, value);
    else if (key === 'format') asked.format = value;
    else if (key === 'outputFormat') asked.outputFormat = value;
    else if (key === 'imageOpts') asked.imageOpts = true;
    else if (key === 'forceShare') asked.forceShare = true;
    else if (key === 'object') await objects.add(value);
  }
  const { input, output } = asked;
  if (input === undefined || output === undefined) {
    throw new Failure('Must specify both input and output files');
  }
  checkImageOpts(asked.imageOpts, asked.format);
  const graph = toolGraph(program, objects);
  try {
    const image = { name: input, imageOpts: asked.imageOpts, format: asked.format };
    if (input !== STANDARD || asked.imageOpts) {
      await ddImage(program, graph, asked, image, output);
    } else await ddStandardInput(program, graph, asked, image, output);
  } finally {
    await graph.close();
  }
  return 0;
}

async function ddImage(
  program: Program,
  graph: BlockGraph,
  asked: Asked,
  image: ImageArgument,
  output: string,
): Promise<void> {
  const source = await openImage(program, graph, image, { forceShare: asked.forceShare });
  try {
    if (output === STANDARD) await copyOut(program, graph, asked, source);
    else await copyTo(program, graph, asked, source, output);
  } finally {
    await source.close();
  }
}

/** A pipe is read as it is when it holds a raw image; everything else becomes a file first. */
async function ddStandardInput(
  program: Program,
  graph: BlockGraph,
  asked: Asked,
  image: ImageArgument,
  output: string,
): Promise<void> {
  const { cutStream, InputFiles, resolveInput } = await import('./unpack.js');
  const interrupts = watchInterrupts();
  const files = new InputFiles();
  try {
    const { signal } = interrupts;
    const streams = output !== STANDARD;
    const how = { graph, unpack: false, streams, signal };
    const input = await resolveInput(image, how, files);
    if (input.kind === 'image') {
      await ddImage(program, graph, asked, input.image, output);
      return;
    }
    const { blockBytes, count, skip } = asked;
    const start = skip * blockBytes;
    const end = count === undefined ? undefined : count * blockBytes;
    await convert({
      graph,
      sources: [],
      stream: cutStream(input.bytes, start, end),
      target: { filename: output, format: asked.outputFormat, cache: writebackCache },
      minSparse: 0,
      signal,
    });
  } catch (e) {
    const status = interrupts.status();
    if (status !== undefined) throw new Failure(undefined, status);
    throw e;
  } finally {
    files.close();
    interrupts.dispose();
  }
}

/** The part of an image that is asked for. */
function partOf(
  source: Backend,
  { blockBytes, count, skip }: Asked,
): { start: number; size: number } {
  const size = count === undefined ? source.size : Math.min(source.size, count * blockBytes);
  return { start: skip * blockBytes, size };
}

async function copyOut(
  program: Program,
  graph: BlockGraph,
  asked: Asked,
  source: Backend,
): Promise<void> {
  const { canSeek } = await import('./unpack.js');
  if (canSeek(1)) {
    await copyTo(program, graph, asked, source, '/dev/stdout');
    return;
  }
  const { checkStandardOutput, throughFile, writePiece } = await import('./standard-output.js');
  checkStandardOutput();
  if (asked.outputFormat !== 'raw') {
    const { signal } = new AbortController();
    await throughFile((path) => copyTo(program, graph, asked, source, path), signal);
    return;
  }
  const { start, size } = partOf(source, asked);
  if (start > size) {
    program.error(`${asked.input ?? ''}: cannot skip to specified offset`);
    return;
  }
  const part = { backend: source, from: start, bytes: size - start };
  await streamOut([part], writePiece, new ProgressMeter(graph.host.clock));
}

function setOperand(asked: Asked, text: string): void {
  const equals = text.indexOf('=');
  const name = equals < 0 ? text : text.slice(0, equals);
  const value = text.slice(equals + 1);
  if (equals < 0) throw new Failure(`unrecognized operand ${text}`);
  if (name === 'if') asked.input = value;
  else if (name === 'of') asked.output = value;
  else if (name === 'bs') asked.blockBytes = sizeArgument('bs', value, 1, MAX_INT);
  else if (name === 'count') asked.count = countArgument('count', value);
  else if (name === 'skip') asked.skip = countArgument('skip', value);
  else throw new Failure(`unrecognized operand ${name}`);
}

async function copyTo(
  program: Program,
  graph: BlockGraph,
  asked: Asked,
  source: Backend,
  output: string,
): Promise<void> {
  const driver = graph.tryDriver(asked.outputFormat);
  if (driver === undefined) throw new Failure('Unknown file format');
  const { start, size } = partOf(source, asked);
  const bytes = Math.max(0, size - start);
  const prepared = await prepareCreate(graph, {
    filename: output,
    format: asked.outputFormat,
    size: bytes,
  });
  try {
    await createImage(graph, prepared);
  } catch (e) {
    throw prepend(`${output}: error while creating output image: `, e);
  }
  const target = await openImage(
    program,
    graph,
    { name: output, imageOpts: false, format: asked.outputFormat },
    { flags: { writable: true, unmap: true }, cache: writebackCache },
  );
  try {
    if (start > size) {
      // QEMU tells it and goes on to an empty image, with status 0.
      program.error(`${asked.input ?? ''}: cannot skip to specified offset`);
      return;
    }
    await copyBlocks(source, start, target, bytes);
  } catch (e) {
    throw new BlockError(errorCode(e), `${ddText(e)}: ${errorText(e)}`, { cause: e });
  } finally {
    await target.close();
  }
}

function ddText(e: unknown): string {
  const writing = e instanceof BlockError && e.op === 'write';
  return `error while ${writing ? 'writing to output' : 'reading from input'} image file`;
}

export const dd: ImgCommand = { spec, usage, run };
