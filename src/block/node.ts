/**
 * A vertex of the block graph: common handling of requests around one driver instance.
 *
 * Invariants
 *  N1  A request begins at a Backend (or in a driver's own background work, which the
 *      driver stops in drainBegin); nodes hold no queue and count nothing in flight.
 *  N2  An instance sees only requests inside [0, length) that are aligned to its
 *      `requestAlignment`; a protocol node also sees writes past its end, which grow it.
 *  N3  Writes to a node whose alignment is above 1 are tracked; a read-modify-write
 *      excludes every write that overlaps its aligned range. On any other node tracking
 *      begins with the first request that excludes others (a copying read, a serialising
 *      write), which waits for the writes that run untracked.
 *  N4  `writeGeneration` grows after a write ended, failed ones too; a flush is skipped only if one
 *      that began at this generation has completed.
 */
import type { FileRun } from '../host/file.js';
import type { Iov } from '../lib/iov.js';
import { settleAll } from '../lib/settle-all.js';
import type { Child } from './child.js';
import type { DirtyBitmap } from './dirty-bitmap.js';
import type { Driver, DriverInstance, NodeOptions, OpenFlags, TruncateOptions } from './driver.js';
import { BlockError } from './errors.js';
import type { BlockGraph } from './graph.js';
import type { OpBlocker } from './op-blockers.js';
import type { ReadWatch } from './read-watch.js';
import { alignedRead, alignedWrite, copyOnRead, detectZeroWrite, zeroWrite } from './request.js';
import { nodeStatus } from './status.js';
import { truncateNode } from './truncate.js';
import type { BlockLimits, BlockStatus, DetectZeroes } from './types.js';
import { noLimits, Req, Role } from './types.js';
import type { WriteEntry } from './write-tracker.js';
import { WriteTracker } from './write-tracker.js';

/** What a node is made from; see `BlockGraph.open`. */
export interface NodeInit {
  readonly graph: BlockGraph;
  readonly name: string;
  readonly driver: Driver;
  readonly flags: OpenFlags;
  readonly detectZeroes: DetectZeroes;
  /** Options that the user gave for this very node. */
  readonly explicitOptions: NodeOptions;
  /** The format was guessed from the content. */
  readonly probed: boolean;
}

export class BlockNode {
  readonly graph: BlockGraph;
  readonly name: string;
  readonly driver: Driver;
  flags: OpenFlags;
  detectZeroes: DetectZeroes;
  explicitOptions: NodeOptions;
  readonly probed: boolean;
  /** Set by the graph right after `driver.open`. */
  instance!: DriverInstance;
  /** Read-only also when active: flags ask for it, or automatic read-only fell back to it. */
  staysReadOnly: boolean;
  /** During a reopen from read-only to writable. */
  reopeningWritable = false;
  /** During a reopen from writable to read-only. */
  losesWriting = false;
  /** The node that this one was opened for: it is reopened together with it. */
  inheritsFrom: BlockNode | undefined;
  /** A filter that a job put in, which users do not see. */
  implicit = false;
  /** Length in bytes. */
  size = 0;
  limits: BlockLimits = noLimits();
  /** Edges to children by name, in order of attachment. */
  readonly children = new Map<string, Child>();
  /** Edges from parents. */
  readonly parents = new Set<Child>();
  readonly dirtyBitmaps = new Map<string, DirtyBitmap>();
  /** Who forbids operations on the node, the oldest first. */
  readonly opBlockers = new Set<OpBlocker>();
  /** Notes reads, once somebody has to wait for some. */
  readWatch: ReadWatch | undefined;
  /** References: parents' edges plus handles of the monitor. Managed by the graph. */
  refs = 0;
  /** The name was given by the user. */
  namedByUser = false;
  /** Backing file as the image names it, before and after the path is completed. */
  backingFile = '';
  autoBackingFile = '';
  backingFormat = '';
  /** One past the highest byte written, for statistics. */
  writeHighest = 0;
  /** A write beyond it calls `onThreshold` once; 0: off. */
  writeThreshold = 0;
  onThreshold: ((excess: number) => void) | undefined;
  writeGeneration = 0;
  /** How many drains hold requests to this node back (kept by the graph). */
  quiesced = 0;
  /** Copy-on-read requests of parents in force (`copy-on-read=on`). */
  copyOnReadUsers = 0;
  #flushedGeneration = 0;
  #flushing: Promise<void> | undefined;
  #tracker: WriteTracker | undefined;
  #tracking = false;
  /** Writes that run without being tracked, and who waits for their end (N3). */
  #untracked = 0;
  #untrackedDone: (() => void)[] = [];

  constructor(init: NodeInit) {
    this.graph = init.graph;
    this.name = init.name;
    this.driver = init.driver;
    this.flags = init.flags;
    this.detectZeroes = init.detectZeroes;
    this.explicitOptions = init.explicitOptions;
    this.probed = init.probed;
    this.staysReadOnly = !init.flags.writable;
  }

  /** No writes: read-only, or inactive. */
  get readOnly(): boolean {
    return this.staysReadOnly || this.flags.inactive;
  }

  set readOnly(readOnly: boolean) {
    this.staysReadOnly = readOnly;
  }

  /** False: somebody else may use the image (activity.ts). */
  get isActive(): boolean {
    return !this.flags.inactive;
  }

  /** The primary `file` child, if there is one. */
  get file(): Child | undefined {
    return this.children.get(this.driver.primaryChild ?? 'file');
  }

  get backing(): Child | undefined {
    const edge = this.children.get('backing');
    // Filters of jobs call their child so too.
    return edge !== undefined && (edge.role & Role.cow) !== 0 ? edge : undefined;
  }

  /** The name of the file behind the node, as tools print it; `json:{…}` when no plain one does. */
  get filename(): string {
    return this.graph.filenameOf(this);
  }

  /** Called by a format's open: the image names a backing file (and perhaps its format). */
  setBackingHint(filename: string, format: string): void {
    this.backingFile = filename;
    this.autoBackingFile = filename;
    this.backingFormat = format;
  }

  /** Where a range stands in a file of the host (see {@link DriverInstance.tryFileRun}). */
  tryFileRun(offset: number, bytes: number): FileRun | undefined {
    if (this.copyOnReadUsers > 0 || offset + bytes > this.size) return undefined;
    return this.instance.tryFileRun?.(offset, bytes);
  }

  /** Reads; bytes past the end are zeroes (callers with strict bounds are backends). */
  read(offset: number, iov: Iov, flags = 0): Promise<void> {
    const { readWatch } = this;
    if (readWatch === undefined) return this.#read(offset, iov, flags);
    return readWatch.run(offset, iov, () => this.#read(offset, iov, flags));
  }

  #read(offset: number, iov: Iov, flags: number): Promise<void> {
    if (
      flags === 0 &&
      offset + iov.bytes <= this.size &&
      this.copyOnReadUsers === 0 &&
      (this.limits.requestAlignment === 1 || this.#isAligned(offset, iov.bytes)) &&
      (this.limits.maxTransfer === 0 || iov.bytes <= this.limits.maxTransfer)
    ) {
      return this.instance.read(offset, iov, 0);
    }
    if ((flags & Req.copyOnRead) !== 0 || this.copyOnReadUsers > 0) {
      return copyOnRead(this, offset, iov, flags);
    }
    return alignedRead(this, offset, iov, flags);
  }

  /** Writes. */
  write(offset: number, iov: Iov, flags = 0): Promise<void> {
    if (this.readOnly) return Promise.reject(this.#readOnlyError('write', offset, iov.bytes));
    if (iov.bytes === 0 && (flags & Req.compressed) === 0) return Promise.resolve();
    if (this.detectZeroes !== 'off' && (flags & Req.compressed) === 0) {
      const zero = detectZeroWrite(this, offset, iov, flags);
      if (zero !== undefined) return zero;
    }
    if (
      (flags & ~(this.instance.writeFlags ?? 0)) === 0 &&
      this.instance.write !== undefined &&
      this.instance.breakpoints === undefined &&
      (this.limits.maxTransfer === 0 || iov.bytes <= this.limits.maxTransfer)
    ) {
      if (this.limits.requestAlignment === 1 && !this.#tracking) {
        return this.#writeUntracked(offset, iov, flags);
      }
      if (this.#isAligned(offset, iov.bytes)) {
        const entry = this.tracker().tryEnter(offset, iov.bytes);
        if (entry !== undefined) return this.#writeTracked(offset, iov, flags, entry);
      }
    }
    return alignedWrite(this, offset, iov, flags);
  }

  /** Whether {@link tryWriteFrom} is worth a try, as things are now. */
  get takesFileRuns(): boolean {
    const { instance, limits } = this;
    if (instance.takesFileRuns !== true || instance.breakpoints !== undefined) return false;
    if (this.readOnly || this.detectZeroes !== 'off' || this.#tracking) return false;
    return limits.requestAlignment === 1;
  }

  /**
   * As {@link write}, of what stands in a file of the host (see
   * {@link DriverInstance.tryWriteFrom}).
   * The run is in bounds and aligned as a request of the node must be.
   */
  tryWriteFrom(offset: number, run: FileRun, zeroBlock = 0): Promise<void> | undefined {
    const { instance, limits } = this;
    if (!this.takesFileRuns) return undefined;
    if (limits.maxTransfer !== 0 && run.bytes > limits.maxTransfer) return undefined;
    const request = instance.tryWriteFrom?.(offset, run, zeroBlock);
    return request && this.#untrackedUntil(request, offset, run.bytes);
  }

  #writeUntracked(offset: number, iov: Iov, flags: number): Promise<void> {
    return this.#untrackedUntil(this.instance.write!(offset, iov, flags), offset, iov.bytes);
  }

  #untrackedUntil(request: Promise<void>, offset: number, bytes: number): Promise<void> {
    this.#untracked++;
    return request.then(
      () => {
        this.#leaveUntracked();
        this.noteWritten(offset, bytes);
      },
      (e: unknown) => {
        this.#leaveUntracked();
        this.noteFailed(offset, bytes);
        throw e;
      },
    );
  }

  /** As alignedWrite in request.ts, for whole blocks with nobody in the way. */
  #writeTracked(offset: number, iov: Iov, flags: number, entry: WriteEntry): Promise<void> {
    return this.instance.write!(offset, iov, flags).then(
      () => {
        // Before a read-modify-write begins that waits for this.
        this.noteWritten(offset, iov.bytes);
        this.tracker().leave(entry);
      },
      (e: unknown) => {
        this.noteFailed(offset, iov.bytes);
        this.tracker().leave(entry);
        throw e;
      },
    );
  }

  /** Makes the range read as zeroes; falls back to writing zeroes unless `noFallback`. */
  writeZeroes(offset: number, bytes: number, flags = 0): Promise<void> {
    if (this.readOnly) return Promise.reject(this.#readOnlyError('writeZeroes', offset, bytes));
    if (bytes === 0) return Promise.resolve();
    // Without discard=unmap on this node a zero write must keep the space allocated.
    return zeroWrite(this, offset, bytes, this.flags.unmap ? flags : flags & ~Req.mayUnmap);
  }

  /** Content is not needed any more. Silently does nothing where it cannot. */
  async discard(offset: number, bytes: number): Promise<void> {
    if (this.readOnly) throw this.#readOnlyError('discard', offset, bytes);
    if (!this.flags.unmap || this.instance.discard === undefined || bytes === 0) return;
    const align = Math.max(this.limits.discardAlignment, this.limits.requestAlignment, 1);
    const max = this.limits.maxDiscard === 0 ? Number.MAX_SAFE_INTEGER : this.limits.maxDiscard;
    const request = this.limits.requestAlignment;
    let at = offset;
    const end = offset + bytes;
    while (at < end) {
      // Unaligned head and tail go on their own: a driver may ignore them.
      let n = end - at;
      const head = at % align;
      if (head !== 0) {
        n = Math.min(n, align - head);
        // First what is shorter than a request, then the rest up to the alignment.
        if (n % request !== 0) n %= request;
      } else if (n > align) n = Math.min(n - (n % align), max - (max % align) || max);
      else if (n > request) n -= n % request;
      if (at % request === 0 && n % request === 0) {
        try {
          await this.instance.discard(at, n);
        } catch (e) {
          if (!(e instanceof Error && 'code' in e && e.code === 'ENOTSUP')) {
            this.noteFailed(offset, bytes);
            throw e;
          }
        }
      }
      at += n;
    }
    this.noteWritten(offset, bytes, false);
  }

  /** Makes every write that completed before the call durable (N4). */
  async flush(): Promise<void> {
    if (this.readOnly) return;
    const generation = this.writeGeneration;
    while (this.#flushing !== undefined) await this.#flushing.catch(ignore);
    const run = this.#flushOnce(generation);
    this.#flushing = run;
    try {
      await run;
    } finally {
      if (this.#flushing === run) this.#flushing = undefined;
    }
  }

  async #flushOnce(generation: number): Promise<void> {
    const { file } = this;
    await file?.debugEvent('flush_to_os');
    await this.instance.flushToOs?.();
    if (!this.flags.cache.noFlush && this.#flushedGeneration !== generation) {
      await file?.debugEvent('flush_to_disk');
      await this.instance.flushToDisk?.();
    }
    const writable: Promise<void>[] = [];
    for (const child of this.children.values()) {
      if ((child.perm & writePerms) === 0) continue;
      if (this.instance.flushesChild?.(child) !== false) writable.push(child.node.flush());
    }
    const first = writable[0];
    if (writable.length === 1 && first !== undefined) await first;
    else if (writable.length > 1) await settleAll(writable);
    if (generation > this.#flushedGeneration) this.#flushedGeneration = generation;
  }

  truncate(bytes: number, options?: Partial<TruncateOptions>): Promise<void> {
    return truncateNode(this, bytes, {
      exact: options?.exact ?? true,
      prealloc: options?.prealloc ?? 'off',
      zeroFill: options?.zeroFill ?? false,
    });
  }

  /** What this node alone knows of the run that begins at `offset`. */
  blockStatus(offset: number, bytes: number, wantZero = true): Promise<BlockStatus> {
    return nodeStatus(this, offset, bytes, wantZero);
  }

  /** Length from the driver; tells parents when it changed. */
  async refreshLength(): Promise<void> {
    this.setSize(await this.instance.length());
  }

  /** Takes a new length over, up to the end of its last sector: images are made of sectors. */
  setSize(length: number): void {
    const bytes = length + ((SECTOR - (length % SECTOR)) % SECTOR);
    if (bytes === this.size) return;
    this.size = bytes;
    for (const bitmap of this.dirtyBitmaps.values()) bitmap.resize(bytes);
    for (const edge of this.parents) edge.parent.childResized?.(edge);
  }

  /** Limits from driver and children; called at open, reopen and graph changes. */
  refreshLimits(): void {
    const limits = noLimits();
    for (const child of this.children.values()) {
      if (child.name === 'backing') continue;
      const own = child.node.limits;
      limits.optTransfer = Math.max(limits.optTransfer, own.optTransfer);
      limits.maxTransfer = minNonZero(limits.maxTransfer, own.maxTransfer);
    }
    if (this.driver.kind === 'filter' && this.file !== undefined) {
      Object.assign(limits, this.file.node.limits);
    }
    Object.assign(limits, this.instance.limits?.() ?? {});
    this.limits = limits;
  }

  /** After a write of data (`data`) or a discard: dirty bitmaps, generation, statistics, length. */
  noteWritten(offset: number, bytes: number, data = true): void {
    this.writeGeneration++;
    const end = offset + bytes;
    if (data) {
      if (end > this.writeHighest) this.writeHighest = end;
      if (end > this.size) this.setSize(end);
      if (this.writeThreshold !== 0 && end > this.writeThreshold) this.#crossThreshold(end);
    }
    if (this.dirtyBitmaps.size !== 0) {
      for (const bitmap of this.dirtyBitmaps.values()) bitmap.noteWritten(offset, bytes);
    }
  }

  /** A write or discard failed: some of the range may have changed all the same. */
  noteFailed(offset: number, bytes: number): void {
    this.writeGeneration++;
    for (const bitmap of this.dirtyBitmaps.values()) bitmap.noteWritten(offset, bytes);
  }

  #crossThreshold(end: number): void {
    const excess = end - this.writeThreshold;
    this.writeThreshold = 0;
    this.onThreshold?.(excess);
  }

  /** A named point of this node's own request path, for a driver that stops requests there. */
  debugEvent(event: string): Promise<void> | undefined {
    return this.instance.breakpoints === undefined ? undefined : this.instance.debugEvent?.(event);
  }

  /** The tracker of writes in flight, made when first needed (N3). */
  tracker(): WriteTracker {
    this.#tracker ??= new WriteTracker();
    return this.#tracker;
  }

  /** Whether every write has to be tracked (N3). */
  get tracksWrites(): boolean {
    return this.#tracking || this.limits.requestAlignment > 1;
  }

  /** From now on every write is tracked; resolves when none runs that is not (N3). */
  async startTracking(): Promise<void> {
    this.#tracking = true;
    while (this.#untracked > 0) {
      await new Promise<void>((resolve) => {
        this.#untrackedDone.push(resolve);
      });
    }
  }

  /** Runs a write that is not tracked. */
  async runUntracked(write: () => Promise<void>): Promise<void> {
    this.#untracked++;
    try {
      await write();
    } finally {
      this.#leaveUntracked();
    }
  }

  #leaveUntracked(): void {
    if (--this.#untracked > 0 || this.#untrackedDone.length === 0) return;
    const done = this.#untrackedDone;
    this.#untrackedDone = [];
    for (const resolve of done) resolve();
  }

  #isAligned(offset: number, bytes: number): boolean {
    const a = this.limits.requestAlignment;
    return offset % a === 0 && bytes % a === 0;
  }

  #readOnlyError(op: string, offset: number, bytes: number): BlockError {
    return new BlockError('EPERM', undefined, { op, node: this.name, offset, bytes });
  }
}

const writePerms = 2 | 4;
/** Lengths of nodes are multiples of it. */
const SECTOR = 512;

function ignore(): void {
  // The flush that failed has told its own caller.
}

function minNonZero(a: number, b: number): number {
  if (a === 0) return b;
  return b === 0 ? a : Math.min(a, b);
}
