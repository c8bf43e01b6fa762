/**
 * Job `commit` of the image that guests write: what the chain holds above `base` is written into
 * `base` while guests go on; when both are equal the job is ready, and completing it makes `base`
 * what the guests use.
 *
 * A filter on top of the image counts what guests write in a bitmap, which the job follows. The
 * last ranges are copied while guests are held; then the base is made durable, and only then it
 * takes the image's place.
 */
import { Backend } from '../block/backend.js';
import { DirtyBitmap } from '../block/dirty-bitmap.js';
import type { BlockGraph } from '../block/graph.js';
import { freezeChain, insertFilter } from '../block/insert-filter.js';
import type { BlockNode } from '../block/node.js';
import { reopenNode } from '../block/reopen.js';
import { below } from '../block/status.js';
import { Perm } from '../block/types.js';
import { mirrorTopDriver } from '../filter/job-filters.js';
import { growTo, makeReadOnly } from './commit-job.js';
import { Follow, markHeld } from './follow.js';
import type { Job } from './job.js';
import type { JobList } from './job-list.js';
import { copyRuns } from './pieces.js';
import type { ChainJobOptions, HoldingWork } from './start.js';
import { Holdings, makeJob } from './start.js';
import type { JobControl } from './work.js';

export interface ActiveCommitOptions extends ChainJobOptions {
  /** The image that guests write. */
  readonly top: BlockNode;
  /** The image that takes the data, and then its place. */
  readonly base: BlockNode;
  /** Completes as soon as it is ready. */
  readonly completes?: boolean;
}

/** What a bit of the bitmap stands for, at least; also the granularity of later copies. */
const GRANULARITY = 64 * 1024;
/** Bytes that are copied at a time. */
const CHUNK = 1024 * 1024;
/** Copies in flight at a time. */
const PARALLEL = 8;

class ActiveCommit implements HoldingWork {
  readonly type = 'commit';
  readonly held = new Holdings();
  readonly #options: ActiveCommitOptions;
  readonly #wasReadOnly: boolean;
  readonly #dirty: DirtyBitmap;
  readonly #follow: Follow;
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
    this.#follow = new Follow({
      dirty: this.#dirty,
      bytes: options.top.size,
      pieceBytes: CHUNK,
      parallel: PARALLEL,
      copy: (offset, bytes) => copyRuns(this.held.source, this.held.target, offset, bytes),
      flush: async () => this.held.target?.flush(),
    });
    this.#follow.completes = options.completes ?? false;
  }

  /** From now on writes are counted. */
  watch(filter: BlockNode): void {
    this.held.filter = filter;
    filter.dirtyBitmaps.set('', this.#dirty);
  }

  async run(job: JobControl): Promise<void> {
    const { top, base } = this.#options;
    const { target } = this.held;
    if (target === undefined) return;
    await growTo(target, top.size);
    await markHeld(job, this.#dirty, top, base);
    await this.#follow.run(job);
  }

  complete(): void {
    this.#follow.completes = true;
  }

  leftBytes(): number {
    return this.#dirty.dirtyBytes;
  }

  cancel(force: boolean): boolean {
    return this.#follow.endsAtOnce(force);
  }

  async prepare(): Promise<void> {
    const { filter, target } = this.held;
    if (filter === undefined || !this.#follow.completes) {
      await target?.flush();
      return;
    }
    const { graph } = filter;
    await graph.drainBegin(filter);
    try {
      // Guests are held, and with them the one that the job has read through.
      await this.held.readFrom(this.#options.top);
      await this.#follow.catchUp();
      await target?.flush();
      await this.held.letGo(this.#options.base);
      this.#pivoted = true;
    } finally {
      graph.drainEnd(filter);
    }
  }

  async clean(): Promise<void> {
    await this.held.letGo();
    if (this.#wasReadOnly && !this.#pivoted) await makeReadOnly(this.#options.base);
  }
}

/** Starts the job; resolves when it runs. Throws BlockError; then all is as it was. */
export async function startActiveCommit(
  graph: BlockGraph,
  jobs: JobList,
  options: ActiveCommitOptions,
): Promise<Job> {
  const { top, base, filterName: name } = options;
  jobs.checkId(options.id);
  const wasReadOnly = base.staysReadOnly;
  if (wasReadOnly) await reopenNode(base, { options: { 'read-only': false } });
  const work = new ActiveCommit(options, wasReadOnly);
  const tie = async (made: Job): Promise<void> => {
    work.watch(await insertFilter(top, { driver: mirrorTopDriver, name }));
    await tieCommit(made, work.held, options, graph);
  };
  const job = await makeJob({ jobs, options, work, tie });
  await job.startNow();
  return job;
}

async function tieCommit(
  job: Job,
  held: Holdings,
  { top, base }: ActiveCommitOptions,
  graph: BlockGraph,
): Promise<void> {
  const { filter } = held;
  if (filter === undefined) return;
  await job.addNode(filter, 'main node', { perm: 0, shared: Perm.all });
  const source = Perm.consistentRead | Perm.writeUnchanged | Perm.write;
  await job.addNode(top, 'source', { perm: 0, shared: source });
  const shared = Perm.writeUnchanged | Perm.write | Perm.consistentRead;
  for (let at = below(top); at !== undefined && at !== base; at = below(at)) {
    await job.addNode(at, 'intermediate node', { perm: 0, shared });
  }
  await job.addNode(base, 'target', { perm: 0, shared: Perm.all });
  held.thaw = freezeChain(filter, base, job.id);
  await held.readFrom(filter);
  held.target = new Backend({
    graph,
    name: '',
    perm: Perm.write | (base.size < top.size ? Perm.resize : 0),
    shared: Perm.all,
  });
  await held.target.attach(base);
}
