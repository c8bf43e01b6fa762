/**
 * What jobs on disks have in common: the options that each is started with, what a job holds while
 * it runs, and making it.
 */
import { Backend } from '../block/backend.js';
import { removeFilter } from '../block/insert-filter.js';
import type { BlockNode } from '../block/node.js';
import { Perm } from '../block/types.js';
import type { Job, JobInit } from './job.js';
import type { JobList } from './job-list.js';
import type { JobTransaction } from './transaction.js';
import type { JobWork, OnError } from './work.js';

/** How a job on disks is started; all have defaults but the ID. */
export interface JobOptions {
  readonly id: string;
  /** Bytes a second; 0 or absent: no limit. */
  readonly speed?: number | undefined;
  /** Name of the filter that the job puts in; absent: users do not see it. */
  readonly filterName?: string | undefined;
  /** Take effect without being told; default yes. */
  readonly autoFinalize?: boolean | undefined;
  /** Forget the job when it is concluded; default yes. */
  readonly autoDismiss?: boolean | undefined;
  readonly transaction?: JobTransaction | undefined;
}

/** Of a job within one chain. */
export interface ChainJobOptions extends JobOptions {
  readonly onError?: OnError | undefined;
}

/** Of a job from one disk to another. */
export interface CopyJobOptions extends JobOptions {
  readonly onSourceError?: OnError | undefined;
  readonly onTargetError?: OnError | undefined;
}

/** What a job holds while it runs. */
export class Holdings {
  job: Job | undefined;
  filter: BlockNode | undefined;
  source: Backend | undefined;
  target: Backend | undefined;
  /** Lets edges that must stay as they are go. */
  thaw: (() => void) | undefined;

  /** Backends are closed, edges may be changed again. */
  async closeBackends(): Promise<void> {
    this.thaw?.();
    this.thaw = undefined;
    const { source, target } = this;
    this.source = undefined;
    this.target = undefined;
    await source?.close();
    await target?.close();
  }

  /** Reads from `node` instead of what it has read from, which is held still. */
  async readFrom(node: BlockNode): Promise<void> {
    await this.source?.close();
    const { graph } = node;
    this.source = new Backend({ graph, name: '', perm: Perm.consistentRead, shared: Perm.all });
    await this.source.attach(node);
  }

  /** As {@link closeBackends}, and nodes may be used otherwise. */
  async releaseNodes(): Promise<void> {
    await this.closeBackends();
    await this.job?.releaseNodes();
  }

  /** All goes; users of the filter go on with `to`, by default what is below it. */
  async letGo(to?: BlockNode): Promise<void> {
    await this.releaseNodes();
    const { filter } = this;
    this.filter = undefined;
    if (filter !== undefined) await removeFilter(filter, to);
  }
}

/** Requests to an image that wait for a server fail at once: nobody wants their result. */
export function cancelInFlight(image: BlockNode): void {
  for (let at: BlockNode | undefined = image; at !== undefined; at = at.file?.node) {
    at.instance.cancelInFlight?.();
  }
}

/** A kind of job that holds something; `clean` lets it go. */
export interface HoldingWork extends JobWork {
  readonly held: Holdings;
  clean(): Promise<void>;
}

export interface MakeJob {
  readonly jobs: JobList;
  readonly options: ChainJobOptions & CopyJobOptions;
  readonly work: HoldingWork;
  /** What is done before clients are told that there is a job. */
  readonly before?: () => Promise<void>;
  /** Ties the job to its nodes. */
  readonly tie: (job: Job) => Promise<void>;
}

/** Makes a job, which the caller starts. Throws BlockError; then all is as it was. */
export async function makeJob({ jobs, options, work, before, tie }: MakeJob): Promise<Job> {
  let job: Job | undefined;
  try {
    await before?.();
    job = await jobs.create(jobInit(options, work));
    work.held.job = job;
    await tie(job);
    return job;
  } catch (e) {
    await work.clean();
    await job?.discard();
    throw e;
  }
}

function jobInit(options: ChainJobOptions & CopyJobOptions, work: JobWork): JobInit {
  const { id, autoFinalize, autoDismiss, transaction, onError = 'report' } = options;
  const { speed = 0, onSourceError: read = onError, onTargetError: write = onError } = options;
  const block = { speed, onError: { read, write } };
  return { id, work, autoFinalize, autoDismiss, transaction, block };
}
