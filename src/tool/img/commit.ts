/** `commit`: the changes of an image go into its backing file. */
import type { Backend } from '../../block/backend.js';
import { findBacking } from '../../block/chain.js';
import { commit as commitImage } from '../../job/commit.js';
import { command } from '../../options/getopt.js';
import { cacheMode, closingError, closingFailure, openImage, toolGraph } from '../images.js';
import type { Interrupts } from '../interrupt.js';
import { watchInterrupts } from '../interrupt.js';
import { ToolObjects } from '../objects.js';
import type { ProgressWish } from '../progress.js';
import { endUnbegun, progressWish, showProgress } from '../progress.js';
import type { Program } from '../program.js';
import { Failure } from '../program.js';
import type { ImgCommand } from './options.js';
import { checkImageOpts, commandArguments, oneOperand, shared } from './options.js';
import { sizeArgument } from './options.js';

const spec = command({
  name: 'commit',
  summary: 'write the changes of an image into its backing file',
  operands: 'FILENAME',
  completeOperand: 'file',
  doc:
    'Afterwards FILENAME is empty and shows the same as before. With -b, images between\n' +
    'BASE and FILENAME are not valid any more, and FILENAME keeps its data.',
  options: {
    help: shared.help,
    quiet: shared.quiet,
    progress: shared.progress,
    format: shared.format,
    imageOpts: shared.imageOpts,
    cache: shared.cache,
    drop: { short: 'd', long: 'drop', doc: 'do not empty FILENAME: it will not be used any more' },
    base: {
      short: 'b',
      long: 'base',
      arg: 'BASE',
      complete: 'file',
      doc: 'image of the backing chain that takes the changes (implies --drop)',
    },
    rate: shared.rate,
    object: shared.object,
  },
});

const usage = ['[-f FMT | --image-opts] [-t CACHE] [-b BASE] [-d] [-r RATE] [-p] FILENAME'];

interface Asked {
  name: string;
  format: string | undefined;
  imageOpts: boolean;
  cache: string;
  base: string | undefined;
  drop: boolean;
  rate: number;
  quiet: boolean;
  progress: ProgressWish;
}

async function run(program: Program, args: readonly string[]): Promise<number> {
  const objects = new ToolObjects();
  const operands: string[] = [];
  const asked: Asked = {
    name: '',
    format: undefined,
    imageOpts: false,
    cache: 'writeback',
    base: undefined,
    drop: false,
    rate: 0,
    quiet: false,
    progress: 'off',
  };
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) operands.push(value);
    else if (key === 'format') asked.format = value;
    else if (key === 'cache') asked.cache = value;
    else if (key === 'base') asked.base = value;
    else if (key === 'rate') asked.rate = sizeArgument('rate limit', value);
    else if (key === 'progress') asked.progress = progressWish(value);
    else if (key === 'object') await objects.add(value);
    else if (key !== 'help') asked[key] = true;
  }
  asked.name = oneOperand(operands);
  checkImageOpts(asked.imageOpts, asked.format);
  const cache = cacheMode(asked.cache);
  const graph = toolGraph(program, objects);
  const interrupts = watchInterrupts();
  let closing: unknown;
  try {
    const flags = { writable: true, unmap: true };
    const backend = await openImage(program, graph, asked, { flags, cache });
    try {
      await commitOpen(program, asked, backend, interrupts);
      closing = await closingError(backend);
    } finally {
      await backend.close();
    }
  } catch (e) {
    const status = interrupts.status();
    if (status !== undefined) throw new Failure(undefined, status);
    throw e;
  } finally {
    await graph.close();
    interrupts.dispose();
  }
  if (closing !== undefined) throw closingFailure(program, closing);
  if (!asked.quiet) program.print('Image committed.\n');
  return 0;
}

async function commitOpen(
  program: Program,
  asked: Asked,
  backend: Backend,
  interrupts: Interrupts,
): Promise<void> {
  const base = asked.base === undefined ? undefined : await findBacking(backend.node, asked.base);
  if (asked.base !== undefined && base === undefined) {
    endUnbegun(program, asked.progress, asked);
    throw new Failure(`Did not find '${asked.base}' in the backing chain of '${asked.name}'`);
  }
  const show = showProgress(program, asked.progress, asked);
  let complete = false;
  try {
    await commitImage(backend, {
      base,
      rate: asked.rate,
      keep: asked.drop || base !== undefined,
      signal: interrupts.signal,
      onProgress: (progress) => {
        show.update(progress);
      },
    });
    complete = true;
  } finally {
    show.end(complete);
  }
}

export const commit: ImgCommand = { spec, usage, run };
