/**
 * Making new images: from a format's name, a file name and options to an image on disk.
 *
 * `prepareCreate` checks everything that can be checked beforehand and completes the options
 * (size from the backing file); `createImage` then writes. Between the two a tool prints its
 * "Formatting …" line. Errors are QEMU's texts without the file name in front, which is the
 * caller's to add.
 */
import type { CreateOptionSet, CreateValues } from '../options/create-options.js';
import {
  formatCreateSummary,
  mergeCreateOptions,
  parseCreateOptions,
} from '../options/create-options.js';
import { OptionError } from '../options/option-error.js';
import type { Backend } from './backend.js';
import type { Driver, NodeOptions, OpenFlags } from './driver.js';
import { BlockError, errorCode, messageOf } from './errors.js';
import { completePath } from './filename.js';
import type { BlockGraph } from './graph.js';
import { defaultFlags } from './node-options.js';
import { protocolOf } from './open.js';
import { MAX_LENGTH, Perm } from './types.js';

/** What to create. */
export interface CreateRequest {
  /** As the user typed it, protocol prefix included. */
  readonly filename: string;
  /** Name of the driver: a format, or a protocol for a bare file. */
  readonly format: string;
  /** Lists of options as in `-o`. */
  readonly optionTexts?: readonly string[];
  /** Options as values; they win over the texts. */
  readonly values?: CreateValues;
  readonly backingFile?: string | undefined;
  readonly backingFormat?: string | undefined;
  /** Virtual size in bytes; else it comes from the options or the backing file. */
  readonly size?: number | undefined;
  /**
   * What to do with the backing file: `open` it (its size, and that it can be read), `trust` that
   * it is as said, or `ignore` it, for callers that check it themselves. Default: `open`.
   */
  readonly backing?: 'open' | 'trust' | 'ignore';
}

/** A checked request, ready to be carried out. */
export interface PreparedCreate {
  readonly driver: Driver;
  readonly filename: string;
  readonly set: CreateOptionSet;
  readonly values: CreateValues;
  /** What stands behind `Formatting 'NAME', fmt=FORMAT `. */
  readonly summary: string;
}

/** The driver that writes images of a format, with the options that it and its protocol take. */
export async function creator(
  graph: BlockGraph,
  format: string,
  filename: string | undefined,
): Promise<{ driver: Driver; set: CreateOptionSet }> {
  const driver = graph.tryDriver(format);
  if (driver === undefined) throw new BlockError('EINVAL', `Unknown file format '${format}'`);
  const protocol = filename === undefined ? undefined : await protocolOf(graph, filename);
  if (driver.createOptions === undefined) throw notCreatable('Format', driver.name);
  if (protocol === undefined) return { driver, set: driver.createOptions };
  if (protocol.createOptions === undefined) throw notCreatable('Protocol', protocol.name);
  return { driver, set: mergeCreateOptions(driver.createOptions, protocol.createOptions) };
}

function notCreatable(what: string, name: string): BlockError {
  return new BlockError('ENOTSUP', `${what} driver '${name}' does not support image creation`);
}

/**
 * Checks a request and completes its values. Opens the backing file for a moment where asked to.
 * Throws BlockError or OptionError; nothing has been written then.
 */
export async function prepareCreate(
  graph: BlockGraph,
  request: CreateRequest,
): Promise<PreparedCreate> {
  const { filename, format } = request;
  const { driver, set } = await creator(graph, format, filename);
  const values: Record<string, string | number | boolean | undefined> = {
    ...parseCreateOptions(set, request.optionTexts ?? []).values,
    ...request.values,
  };
  if (request.size !== undefined) {
    if (values['size'] !== undefined) {
      throw new OptionError('The image size must be specified only once', 'size');
    }
    values['size'] = request.size;
  }
  takeBackingNames(request, set, values);
  const backing = values['backing_file'];
  if (backing !== undefined) checkBackingName(filename, String(backing));
  if (typeof backing === 'string') {
    const size = await lookAtBacking(graph, request, backing, values['backing_fmt']);
    values['size'] ??= size;
  }
  if (values['size'] === undefined) {
    throw new BlockError('EINVAL', 'Image creation needs a size parameter');
  }
  return { driver, filename, set, values, summary: formatCreateSummary(set, values) };
}

function takeBackingNames(
  request: CreateRequest,
  set: CreateOptionSet,
  values: Record<string, string | number | boolean | undefined>,
): void {
  const { backingFile, backingFormat, format } = request;
  const takes = (name: string): boolean => set.options.some((o) => o.name === name);
  if (backingFile !== undefined) {
    if (!takes('backing_file')) {
      throw new BlockError('EINVAL', `Backing file not supported for file format '${format}'`);
    }
    values['backing_file'] = backingFile;
  }
  if (backingFormat !== undefined) {
    if (!takes('backing_fmt')) {
      throw new BlockError(
        'EINVAL',
        `Backing file format not supported for file format '${format}'`,
      );
    }
    values['backing_fmt'] = backingFormat;
  }
}

function checkBackingName(filename: string, backing: string): void {
  if (backing === '') {
    throw new BlockError('EINVAL', 'Expected backing file name, got empty string');
  }
  if (backing === filename) {
    throw new BlockError(
      'EINVAL',
      'Error: Trying to create an image with the same filename as the backing file',
    );
  }
}

/** The backing file's size in bytes; undefined where it is not to be opened. */
async function lookAtBacking(
  graph: BlockGraph,
  request: CreateRequest,
  backing: string,
  format: string | number | boolean | undefined,
): Promise<number | undefined> {
  if (request.backing === 'ignore') return undefined;
  if (request.backing === 'trust') {
    if (format !== undefined) return undefined;
    throw new BlockError('EINVAL', 'Backing file specified without backing format');
  }
  const full = completePath(graph.files, request.filename, backing);
  const driver: NodeOptions = format === undefined ? {} : { driver: format };
  // Only to be looked at: no lock is taken against those who use it, and no secret is needed.
  const options = { ...driver, 'force-share': true };
  const flags = { noIo: true };
  const node = await graph.open({ filename: full, options, flags }).catch((e: unknown) => {
    throw new BlockError(errorCode(e), messageOf(e), {
      hint: 'Could not open backing image.',
      cause: e,
    });
  });
  try {
    if (format === undefined) {
      throw new BlockError('EINVAL', 'Backing file specified without backing format', {
        hint: `Detected format of ${node.driver.name}.`,
      });
    }
    return node.size;
  } finally {
    await graph.release(node);
  }
}

/**
 * Writes the image; qcow2 and LUKS ones are durable then, as QEMU's, unless with `noFlush`, for
 * who will not flush what is written into it either. Throws BlockError or OptionError; a file may
 * then have been left behind.
 */
export async function createImage(
  graph: BlockGraph,
  prepared: PreparedCreate,
  { noFlush = false } = {},
): Promise<void> {
  const { driver, filename, values, set } = prepared;
  const flags = noFlush ? unflushedFlags : fileFlags;
  if (driver.create === undefined) throw notCreatable('Format', driver.name);
  try {
    if ((values.size ?? 0) > (driver.maxSize ?? MAX_LENGTH)) throw new BlockError('EFBIG');
    await driver.create({
      graph,
      host: graph.host,
      filename,
      values,
      createFile: (bytes, name) =>
        createFile(graph, { filename: name ?? filename, bytes, values, flags }),
    });
  } catch (e) {
    if (errorCode(e) !== 'EFBIG') throw e;
    const hint = set.options.some((o) => o.name === 'cluster_size')
      ? ' (try using a larger cluster size)'
      : '';
    throw new BlockError(
      'EFBIG',
      `The image size is too large for file format '${driver.name}'${hint}`,
      { cause: e },
    );
  }
}

/** Flags of a file that an image is being written into: flushed at the end, not on the way. */
const fileFlags: OpenFlags = { ...defaultFlags, writable: true, unmap: true };
const unflushedFlags: OpenFlags = {
  ...fileFlags,
  cache: { ...defaultFlags.cache, noFlush: true },
};

interface NewFile {
  readonly filename: string;
  readonly bytes: number;
  readonly values: CreateValues;
  readonly flags: OpenFlags;
}

/** Creates the protocol-level file and opens it for writing. */
async function createFile(
  graph: BlockGraph,
  { filename, bytes, values, flags }: NewFile,
): Promise<Backend> {
  const protocol = await protocolOf(graph, filename);
  if (protocol.create === undefined) {
    throw new BlockError(
      'ENOTSUP',
      `Protocol driver '${protocol.name}' does not support creating new images`,
    );
  }
  const taken: Record<string, string | number | boolean | undefined> = {};
  for (const { name } of protocol.createOptions?.options ?? []) {
    // The format sizes its file itself, and knows what it wants to be allocated beforehand.
    if (name !== 'size' && name !== 'preallocation') taken[name] = values[name];
  }
  await protocol.create({
    graph,
    host: graph.host,
    filename,
    values: { ...taken, size: bytes },
    createFile: () => Promise.reject(new BlockError('ENOTSUP')),
  });
  return graph.openBackend(
    { filename, options: { driver: protocol.name }, flags },
    { perm: Perm.consistentRead | Perm.write | Perm.resize, shared: Perm.all & ~Perm.resize },
  );
}
