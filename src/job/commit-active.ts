/**
 * Job `commit` of the image that guests write: what the chain holds above `base` is written into
 * `base` while guests go on; when both are equal the job is ready, and completing it makes `base`
 * what the guests use.
 *
 * A filter on top of the image counts what guests write in a bitmap. A bit is cleared before its
 * range is read and set when a write has ended, so that a range is clean only if the base has what
 * the last write left. The last ranges are copied while guests are held; then the base is made
 * durable, and only then it takes the image's place.
 */
import { Backend } from '../block/backend.js';
import { DirtyBitmap } from '../block/dirty-bitmap.js';
import type { BlockGraph } from '../block/graph.js';
import { freezeChain, insertFilter, removeFilter } from '../block/insert-filter.js';
import type { BlockNode } from '../block/node.js';
import { reopenNode } from '../block/reopen.js';
import { below } from '../block/status.js';
import { Perm } from '../block/types.js';
import { mirrorTopDriver } from '../filter/job-filters.js';
import type { StartOptions } from './block-stream.js';
import { jobInit } from './block-stream.js';
import { ChainCopy, growTo, makeReadOnly } from './commit-job.js';
import type { Job } from './job.js';
import type { JobList } from './job-list.js';
import { doPieces, PieceFailure } from './pieces.js';
import type { JobControl, JobWork } from './work.js';

export interface ActiveCommitOptions extends StartOptions {
  /** The image that guests write. */
  readonly top: BlockNode;
  /** The image that takes the data, and then its place. */
  readonly base: BlockNode;
}

/** What a bit of the bitmap stands for, at least; also the granularity of later copies. */
const GRANULARITY = 64 * 1024;
/** Bytes that are copied at a time. */
const CHUNK = 512 * 1024;
/** How often a job that is ready looks for what was written. */
const LOOK_MS = 100;

class ActiveCommit implements JobWork {
  readonly type = 'commit';
  readonly #options: ActiveCommitOptions;
  readonly #wasReadOnly: boolean;
  readonly #dirty: DirtyBitmap;
  filter: BlockNode | undefined;
  source: Backend | undefined;
  target: Backend | undefined;
  thaw: (() => void) | undefined;
  releaseNodes: () => Promise<void> = async () => undefined;
  #isReady = false;
  #completes = false;
  #pivoted = false;

  constructor(options: ActiveCommitOptions, wasReadOnly: boolean) {
    this.#options = options;
    this.#wasReadOnly = wasReadOnly;
    this.#dirty = new DirtyBitmap({
      name: '',
      granularity: GRANULARITY,
      bytes: options.top.size,
      enabled: true,
      persistent: false,
    });
  }

  /** From now on writes are counted. */
  watch(filter: BlockNode): void {
    this.filter = filter;
    filter.dirtyBitmaps.set('', this.#dirty);
  }

  async run(job: JobControl): Promise<void> {
    const copy = this.#chainCopy();
    if (copy === undefined || this.target === undefined) return;
    await growTo(this.target, this.#options.top.size);
    await this.#findData(job, copy);
    for (;;) {
      await this.#copyDirty(job, copy);
      if (this.#dirty.dirtyBytes > 0) continue;
      if (!this.#isReady) {
        await this.target.flush();
        this.#isReady = true;
        job.ready();
      }
      if (this.#completes || job.isCancelRequested) return;
      await job.sleep(LOOK_MS);
    }
  }

  complete(): void {
    this.#completes = true;
  }

  cancel(force: boolean): boolean {
    return force || !this.#isReady;
  }

  /** Everything that the images above the base hold is to be copied. */
  async #findData(job: JobControl, copy: ChainCopy): Promise<void> {
    const end = this.#options.top.size;
    for (let at = 0; at < end;) {
      await job.pausePoint();
      const piece = await copy.look(at, end - at);
      if (piece.copy) this.#dirty.set(at, piece.bytes);
      at += piece.bytes;
    }
  }

  async #copyDirty(job: JobControl, copy: ChainCopy): Promise<void> {
    let at = 0;
    job.progress.total = job.progress.done + this.#dirty.dirtyBytes;
    await doPieces(job, {
      next: async () => {
        const range = this.#take(at);
        if (range === undefined) return undefined;
        at = range.offset + range.bytes;
        return { ...range, copy: true };
      },
      copy: ({ offset, bytes }) => copy.copy(offset, bytes),
      ignored: () => 'again',
    });
    job.progress.total = job.progress.done + this.#dirty.dirtyBytes;
  }

  /** The next dirty range from `from`, which is clean then. */
  #take(from: number): { offset: number; bytes: number } | undefined {
    const end = this.#options.top.size;
    const offset = this.#dirty.next(from, true);
    if (offset === undefined || offset >= end) return undefined;
    const stop = this.#dirty.next(offset, false) ?? end;
    const bytes = Math.min(stop, offset + CHUNK, end) - offset;
    this.#dirty.clear(offset, bytes);
    return { offset, bytes };
  }

  #chainCopy(): ChainCopy | undefined {
    const { source, target } = this;
    const { top, base } = this.#options;
    if (source === undefined || target === undefined) return undefined;
    return new ChainCopy(top, base, source, target);
  }

  async prepare(): Promise<void> {
    const { filter } = this;
    if (filter === undefined || !this.#completes) {
      await this.target?.flush();
      return;
    }
    const { graph } = filter;
    await graph.drainBegin(filter);
    try {
      await this.#catchUp();
      await this.target?.flush();
      await this.#closeBackends();
      await this.releaseNodes();
      await removeFilter(filter, this.#options.base);
      this.filter = undefined;
      this.#pivoted = true;
    } finally {
      graph.drainEnd(filter);
    }
  }

  /** Guests are held: the last of what they wrote. */
  async #catchUp(): Promise<void> {
    const { top } = this.#options;
    // The one that the job has read through is held with the guests.
    await this.source?.close();
    const { graph } = top;
    this.source = new Backend({ graph, name: '', perm: Perm.consistentRead, shared: Perm.all });
    await this.source.attach(top);
    const copy = this.#chainCopy();
    try {
      for (let range = this.#take(0); range !== undefined; range = this.#take(0)) {
        await copy?.copy(range.offset, range.bytes);
      }
    } catch (e) {
      throw e instanceof PieceFailure ? e.cause : e;
    }
  }

  async clean(): Promise<void> {
    const { filter } = this;
    await this.#closeBackends();
    this.filter = undefined;
    if (filter !== undefined) {
      await this.releaseNodes();
      await removeFilter(filter);
    }
    if (this.#wasReadOnly && !this.#pivoted) await makeReadOnly(this.#options.base);
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

/** Starts the job; resolves when it runs. Throws BlockError; then all is as it was. */
export async function startActiveCommit(
  graph: BlockGraph,
  jobs: JobList,
  options: ActiveCommitOptions,
): Promise<Job> {
  const { top, base } = options;
  jobs.checkId(options.id);
  const wasReadOnly = base.readOnly;
  if (wasReadOnly) await reopenNode(base, { options: { 'read-only': false } });
  const work = new ActiveCommit(options, wasReadOnly);
  let job: Job | undefined;
  try {
    job = await jobs.create({ ...jobInit(options), work });
    work.releaseNodes = (): Promise<void> => job?.releaseNodes() ?? Promise.resolve();
    const init = { driver: mirrorTopDriver, name: options.filterName };
    work.watch(await insertFilter(top, init));
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
  work: ActiveCommit,
  { top, base }: ActiveCommitOptions,
  graph: BlockGraph,
): Promise<void> {
  const { filter } = work;
  if (filter === undefined) return;
  await job.addNode(filter, 'main node', { perm: 0, shared: Perm.all });
  const source = Perm.consistentRead | Perm.writeUnchanged | Perm.write;
  await job.addNode(top, 'source', { perm: 0, shared: source });
  const shared = Perm.writeUnchanged | Perm.write | Perm.consistentRead;
  for (let at = below(top); at !== undefined && at !== base; at = below(at)) {
    await job.addNode(at, 'intermediate node', { perm: 0, shared });
  }
  await job.addNode(base, 'target', { perm: 0, shared: Perm.all });
  work.thaw = freezeChain(filter, base, job.id);
  work.source = new Backend({ graph, name: '', perm: Perm.consistentRead, shared: Perm.all });
  await work.source.attach(filter);
  work.target = new Backend({
    graph,
    name: '',
    perm: Perm.write | (base.size < top.size ? Perm.resize : 0),
    shared: Perm.all,
  });
  await work.target.attach(base);
}
