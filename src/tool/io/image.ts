/** Opening an image for the exerciser: from the program's options and from the command `open`. */
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { tmpdir } from 'node:os';
import type { Backend } from '../../block/backend.js';
import { createImage, prepareCreate } from '../../block/create.js';
import type { NodeOptions, OpenFlags } from '../../block/driver.js';
import { BlockError, prepend } from '../../block/errors.js';
import type { BlockGraph } from '../../block/graph.js';
import { isObject, mergeOptions, nestOptions } from '../../block/node-options.js';
import { reopenNode } from '../../block/reopen.js';
import type { CacheMode } from '../../block/types.js';
import { Perm } from '../../block/types.js';

/** A cache mode's word as switches; `writeback` false: each write is durable when it completes. */
export function parseCacheMode(word: string): CacheMode | undefined {
  switch (word) {
    case 'none':
    case 'off':
      return { writeback: true, direct: true, noFlush: false };
    case 'directsync':
      return { writeback: false, direct: true, noFlush: false };
    case 'writeback':
      return { writeback: true, direct: false, noFlush: false };
    case 'unsafe':
      return { writeback: true, direct: false, noFlush: true };
    case 'writethrough':
      return { writeback: false, direct: false, noFlush: false };
    default:
      return undefined;
  }
}

/** Whether discards reach the storage; undefined: no such word. */
export function parseDiscardMode(word: string): boolean | undefined {
  if (word === 'unmap' || word === 'on') return true;
  return word === 'ignore' || word === 'off' ? false : undefined;
}

const aioModes: readonly string[] = ['threads', 'native', 'io_uring'];

/** Engine of the host's files; undefined: no such word. */
export function parseAioMode(word: string): string | undefined {
  return aioModes.includes(word) ? word : undefined;
}

/** How an image is opened. */
export interface ImageHow {
  filename: string | undefined;
  /** Options of the node, nested or dotted. */
  options: NodeOptions;
  readOnly: boolean;
  /** Writes go to a temporary overlay. */
  snapshot: boolean;
  copyOnRead: boolean;
  forceShare: boolean;
  unmap: boolean;
  cache: CacheMode;
  aio: string | undefined;
}

/** What holds when nobody says anything: writable, durable writes, discards passed on. */
export function defaultHow(): ImageHow {
  return {
    filename: undefined,
    options: {},
    readOnly: false,
    snapshot: false,
    copyOnRead: false,
    forceShare: false,
    unmap: true,
    cache: { writeback: false, direct: false, noFlush: false },
    aio: undefined,
  };
}

/** Opens; throws with the text that stands after `PROGRAM: `. */
export async function openImage(graph: BlockGraph, how: ImageHow): Promise<Backend> {
  try {
    return await openUnnamed(graph, how);
  } catch (e) {
    const name = how.filename === undefined ? '' : ` device ${how.filename}`;
    throw prepend(`can't open${name}: `, e);
  }
}

/** As {@link openImage}, for tools that put other words before an error. */
export async function openUnnamed(graph: BlockGraph, how: ImageHow): Promise<Backend> {
  if (how.filename === '') {
    throw new BlockError('EINVAL', "The 'file' block driver requires a file name");
  }
  const backend = how.snapshot ? await openOverlay(graph, how) : await openPlain(graph, how);
  backend.writeCache = how.cache.writeback;
  if (how.copyOnRead) backend.node.copyOnReadUsers++;
  return backend;
}

function flagsOf(how: ImageHow): Partial<OpenFlags> {
  return {
    writable: !how.readOnly,
    copyOnRead: how.copyOnRead,
    forceShare: how.forceShare,
    unmap: how.unmap,
    cache: how.cache,
  };
}

function permsOf(readOnly: boolean): { perm: number; shared: number } {
  const perm = readOnly ? Perm.consistentRead : Perm.consistentRead | Perm.write;
  return { perm, shared: Perm.all };
}

async function openPlain(graph: BlockGraph, how: ImageHow): Promise<Backend> {
  const options = withEngine(how);
  if (how.copyOnRead && (how.readOnly || isReadOnly(options))) {
    throw new BlockError('EINVAL', "Can't use copy-on-read on read-only device");
  }
  const spec = { filename: how.filename, options, flags: flagsOf(how) };
  return graph.openBackend(spec, permsOf(how.readOnly || isReadOnly(options)));
}

function isReadOnly(options: NodeOptions): boolean {
  const value = nestOptions(options)['read-only'];
  return value === true || value === 'on' || value === 'yes' || value === 'true' || value === 'y';
}

/** The options with the engine for the host file, where a plain file name leaves no doubt of it. */
function withEngine(how: ImageHow): NodeOptions {
  const options = nestOptions(how.options);
  if (how.aio === undefined) return options;
  const file = options['file'];
  if (options['driver'] === 'file') return mergeOptions({ aio: how.aio }, options);
  const plain = how.filename !== undefined && !/^[a-z+_]+:/i.test(how.filename);
  const nested = isObject(file) && (file['driver'] === undefined || file['driver'] === 'file');
  if (!plain && !nested) return options;
  return mergeOptions({ file: { aio: how.aio } }, options);
}

/** Opens the image read-only below a temporary qcow2 file that is gone when the program ends. */
async function openOverlay(graph: BlockGraph, how: ImageHow): Promise<Backend> {
  const base = await graph.open({
    filename: how.filename,
    options: withEngine(how),
    flags: { ...flagsOf(how), writable: false, copyOnRead: false },
  });
  const folder = await mkdtemp(join(tmpdir(), 'vl-'));
  try {
    const path = join(folder, 'overlay.qcow2');
    const request = { filename: path, format: 'qcow2', size: base.size };
    await createImage(graph, await prepareCreate(graph, request));
    const options = { driver: 'qcow2', file: { driver: 'file', filename: path } };
    return await graph.openBackend(
      {
        options: { ...options, backing: base.name },
        flags: { ...flagsOf(how), forceShare: false },
      },
      permsOf(how.readOnly),
    );
  } finally {
    await graph.release(base);
    await rm(folder, { recursive: true, force: true });
  }
}

/** Changes options and flags of an open image; what is not named stays as it is. */
export async function reopenImage(
  backend: Backend,
  options: NodeOptions,
  flags: Partial<OpenFlags>,
): Promise<void> {
  await reopenNode(backend.node, { options, flags });
}
