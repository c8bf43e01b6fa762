/**
 * Job `backup`: a disk as it was when the job began, copied to a target while guests go on writing.
 *
 * A copy-before-write filter takes the disk's place for all its users, so that old data goes to the
 * target before it is overwritten; the job copies the rest (filter/block-copy.ts). A bitmap, when
 * one is named, stands still meanwhile, and notes what is written apart: on success that is what it
 * holds afterwards, else it is added to what the bitmap held.
 */
import type { DirtyBitmap } from '../block/dirty-bitmap.js';
import { BlockError, prepend } from '../block/errors.js';
import { insertFilter, removeFilter } from '../block/insert-filter.js';
import type { BlockNode } from '../block/node.js';
import { Perm } from '../block/types.js';
import type { BlockCopy } from '../filter/copy-before-write/block-copy.js';
import { CopyFailure } from '../filter/copy-before-write/block-copy.js';
import { blockCopies, copyBeforeWriteDriver } from '../filter/copy-before-write/driver.js';
import type { Job } from './job.js';
import type { JobList } from './job-list.js';
import type { CopyJobOptions, HoldingWork } from './start.js';
import { cancelInFlight, Holdings, makeJob } from './start.js';
import type { JobControl } from './work.js';

/** What is copied: QMP's MirrorSyncMode without `incremental`, which is `bitmap`. */
export type BackupSync = 'full' | 'top' | 'none' | 'bitmap';

/** What becomes of the bitmap: QMP's BitmapSyncMode. */
export type BitmapSync = 'on-success' | 'never' | 'always';

export interface BackupOptions extends CopyJobOptions {
  readonly source: BlockNode;
  readonly target: BlockNode;
  readonly sync: BackupSync;
  readonly bitmap?: DirtyBitmap | undefined;
  /** Default: on-success. */
  readonly bitmapSync?: BitmapSync | undefined;
  readonly compress?: boolean | undefined;
  /** What was copied is discarded in the source. */
  readonly discardSource?: boolean | undefined;
  readonly minClusterSize?: number | undefined;
  /** Bytes that one copy may have at most; 0 or absent: any. */
  readonly maxChunk?: number | undefined;
  /** Copies in flight at most; never more than 8. */
  readonly maxWorkers?: number | undefined;
}

/** Copies that the job has in flight at a time. */
const PARALLEL = 8;
/** Wait before a copy is tried again whose failure is ignored. */
const RETRY_MS = 100;

class Backup implements HoldingWork {
  readonly type = 'backup';
  readonly held = new Holdings();
  readonly #options: BackupOptions;
  readonly #copy: BlockCopy;
  #at = 0;

  constructor(options: BackupOptions, filter: BlockNode, copy: BlockCopy) {
    this.#options = options;
    this.held.filter = filter;
    this.#copy = copy;
  }

  /** Counts what the guest has copied, too. */
  watch(job: Job): void {
    const copy = this.#copy;
    job.progress.total = copy.leftBytes;
    copy.onProgress = (copied): void => {
      job.progress.done += copied;
      job.progress.total = job.progress.done + copy.leftBytes;
    };
  }

  async run(job: JobControl): Promise<void> {
    const { sync, target } = this.#options;
    if (sync === 'none') for (;;) await job.idle();
    if (sync === 'top') await this.#leaveOut(job);
    await this.#copyAll(job);
    await target.flush();
  }

  /** What only backing files hold is not copied. */
  async #leaveOut(job: JobControl): Promise<void> {
    const copy = this.#copy;
    for (let at = 0; at < copy.length;) {
      await job.pausePoint();
      const { held, bytes } = await copy.heldOnTop(at);
      if (!held) copy.forget(at, bytes);
      at += bytes;
    }
  }

  async #copyAll(job: JobControl): Promise<void> {
    const copy = this.#copy;
    const inFlight = new Set<Promise<void>>();
    const parallel = Math.min(PARALLEL, this.#options.maxWorkers ?? PARALLEL);
    const failures: unknown[] = [];
    try {
      for (;;) {
        if (job.isHeld || job.isCancelled || failures.length > 0) {
          await Promise.all(inFlight);
          await job.pausePoint();
        }
        for (const e of failures.splice(0)) await this.#failed(job, e);
        const next = this.#next();
        if (next === undefined) {
          if (copy.leftBytes === 0) return;
          // The last ones, of the job or of guests.
          await copy.someEnd();
          continue;
        }
        let data = 0;
        const request = copy.copy(next.offset, next.bytes).then(
          (bytes) => {
            data = bytes;
          },
          (e: unknown) => void failures.push(e),
        );
        inFlight.add(request);
        void request.then(() => inFlight.delete(request));
        if (job.speed > 0) {
          await request;
          await job.throttle(data);
        } else if (inFlight.size >= parallel) await Promise.race(inFlight);
      }
    } finally {
      await Promise.all(inFlight);
    }
  }

  /** The next clusters from where the last ones ended. */
  #next(): { offset: number; bytes: number } | undefined {
    const next = this.#copy.tryNext(this.#at) ?? this.#copy.tryNext(0);
    if (next !== undefined) this.#at = next.offset + next.bytes;
    return next;
  }

  /** The clusters are to be copied still: ignoring means trying again. */
  async #failed(job: JobControl, e: unknown): Promise<void> {
    if (!(e instanceof CopyFailure)) throw e;
    const answer = await job.ioFailed(e.operation, e);
    if (answer === 'ignore') await job.sleep(RETRY_MS);
  }

  leftBytes(): number {
    return this.#copy.leftBytes;
  }

  interrupt(): void {
    cancelInFlight(this.#options.target);
  }

  commit(): void {
    const { bitmap, bitmapSync } = this.#options;
    if (bitmapSync === 'never') bitmap?.rejoin();
    else bitmap?.adopt();
  }

  abort(): void {
    const { bitmap, bitmapSync } = this.#options;
    if (bitmap === undefined) return;
    if (bitmapSync !== 'always') {
      bitmap.rejoin();
      return;
    }
    bitmap.adopt();
    bitmap.merge(this.#copy.pending);
  }

  async clean(): Promise<void> {
    this.#copy.onProgress = undefined;
    await this.held.letGo();
  }
}

/**
 * Makes the job; the caller starts it, or cancels it. Throws BlockError with QEMU's texts; then all
 * is as it was.
 */
export async function createBackup(jobs: JobList, options: BackupOptions): Promise<Job> {
  const { source, target, bitmap } = options;
  if (source === target) throw new BlockError('EINVAL', 'Source and target cannot be the same');
  if (source.size !== target.size) {
    throw new BlockError('EINVAL', 'Source and target image have different sizes');
  }
  const filter = await openFilter(options);
  const work = await setUp(filter, options).catch(async (e: unknown) => {
    await removeFilter(filter);
    throw e;
  });
  const tie = async (made: Job): Promise<void> => {
    work.watch(made);
    await made.addNode(filter, 'main node', { perm: 0, shared: Perm.all });
    await made.addNode(target, 'target', { perm: 0, shared: Perm.all });
  };
  const job = await makeJob({ jobs, options, work, tie });
  bitmap?.split();
  return job;
}

async function setUp(filter: BlockNode, options: BackupOptions): Promise<Backup> {
  const copy = setUpCopy(filter, options);
  if (options.discardSource === true) await filter.graph.refreshPerms(filter);
  return new Backup(options, filter, copy);
}

async function openFilter(options: BackupOptions): Promise<BlockNode> {
  const { source, target, filterName, minClusterSize = 0 } = options;
  const smallest = minClusterSize === 0 ? {} : { 'min-cluster-size': minClusterSize };
  try {
    return await insertFilter(source, {
      driver: copyBeforeWriteDriver,
      name: filterName,
      options: { target: target.name, ...smallest },
      flags: { writable: true },
    });
  } catch (e) {
    throw prepend('Could not create node: ', e);
  }
}

function setUpCopy(filter: BlockNode, options: BackupOptions): BlockCopy {
  const copy = blockCopies.get(filter.instance);
  if (copy === undefined) throw new BlockError('EINVAL', 'The filter does not copy');
  const { bitmap, sync, maxChunk = 0 } = options;
  if (maxChunk > 0 && maxChunk < copy.clusterSize) {
    const cluster = `backup cluster size (${String(copy.clusterSize)})`;
    const text = `Required max-chunk (${String(maxChunk)}) is less than ${cluster}`;
    throw new BlockError('EINVAL', text);
  }
  if (maxChunk > 0) copy.maxChunk = Math.min(copy.maxChunk, maxChunk);
  copy.compress = options.compress ?? false;
  copy.discardSource = options.discardSource ?? false;
  copy.topOnly = sync === 'top';
  if (sync === 'bitmap' && bitmap !== undefined) {
    copy.pending.clear();
    copy.pending.merge(bitmap);
  }
  return copy;
}
