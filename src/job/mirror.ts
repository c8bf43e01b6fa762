/**
 * Job `mirror`: a disk is copied to a target while guests go on writing; when both are equal the
 * job is ready, and completing it makes the target what the guests use.
 *
 * A filter on top of the disk counts what guests write in a bitmap, which the job follows. In
 * write-blocking mode a write goes to the target, too, before it ends.
 *
 * Invariants
 *  M1  A range is in flight to the target once at a time: copies and writes of guests that go to
 *      the target as well wait for each other (`#ranges`).
 *  M2  When the job completes, no guest's write is in flight and the bitmap is clean.
 */
import { Backend } from '../block/backend.js';
import { DirtyBitmap } from '../block/dirty-bitmap.js';
import { BlockError, isNotSupported } from '../block/errors.js';
import { insertFilter, moveEdges, movable, setBacking } from '../block/insert-filter.js';
import type { BlockNode } from '../block/node.js';
import { openHeaderBacking } from '../block/open.js';
import { below, skipFilters } from '../block/status.js';
import { Perm, Req } from '../block/types.js';
import { WriteTracker } from '../block/write-tracker.js';
import { mirrorTopDriver, mirrorTops } from '../filter/job-filters.js';
import { Follow, markHeld } from './follow.js';
import type { Job } from './job.js';
import type { JobList } from './job-list.js';
import { copyRuns, PieceFailure } from './pieces.js';
import type { CopyJobOptions, HoldingWork } from './start.js';
import { cancelInFlight, Holdings, makeJob } from './start.js';
import type { JobControl } from './work.js';

export type MirrorSync = 'full' | 'top' | 'none';
export type CopyMode = 'background' | 'write-blocking';

export interface MirrorOptions extends CopyJobOptions {
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
  /** The target may hold something else than zeroes; default for `full`: yes. */
  readonly zeroTarget?: boolean | undefined;
  /**
   * What the target stands on at the end: what the source does, above what was not copied; what
   * its header names; absent: what it stands on now.
   */
  readonly backing?: 'source' | 'header' | undefined;
}

/** Bytes that are copied at a time. */
const CHUNK = 1024 * 1024;
const BUFFER = 16 * CHUNK;
/** Bytes that are zeroed at a time before the copy. */
const ZERO_CHUNK = 64 * 1024 * 1024;
/** Pieces in flight, however small they are. */
const MAX_IN_FLIGHT = 16;
const FINEST = 512;
const COARSEST = 64 * 1024 * 1024;
/** Bounds of the default granularity. */
const PAGE = 4096;
const USUAL = 64 * 1024;

class Mirror implements HoldingWork {
  readonly type = 'mirror';
  readonly held = new Holdings();
  readonly #options: MirrorOptions;
  readonly #dirty: DirtyBitmap;
  readonly #follow: Follow;
  readonly #ranges = new WriteTracker();
  /** In force now, and what clients want. */
  #mode: CopyMode;
  #wantedMode: CopyMode;
  #failure: PieceFailure | undefined;

  constructor(options: MirrorOptions, filter: BlockNode, granularity: number) {
    this.#options = options;
    this.held.filter = filter;
    this.#wantedMode = options.copyMode ?? 'background';
    // What goes to the target before it is zeroed would be lost.
    this.#mode = options.sync === 'full' ? 'background' : this.#wantedMode;
    this.#dirty = new DirtyBitmap({
      name: '',
      granularity,
      bytes: options.source.size,
      enabled: false,
      persistent: false,
    });
    filter.dirtyBitmaps.set('', this.#dirty);
    const pieceBytes = this.#pieceBytes;
    const parallel = Math.floor(this.#bufferBytes / pieceBytes);
    this.#follow = new Follow({
      dirty: this.#dirty,
      bytes: options.source.size,
      pieceBytes,
      parallel: Math.max(1, Math.min(parallel, MAX_IN_FLIGHT)),
      copy: (offset, bytes) => this.#copy(offset, bytes),
      flush: async () => this.held.target?.flush(),
      takeFailure: () => {
        const failure = this.#failure;
        this.#failure = undefined;
        return failure;
      },
    });
  }

  async run(job: JobControl): Promise<void> {
    const { source, target, sync } = this.#options;
    if (source.size !== target.size) {
      throw new BlockError('EINVAL', 'Source and target image have different sizes');
    }
    if (sync === 'full') await this.#findData(job);
    if (sync === 'top') await markHeld(job, this.#dirty, source, this.#sourceBase);
    await this.#follow.run(job);
  }

  /** Zeroes are written at once where that is cheap, and only the rest is copied. */
  async #findData(job: JobControl): Promise<void> {
    const { source, zeroTarget = true } = this.#options;
    try {
      if (zeroTarget && !this.#zeroesCheaply) this.#dirty.set(0, source.size);
      else {
        if (zeroTarget) await this.#zeroAll(job);
        await markHeld(job, this.#dirty, source, undefined);
      }
    } finally {
      this.#mode = this.#wantedMode;
    }
  }

  get #zeroesCheaply(): boolean {
    const { target } = this.#options;
    return target.flags.unmap && ((target.instance.zeroFlags ?? 0) & Req.mayUnmap) !== 0;
  }

  async #zeroAll(job: JobControl): Promise<void> {
    const end = this.#options.source.size;
    for (let at = 0; at < end; at += ZERO_CHUNK) {
      await job.pausePoint();
      const n = Math.min(ZERO_CHUNK, end - at);
      await this.#ranges.run({ offset: at, bytes: n, serialising: true }, async () => {
        await this.held.target?.writeZeroes(at, n, Req.mayUnmap);
      });
    }
  }

  get #sourceBase(): BlockNode | undefined {
    return below(skipFilters(this.#options.source));
  }

  complete(): void {
    this.#follow.completes = true;
  }

  cancel(force: boolean): boolean {
    return this.#follow.endsAtOnce(force);
  }

  interrupt(): void {
    cancelInFlight(this.#options.target);
  }

  change(options: Readonly<Record<string, unknown>>): void {
    const { 'copy-mode': mode = 'background' } = options;
    if (mode === this.#wantedMode) return;
    if (mode !== 'write-blocking') {
      throw new BlockError('EINVAL', `Change to copy mode '${String(mode)}' is not implemented`);
    }
    if (this.#mode === this.#wantedMode) this.#mode = mode;
    this.#wantedMode = mode;
  }

  leftBytes(): number {
    return this.#dirty.dirtyBytes;
  }

  info(): Readonly<Record<string, unknown>> {
    return { 'actively-synced': this.#follow.isReady && this.#mode === 'write-blocking' };
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

  /** Copies a range that the caller has made clean. Throws PieceFailure. */
  #copy(offset: number, bytes: number): Promise<void> {
    const { source, target } = this.held;
    const unmap = this.#options.unmap === false ? 0 : Req.mayUnmap;
    const copy = (): Promise<void> => copyRuns(source, target, offset, bytes, unmap);
    return this.#ranges.run({ offset, bytes, serialising: true }, copy);
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
    const { target } = this.held;
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
        if (target.isQuiesced) {
          // Whoever drains the target may wait for this very write: the job copies it later.
          this.#dirty.set(offset, bytes);
          return;
        }
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

  async prepare(): Promise<void> {
    const { filter, target } = this.held;
    if (filter === undefined) return;
    if (!this.#follow.completes) {
      await target?.flush();
      await this.#setBacking();
      return;
    }
    const { graph } = filter;
    await graph.drainBegin(filter);
    filter.refs++;
    try {
      // M2. Guests are held, and with them the one that the job has read through.
      await this.held.readFrom(this.#options.source);
      await this.#follow.catchUp();
      await target?.flush();
      await this.#setBacking();
      await this.#pivot();
    } finally {
      graph.drainEnd(filter);
      await graph.release(filter);
    }
  }

  /** What was not copied is to be seen below. */
  async #setBacking(): Promise<void> {
    const { source, target, sync, backing } = this.#options;
    const image = skipFilters(target);
    if (image.driver.supportsBacking !== true) return;
    if (backing === 'header') await openHeaderBacking(image.graph, image);
    if (backing !== 'source') return;
    const copied = sync === 'top' ? this.#sourceBase : undefined;
    await setBacking(image, sync === 'none' ? source : copied);
  }

  async #pivot(): Promise<void> {
    const { source, target, replaces } = this.#options;
    target.refs++;
    try {
      this.#unwatch();
      if (replaces === undefined || replaces === source) {
        await this.held.letGo(target);
        return;
      }
      await this.held.releaseNodes();
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
    this.#unwatch();
    await this.held.letGo();
  }

  #unwatch(): void {
    const { filter } = this.held;
    if (filter !== undefined) mirrorTops.get(filter.instance)?.watch(undefined);
  }
}

/** Makes the job and starts it. Throws BlockError with QEMU's texts; then all is as it was. */
export async function startMirror(jobs: JobList, options: MirrorOptions): Promise<Job> {
  const { id, source, target, filterName } = options;
  if (source === target) throw new BlockError('EINVAL', "Can't mirror node into itself");
  jobs.checkId(id);
  const granularity = await granularityOf(options);
  const filter = await insertFilter(source, { driver: mirrorTopDriver, name: filterName });
  const work = new Mirror(options, filter, granularity);
  const tie = (made: Job): Promise<void> => tieMirror(made, work, options);
  const job = await makeJob({ jobs, options, work, tie });
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

async function tieMirror(job: Job, work: Mirror, options: MirrorOptions): Promise<void> {
  const { source, target } = options;
  const { graph } = source;
  const { filter } = work.held;
  if (filter === undefined) return;
  const shared = Perm.consistentRead | Perm.writeUnchanged | Perm.write;
  await job.addNode(filter, 'main node', { perm: Perm.consistentRead, shared });
  await job.addNode(source, 'source', { perm: 0, shared });
  await job.addNode(target, 'target', { perm: 0, shared: Perm.all });
  await work.held.readFrom(filter);
  const writer = new Backend({ graph, name: '', perm: Perm.write, shared: Perm.writeUnchanged });
  await writer.attach(target);
  // The machine may go away while the job is ready: what it wrote is there then.
  writer.allowsInactive = true;
  work.held.target = writer;
  // A write that began before it is watched would end behind a copy of what was there before.
  await graph.drainBegin(filter);
  mirrorTops.get(filter.instance)?.watch((...write) => work.guestWrites(...write));
  graph.drainEnd(filter);
}
