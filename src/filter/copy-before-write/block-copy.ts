/**
 * Copying the state of a disk at one moment to a target while the disk is being written: what
 * copy-before-write and the backup job have in common.
 *
 * Invariants
 *  C1  A cluster is in `pending` until its copy begins, in `#active` while it runs, and back in
 *      `pending` when it failed. What is in neither is at the target, or is not wanted there.
 *  C2  Nobody writes to a cluster of the source that is in `pending` or in `#active`: who means to
 *      waits for {@link BlockCopy.ensure} first.
 *  C3  Where the target reads from the source what it does not hold, a copy ends when the reads of
 *      the target have that began before: they may have found that the target does not hold it.
 */
import type { Child } from '../../block/child.js';
import { copyThrough } from '../../block/copy-through.js';
import { DirtyBitmap } from '../../block/dirty-bitmap.js';
import { BlockError } from '../../block/errors.js';
import { ReadWatch } from '../../block/read-watch.js';
import { below, chainStatus, skipFilters } from '../../block/status.js';
import { Req } from '../../block/types.js';
import { Iov } from '../../lib/iov.js';

/** Bytes of a cluster where the target does not ask for more. */
const DEFAULT_CLUSTER = 64 * 1024;
/** Longest piece that is copied at once, so that a guest's write never waits for much. */
const CHUNK = 1024 * 1024;

/** A cluster could not be copied. */
export class CopyFailure extends BlockError {
  constructor(
    readonly operation: 'read' | 'write',
    cause: unknown,
  ) {
    const e = cause instanceof BlockError ? cause : new BlockError(codeOf(cause));
    super(e.code, e.message, { cause });
  }
}

function codeOf(e: unknown): string {
  if (typeof e === 'object' && e !== null && 'code' in e && typeof e.code === 'string') {
    return e.code;
  }
  return 'EIO';
}

interface ActiveRange {
  readonly from: number;
  readonly to: number;
  readonly done: Promise<void>;
}

export interface BlockCopyInit {
  readonly source: Child;
  readonly target: Child;
  /** A power of two. */
  readonly clusterSize: number;
}

/**
 * The size of clusters that a target should be written in, at least `min`. Throws BlockError when
 * that cannot be found out; may warn.
 */
export async function copyClusterSize(target: Child, min: number): Promise<number> {
  if (min > 0 && !Number.isInteger(Math.log2(min))) {
    throw new BlockError('EINVAL', 'min-cluster-size needs to be a power of 2');
  }
  const least = Math.max(min, DEFAULT_CLUSTER);
  const { node } = target;
  const hasBacking = below(skipFilters(node)) !== undefined;
  const tells = skipFilters(node).instance.info !== undefined;
  const size = (await skipFilters(node).instance.info?.())?.clusterSize;
  if (!tells && !hasBacking) {
    node.graph.warn(
      "The target block device doesn't provide information about the block size and it doesn't " +
        `have a backing file. The (default) block size of ${String(least)} bytes is used. If the ` +
        'actual block size of the target exceeds this value, the backup may be unusable',
    );
  }
  return Math.max(least, size ?? 0);
}

export class BlockCopy {
  readonly clusterSize: number;
  /** Bytes of the source when the copy was set up: nothing behind it is copied. */
  readonly length: number;
  /** Clusters that have yet to be copied (C1). */
  readonly pending: DirtyBitmap;
  /** Only what the topmost image holds is copied; the rest counts as done. */
  topOnly = false;
  /** The target stores clusters compressed. */
  compress = false;
  /** Bytes that are copied at once, at most. */
  maxChunk = CHUNK;
  /** What has been copied is discarded in the source. */
  discardSource = false;
  /** Called when the amount of what is done, or of what is left, has changed. */
  onProgress: ((copied: number) => void) | undefined;
  /** Called when the copy begins anew. */
  onRestart: (() => void) | undefined;
  readonly #source: Child;
  readonly #target: Child;
  readonly #active = new Set<ActiveRange>();
  #activeBytes = 0;
  readonly #writeFlags: number;
  /** Reads of a target that reads from the source (C3). */
  readonly #reads: ReadWatch | undefined;

  constructor({ source, target, clusterSize }: BlockCopyInit) {
    this.#source = source;
    this.#target = target;
    this.clusterSize = clusterSize;
    this.length = source.size;
    this.pending = newBitmap(this.length, clusterSize);
    this.pending.set(0, this.length);
    // What the target reads from the source must not be read while it is half written.
    this.#writeFlags = isAbove(target, source) ? Req.serialising : 0;
    if (this.#writeFlags !== 0) this.#reads = ReadWatch.start(target.node);
  }

  /** Nothing is copied any more. */
  close(): void {
    this.#reads?.stop(this.#target.node);
  }

  /** Bytes that have yet to be copied, or are being copied. */
  get leftBytes(): number {
    return this.pending.dirtyBytes + this.#activeBytes;
  }

  /** The clusters that [offset, offset + bytes) touches. */
  around(offset: number, bytes: number): { from: number; to: number } {
    const g = this.clusterSize;
    const from = offset - (offset % g);
    const end = offset + bytes;
    return { from, to: Math.min(end + ((g - (end % g)) % g), this.length) };
  }

  /**
   * Resolves when all clusters that the range touches are copied as far as they are wanted. Throws
   * CopyFailure; what was not copied is pending again.
   */
  async ensure(offset: number, bytes: number): Promise<void> {
    const { from, to } = this.around(offset, bytes);
    while (from < to) {
      const next = this.tryNext(from, to);
      if (next !== undefined) await this.copy(next.offset, next.bytes);
      else {
        const other = this.#overlapping(from, to);
        if (other === undefined) return;
        await other.done;
      }
    }
  }

  /** The first run of pending clusters in [from, to), at most a chunk of it. */
  tryNext(from: number, to = this.length): { offset: number; bytes: number } | undefined {
    const start = this.pending.next(from, true);
    if (start === undefined || start >= to) return undefined;
    const offset = start - (start % this.clusterSize);
    const most = Math.min(to, offset + Math.max(this.maxChunk, this.clusterSize));
    const end = Math.min(this.pending.next(start, false) ?? most, most);
    return { offset, bytes: end - offset };
  }

  /** Resolves when one of the copies that run has ended. */
  async someEnd(): Promise<void> {
    await Promise.race([...this.#active].map((each) => each.done));
  }

  /**
   * Copies clusters that are all pending; resolves to how many bytes of data were moved. Throws
   * CopyFailure; then they are pending again.
   */
  async copy(offset: number, bytes: number): Promise<number> {
    let finish = (): void => undefined;
    const done = new Promise<void>((resolve) => {
      finish = resolve;
    });
    const active: ActiveRange = { from: offset, to: offset + bytes, done };
    this.pending.clear(offset, bytes);
    this.#active.add(active);
    this.#activeBytes += bytes;
    let copied = 0;
    try {
      const moved = await this.#copyRuns(offset, bytes);
      copied = bytes;
      // C3
      await this.#reads?.ended(offset, bytes);
      return moved;
    } catch (e) {
      this.pending.set(offset, bytes);
      throw e;
    } finally {
      this.#activeBytes -= bytes;
      this.#active.delete(active);
      this.onProgress?.(copied);
      finish();
    }
  }

  /** The state to copy is that of this moment, in which nothing is written or copied. */
  restart(): void {
    this.pending.set(0, this.length);
    this.onRestart?.();
    this.onProgress?.(0);
  }

  /** Nobody wants these whole clusters any more. */
  forget(offset: number, bytes: number): void {
    this.pending.clear(offset, bytes);
    this.onProgress?.(0);
  }

  /**
   * How many bytes from `offset`, whole clusters, have one answer to the question whether the
   * topmost image holds them.
   */
  async heldOnTop(offset: number): Promise<{ held: boolean; bytes: number }> {
    const top = this.#source.node;
    const base = below(skipFilters(top));
    const g = this.clusterSize;
    const run = await chainStatus(top, base, offset, this.length - offset, false);
    if (!run.allocated && run.bytes >= Math.min(g, this.length - offset)) {
      const atEnd = offset + run.bytes >= this.length;
      return { held: false, bytes: atEnd ? run.bytes : run.bytes - (run.bytes % g) };
    }
    // A cluster that is held in part is copied as a whole.
    const end = Math.min(offset + Math.max(g, run.bytes - (run.bytes % g)), this.length);
    return { held: true, bytes: end - offset };
  }

  #overlapping(from: number, to: number): ActiveRange | undefined {
    for (const each of this.#active) if (each.from < to && from < each.to) return each;
    return undefined;
  }

  async #copyRuns(offset: number, bytes: number): Promise<number> {
    const end = offset + bytes;
    let moved = 0;
    for (let at = offset; at < end;) {
      if (this.topOnly) {
        const { held, bytes: n } = await asOperation('read', this.heldOnTop(at));
        if (!held) {
          at += n;
          continue;
        }
      }
      const { zero, bytes: n } = await this.#kindOf(at, end - at);
      if (zero) await this.#zero(at, n);
      else {
        await this.#data(at, n);
        moved += n;
      }
      if (this.discardSource) await this.#source.discard(at, n).catch(() => undefined);
      at += n;
    }
    return moved;
  }

  /** Whether a run of whole clusters reads as zeroes. */
  async #kindOf(offset: number, bytes: number): Promise<{ zero: boolean; bytes: number }> {
    const g = this.clusterSize;
    try {
      const run = await chainStatus(this.#source.node, undefined, offset, bytes);
      if (run.bytes >= bytes) return { zero: run.zero, bytes };
      if (run.bytes < g) return { zero: false, bytes: Math.min(g, bytes) };
      return { zero: run.zero, bytes: run.bytes - (run.bytes % g) };
    } catch {
      // Reading will tell.
      return { zero: false, bytes: Math.min(g, bytes) };
    }
  }

  #zero(offset: number, bytes: number): Promise<void> {
    return asOperation('write', this.#target.writeZeroes(offset, bytes, this.#writeFlags));
  }

  async #data(offset: number, bytes: number): Promise<void> {
    if (this.#writeFlags === 0 && !this.compress && (await this.#fileToFile(offset, bytes))) return;
    const flags = this.#writeFlags | (this.compress ? Req.compressed : 0);
    const data = Iov.alloc(bytes);
    await asOperation('read', this.#source.read(offset, data));
    await asOperation('write', this.#target.write(offset, data, flags));
  }

  /** From file to file of the host, without bringing the data here; false: not this way. */
  async #fileToFile(offset: number, bytes: number): Promise<boolean> {
    const target = this.#target.node;
    if (!target.takesFileRuns) return false;
    return copyThrough(this.#source.node, target, offset, bytes);
  }
}

async function asOperation<T>(operation: 'read' | 'write', request: Promise<T>): Promise<T> {
  try {
    return await request;
  } catch (e) {
    throw new CopyFailure(operation, e);
  }
}

/** A bitmap that nobody sees and no write changes. */
export function newBitmap(bytes: number, granularity: number): DirtyBitmap {
  return new DirtyBitmap({ name: '', granularity, bytes, enabled: false, persistent: false });
}

/** Whether the target reads from the source what it does not hold. */
function isAbove(target: Child, source: Child): boolean {
  const wanted = skipFilters(source.node);
  for (let at = below(target.node); at !== undefined; at = below(at)) {
    if (at === wanted) return true;
  }
  return false;
}
