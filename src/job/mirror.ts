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
 *  M3  While a target lacks the backing file that it is to have, its clusters are written whole
 *      first (`#whole`): a part would hide the rest of what the backing file holds there.
 */
import { Backend } from '../block/backend.js';
import { DirtyBitmap } from '../block/dirty-bitmap.js';
import type { Child } from '../block/child.js';
import { BlockError, isNotSupported, messageOf } from '../block/errors.js';
import {
  insertFilter,
  isBelow,
  isReplaceable,
  moveEdges,
  movable,
  setBacking,
  noVisibleChange,
} from '../block/insert-filter.js';
import type { BlockNode } from '../block/node.js';
import { openHeaderBacking } from '../block/open.js';
import { below, filtered, skipFilters } from '../block/status.js';
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
  /** M3: clusters of the target that may be written in part. Absent: all. */
  readonly #whole: DirtyBitmap | undefined;
  /** In force now, and what clients want. */
  #mode: CopyMode;
  #wantedMode: CopyMode;
  #failure: PieceFailure | undefined;

  constructor(options: MirrorOptions, filter: BlockNode, { granularity, cluster }: Units) {
    this.#options = options;
    this.held.filter = filter;
    this.#wantedMode = options.copyMode ?? 'background';
    // What goes to the target before it is zeroed would be lost.
    this.#mode = options.sync === 'full' ? 'background' : this.#wantedMode;
    const bytes = options.source.size;
    const own = { name: '', bytes, enabled: false, persistent: false };
    this.#dirty = new DirtyBitmap({ ...own, granularity });
    if (lacksBacking(options)) this.#whole = new DirtyBitmap({ ...own, granularity: cluster });
    filter.dirtyBitmaps.set('', this.#dirty);
    const pieceBytes = this.#pieceBytes;
    const parallel = Math.floor(this.#bufferBytes / pieceBytes);
    this.#follow = new Follow({
      dirty: this.#dirty,
      bytes,
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

  /** Whether zeroes may take away what the target has allocated. */
  get #unmap(): number {
    return this.#options.unmap === false ? 0 : Req.mayUnmap;
  }

  async #zeroAll(job: JobControl): Promise<void> {
    const end = this.#options.source.size;
    for (let at = 0; at < end; at += ZERO_CHUNK) {
      await job.pausePoint();
      const n = Math.min(ZERO_CHUNK, end - at);
      await this.#ranges.run({ offset: at, bytes: n, serialising: true }, async () => {
        await this.held.target?.writeZeroes(at, n, this.#unmap);
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
    const all = this.#cover(offset, bytes);
    return this.#ranges.run({ ...all, serialising: true }, async () => {
      await copyRuns(source, target, all.offset, all.bytes, this.#unmap);
      this.#whole?.set(all.offset, all.bytes);
    });
  }

  /** What has to be written so that the range may be (M3). */
  #cover(offset: number, bytes: number): { offset: number; bytes: number } {
    const whole = this.#whole;
    if (whole === undefined) return { offset, bytes };
    const g = whole.granularity;
    const end = offset + bytes;
    const from = whole.has(offset) ? offset : offset - (offset % g);
    const to = whole.has(end - 1) ? end : Math.min(Math.ceil(end / g) * g, whole.length);
    return { offset: from, bytes: to - from };
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
        // Whoever drains the target may wait for this very write: the job copies it later. So it
        // does where more than the guest has written is needed (M3).
        if (target.isQuiesced || this.#cover(offset, bytes).bytes > bytes) {
          this.#dirty.set(offset, bytes);
          return;
        }
        try {
          await copy(target);
          this.#whole?.set(offset, bytes);
        } catch (e) {
          this.#dirty.set(offset, bytes);
          if (!isNotSupported(e)) this.#failure = new PieceFailure('write', e);
        }
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
    const { source, target, replaces = source } = this.#options;
    const { filter } = this.held;
    if (filter === undefined) return;
    if (!isReplaceable(source, replaces)) {
      const what = `'${replaces.name}' by '${target.name}'`;
      filter.graph.notice(
        `Can no longer replace ${what}, because it can no longer be ${noVisibleChange}`,
      );
      throw new BlockError('EPERM');
    }
    target.refs++;
    try {
      this.#unwatch();
      await this.held.releaseNodes();
      if (replaces === source) await this.#takePlace(filter);
      else await putInPlace(target, replaces, movable(replaces));
    } finally {
      await target.graph.release(target);
    }
  }

  /** Of the disk: of the filter's users, and of those that have come to what is below it. */
  async #takePlace(filter: BlockNode): Promise<void> {
    const { target } = this.#options;
    const disk = filtered(filter);
    if (disk === undefined) return;
    const later = movable(disk).filter(({ parent }) => !isBelow(parent.asNode, target));
    const edges = later.filter(({ parent }) => parent.asNode !== filter);
    await putInPlace(target, disk, [...movable(filter), ...edges]);
    await this.held.letGo();
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

/** Points the edges, which lead to `old` or to what is on top of it, at `target`. Throws EPERM. */
async function putInPlace(
  target: BlockNode,
  old: BlockNode,
  edges: readonly Child[],
): Promise<void> {
  const { graph } = target;
  await graph.drainBegin(old);
  try {
    await moveEdges(edges, target);
  } catch (e) {
    graph.notice(messageOf(e));
    throw new BlockError('EPERM', undefined, { cause: e });
  } finally {
    graph.drainEnd(old);
  }
}

/** Makes the job and starts it. Throws BlockError with QEMU's texts; then all is as it was. */
export async function startMirror(jobs: JobList, options: MirrorOptions): Promise<Job> {
  const { id, source, target, filterName } = options;
  if (source === target) throw new BlockError('EINVAL', "Can't mirror node into itself");
  jobs.checkId(id);
  const units = await unitsOf(options);
  const filter = await insertFilter(source, { driver: mirrorTopDriver, name: filterName });
  const work = new Mirror(options, filter, units);
  const tie = (made: Job): Promise<void> => tieMirror(made, work, options);
  const job = await makeJob({ jobs, options, work, tie });
  await job.startNow();
  return job;
}

/** Bytes. */
interface Units {
  /** What a bit of the bitmap stands for. */
  readonly granularity: number;
  /** What the target stores, or leaves to its backing file, as a whole. */
  readonly cluster: number;
}

async function unitsOf({ granularity = 0, target }: MirrorOptions): Promise<Units> {
  const cluster = (await target.instance.info?.())?.clusterSize ?? USUAL;
  return { granularity: granularityOf(granularity, cluster), cluster };
}

/** What was asked for, else a cluster of the target within bounds. */
function granularityOf(granularity: number, cluster: number): number {
  checkGranularity(granularity);
  return granularity === 0 ? Math.max(PAGE, Math.min(USUAL, cluster)) : granularity;
}

/** Throws BlockError with QEMU's text; 0: whatever suits the target. */
export function checkGranularity(granularity: number): void {
  if (granularity === 0) return;
  if (granularity < FINEST || granularity > COARSEST) {
    const text = "Parameter 'granularity' expects a value in range [512B, 64MB]";
    throw new BlockError('EINVAL', text);
  }
  if (!Number.isInteger(Math.log2(granularity))) {
    throw new BlockError('EINVAL', "Parameter 'granularity' expects a power of 2");
  }
}

/** Whether a backing file may come below the target that holds what is not copied. */
function lacksBacking({ target, sync }: MirrorOptions): boolean {
  const image = skipFilters(target);
  return sync !== 'full' && image.driver.supportsBacking === true && image.backing === undefined;
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
