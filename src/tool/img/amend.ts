/** `amend`: other options for an image that exists. */
import type { Backend } from '../../block/backend.js';
import type { Driver } from '../../block/driver.js';
import { skipFilters } from '../../block/status.js';
import {
  createHelpTexts,
  formatCreateHelp,
  parseCreateOptions,
} from '../../options/create-options.js';
import { command } from '../../options/getopt.js';
import { hasHelp } from '../../options/qemu-opts.js';
import { cacheMode, openImage, toolGraph } from '../images.js';
import { watchInterrupts } from '../interrupt.js';
import { ToolObjects } from '../objects.js';
import type { ProgressWish } from '../progress.js';
import { endUnbegun, progressWish, showProgress } from '../progress.js';
import type { Program } from '../program.js';
import { Failure, UsageError } from '../program.js';
import { addOptionText } from './create.js';
import type { ImgCommand } from './options.js';
import { checkImageOpts, commandArguments, shared } from './options.js';

const spec = command({
  name: 'amend',
  summary: 'change format-specific options of an image',
  operands: 'FILENAME',
  completeOperand: 'file',
  options: {
    help: shared.help,
    object: shared.object,
    options: {
      short: 'o',
      long: 'options',
      arg: 'OPTIONS',
      complete: 'amend-options',
      of: 'format',
      doc: "the options and their new values; '-o help -f FMT' lists them",
    },
    quiet: shared.quiet,
    progress: shared.progress,
    format: shared.format,
    imageOpts: shared.imageOpts,
    cache: shared.cache,
    force: { long: 'force', doc: 'allow unsafe changes, as erasing the last key of an image' },
  },
});

const usage = ['[-f FMT | --image-opts] [-t CACHE] [--force] [-p] [-q] -o OPTIONS FILENAME'];

interface Asked {
  name: string;
  format: string | undefined;
  imageOpts: boolean;
  cache: string;
  quiet: boolean;
  progress: ProgressWish;
  force: boolean;
  readonly optionTexts: string[];
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
    progress: 'off',
    force: false,
    optionTexts: [],
  };
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) operands.push(value);
    else if (key === 'format') asked.format = value;
    else if (key === 'cache') asked.cache = value;
    else if (key === 'options') addOptionText(asked.optionTexts, value);
    else if (key === 'progress') asked.progress = progressWish(value);
    else if (key === 'object') await objects.add(value);
    else if (key !== 'help') asked[key] = true;
  }
  if (asked.optionTexts.length === 0) throw new UsageError('Must specify options (-o)');
  const graph = toolGraph(program, objects);
  const help = hasHelp(asked.optionTexts.join(','));
  if (help && asked.format !== undefined) {
    const driver = graph.tryDriver(asked.format);
    if (driver === undefined) throw new Failure(`Unknown file format '${asked.format}'`);
    return printAmendHelp(program, driver);
  }
  const [name, extra] = operands;
  if (name === undefined || extra !== undefined) {
    throw new Failure('Expecting one image file name');
  }
  asked.name = name;
  checkImageOpts(asked.imageOpts, asked.format);
  try {
    const cache = cacheMode(asked.cache);
    const backend = await openImage(program, graph, asked, { flags: { writable: true }, cache });
    try {
      if (help) return printAmendHelp(program, backend.node.driver);
      await amendOpen(program, asked, backend);
    } finally {
      await backend.close();
    }
  } catch (e) {
    endUnbegun(program, asked.progress, { quiet: asked.quiet, percent: false });
    throw e;
  } finally {
    await graph.close();
  }
  return 0;
}

function printAmendHelp(program: Program, driver: Driver): number {
  if (driver.amendOptions === undefined) throw notAmendable(driver);
  const heading = createHelpTexts.amendHeading(driver.name);
  program.print(`${heading}\n${formatCreateHelp(driver.amendOptions)}\n`);
  return 0;
}

function notAmendable(driver: Driver): Failure {
  return new Failure(`Format driver '${driver.name}' does not support option amendment`);
}

async function amendOpen(program: Program, asked: Asked, backend: Backend): Promise<void> {
  const node = skipFilters(backend.node);
  const { driver, instance } = node;
  if (driver.amendOptions === undefined || instance.amend === undefined) {
    throw notAmendable(driver);
  }
  const { values } = parseCreateOptions(
    driver.amendOptions,
    asked.optionTexts,
    driver.createOptions,
  );
  // An interrupt waits until the image is consistent again.
  const interrupts = watchInterrupts();
  const show = showProgress(program, asked.progress, { quiet: asked.quiet, steps: true });
  const none = { bytesPerSecond: 0, secondsLeft: undefined };
  try {
    show.update({ done: 0, total: 1, ...none });
    await instance.amend(values, {
      force: asked.force,
      onProgress: (done, total) => {
        show.update({ done, total, ...none });
      },
    });
    await node.refreshLength();
  } finally {
    // QEMU tells that it came to the end, well or not.
    show.end(true);
    interrupts.dispose();
  }
  const status = interrupts.status();
  if (status !== undefined) throw new Failure(undefined, status);
}

export const amend: ImgCommand = { spec, usage, run };
