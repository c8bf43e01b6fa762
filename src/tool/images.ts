/** Opening images as a tool's options say: `-f`, `--image-opts`, `-U`, `-t`, `--object`. */
import type { Backend } from '../block/backend.js';
import type { NodeOptions, OpenFlags } from '../block/driver.js';
import { BlockError, errorText, prepend } from '../block/errors.js';
import type { GraphInit } from '../block/graph.js';
import { BlockGraph } from '../block/graph.js';
import { defaultFlags } from '../block/node-options.js';
import { skipFilters } from '../block/status.js';
import type { CacheMode } from '../block/types.js';
import { drivers } from '../catalog/drivers.js';
import { nodeHost } from '../host/node/index.js';
import { parseOpts } from '../options/qemu-opts.js';
import { parseCacheMode } from './io/image.js';
import type { ToolObjects } from './objects.js';
import type { Program } from './program.js';
import { Failure } from './program.js';

/** A graph whose warnings go to the tool's standard error. */
export function toolGraph(
  program: Program,
  objects?: ToolObjects,
  onEvent?: GraphInit['onEvent'],
  accountedNs?: number,
): BlockGraph {
  return new BlockGraph({
    host: nodeHost(),
    drivers,
    ...(onEvent === undefined ? {} : { onEvent }),
    ...(accountedNs === undefined ? {} : { accountedNs }),
    onWarning: (message) => {
      program.warning(message);
    },
    onMismatch: (message) => {
      program.output.flush();
      program.output.err(`${message}\n`);
      process.exit(1);
    },
    onNotice: (message) => {
      program.output.err(`${message}\n`);
    },
    ...(objects === undefined
      ? {}
      : {
          throttleGroups: objects.throttleGroups,
          secret: (id: string) => objects.secret(id),
          tlsCredentials: (id: string) => objects.tlsCredentials(id, 'client'),
        }),
  });
}

/** An image as the command line names it. */
export interface ImageArgument {
  /** File name, or, with `imageOpts`, a list of options. */
  readonly name: string;
  readonly imageOpts: boolean;
  readonly format: string | undefined;
}

export interface OpenHow {
  readonly flags?: Partial<OpenFlags>;
  /** `-U`. */
  readonly forceShare?: boolean;
  readonly cache?: CacheMode | undefined;
  /** Options besides those of the command line (`aio`). */
  readonly options?: NodeOptions;
}

/** The open specification of an image: file name and options. Throws OptionError or Failure. */
export function imageSpec(
  program: Program,
  image: ImageArgument,
  forceShare: boolean,
): { filename: string | undefined; options: NodeOptions } {
  if (!image.imageOpts) {
    const driver = image.format === undefined ? {} : { driver: image.format };
    const share = forceShare ? { 'force-share': true } : {};
    return { filename: image.name, options: { ...driver, ...share } };
  }
  const { id, values, warnings } = parseOpts(image.name, { implied: 'file', warnFlags: true });
  for (const warning of warnings) program.warning(warning);
  const options: Record<string, unknown> = { ...(id === undefined ? {} : { id }) };
  for (const [key, value] of values) options[key] = value;
  if (forceShare) {
    const given = options['force-share'];
    if (given !== undefined && given !== 'on' && given !== 'yes' && given !== 'true') {
      throw new Failure('--force-share/-U conflicts with image options');
    }
    options['force-share'] = true;
  }
  return { filename: undefined, options };
}

/** Opens an image; errors begin with `Could not open 'NAME': `. */
export async function openImage(
  program: Program,
  graph: BlockGraph,
  image: ImageArgument,
  how: OpenHow = {},
): Promise<Backend> {
  const { filename, options } = imageSpec(program, image, how.forceShare ?? false);
  const flags: OpenFlags = {
    ...defaultFlags,
    ...how.flags,
    ...(how.cache === undefined ? {} : { cache: how.cache }),
  };
  try {
    if (filename === '') {
      throw new BlockError('EINVAL', "The 'file' block driver requires a file name");
    }
    return await graph.openBackend({ filename, options: { ...options, ...how.options }, flags });
  } catch (e) {
    throw prepend(`Could not open '${image.name}': `, e);
  }
}

/** The cache mode of `-t` or `-T`; `text` is the error for an unknown word, without it. */
export function cacheMode(word: string, text = 'Invalid cache option'): CacheMode {
  const mode = parseCacheMode(word);
  if (mode === undefined) throw new Failure(`${text}: ${word}`);
  return mode;
}

/** `-t unsafe`, `-t writeback`: defaults of commands that write. */
export const writebackCache: CacheMode = { writeback: true, direct: false, noFlush: false };
export const unsafeCache: CacheMode = { writeback: true, direct: false, noFlush: true };

/**
 * Stores what is otherwise stored when the image closes, so that a failure becomes that of the
 * tool. Nothing may be written afterwards.
 */
export async function inactivate(program: Program, backend: Backend): Promise<void> {
  // Closing tries once more, and tells of it after this.
  const error = await closingError(backend);
  if (error !== undefined) throw closingFailure(program, error);
}

/** Stores what is otherwise stored when the image closes; what went wrong, if something did. */
export async function closingError(backend: Backend): Promise<unknown> {
  try {
    for (let node = skipFilters(backend.node); ;) {
      await node.instance.bitmaps?.finish();
      const below = node.backing?.node;
      if (below === undefined) return undefined;
      node = skipFilters(below);
    }
  } catch (e) {
    return e;
  }
}

/** Tells that `error` came up while an image was closed; what the tool is to fail with. */
export function closingFailure(program: Program, error: unknown): Failure {
  program.output.err(`${program.name}: Error while closing the image: ${errorText(error)}\n`);
  return new Failure(undefined);
}
