/**
 * Job `commit` of images that no guest writes: what the images from `top` down to, not including,
 * `base` hold is written into `base`, on which the images above `top` stand then.
 *
 * Write order: `base` is durable before a header above it names it as the backing file; until then
 * the chain is as it was and reads the same, for what `base` gets is what hides it.
 */
import { Backend } from '../block/backend.js';
import { BlockError } from '../block/errors.js';
import type { BlockGraph } from '../block/graph.js';
import { freezeChain, insertFilter, removeFilter, setBacking } from '../block/insert-filter.js';
import type { BlockNode } from '../block/node.js';
import { reopenNode } from '../block/reopen.js';
import { below, chainStatus, headerFormat, skipFilters } from '../block/status.js';
import { Perm } from '../block/types.js';
import { commitTopDriver } from '../filter/job-filters.js';
import { Iov } from '../lib/iov.js';
import type { StartOptions } from './block-stream.js';
import { jobInit } from './block-stream.js';
import type { Job } from './job.js';
import type { JobList } from './job-list.js';
import type { Piece } from './pieces.js';
import { doPieces, PieceFailure } from './pieces.js';
import type { JobControl, JobWork } from './work.js';

export interface CommitJobOptions extends StartOptions {
  /** The disk that guests use. */
  readonly node: BlockNode;
  /** The image that is committed with those between it and the base; not the active one. */
  readonly top: BlockNode;
  /** The image that takes the data. */
  readonly base: BlockNode;
  /** Name of the base for the header above; default: its own. */
  readonly backingFile?: string | undefined;
  /** The header names the format `raw` where the backing file is a node of a protocol. */
  readonly maskProtocol?: boolean | undefined;
}

/** Bytes that are copied at a time. */
const CHUNK = 512 * 1024;

/** Copies what a chain holds above its base into the base; shared with the active commit. */
export class ChainCopy {
  readonly #top: BlockNode;
  readonly #base: BlockNode;
  readonly #source: Backend;
  readonly #target: Backend;

  constructor(top: BlockNode, base: BlockNode, source: Backend, target: Backend) {
    this.#top = top;
    this.#base = base;
    this.#source = source;
    this.#target = target;
  }

  /** What is to be done with the run that begins at `offset`. */
  async look(offset: number, bytes: number): Promise<Piece> {
    try {
      const s = await chainStatus(this.#top, this.#base, offset, bytes, false);
      if (s.bytes > 0) return { offset, bytes: s.bytes, copy: s.allocated };
    } catch {
      // The copy will find out, and tell.
    }
    return { offset, bytes, copy: true };
  }

  /** Throws PieceFailure. */
  async copy(offset: number, bytes: number): Promise<void> {
    const data = Iov.alloc(bytes);
    try {
      await this.#source.read(offset, data);
    } catch (e) {
      throw new PieceFailure('read', e);
    }
    try {
      if (data.isZero()) await this.#target.writeZeroes(offset, bytes);
      else await this.#target.write(offset, data);
    } catch (e) {
      throw new PieceFailure('write', e);
    }
  }
}

class Commit implements JobWork {
  readonly type = 'commit';
  readonly #options: CommitJobOptions;
  readonly #wasReadOnly: boolean;
  filter: BlockNode | undefined;
  source: Backend | undefined;
  target: Backend | undefined;
  thaw: (() => void) | undefined;
  releaseNodes: () => Promise<void> = async () => undefined;

  constructor(options: CommitJobOptions, wasReadOnly: boolean) {
    this.#options = options;
    this.#wasReadOnly = wasReadOnly;
  }

  async run(job: JobControl): Promise<void> {
    const { source, target } = this;
    if (source === undefined || target === undefined) return;
    const { top, base } = this.#options;
    const end = top.size;
    job.progress.total = end;
    await growTo(target, end);
    const copy = new ChainCopy(top, base, source, target);
    let at = 0;
    await doPieces(job, {
      next: async () => {
        if (at >= end) return undefined;
        const piece = await copy.look(at, Math.min(CHUNK, end - at));
        at += piece.bytes;
        return piece;
      },
      copy: ({ offset, bytes }) => copy.copy(offset, bytes),
      // A base that lacks a piece would be no base.
      ignored: () => 'again',
    });
    // Behind the end of a short image the one above reads zeroes, not what a longer base holds.
    const seen = Math.min(this.#options.node.size, base.size);
    for (let from = end; from < seen; from += CHUNK) {
      await job.pausePoint();
      await target.writeZeroes(from, Math.min(CHUNK, seen - from));
    }
  }

  async prepare(): Promise<void> {
    const { filter } = this;
    const { top, base } = this.#options;
    const { backingFile = skipFilters(base).filename } = this.#options;
    await this.target?.flush();
    await this.#closeBackends();
    await this.releaseNodes();
    if (filter === undefined) return;
    const { graph } = filter;
    await graph.drainBegin(filter);
    try {
      const overlays = [...filter.parents];
      for (const edge of overlays) {
        const image = edge.parent.asNode;
        if (image === undefined) continue;
        const format = headerFormat(base, this.#options.maskProtocol === true);
        await rename(image, backingFile, format);
        await setBacking(image, base);
      }
      // Whoever else uses the filter goes on with the base, which reads the same.
      this.filter = undefined;
      await removeFilter(filter, base);
    } finally {
      graph.drainEnd(filter);
    }
    void top;
  }

  async clean(): Promise<void> {
    const { filter } = this;
    await this.#closeBackends();
    this.filter = undefined;
    if (filter !== undefined) {
      await this.releaseNodes();
      await removeFilter(filter);
    }
    if (this.#wasReadOnly) await makeReadOnly(this.#options.base);
  }

  async #closeBackends(): Promise<void> {
    this.thaw?.();
    this.thaw = undefined;
    const { source, target } = this;
    this.source = undefined;
    this.target = undefined;
    await source?.close();
    await target?.close();
  }
}

/** A base that is shorter than what is committed into it grows. */
export async function growTo(target: Backend, bytes: number): Promise<void> {
  if (target.size < bytes) await target.truncate(bytes, { exact: false });
}

/** Back to what it was; where that fails it stays writable, for the data is safe. */
export async function makeReadOnly(node: BlockNode): Promise<void> {
  await reopenNode(node, { options: { 'read-only': true } }).catch(() => undefined);
}

/** Another name of the backing file in an image's header. */
async function rename(image: BlockNode, name: string, format: string): Promise<void> {
  if (image.instance.changeBackingFile === undefined) throw new BlockError('ENOTSUP');
  const wasReadOnly = image.readOnly;
  if (wasReadOnly) await reopenNode(image, { options: { 'read-only': false } });
  try {
    await image.instance.changeBackingFile(name, format);
  } finally {
    if (wasReadOnly) await makeReadOnly(image);
  }
}

/** Starts the job; resolves when it runs. Throws BlockError; then all is as it was. */
export async function startCommit(
  graph: BlockGraph,
  jobs: JobList,
  options: CommitJobOptions,
): Promise<Job> {
  const { top, base } = options;
  jobs.checkId(options.id);
  const wasReadOnly = base.readOnly;
  if (wasReadOnly) await reopenNode(base, { options: { 'read-only': false } });
  const work = new Commit(options, wasReadOnly);
  let job: Job | undefined;
  try {
    job = await jobs.create({ ...jobInit(options), work });
    work.releaseNodes = (): Promise<void> => job?.releaseNodes() ?? Promise.resolve();
    work.filter = await insertFilter(top, {
      driver: commitTopDriver,
      name: options.filterName,
      flags: { writable: false },
    });
    await tie(job, work, options, graph);
  } catch (e) {
    await work.clean();
    await job?.discard();
    throw e;
  }
  await job.startNow();
  return job;
}

async function tie(
  job: Job,
  work: Commit,
  { node, top, base }: CommitJobOptions,
  graph: BlockGraph,
): Promise<void> {
  const { filter } = work;
  if (filter === undefined) return;
  const tied = { perm: 0, shared: Perm.all };
  await job.addNode(node, 'main node', tied);
  const shared = Perm.writeUnchanged | Perm.write;
  for (let at: BlockNode | undefined = top; at !== undefined && at !== base; at = below(at)) {
    await job.addNode(at, 'intermediate node', { perm: 0, shared });
  }
  await job.addNode(base, 'base', tied);
  work.thaw = freezeChain(filter, base, job.id);
  // The job reads what the images hold though nobody may rely on them while the base changes.
  work.source = new Backend({ graph, name: '', perm: 0, shared: Perm.all });
  await work.source.attach(top);
  work.target = new Backend({
    graph,
    name: '',
    perm: Perm.consistentRead | Perm.write | (base.size < top.size ? Perm.resize : 0),
    shared: Perm.consistentRead | Perm.writeUnchanged,
  });
  await work.target.attach(base);
}
