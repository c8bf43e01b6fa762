/** `compare`: have two images the same content? */
import type { Backend } from '../../block/backend.js';
import type { CompareResult } from '../../job/compare.js';
import type { CacheMode } from '../../block/types.js';
import { CompareError, compare as compareImages } from '../../job/compare.js';
import { nodeHost } from '../../host/node/index.js';
import { command, GetoptError } from '../../options/getopt.js';
import { watchInterrupts } from '../interrupt.js';
import { cacheMode, openImage, toolGraph } from '../images.js';
import { ToolObjects } from '../objects.js';
import type { ProgressWish } from '../progress.js';
import { endUnbegun, progressWish, showProgress } from '../progress.js';
import type { Program } from '../program.js';
import { Failure, UsageError } from '../program.js';
import type { ImgCommand } from './options.js';
import { commandArguments, checkImageOpts, shared } from './options.js';

const spec = command({
  name: 'compare',
  summary: 'compare the content of two images',
  operands: 'FILENAME1 FILENAME2',
  completeOperand: 'file',
  doc:
    'Images of different length are the same when the rest of the longer one is zero.\n' +
    'Exit status: 0 the same, 1 different, 2 an image could not be opened, 3 or 4 read.',
  options: {
    help: shared.help,
    quiet: shared.quiet,
    progress: shared.progress,
    aFormat: {
      short: 'f',
      long: 'a-format',
      aliases: ['left-format'],
      arg: 'FMT',
      complete: 'format',
      doc: 'format of FILENAME1',
    },
    bFormat: {
      short: 'F',
      long: 'b-format',
      aliases: ['right-format'],
      arg: 'FMT',
      complete: 'format',
      doc: 'format of FILENAME2',
    },
    imageOpts: shared.imageOpts,
    strict: {
      short: 's',
      long: 'strict',
      doc: 'sizes, and where something is allocated, must be the same too',
    },
    cache: shared.sourceCache,
    forceShare: shared.forceShare,
    object: shared.object,
  },
});

const usage = ['[-f FMT] [-F FMT | --image-opts] [-s] [-p] [-T CACHE] [-U] FILENAME1 FILENAME2'];

/** Exit statuses. */
const DIFFERENT = 1;
const NOT_OPENED = 2;
const NO_STATUS = 3;
const NOT_READ = 4;

interface Asked {
  formats: [string | undefined, string | undefined];
  imageOpts: boolean;
  strict: boolean;
  quiet: boolean;
  progress: ProgressWish;
  forceShare: boolean;
  cache: string;
}

async function run(program: Program, args: readonly string[]): Promise<number> {
  try {
    return await compareArguments(program, args);
  } catch (e) {
    const status = program.report(e);
    if (e instanceof Failure && e.told) return status;
    if (e instanceof GetoptError || e instanceof UsageError) return status;
    if (e instanceof CompareError) return e.step === 'status' ? NO_STATUS : NOT_READ;
    return NOT_OPENED;
  }
}

async function compareArguments(program: Program, args: readonly string[]): Promise<number> {
  const objects = new ToolObjects();
  const operands: string[] = [];
  const asked: Asked = {
    formats: [undefined, undefined],
    imageOpts: false,
    strict: false,
    quiet: false,
    progress: 'off',
    forceShare: false,
    cache: 'writeback',
  };
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) operands.push(value);
    else if (key === 'aFormat') asked.formats[0] = value;
    else if (key === 'bFormat') asked.formats[1] = value;
    else if (key === 'cache') asked.cache = value;
    else if (key === 'imageOpts') asked.imageOpts = true;
    else if (key === 'strict') asked.strict = true;
    else if (key === 'quiet') asked.quiet = true;
    else if (key === 'progress') asked.progress = progressWish(value);
    else if (key === 'forceShare') asked.forceShare = true;
    else if (key === 'object') await objects.add(value);
  }
  const [a, b, extra] = operands;
  if (a === undefined || b === undefined || extra !== undefined) {
    throw new UsageError('Expecting two image file names');
  }
  // As qemu-img, which looks at the first format only.
  checkImageOpts(asked.imageOpts, asked.formats[0]);
  const graph = toolGraph(program, objects);
  let cache: CacheMode;
  const open = (name: string, which: 0 | 1): Promise<Backend> => {
    const image = { name, imageOpts: asked.imageOpts, format: asked.formats[which] };
    return openImage(program, graph, image, { cache, forceShare: asked.forceShare });
  };
  try {
    cache = cacheMode(asked.cache, 'Invalid source cache option');
    return await compareOpen(program, asked, [a, b], [await open(a, 0), await open(b, 1)]);
  } catch (e) {
    endUnbegun(program, asked.progress, { quiet: asked.quiet, percent: false });
    throw e;
  } finally {
    await graph.close();
  }
}

const SIZES_DIFFER = 'Warning: Image size mismatch!\n';

async function compareOpen(
  program: Program,
  asked: Asked,
  names: readonly [string, string],
  images: readonly [Backend, Backend],
): Promise<number> {
  const [a, b] = images;
  const interrupts = watchInterrupts();
  const show = showProgress(program, asked.progress, asked);
  const say = (text: string): void => {
    if (!asked.quiet) program.print(text);
  };
  try {
    const result = await compareImages(a, b, {
      host: nodeHost(),
      strict: asked.strict,
      names,
      signal: interrupts.signal,
      onProgress: (progress) => {
        show.update(progress);
      },
    });
    if ('sizesDiffer' in result && result.sizesDiffer) say(SIZES_DIFFER);
    say(`${resultText(result)}\n`);
    return result.outcome === 'equal' ? 0 : DIFFERENT;
  } catch (e) {
    const status = interrupts.status();
    if (status !== undefined) throw new Failure(undefined, status);
    if (e instanceof CompareError && e.sizesDiffer) say(SIZES_DIFFER);
    throw e;
  } finally {
    show.end(false);
    await b.close();
    await a.close();
    interrupts.dispose();
  }
}

function resultText(result: CompareResult): string {
  switch (result.outcome) {
    case 'equal':
      return 'Images are identical.';
    case 'size':
      return 'Strict mode: Image size mismatch!';
    case 'status':
      return `Strict mode: Offset ${String(result.offset)} block status mismatch!`;
    case 'content':
      return `Content mismatch at offset ${String(result.offset)}!`;
  }
}

export const compare: ImgCommand = { spec, usage, run };
