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
import { freezeChain, insertFilter, setBacking } from '../block/insert-filter.js';
import type { BlockNode } from '../block/node.js';
import { reopenNode } from '../block/reopen.js';
import { below, chainStatus, headerFormat, skipFilters } from '../block/status.js';
import { Perm } from '../block/types.js';
import { commitTopDriver } from '../filter/job-filters.js';
import type { Job } from './job.js';
import type { JobList } from './job-list.js';
import type { Piece } from './pieces.js';
import { copyData, doPieces } from './pieces.js';
import type { ChainJobOptions, HoldingWork } from './start.js';
import { Holdings, makeJob } from './start.js';
import type { JobControl } from './work.js';

export interface CommitJobOptions extends ChainJobOptions {
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

class Commit implements HoldingWork {
  readonly type = 'commit';
  readonly held = new Holdings();
  readonly #options: CommitJobOptions;
  readonly #wasReadOnly: boolean;

  constructor(options: CommitJobOptions, wasReadOnly: boolean) {
    this.#options = options;
    this.#wasReadOnly = wasReadOnly;
  }

  async run(job: JobControl): Promise<void> {
    const { source, target } = this.held;
    if (source === undefined || target === undefined) return;
    const { top, base } = this.#options;
    const end = top.size;
    job.progress.total = end;
    await growTo(target, end);
    let at = 0;
    await doPieces(job, {
      next: async () => {
        if (at >= end) return undefined;
        const piece = await this.#look(at, Math.min(CHUNK, end - at));
        at += piece.bytes;
        return piece;
      },
      copy: ({ offset, bytes }) => copyData(source, target, offset, bytes, true),
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

  /** What is to be done with the run that begins at `offset`. */
  async #look(offset: number, bytes: number): Promise<Piece> {
    const { top, base } = this.#options;
    // Where nobody knows, the copy will find out, and tell.
    const run = await chainStatus(top, base, offset, bytes, false).catch(() => undefined);
    if (run === undefined || run.bytes === 0) return { offset, bytes, copy: true };
    return { offset, bytes: run.bytes, copy: run.allocated };
  }

  async prepare(): Promise<void> {
    const { filter } = this.held;
    const { base } = this.#options;
    const { backingFile = skipFilters(base).filename } = this.#options;
    await this.held.target?.flush();
    await this.held.releaseNodes();
    if (filter === undefined) return;
    const { graph } = filter;
    await graph.drainBegin(filter);
    try {
      for (const edge of [...filter.parents]) {
        const image = edge.parent.asNode;
        if (image === undefined) continue;
        const format = headerFormat(base, this.#options.maskProtocol === true);
        await rename(image, backingFile, format);
        await setBacking(image, base);
      }
      // Whoever else uses the filter goes on with the base, which reads the same.
      await this.held.letGo(base);
    } finally {
      graph.drainEnd(filter);
    }
  }

  async clean(): Promise<void> {
    await this.held.letGo();
    if (this.#wasReadOnly) await makeReadOnly(this.#options.base);
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
  const wasReadOnly = image.staysReadOnly;
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
  const wasReadOnly = base.staysReadOnly;
  if (wasReadOnly) await reopenNode(base, { options: { 'read-only': false } });
  const work = new Commit(options, wasReadOnly);
  const tie = async (made: Job): Promise<void> => {
    work.held.filter = await insertFilter(top, {
      driver: commitTopDriver,
      name: options.filterName,
      flags: { writable: false },
    });
    await tieCommit(made, work.held, options, graph);
  };
  const job = await makeJob({ jobs, options, work, tie });
  await job.startNow();
  return job;
}

async function tieCommit(
  job: Job,
  held: Holdings,
  { node, top, base }: CommitJobOptions,
  graph: BlockGraph,
): Promise<void> {
  const { filter } = held;
  if (filter === undefined) return;
  const tied = { perm: 0, shared: Perm.all };
  await job.addNode(node, 'main node', tied);
  const shared = Perm.writeUnchanged | Perm.write;
  for (let at: BlockNode | undefined = top; at !== undefined && at !== base; at = below(at)) {
    // A filter on the base shows the base, which stays readable.
    const reads = skipFilters(at) === base ? Perm.consistentRead : 0;
    await job.addNode(at, 'intermediate node', { perm: 0, shared: shared | reads });
  }
  await job.addNode(base, 'base', tied);
  held.thaw = freezeChain(filter, base, job.id);
  // The job reads what the images hold though nobody may rely on them while the base changes.
  held.source = new Backend({ graph, name: '', perm: 0, shared: Perm.all });
  await held.source.attach(top);
  held.target = new Backend({
    graph,
    name: '',
    perm: Perm.consistentRead | Perm.write | (base.size < top.size ? Perm.resize : 0),
    shared: Perm.consistentRead | Perm.writeUnchanged,
  });
  await held.target.attach(base);
}
