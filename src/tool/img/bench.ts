/** `bench`: the speed of requests to an image. */
import type { Backend } from '../../block/backend.js';
import { errorText } from '../../block/errors.js';
import { bench as benchImage, BenchError } from '../../job/bench.js';
import { command } from '../../options/getopt.js';
import { openImage, toolGraph } from '../images.js';
import { parseAioMode, parseCacheMode } from '../io/image.js';
import { ToolObjects } from '../objects.js';
import type { Program } from '../program.js';
import { Failure } from '../program.js';
import type { ImgCommand } from './options.js';
import {
  checkImageOpts,
  commandArguments,
  countArgument,
  oneOperand,
  shared,
  sizeArgument,
} from './options.js';

const MAX_INT = 2147483647;

const spec = command({
  name: 'bench',
  summary: 'measure the speed of requests to an image',
  operands: 'FILENAME',
  completeOperand: 'file',
  options: {
    help: shared.help,
    format: shared.format,
    imageOpts: shared.imageOpts,
    cache: shared.cache,
    count: { short: 'c', long: 'count', arg: 'COUNT', doc: 'how many requests; default 75000' },
    depth: { short: 'd', long: 'depth', arg: 'DEPTH', doc: 'requests in flight; default 64' },
    offset: { short: 'o', long: 'offset', arg: 'OFFSET', doc: 'offset of the first request' },
    bufferSize: {
      short: 's',
      long: 'buffer-size',
      arg: 'SIZE',
      doc: 'bytes per request; default 4k',
    },
    stepSize: {
      short: 'S',
      long: 'step-size',
      arg: 'STEP',
      doc: 'from one offset to the next; default: the size of a request',
    },
    aio: {
      short: 'i',
      long: 'aio',
      arg: 'AIO',
      complete: ['threads', 'native', 'io_uring'],
      doc: 'how requests reach the kernel: threads, native or io_uring',
    },
    native: { short: 'n', long: 'native', doc: 'the same as --aio native' },
    write: { short: 'w', long: 'write', doc: 'write; without it, read' },
    pattern: { long: 'pattern', arg: 'BYTE', doc: 'what is written; default 0' },
    flushInterval: {
      long: 'flush-interval',
      arg: 'REQUESTS',
      doc: 'flush after so many writes, at least as many as are in flight',
    },
    noDrain: { long: 'no-drain', doc: 'go on with writes while a flush is in flight' },
    forceShare: shared.forceShare,
    quiet: { ...shared.quiet, exact: true },
    object: { ...shared.object, exact: true },
  },
});

const usage = [
  '[-f FMT | --image-opts] [-t CACHE] [-i AIO] [-c COUNT] [-d DEPTH] [-s SIZE] [-S STEP]',
  '[-o OFFSET] [-w [--pattern BYTE] [--flush-interval REQUESTS [--no-drain]]] [-U] FILENAME',
];

interface Asked {
  name: string;
  format: string | undefined;
  imageOpts: boolean;
  cache: string;
  count: number;
  depth: number;
  offset: number;
  bufferSize: number;
  stepSize: number;
  aio: string | undefined;
  write: boolean;
  pattern: number;
  flushInterval: number;
  noDrain: boolean;
  forceShare: boolean;
}

function setNumber(asked: Asked, key: string, value: string): void {
  if (key === 'count') asked.count = countArgument('request count', value, 1, MAX_INT);
  else if (key === 'depth') asked.depth = countArgument('queue depth', value, 1, MAX_INT);
  else if (key === 'offset') asked.offset = sizeArgument('offset', value);
  else if (key === 'bufferSize') asked.bufferSize = sizeArgument('buffer size', value, 1, MAX_INT);
  else if (key === 'stepSize') asked.stepSize = sizeArgument('step size', value, 0, MAX_INT);
  else if (key === 'pattern') asked.pattern = countArgument('pattern byte', value, 0, 255);
  else if (key === 'flushInterval') {
    asked.flushInterval = countArgument('flush interval', value, 0, MAX_INT);
  }
}

async function run(program: Program, args: readonly string[]): Promise<number> {
  const objects = new ToolObjects();
  const operands: string[] = [];
  const asked: Asked = {
    name: '',
    format: undefined,
    imageOpts: false,
    cache: 'writeback',
    count: 75000,
    depth: 64,
    offset: 0,
    bufferSize: 4096,
    stepSize: 0,
    aio: undefined,
    write: false,
    pattern: 0,
    flushInterval: 0,
    noDrain: false,
    forceShare: false,
  };
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) operands.push(value);
    else if (key === 'format') asked.format = value;
    else if (key === 'imageOpts') asked.imageOpts = true;
    else if (key === 'cache') asked.cache = cacheWord(value);
    else if (key === 'aio') asked.aio = aioWord(value);
    else if (key === 'native') asked.aio = 'native';
    else if (key === 'write') asked.write = true;
    else if (key === 'noDrain') asked.noDrain = true;
    else if (key === 'forceShare') asked.forceShare = true;
    else if (key === 'object') await objects.add(value);
    else setNumber(asked, key, value);
  }
  asked.name = oneOperand(operands);
  checkImageOpts(asked.imageOpts, asked.format);
  if (!asked.write && asked.flushInterval > 0) {
    throw new Failure('--flush-interval is only available in write tests');
  }
  if (asked.flushInterval > 0 && asked.flushInterval < asked.depth) {
    throw new Failure("Flush interval can't be smaller than depth");
  }
  return openAndBench(program, objects, asked);
}

function cacheWord(word: string): string {
  if (parseCacheMode(word) === undefined) throw new Failure('Invalid cache mode');
  return word;
}

function aioWord(word: string): string {
  const mode = parseAioMode(word);
  if (mode === undefined) throw new Failure(`Invalid aio option: ${word}`);
  return mode;
}

async function openAndBench(program: Program, objects: ToolObjects, asked: Asked): Promise<number> {
  const graph = toolGraph(program, objects);
  try {
    const options = asked.aio === undefined ? {} : { file: { aio: asked.aio } };
    const backend = await openImage(program, graph, asked, {
      flags: { writable: asked.write },
      cache: parseCacheMode(asked.cache),
      forceShare: asked.forceShare,
      options,
    });
    try {
      await benchOpen(program, asked, backend);
    } finally {
      await backend.close();
    }
  } finally {
    await graph.close();
  }
  return 0;
}

async function benchOpen(program: Program, asked: Asked, backend: Backend): Promise<void> {
  const step = asked.stepSize === 0 ? asked.bufferSize : asked.stepSize;
  program.print(
    `Sending ${String(asked.count)} ${asked.write ? 'write' : 'read'} requests, ` +
      `${String(asked.bufferSize)} bytes each, ${String(asked.depth)} in parallel ` +
      `(starting at offset ${String(asked.offset)}, step size ${String(step)})\n`,
  );
  if (asked.flushInterval > 0) {
    program.print(`Sending flush every ${String(asked.flushInterval)} requests\n`);
  }
  const start = performance.now();
  try {
    await benchImage(backend, {
      count: asked.count,
      depth: asked.depth,
      bytes: asked.bufferSize,
      step,
      offset: asked.offset,
      write: asked.write,
      pattern: asked.pattern,
      flushInterval: asked.flushInterval,
      noDrain: asked.noDrain,
    });
  } catch (e) {
    if (!(e instanceof BenchError)) throw e;
    const what = e.flush ? 'Failed flush request' : 'Failed request';
    throw new Failure(`${what}: ${errorText(e.cause)}`);
  }
  const seconds = (performance.now() - start) / 1000;
  program.print(`Run completed in ${seconds.toFixed(3)} seconds.\n`);
}

export const bench: ImgCommand = { spec, usage, run };
