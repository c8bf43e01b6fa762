/** `vdisk compact`: in place. */
import type { Backend } from '../../block/backend.js';
import type { Compacted } from '../../job/compact.js';
import { compact as compactOpen } from '../../job/compact.js';
import { actualSize } from '../../block/image-info.js';
import { formatSize } from '../../lib/sizes.js';
import { command } from '../../options/getopt.js';
import { cacheMode, openImage, toolGraph } from '../images.js';
import type { ImgCommand } from '../img/options.js';
import { checkImageOpts, commandArguments, oneOperand } from '../img/options.js';
import { outputFormat, shared } from '../img/options.js';
import { jsonText } from '../img/json.js';
import type { Interrupts } from '../interrupt.js';
import { watchInterrupts } from '../interrupt.js';
import { ToolObjects } from '../objects.js';
import type { ProgressWish } from '../progress.js';
import { progressWish, showProgress } from '../progress.js';
import type { Program } from '../program.js';
import { Failure } from '../program.js';

const spec = command({
  name: 'compact',
  summary: 'give back what an image stores in vain, and shorten its file',
  operands: 'FILENAME',
  completeOperand: 'file',
  doc:
    'In place: clusters that hold only zeroes and leaked ones are released, data moves from\n' +
    'the end of the file into the holes, and the file is cut. The guest sees no change, and\n' +
    'snapshots and bitmaps stay. An interrupted run leaves the image sound, at most with\n' +
    'leaked clusters.\n' +
    'In a raw image, blocks of zeroes become holes.',
  options: {
    help: shared.help,
    quiet: shared.quiet,
    progress: shared.progress,
    format: shared.format,
    imageOpts: shared.imageOpts,
    cache: shared.cache,
    output: shared.output,
    object: shared.object,
  },
});

const usage = ['[-f FMT | --image-opts] [-t CACHE] [--output human|json] [-p] [-q] FILENAME'];

interface Asked {
  name: string;
  format: string | undefined;
  imageOpts: boolean;
  cache: string;
  quiet: boolean;
  json: boolean;
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
    quiet: false,
    json: false,
    progress: 'off',
  };
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) operands.push(value);
    else if (key === 'format') asked.format = value;
    else if (key === 'cache') asked.cache = value;
    else if (key === 'output') asked.json = outputFormat(value) === 'json';
    else if (key === 'progress') asked.progress = progressWish(value);
    else if (key === 'object') await objects.add(value);
    else if (key !== 'help') asked[key] = true;
  }
  asked.name = oneOperand(operands);
  checkImageOpts(asked.imageOpts, asked.format);
  const cache = cacheMode(asked.cache);
  const graph = toolGraph(program, objects);
  const interrupts = watchInterrupts();
  try {
    const flags = { writable: true, unmap: true, keepsContent: true };
    const backend = await openImage(program, graph, asked, { flags, cache });
    try {
      await compactAndTell(program, asked, backend, interrupts);
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
  return 0;
}

async function compactAndTell(
  program: Program,
  asked: Asked,
  backend: Backend,
  interrupts: Interrupts,
): Promise<void> {
  const before = await actualSize(backend.node);
  const show = showProgress(program, asked.progress, { quiet: asked.quiet, toErrors: asked.json });
  let complete = false;
  let result: Compacted;
  try {
    result = await compactOpen(backend, {
      signal: interrupts.signal,
      onProgress: (progress) => {
        show.update(progress);
      },
    });
    complete = true;
  } finally {
    show.end(complete);
  }
  const after = await actualSize(backend.node);
  if (asked.json) {
    program.print(
      jsonText({
        filename: asked.name,
        'zeroed-bytes': result.zeroed,
        'leaked-bytes': result.leaked,
        'moved-bytes': result.moved,
        'disk-size-before': before,
        'disk-size': after,
      }),
    );
  } else if (!asked.quiet) {
    const [was, is] = [before, after].map((bytes = 0) => formatSize(bytes));
    program.print(`Image compacted: it takes ${is ?? ''}, before ${was ?? ''}.\n`);
  }
}

export const compact: ImgCommand = { spec, usage, run };
