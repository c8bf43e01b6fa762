/**
 * Job `mirror`: a disk is copied to a target while guests go on writing; when both are equal the
 * job is ready, and completing it makes the target what the guests use.
 *
 * A filter on top of the disk counts what guests write in a bitmap. A bit is cleared before its
 * range is read and set when a write has ended, so that a range is clean only if the target has
 * what the last write left. In write-blocking mode a write goes to the target, too, before it ends.
 *
 * Invariants
 *  M1  A range is in flight to the target once at a time: copies and writes of guests that go to
 *      the target as well wait for each other (`#ranges`).
 *  M2  When the job completes, no guest's write is in flight and the bitmap is clean.
 */
import { Backend } from '../block/backend.js';
import { DirtyBitmap } from '../block/dirty-bitmap.js';
import { BlockError, isNotSupported } from '../block/errors.js';
import { insertFilter, moveEdges, movable, removeFilter } from '../block/insert-filter.js';
import type { BlockNode } from '../block/node.js';
import { below, chainStatus, skipFilters } from '../block/status.js';
import { Perm, Req } from '../block/types.js';
import { WriteTracker } from '../block/write-tracker.js';
import { mirrorTopDriver, mirrorTops } from '../filter/job-filters.js';
import { Iov } from '../lib/iov.js';
import type { Job } from './job.js';
import type { JobList } from './job-list.js';
import { doPieces, PieceFailure } from './pieces.js';
import type { JobControl, JobWork, OnError } from './work.js';

export type MirrorSync = 'full' | 'top' | 'none';
export type CopyMode = 'background' | 'write-blocking';

export interface MirrorOptions {
  readonly id: string;
  readonly source: BlockNode;
  readonly target: BlockNode;
  readonly sync: MirrorSync;
  /** Node whose place the target takes; default: the source. */
  readonly replaces?: BlockNode | undefined;
  /** Bytes that a bit of the bitmap stands for, a power of two; default by the target. */
  readonly granularity?: number | undefined;
  /** Bytes that are in flight at most, but for one piece; 0 or absent: 16 MiB. */
  readonly bufferBytes?: number | undefined;
  /** Zeroes may be deallocated in the target; default yes. */
  readonly unmap?: boolean | undefined;
  readonly copyMode?: CopyMode | undefined;
  readonly speed?: number | undefined;
  readonly onSourceError?: OnError | undefined;
  readonly onTargetError?: OnError | undefined;
  readonly filterName?: string | undefined;
  readonly autoFinalize?: boolean | undefined;
  readonly autoDismiss?: boolean | undefined;
}

/** Bytes that are copied at a time. */
const CHUNK = 1024 * 1024;
const BUFFER = 16 * CHUNK;
/** Pieces in flight, however small they are. */
const MAX_IN_FLIGHT = 16;
/** How often a job that is ready looks for what was written. */
const LOOK_MS = 100;
const FINEST = 512;
const COARSEST = 64 * 1024 * 1024;
/** Bounds of the default granularity. */
const PAGE = 4096;
const USUAL = 64 * 1024;

class Mirror implements JobWork {
  readonly type = 'mirror';
  readonly #options: MirrorOptions;
  readonly #dirty: DirtyBitmap;
  readonly #ranges = new WriteTracker();
  readonly filter: BlockNode;
  source: Backend | undefined;
  target: Backend | undefined;
  releaseNodes: () => Promise<void> = async () => undefined;
  #mode: CopyMode;
  #isReady = false;
  #completes = false;
  #failure: PieceFailure | undefined;
  #removed = false;

  constructor(options: MirrorOptions, filter: BlockNode, granularity: number) {
    this.#options = options;
    this.filter = filter;
    this.#mode = options.copyMode ?? 'background';
    this.#dirty = new DirtyBitmap({
      name: '',
      granularity,
      bytes: options.source.size,
      enabled: false,
      persistent: false,
    });
    filter.dirtyBitmaps.set('', this.#dirty);
  }

  async run(job: JobControl): Promise<void> {
    const { source, target } = this.#options;
    if (source.size !== target.size) {
      throw new BlockError('EINVAL', 'Source and target image have different sizes');
    }
    if (this.#options.sync !== 'none') await this.#findData(job);
    this.#tellTotal(job);
    for (;;) {
      await this.#copyDirty(job);
      if (this.#failure !== undefined) await this.#answerWrite(job);
      if (this.#dirty.dirtyBytes > 0) continue;
      if (!this.#isReady) {
        await this.target?.flush();
        if (this.#dirty.dirtyBytes > 0) continue;
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

  change(options: Readonly<Record<string, unknown>>): void {
    const mode = options['copy-mode'];
    if (mode === this.#mode) return;
    if (mode !== 'write-blocking') {
      throw new BlockError('EINVAL', `Change to copy mode '${String(mode)}' is not implemented`);
    }
    this.#mode = mode;
  }

  info(): Readonly<Record<string, unknown>> {
    return { 'actively-synced': this.#isReady && this.#mode === 'write-blocking' };
  }

  /** All of the disk, or what its topmost image holds, is to be copied. */
  async #findData(job: JobControl): Promise<void> {
    const { source, sync } = this.#options;
    if (sync === 'full') {
      this.#dirty.set(0, source.size);
      return;
    }
    const base = below(skipFilters(source));
    for (let at = 0; at < source.size;) {
      await job.pausePoint();
      const run = await chainStatus(source, base, at, source.size - at, false);
      if (run.bytes === 0) return;
      if (run.allocated) this.#dirty.set(at, run.bytes);
      at += run.bytes;
    }
  }

  #tellTotal(job: JobControl): void {
    job.progress.total = job.progress.done + this.#dirty.dirtyBytes;
  }

  async #copyDirty(job: JobControl): Promise<void> {
    let at = 0;
    const parallel = Math.floor(this.#bufferBytes / this.#pieceBytes);
    await doPieces(job, {
      parallel: Math.max(1, Math.min(parallel, MAX_IN_FLIGHT)),
      next: async () => {
        const range = this.#take(at);
        if (range === undefined) return undefined;
        at = range.offset + range.bytes;
        job.progress.total = Math.max(job.progress.total, job.progress.done + range.bytes);
        return { ...range, copy: true };
      },
      copy: ({ offset, bytes }) => this.#copy(offset, bytes),
      ignored: () => 'again',
    });
    this.#tellTotal(job);
  }

  get #bufferBytes(): number {
    const { bufferBytes = 0 } = this.#options;
    return bufferBytes === 0 ? BUFFER : bufferBytes;
  }

  /** Whole units of the bitmap that are copied at a time. */
  get #pieceBytes(): number {
    const { granularity } = this.#dirty;
    const most = Math.min(CHUNK, this.#bufferBytes);
    return Math.max(granularity, most - (most % granularity));
  }

  /** The next dirty range from `from`, which is clean then. */
  #take(from: number): { offset: number; bytes: number } | undefined {
    const end = this.#options.source.size;
    const start = this.#dirty.next(from, true);
    if (start === undefined || start >= end) return undefined;
    const offset = start - (start % this.#dirty.granularity);
    const stop = this.#dirty.next(start, false) ?? end;
    const bytes = Math.min(stop, offset + this.#pieceBytes, end) - offset;
    this.#dirty.clear(offset, bytes);
    return { offset, bytes };
  }

  /** Copies a range that the caller has made clean. Throws PieceFailure. */
  #copy(offset: number, bytes: number): Promise<void> {
    return this.#ranges.run({ offset, bytes, serialising: true }, async () => {
      for (let at = offset; at < offset + bytes;) {
        const n = await this.#copyRun(at, offset + bytes - at);
        at += n;
      }
    });
  }

  async #copyRun(offset: number, bytes: number): Promise<number> {
    const { source, target } = this;
    if (source === undefined || target === undefined) throw new BlockError('ECANCELED');
    const run = await chainStatus(source.node, undefined, offset, bytes).catch(() => undefined);
    const n = run === undefined || run.bytes === 0 ? bytes : Math.min(run.bytes, bytes);
    const unmap = this.#options.unmap === false ? 0 : Req.mayUnmap;
    if (run?.zero === true) {
      await target.writeZeroes(offset, n, unmap).catch(failed('write'));
      return n;
    }
    const data = Iov.alloc(n);
    await source.read(offset, data).catch(failed('read'));
    await target.write(offset, data).catch(failed('write'));
    return n;
  }

  /**
   * A guest writes: `write` does so, `copy` does the same to the target. In write-blocking mode the
   * range is equal on both sides when it resolves; if the target fails, the job copies it later.
   */
  async guestWrites(
    offset: number,
    bytes: number,
    write: () => Promise<void>,
    copy: (target: Backend) => Promise<void>,
  ): Promise<void> {
    const { target } = this;
    if (this.#mode === 'background' || target === undefined || bytes === 0) {
      try {
        await write();
      } finally {
        this.#dirty.set(offset, bytes);
      }
      return;
    }
    await this.#ranges.run({ offset, bytes, serialising: true }, async () => {
      try {
        await write();
        await copy(target).catch((e: unknown) => {
          this.#dirty.set(offset, bytes);
          if (!isNotSupported(e)) this.#failure = new PieceFailure('write', e);
        });
      } catch (e) {
        this.#dirty.set(offset, bytes);
        throw e;
      }
    });
  }

  /** The target failed while a guest wrote to it. */
  async #answerWrite(job: JobControl): Promise<void> {
    const failure = this.#failure;
    this.#failure = undefined;
    if (failure !== undefined) await job.ioFailed(failure.operation, failure.cause);
  }

  async prepare(): Promise<void> {
    const { filter } = this;
    const { graph } = filter;
    if (!this.#completes) {
      await this.target?.flush();
      return;
    }
    await graph.drainBegin(filter);
    filter.refs++;
    try {
      await this.#catchUp();
      await this.target?.flush();
      await this.#pivot();
    } finally {
      graph.drainEnd(filter);
      await graph.release(filter);
    }
  }

  /** M2: guests are held. */
  async #catchUp(): Promise<void> {
    try {
      for (let range = this.#take(0); range !== undefined; range = this.#take(0)) {
        await this.#copy(range.offset, range.bytes);
      }
    } catch (e) {
      throw e instanceof PieceFailure ? e.cause : e;
    }
  }

  async #pivot(): Promise<void> {
    const { source, target, replaces } = this.#options;
    const { filter } = this;
    target.refs++;
    try {
      await this.#letGo();
      if (replaces === undefined || replaces === source) {
        await removeFilter(filter, target);
        this.#removed = true;
        return;
      }
      await target.graph.drainBegin(replaces);
      try {
        await moveEdges(movable(replaces), target);
      } finally {
        target.graph.drainEnd(replaces);
      }
    } finally {
      await target.graph.release(target);
    }
  }

  async clean(): Promise<void> {
    if (this.#removed) return;
    await this.#letGo();
    await removeFilter(this.filter);
  }

  async #letGo(): Promise<void> {
    mirrorTops.get(this.filter.instance)?.watch(undefined);
    const { source, target } = this;
    this.source = undefined;
    this.target = undefined;
    await source?.close();
    await target?.close();
    await this.releaseNodes();
  }
}

function failed(operation: 'read' | 'write'): (e: unknown) => never {
  return (e) => {
    throw new PieceFailure(operation, e);
  };
}

/** Makes the job and starts it. Throws BlockError with QEMU's texts; then all is as it was. */
export async function startMirror(jobs: JobList, options: MirrorOptions): Promise<Job> {
  const { id, source, target, filterName } = options;
  if (source === target) throw new BlockError('EINVAL', "Can't mirror node into itself");
  jobs.checkId(id);
  const granularity = await granularityOf(options);
  const filter = await insertFilter(source, { driver: mirrorTopDriver, name: filterName });
  const work = new Mirror(options, filter, granularity);
  let job: Job | undefined;
  try {
    const made = await jobs.create({
      id,
      work,
      autoFinalize: options.autoFinalize,
      autoDismiss: options.autoDismiss,
      block: {
        speed: options.speed ?? 0,
        onError: {
          read: options.onSourceError ?? 'report',
          write: options.onTargetError ?? 'report',
        },
      },
    });
    job = made;
    work.releaseNodes = (): Promise<void> => made.releaseNodes();
    await tie(made, work, options);
  } catch (e) {
    await work.clean();
    await job?.discard();
    throw e;
  }
  await job.startNow();
  return job;
}

/** Bytes of a bit: what was asked for, else a cluster of the target within bounds. */
async function granularityOf({ granularity = 0, target }: MirrorOptions): Promise<number> {
  if (granularity !== 0) {
    if (granularity < FINEST || granularity > COARSEST) {
      const text = "Parameter 'granularity' expects a value in range [512B, 64MB]";
      throw new BlockError('EINVAL', text);
    }
    if (Number.isInteger(Math.log2(granularity))) return granularity;
    throw new BlockError('EINVAL', "Parameter 'granularity' expects a power of 2");
  }
  const cluster = (await target.instance.info?.())?.clusterSize ?? USUAL;
  return Math.max(PAGE, Math.min(USUAL, cluster));
}

async function tie(job: Job, work: Mirror, { source, target }: MirrorOptions): Promise<void> {
  const { graph } = source;
  const shared = Perm.consistentRead | Perm.writeUnchanged | Perm.write;
  await job.addNode(work.filter, 'main node', { perm: Perm.consistentRead, shared });
  await job.addNode(source, 'source', { perm: 0, shared });
  await job.addNode(target, 'target', { perm: 0, shared: Perm.all });
  const reader = new Backend({ graph, name: '', perm: Perm.consistentRead, shared: Perm.all });
  await reader.attach(source);
  work.source = reader;
  const writer = new Backend({ graph, name: '', perm: Perm.write, shared: Perm.writeUnchanged });
  await writer.attach(target);
  work.target = writer;
  mirrorTops.get(work.filter.instance)?.watch((...write) => work.guestWrites(...write));
}
