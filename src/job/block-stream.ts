/**
 * Job `stream`: data of backing files is copied up into the image above them, which then stands on
 * what lies further down, or on nothing.
 *
 * A copy-on-read filter stands on the image while the job runs: the job reads through it, and what
 * guests write meanwhile is never overwritten, for a copy excludes writes of the same clusters.
 *
 * Write order: all copied data is durable before the header's name of the backing file changes,
 * so that a crash at any moment leaves an image that reads as before.
 */
import { Backend } from '../block/backend.js';
import { BlockError, errorCode, prepend } from '../block/errors.js';
import type { BlockGraph } from '../block/graph.js';
import { freezeChain, insertFilter, setBacking } from '../block/insert-filter.js';
import type { BlockNode } from '../block/node.js';
import { reopenNode } from '../block/reopen.js';
import { below, chainStatus, headerFormat, skipFilters } from '../block/status.js';
import { Perm, Req } from '../block/types.js';
import { copyOnReadDriver } from '../filter/copy-on-read.js';
import { Iov } from '../lib/iov.js';
import type { Job } from './job.js';
import type { JobList } from './job-list.js';
import type { Piece } from './pieces.js';
import { asPiece, doPieces } from './pieces.js';
import type { ChainJobOptions, HoldingWork } from './start.js';
import { Holdings, makeJob } from './start.js';
import type { JobControl } from './work.js';

export interface StreamOptions extends ChainJobOptions {
  /** The image that takes the data. */
  readonly node: BlockNode;
  /** What it stands on afterwards; absent: nothing. */
  readonly base?: BlockNode | undefined;
  /** Instead of `base`: the lowest node that is copied from. */
  readonly bottom?: BlockNode | undefined;
  /** Name of the new backing file in the header; default: that of the base. */
  readonly backingFile?: string | undefined;
  /** The header names the format `raw` where the backing file is a node of a protocol. */
  readonly maskProtocol?: boolean | undefined;
}

/** Bytes that are copied at a time. */
const CHUNK = 512 * 1024;

class Stream implements HoldingWork {
  readonly type = 'stream';
  readonly held = new Holdings();
  readonly #options: StreamOptions;
  readonly #image: BlockNode;
  /** The lowest image that is copied from, or the image itself: then there is nothing to do. */
  readonly #bottom: BlockNode;
  readonly #wasReadOnly: boolean;
  #firstError: unknown;

  constructor(options: StreamOptions, bottom: BlockNode, wasReadOnly: boolean) {
    this.#options = options;
    this.#image = skipFilters(options.node);
    this.#bottom = bottom;
    this.#wasReadOnly = wasReadOnly;
  }

  async run(job: JobControl): Promise<void> {
    const image = this.#image;
    if (image === this.#bottom) return;
    const end = image.size;
    job.progress.total = end;
    let at = 0;
    await doPieces(job, {
      next: async () => {
        if (at >= end) return undefined;
        const piece = await this.#look(at, Math.min(CHUNK, end - at), end);
        at += piece.bytes;
        return piece;
      },
      copy: (piece) => this.#copy(piece),
      ignored: (e) => {
        // Each piece is tried, but the image must go on standing on what it stands on.
        this.#firstError ??= e;
        return 'done';
      },
    });
    if (this.#firstError !== undefined) throw new BlockError(errorCode(this.#firstError));
  }

  /** What is to be done with the run that begins at `offset`. */
  async #look(offset: number, bytes: number, end: number): Promise<Piece> {
    try {
      const own = await this.#image.blockStatus(offset, bytes, false);
      if (own.allocated || own.bytes === 0) {
        return { offset, bytes: own.bytes || end - offset, copy: false };
      }
      const top = below(this.#image);
      const base = below(this.#bottom);
      if (top === undefined || top === base) return { offset, bytes, copy: false };
      const s = await chainStatus(top, base, offset, own.bytes, false);
      // Zeroes behind the end of a short image would give way to what a longer base holds there.
      const shines = base !== undefined && base.size > offset;
      if (s.bytes === 0) return { offset, bytes: end - offset, copy: shines };
      return { offset, bytes: s.bytes, copy: s.allocated };
    } catch {
      // The copy will find out, and tell.
      return { offset, bytes, copy: true };
    }
  }

  async #copy({ offset, bytes }: Piece): Promise<void> {
    for (let at = offset; at < offset + bytes; at += CHUNK) {
      const n = Math.min(CHUNK, offset + bytes - at);
      const read = this.held.source?.read(at, Iov.alloc(n), Req.prefetch);
      if (read !== undefined) await asPiece('read', read);
    }
  }

  async prepare(): Promise<void> {
    const image = this.#image;
    await this.held.letGo();
    if (image.backing === undefined) return;
    const base = below(this.#bottom);
    const named = base === undefined ? undefined : skipFilters(base);
    const { backingFile = named?.filename } = this.#options;
    if (image.instance.changeBackingFile === undefined) throw new BlockError('ENOTSUP');
    await image.flush();
    await image.instance.changeBackingFile(
      named === undefined ? null : (backingFile ?? null),
      named === undefined ? null : headerFormat(named, this.#options.maskProtocol === true),
    );
    await setBacking(image, base);
  }

  async clean(): Promise<void> {
    await this.held.letGo();
    if (this.#wasReadOnly) {
      await reopenNode(this.#image, { options: { 'read-only': true } }).catch(() => undefined);
    }
  }
}

/** The lowest node above `base` in the chain of `top`. Throws BlockError when it is not there. */
function overlayOf(top: BlockNode, base: BlockNode | undefined): BlockNode {
  let at = top;
  for (let next = below(at); next !== undefined && next !== base; next = below(at)) at = next;
  if (below(at) === base) return at;
  const text = `'${base?.name ?? ''}' is not in the backing chain of '${top.name}'`;
  throw new BlockError('EINVAL', text);
}

/** Starts the job; resolves when it runs. Throws BlockError; then all is as it was. */
export async function startStream(
  graph: BlockGraph,
  jobs: JobList,
  options: StreamOptions,
): Promise<Job> {
  const { node } = options;
  const bottom = options.bottom ?? overlayOf(node, options.base);
  const wasReadOnly = node.staysReadOnly;
  const image = skipFilters(node);
  if (wasReadOnly) await reopenNode(image, { options: { 'read-only': false } });
  const work = new Stream(options, skipFilters(bottom), wasReadOnly);
  const stop = options.base === undefined && options.bottom === undefined ? undefined : bottom;
  const before = async (): Promise<void> => {
    work.held.filter = await insertFilter(node, {
      driver: copyOnReadDriver,
      name: options.filterName,
      options: stop === undefined ? {} : { bottom: stop.name },
      flags: { writable: true },
    }).catch((e: unknown) => {
      throw prepend('Could not create node: ', e);
    });
    jobs.checkId(options.id);
    work.held.thaw = freezeChain(work.held.filter, bottom, options.id);
  };
  const tie = (made: Job): Promise<void> => tieStream(made, work.held, node, bottom, graph);
  const job = await makeJob({ jobs, options, work, before, tie });
  await job.startNow();
  return job;
}

async function tieStream(
  job: Job,
  held: Holdings,
  node: BlockNode,
  bottom: BlockNode,
  graph: BlockGraph,
): Promise<void> {
  const { filter } = held;
  if (filter === undefined) return;
  await job.addNode(filter, 'main node', { perm: 0, shared: Perm.all });
  const active = Perm.consistentRead | Perm.writeUnchanged | Perm.write;
  await job.addNode(node, 'active node', { perm: 0, shared: active });
  const shared = Perm.consistentRead | Perm.writeUnchanged;
  for (let at = below(node); at !== undefined && at !== below(bottom); at = below(at)) {
    await job.addNode(at, 'intermediate node', { perm: 0, shared });
  }
  const backend = new Backend({ graph, name: '', perm: Perm.consistentRead, shared: active });
  await backend.attach(filter);
  held.source = backend;
}
