/** What `convert` does once its command line has been read. */
import type { Backend } from '../../block/backend.js';
import type { BlockGraph } from '../../block/graph.js';
import type { CacheMode } from '../../block/types.js';
import { Perm } from '../../block/types.js';
import type { ByteSource } from '../../host/node/decompress.js';
import { convert as convertImages } from '../../job/convert.js';
import { ProgressMeter } from '../../job/operation.js';
import { streamOut, wholeImage } from '../../job/stream-out.js';
import { verifyCopy } from '../../job/verify.js';
import { cacheMode, imageSpec, openImage, toolGraph } from '../images.js';
import type { Interrupts } from '../interrupt.js';
import { watchInterrupts } from '../interrupt.js';
import type { ToolObjects } from '../objects.js';
import type { ProgressWish } from '../progress.js';
import { endUnbegun, showProgress } from '../progress.js';
import type { Program } from '../program.js';
import { Failure } from '../program.js';
import type { SnapshotName } from './snapshot-name.js';
import { loadSnapshot } from './snapshot-name.js';
import type { Input } from './unpack.js';

/** The name of standard input and output. */
const STANDARD = '-';

/** What a command line asks for. */
export interface Asked {
  format: string | undefined;
  outputFormat: string | undefined;
  imageOpts: boolean;
  targetImageOpts: boolean;
  sourceCache: string;
  /** Undefined: `unsafe`, but `writeback` for a conversion that may be resumed. */
  cache: string | undefined;
  snapshot: SnapshotName | undefined;
  minSparse: number | undefined;
  optionTexts: string[];
  backingFile: string | undefined;
  backingFormat: string | undefined;
  rate: number;
  parallel: number;
  salvage: boolean;
  skipBrokenBitmaps: boolean;
  bitmaps: boolean;
  targetIsZero: boolean;
  compress: boolean;
  noCreate: boolean;
  forceShare: boolean;
  copyRange: boolean;
  outOfOrder: boolean;
  quiet: boolean;
  unpack: boolean;
  verify: boolean;
  resume: boolean;
  profile: string | undefined;
  /** The new image's size becomes a multiple of it. */
  sizeUnit: number;
  progress: ProgressWish;
}

/** Without any option. */
export function defaults(): Asked {
  return {
    format: undefined,
    outputFormat: undefined,
    imageOpts: false,
    targetImageOpts: false,
    sourceCache: 'writeback',
    cache: undefined,
    snapshot: undefined,
    minSparse: undefined,
    optionTexts: [],
    backingFile: undefined,
    backingFormat: undefined,
    rate: 0,
    parallel: 8,
    salvage: false,
    skipBrokenBitmaps: false,
    bitmaps: false,
    targetIsZero: false,
    compress: false,
    noCreate: false,
    forceShare: false,
    copyRange: false,
    outOfOrder: false,
    quiet: false,
    unpack: false,
    verify: false,
    resume: false,
    profile: undefined,
    sizeUnit: 0,
    progress: 'off',
  };
}

/** A conversion that runs. */
interface Run {
  readonly program: Program;
  readonly graph: BlockGraph;
  readonly asked: Asked;
  readonly interrupts: Interrupts;
  /** The image goes to standard output. */
  readonly toStandard: boolean;
}

/** Carries a conversion out; the exit status. */
export async function convertNames(
  program: Program,
  objects: ToolObjects,
  asked: Asked,
  names: readonly string[],
  target: string,
): Promise<number> {
  if (asked.verify && asked.salvage) throw new Failure('Cannot verify in salvaging mode');
  const sourceCache = cacheMode(asked.sourceCache, 'Invalid source cache option');
  const graph = toolGraph(program, objects);
  const interrupts = watchInterrupts();
  const toStandard = target === STANDARD;
  const run: Run = { program, graph, asked, interrupts, toStandard };
  const sources: Backend[] = [];
  const cleanups: (() => void)[] = [];
  try {
    let stream: ByteSource | undefined;
    for (const name of names) {
      const input = await findInput(run, name, names.length === 1, target, cleanups);
      if (input.kind === 'stream') {
        stream = input.bytes;
        continue;
      }
      const how = { cache: sourceCache, forceShare: asked.forceShare };
      const source = await openImage(program, graph, input.image, how);
      sources.push(source);
      // Who names the source as target too would lose it.
      await source.setPerms({
        perm: source.perms.perm,
        shared: Perm.consistentRead | Perm.writeUnchanged,
      });
    }
    const [first] = sources;
    if (asked.snapshot !== undefined && first !== undefined) {
      if (asked.snapshot.either !== undefined && sources.length > 1) {
        throw new Failure('No support for concatenating multiple snapshot');
      }
      await loadSnapshot(first, asked.snapshot);
    }
    if (await isPipe(asked, target)) await convertOut(run, sources);
    else if (stream !== undefined) await convertStream(run, stream, target);
    else await convertSources(run, sources, target);
    return 0;
  } catch (e) {
    const status = interrupts.status();
    endUnbegun(program, asked.progress, { quiet: asked.quiet || target === STANDARD });
    if (status !== undefined) throw new Failure(undefined, status);
    throw e;
  } finally {
    for (const source of sources) await source.close();
    for (const cleanup of cleanups) cleanup();
    await graph.close();
    interrupts.dispose();
  }
}

/** What a source's name stands for; a stream only where it can be used as one. */
async function findInput(
  { graph, asked, interrupts }: Run,
  name: string,
  alone: boolean,
  target: string,
  cleanups: (() => void)[],
): Promise<Input> {
  const image = { name, imageOpts: asked.imageOpts, format: asked.format };
  if (asked.imageOpts || (name !== STANDARD && !asked.unpack)) return { kind: 'image', image };
  const { InputFiles, resolveInput } = await import('./unpack.js');
  const files = new InputFiles();
  cleanups.push(() => {
    files.close();
  });
  const asImage = asked.snapshot !== undefined || asked.bitmaps || asked.salvage;
  const streams = alone && !asImage && asked.backingFile === undefined && target !== STANDARD;
  const { unpack } = asked;
  return resolveInput(image, { graph, unpack, streams, signal: interrupts.signal }, files);
}

/** Whether the target is standard output, and that is no file. */
async function isPipe(asked: Asked, target: string): Promise<boolean> {
  if (target !== STANDARD || asked.targetImageOpts) return false;
  const { canSeek } = await import('./unpack.js');
  return !canSeek(1);
}

/** Images to a pipe. */
async function convertOut(run: Run, sources: Backend[]): Promise<void> {
  const { program, graph, asked, interrupts } = run;
  const { checkStandardOutput, throughFile, writePiece } = await import('./standard-output.js');
  checkStandardOutput();
  const isRaw = asked.outputFormat === 'raw';
  const useless: [boolean, string][] = [
    [asked.noCreate, '-n'],
    [asked.resume, '--resume'],
    [isRaw && asked.compress, '-c'],
    [isRaw && asked.backingFile !== undefined, '-B'],
    [isRaw && asked.bitmaps, '--bitmaps'],
    [isRaw && asked.verify, '--verify'],
    [isRaw && asked.optionTexts.length > 0, '-o'],
  ];
  const [, option] = useless.find(([given]) => given) ?? [];
  if (option !== undefined) throw new Failure(`${option} has no use for standard output`);
  if (!isRaw || asked.sizeUnit !== 0) {
    await throughFile((path) => convertSources(run, sources, path), interrupts.signal);
    return;
  }
  const show = showProgress(program, asked.progress, { quiet: asked.quiet, toErrors: true });
  let complete = false;
  const meter = new ProgressMeter(graph.host.clock, {
    signal: interrupts.signal,
    onProgress: (progress) => {
      show.update(progress);
    },
  });
  try {
    await streamOut(sources.map(wholeImage), writePiece, meter);
    complete = true;
  } finally {
    show.end(complete);
  }
}

/** A stream to an image; it is hashed on its way for `--verify`. */
async function convertStream(run: Run, stream: ByteSource, target: string): Promise<void> {
  if (!run.asked.verify) {
    await convertOpen(run, { sources: [], stream }, target);
    return;
  }
  const { HashedStream } = await import('./hashed-stream.js');
  const hashed = new HashedStream(stream);
  await convertOpen(run, { sources: [], stream: hashed.pieces() }, target);
  const { program, asked, graph, interrupts } = run;
  const written = await openWritten(run, target);
  const show = showProgress(program, asked.progress, asked);
  let complete = false;
  try {
    const meter = new ProgressMeter(graph.host.clock, {
      signal: interrupts.signal,
      onProgress: (progress) => {
        show.update(progress);
      },
    });
    if (!(await hashed.matches(written, meter))) {
      throw new Failure(`'${target}' does not hold what was read`);
    }
    complete = true;
  } finally {
    show.end(complete);
    await written.close();
  }
}

async function convertSources(run: Run, sources: Backend[], target: string): Promise<void> {
  await convertOpen(run, { sources }, target);
  if (!run.asked.verify) return;
  const { program, asked, graph, interrupts } = run;
  const written = await openWritten(run, target);
  const show = showProgress(program, asked.progress, {
    quiet: asked.quiet,
    toErrors: run.toStandard,
  });
  let complete = false;
  try {
    const different = await verifyCopy(sources, written, {
      host: graph.host,
      signal: interrupts.signal,
      onProgress: (progress) => {
        show.update(progress);
      },
    });
    if (different !== undefined) {
      throw new Failure(`'${target}' differs from its source at offset ${String(different)}`);
    }
    complete = true;
  } finally {
    show.end(complete);
    await written.close();
  }
}

/** The new image as others will see it. */
function openWritten({ program, graph, asked }: Run, target: string): Promise<Backend> {
  const name = target === STANDARD ? '/dev/stdout' : target;
  const image = { name, imageOpts: asked.targetImageOpts, format: asked.outputFormat };
  const cache = targetCache(asked);
  return openImage(program, graph, image, { cache: { ...cache, noFlush: false } });
}

function targetCache(asked: Asked): CacheMode {
  return cacheMode(asked.cache ?? (asked.resume ? 'writeback' : 'unsafe'));
}

/** The journal's place; what else decides what the new image holds. */
function resumeOptions(asked: Asked, target: string): { journal: string; resumeFacts: string } {
  if (target === '/dev/stdout' || /^[^/]*:/.test(target)) {
    throw new Failure(`Cannot keep a journal beside '${target}': --resume needs a file name`);
  }
  const { snapshot, sizeUnit, format, imageOpts } = asked;
  const resumeFacts = JSON.stringify([snapshot, sizeUnit, format, imageOpts]);
  return { journal: `${target}.resume`, resumeFacts };
}

async function convertOpen(
  { program, graph, asked, interrupts, toStandard }: Run,
  from: { readonly sources: readonly Backend[]; readonly stream?: ByteSource },
  given: string,
): Promise<void> {
  const target = given === STANDARD ? '/dev/stdout' : given;
  const image = { name: target, imageOpts: asked.targetImageOpts, format: undefined };
  const { filename, options } = imageSpec(program, image, false);
  const cache = targetCache(asked);
  const toErrors = toStandard;
  const show = showProgress(program, asked.progress, { quiet: asked.quiet, toErrors });
  let complete = false;
  // A target that could not be written cannot be flushed when it is closed, either.
  program.holdWarnings();
  try {
    await convertImages({
      graph,
      ...from,
      target: {
        filename,
        name: toStandard ? '/dev/stdout' : target,
        format: asked.outputFormat,
        optionTexts: asked.noCreate ? [] : asked.optionTexts,
        backingFile: asked.backingFile,
        backingFormat: asked.backingFormat,
        exists: asked.noCreate,
        isZero: asked.targetIsZero,
        options: asked.targetImageOpts ? options : undefined,
        ...(asked.sizeUnit === 0 ? {} : { sizeUnit: asked.sizeUnit }),
        cache,
      },
      ...(asked.resume ? resumeOptions(asked, target) : {}),
      compress: asked.compress,
      ...(asked.minSparse === undefined ? {} : { minSparse: asked.minSparse }),
      parallel: asked.parallel,
      outOfOrder: asked.outOfOrder,
      offload: asked.copyRange,
      rate: asked.rate,
      salvage: asked.salvage,
      bitmaps: !asked.bitmaps ? 'none' : asked.skipBrokenBitmaps ? 'consistent' : 'all',
      signal: interrupts.signal,
      onProgress: (progress) => {
        show.update(progress);
      },
      onWarning: (message) => {
        if (!asked.quiet) program.warning(message);
      },
    });
    complete = true;
  } finally {
    show.end(complete);
    program.releaseWarnings(complete);
  }
}
