/** `rebase`: another backing file for an image. */
import type { Backend } from '../../block/backend.js';
import { findInChain } from '../../block/chain.js';
import { BlockError, errorCode, errorText, messageOf, prepend } from '../../block/errors.js';
import { completePath } from '../../block/filename.js';
import type { BlockGraph } from '../../block/graph.js';
import type { BlockNode } from '../../block/node.js';
import { skipFilters } from '../../block/status.js';
import type { CacheMode } from '../../block/types.js';
import { takeOverDifferences } from '../../job/rebase.js';
import { command } from '../../options/getopt.js';
import { cacheMode, openImage, toolGraph } from '../images.js';
import type { Interrupts } from '../interrupt.js';
import { watchInterrupts } from '../interrupt.js';
import { ToolObjects } from '../objects.js';
import type { ProgressShow, ProgressWish } from '../progress.js';
import { progressWish, showProgress } from '../progress.js';
import type { Program } from '../program.js';
import { Failure, UsageError } from '../program.js';
import type { ImgCommand } from './options.js';
import { checkImageOpts, commandArguments, oneOperand, shared } from './options.js';

const spec = command({
  name: 'rebase',
  summary: 'give an image another backing file',
  operands: 'FILENAME',
  completeOperand: 'file',
  doc:
    'What the image shows does not change: what differs between the old and the new backing\n' +
    'file is copied into it. With -u only the name of the backing file is changed.',
  options: {
    help: shared.help,
    forceShare: shared.forceShare,
    format: shared.format,
    imageOpts: shared.imageOpts,
    cache: shared.cache,
    backing: {
      short: 'b',
      long: 'backing',
      arg: 'BACKING_FILE',
      complete: 'file',
      doc: "the new backing file; '' for none",
    },
    backingFormat: {
      short: 'F',
      long: 'backing-format',
      arg: 'BACKING_FMT',
      complete: 'format',
      doc: 'format of BACKING_FILE',
    },
    backingCache: {
      short: 'T',
      long: 'backing-cache',
      arg: 'CACHE',
      doc: 'cache mode of the backing files; default writeback',
    },
    unsafe: {
      short: 'u',
      long: 'backing-unsafe',
      doc: 'change the name only: the content must be right already',
    },
    compress: { short: 'c', long: 'compress', doc: 'compress what is copied into the image' },
    progress: shared.progress,
    quiet: shared.quiet,
    object: shared.object,
  },
});

const usage = [
  '[-f FMT | --image-opts] [-t CACHE] [-T CACHE] [-U] [-p] [-u] [-c]',
  '-b BACKING_FILE [-F BACKING_FMT] FILENAME',
];

interface Asked {
  name: string;
  format: string | undefined;
  imageOpts: boolean;
  cache: string;
  backingCache: string;
  backing: string | undefined;
  backingFormat: string | undefined;
  unsafe: boolean;
  compress: boolean;
  progress: ProgressWish;
  quiet: boolean;
  forceShare: boolean;
}

async function run(program: Program, args: readonly string[]): Promise<number> {
  const objects = new ToolObjects();
  const operands: string[] = [];
  const asked: Asked = {
    name: '',
    format: undefined,
    imageOpts: false,
    cache: 'writeback',
    backingCache: 'writeback',
    backing: undefined,
    backingFormat: undefined,
    unsafe: false,
    compress: false,
    progress: 'off',
    quiet: false,
    forceShare: false,
  };
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) operands.push(value);
    else if (key === 'format') asked.format = value;
    else if (key === 'cache') asked.cache = value;
    else if (key === 'backing') asked.backing = value;
    else if (key === 'backingFormat') asked.backingFormat = value;
    else if (key === 'backingCache') asked.backingCache = value;
    else if (key === 'progress') asked.progress = progressWish(value);
    else if (key === 'object') await objects.add(value);
    else if (key !== 'help') asked[key] = true;
  }
  asked.name = oneOperand(operands);
  if (!asked.unsafe && asked.backing === undefined) {
    throw new UsageError('Must specify backing file (-b) or use unsafe mode (-u)');
  }
  checkImageOpts(asked.imageOpts, asked.format);
  const graph = toolGraph(program, objects);
  const interrupts = watchInterrupts();
  const show = showProgress(program, asked.progress, asked);
  let complete = false;
  try {
    const cache = cacheMode(asked.cache);
    const backingCache = cacheMode(asked.backingCache, 'Invalid source cache option');
    const flags = { writable: true, noBacking: asked.unsafe };
    const backend = await openImage(program, graph, asked, { flags, cache });
    try {
      await rebaseOpen({ graph, asked, show, interrupts }, backend, backingCache);
      complete = true;
    } finally {
      await backend.close();
    }
    return 0;
  } catch (e) {
    const status = interrupts.status();
    if (status !== undefined) throw new Failure(undefined, status);
    throw e;
  } finally {
    show.end(complete);
    await graph.close();
    interrupts.dispose();
  }
}

/** A rebase that runs. */
interface Run {
  readonly graph: BlockGraph;
  readonly asked: Asked;
  readonly show: ProgressShow;
  readonly interrupts: Interrupts;
}

async function rebaseOpen(run: Run, backend: Backend, backingCache: CacheMode): Promise<void> {
  const { graph, asked } = run;
  const image = skipFilters(backend.node);
  if (asked.compress && image.instance.writeCompressed === undefined) {
    throw new Failure('Compression not supported for this file format');
  }
  const { backingFormat, backing } = asked;
  if (backingFormat !== undefined && graph.tryDriver(backingFormat) === undefined) {
    throw new Failure(`Invalid format name: '${backingFormat}'`);
  }
  if (!asked.unsafe && backing !== undefined) {
    const found = await newBase(graph, asked, image, backing, backingCache);
    try {
      await copyDifferences(run, backend, found);
    } finally {
      if (found.opened && found.node !== undefined) await graph.release(found.node);
    }
  }
  await changeReference(image, backing, backingFormat);
}

/** The new backing image: undefined node for none. */
interface NewBase {
  readonly node: BlockNode | undefined;
  /** It was opened for this and has to be released. */
  readonly opened: boolean;
}

async function newBase(
  graph: BlockGraph,
  asked: Asked,
  image: BlockNode,
  backing: string,
  cache: CacheMode,
): Promise<NewBase> {
  if (backing === '') return { node: undefined, opened: false };
  let full: string;
  try {
    full = completePath(graph.files, image.filename, backing);
  } catch (e) {
    throw prepend('Could not resolve backing filename: ', e);
  }
  const there = await findInChain(image, full);
  if (there !== undefined) return { node: there, opened: false };
  try {
    const options = asked.backingFormat === undefined ? {} : { driver: asked.backingFormat };
    const share = asked.forceShare ? { 'force-share': true } : {};
    const node = await graph.open({
      filename: full,
      options: { ...options, ...share },
      flags: { cache },
    });
    return { node, opened: true };
  } catch (e) {
    throw prepend(`Could not open new backing file '${backing}': `, e);
  }
}

async function copyDifferences(
  { asked, show, interrupts }: Run,
  backend: Backend,
  base: NewBase,
): Promise<void> {
  await takeOverDifferences(backend, {
    base: base.node,
    baseIsBelow: base.node !== undefined && !base.opened,
    compress: asked.compress,
    signal: interrupts.signal,
    onProgress: (progress) => {
      show.update(progress);
    },
  });
}

/** Stores the new name in the image. */
async function changeReference(
  image: BlockNode,
  backing: string | undefined,
  format: string | undefined,
): Promise<void> {
  const name = backing === undefined || backing === '' ? null : backing;
  const text = `Could not change the backing file to '${backing ?? '(null)'}': `;
  if (name !== null && format === undefined) {
    throw new Failure(`${text}backing format must be specified`);
  }
  try {
    if (image.instance.changeBackingFile === undefined) throw new BlockError('ENOTSUP');
    await image.instance.changeBackingFile(name, name === null ? null : (format ?? null));
  } catch (e) {
    const code = errorCode(e);
    if (code === 'ENOSPC') throw new Failure(`${text}No space left in the file header`);
    const generic = messageOf(e) === errorText(e);
    throw generic ? new BlockError(code, text + errorText(e), { cause: e }) : prepend(text, e);
  }
}

export const rebase: ImgCommand = { spec, usage, run };
