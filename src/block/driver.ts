/**
 * The driver contract: what an image format, filter or protocol implements.
 *
 * A {@link Driver} is a frozen description, cheap to import; `open` makes a
 * {@link DriverInstance}, the state behind one {@link BlockNode}. The node does
 * what is common (bounds, alignment, zero detection, fallbacks, permissions,
 * dirty bitmaps); an instance implements the capabilities it has and leaves the
 * other methods out.
 *
 * Order of calls: `open` → requests (any number at once) → `close` (no request is
 * in flight any more). `length` may change only by truncate or by a write past the
 * end of a protocol node.
 */
import type { Decl } from '../options/schema.js';
import type { CreateOptionSet, CreateValues } from '../options/create-options.js';
import type { FileRun } from '../host/file.js';
import type { Host } from '../host/host.js';
import type { Iov } from '../lib/iov.js';
import type { Child } from './child.js';
import type { DirtyBitmap } from './dirty-bitmap.js';
import type { BlockGraph } from './graph.js';
import type { BlockNode } from './node.js';
import type { Backend } from './backend.js';
import type { BlockLimits, CacheMode, DriverStatus, Preallocation } from './types.js';

/** Options of a node: one nested object; scalars may still be strings from a command line. */
export type NodeOptions = Record<string, unknown>;

/** Flags of an open that are not options of the node itself. */
export interface OpenFlags {
  /** The node is opened for writing. */
  readonly writable: boolean;
  /** With `writable`: fall back to read-only where writing is not possible. */
  readonly autoReadOnly: boolean;
  /** Do not open the backing file. */
  readonly noBacking: boolean;
  /** Only look at the image: no I/O to guest data follows (`info`, `create`). */
  readonly noIo: boolean;
  /** Opened by `check`: damage that `check` reports must not fail the open. */
  readonly check: boolean;
  /**
   * With `writable`: no guest writes follow, only changes of where things are stored. Persistent
   * bitmaps stay valid in the image and are not loaded.
   */
  readonly keepsContent?: boolean;
  readonly cache: CacheMode;
  /** discard=unmap: discards reach the storage. */
  readonly unmap: boolean;
  /** Read although another process may write; take no locks that could conflict. */
  readonly forceShare: boolean;
  /** Data may be copied on reads (permits a filter to ask for write permission). */
  readonly copyOnRead: boolean;
  /** Somebody else may use the image: nothing is written, no lock is held (activity.ts). */
  readonly inactive: boolean;
}

export interface OpenContext {
  readonly graph: BlockGraph;
  readonly host: Host;
  /** The node that is being opened; its children are attached by `openChild`. */
  readonly node: BlockNode;
  /**
   * The driver's own options, children's subtrees included. The driver calls
   * `parseOptions` of its schema on it; generic node options are gone.
   */
  readonly options: NodeOptions;
  readonly flags: OpenFlags;
  /**
   * Opens (or finds by reference) the node described by `options[key]` and attaches it.
   * `file` may also be given by the file name that the user typed.
   */
  openChild(key: string, request: ChildRequest): Promise<Child>;
  /** As openChild; undefined when `options[key]` is absent and no file name stands in. */
  tryOpenChild(key: string, request: ChildRequest): Promise<Child | undefined>;
}

export interface ChildRequest {
  /** Or-ed {@link Role}s. */
  readonly role: number;
  /** Name of the edge when it differs from the key. */
  readonly name?: string;
  /** Let the format of the child be probed (a backing or data file named by an image). */
  readonly allowFormat?: boolean;
  /** Path to use when the options name no file (a data file named by an image); no protocol. */
  readonly defaultFilename?: string;
  /** File name that goes with the options, whatever they say. */
  readonly filename?: string;
}

/** Which permissions a node needs of a child and lets others have; or-ed {@link Perm}s. */
export interface PermPair {
  readonly perm: number;
  readonly shared: number;
}

export interface TruncateOptions {
  /** Fail rather than end at a different size. */
  readonly exact: boolean;
  readonly prealloc: Preallocation;
  /** The new area must read as zeroes. */
  readonly zeroFill: boolean;
}

/** Answer of `instance.info()`: the format's facts for `info` and for other drivers. */
export interface ImageInfo {
  readonly clusterSize?: number;
  readonly subclusterSize?: number;
  /** Offset at which VM state is stored. */
  readonly vmStateOffset?: number;
  readonly isDirty?: boolean;
  readonly isEncrypted?: boolean;
  readonly isCompressed?: boolean;
  /** Data is written in whole clusters, once, as if it were to be compressed. */
  readonly needsCompressedWrites?: boolean;
  readonly snapshots?: readonly SnapshotInfo[];
  /** The QMP union ImageInfoSpecific: `{type, data}`. */
  readonly formatSpecific?: { readonly type: string; readonly data: Record<string, unknown> };
}

/** An internal snapshot; times as in the image. */
export interface SnapshotInfo {
  readonly id: string;
  readonly name: string;
  readonly vmStateSize: number;
  readonly dateSec: number;
  readonly dateNsec: number;
  readonly vmClockNsec: bigint;
  /** Instruction count; -1 when unknown. */
  readonly icount: bigint;
  readonly diskSize: number;
}

export interface CheckOptions {
  readonly fixLeaks: boolean;
  readonly fixErrors: boolean;
  onProgress?(done: number, total: number): void;
  /**
   * One line of text for each finding, in QEMU's wording, which goes to standard error.
   * `asTool`: QEMU puts the name of the tool before it.
   */
  report(line: string, asTool?: boolean): void;
}

export interface CheckResult {
  corruptions: number;
  leaks: number;
  checkErrors: number;
  corruptionsFixed: number;
  leaksFixed: number;
  imageEndOffset?: number;
  totalClusters?: number;
  allocatedClusters?: number;
  fragmentedClusters?: number;
  compressedClusters?: number;
}

export interface MeasureResult {
  readonly required: number;
  readonly fullyAllocated: number;
  readonly bitmaps?: number;
}

export interface AmendContext {
  readonly force: boolean;
  onProgress?(done: number, total: number): void;
}

/** Who watches a compaction; all counts in bytes. */
export interface CompactContext {
  /** So much more has to be looked at or moved. */
  planned(bytes: number): void;
  done(bytes: number): void;
  /** Throws when the caller gave up; the image is consistent wherever it is called. */
  check(): void;
}

/** What a compaction found and did, in bytes. */
export interface CompactResult {
  /** Guest data that was stored and held only zeroes. */
  readonly zeroed: number;
  /** Leaked clusters that were given back. */
  readonly leaked: number;
  /** What moved down from the end of the file. */
  readonly moved: number;
}

/** Two-phase change of a node's options: all steps are prepared, then all commit or all abort. */
export interface ReopenStep {
  /** Must not fail. */
  commit(): void | Promise<void>;
  /** Must not fail. */
  abort(): void | Promise<void>;
}

export interface ReopenRequest {
  readonly options: NodeOptions;
  readonly flags: OpenFlags;
}

/** Two-phase change of the permissions that parents hold on a protocol node (file locks). */
export interface PermStep {
  commit(): Promise<void>;
  abort(): Promise<void>;
}

/**
 * The state behind one open node. Errors are {@link BlockError}s (or HostErrors,
 * which nodes pass on); after an error the data of the range asked for is
 * undefined and nothing else has changed.
 */
export interface DriverInstance {
  /** Virtual size in bytes. */
  length(): number | Promise<number>;
  limits?(): Partial<BlockLimits>;
  /** Fills `iov` from [offset, offset + iov.bytes), inside [0, length). */
  read(offset: number, iov: Iov, flags: number): Promise<void>;
  /**
   * Where [offset, offset + bytes) stands in a file of the host byte by byte, if that is known at
   * once and stays so for as long as nobody writes there. Nothing that looks at or delays
   * requests may be passed over.
   */
  tryFileRun?(offset: number, bytes: number): FileRun | undefined;
  /** Stores `iov`; `flags` holds only what `writeFlags` lists. */
  write?(offset: number, iov: Iov, flags: number): Promise<void>;
  /**
   * Stores at `offset` what stands in a file of the host, as {@link write} without flags does.
   * Undefined: not this way, or not now; nothing was done then. With a `zeroBlock` the range reads
   * as zeroes, and blocks of so many bytes that hold nothing else are left out.
   */
  tryWriteFrom?(offset: number, run: FileRun, zeroBlock: number): Promise<void> | undefined;
  /** Whether {@link tryWriteFrom} is worth a try: false where it would always tell undefined. */
  readonly takesFileRuns?: boolean;
  /**
   * {@link tryWriteFrom} takes a `zeroBlock`. Space is taken for whole units of so many bytes, so
   * those that hold only zeroes should not be given to it at all; 0: it is not.
   */
  readonly zeroUnit?: number | undefined;
  /**
   * Transfers go through this host's page cache, so that small ones cost little more than their
   * bytes; false: a file of this host that is not cached (O_DIRECT).
   */
  readonly isCached?: boolean | undefined;
  /** Bitmaps of the driver's own, the newest first: told of, and used by nobody else. */
  readonly ownBitmaps?: readonly DirtyBitmap[];
  /** Or-ed {@link Req} flags that `write` handles itself (fua, writeUnchanged, …). */
  readonly writeFlags?: number;
  /**
   * Stores whole clusters compressed; the last piece may be short at the end of the image.
   * `iov.bytes === 0` means that the stream ends (formats that need a trailer).
   */
  writeCompressed?(offset: number, iov: Iov): Promise<void>;
  /** The range reads as zeroes afterwards; ENOTSUP sends the node to writing zero buffers. */
  writeZeroes?(offset: number, bytes: number, flags: number): Promise<void>;
  readonly zeroFlags?: number;
  /** Content becomes undefined (or zero); ENOTSUP is ignored by callers. */
  discard?(offset: number, bytes: number): Promise<void>;
  /** Hands cached metadata to the children, in an order that keeps the image consistent. */
  flushToOs?(): Promise<void>;
  /** Makes what was handed to the operating system or the peer durable (protocols). */
  flushToDisk?(): Promise<void>;
  /** The run that begins at `offset`; absent: everything is data, allocated. */
  blockStatus?(offset: number, bytes: number, wantZero: boolean): Promise<DriverStatus>;
  truncate?(bytes: number, options: TruncateOptions): Promise<void>;
  /** Bytes used on the host: absent means the sum of the children's. */
  allocatedBytes?(): Promise<number | undefined>;
  /** Whether a new or grown area reads as zeroes. */
  hasZeroInit?(): boolean | Promise<boolean>;
  info?(): Promise<ImageInfo> | ImageInfo;
  check?(options: CheckOptions): Promise<CheckResult>;
  amend?(values: CreateValues, context: AmendContext): Promise<void>;
  /**
   * Gives back what holds only zeroes and what nothing refers to, moves what is left to the front
   * of the file and shortens it. The guest sees no change. If it throws, space may have leaked.
   */
  compact?(context: CompactContext): Promise<CompactResult>;
  /** Deletes all data of the image (commit empties the overlay); ENOTSUP otherwise. */
  makeEmpty?(): Promise<void>;
  /** Stores a new backing file reference; null removes it. */
  changeBackingFile?(name: string | null, format: string | null): Promise<void>;
  /** VM state lives beside the guest data: offset counts from its start. */
  readVmState?(offset: number, iov: Iov): Promise<void>;
  writeVmState?(offset: number, iov: Iov): Promise<void>;
  /** Gives back the first `bytes` of VM state, which no snapshot will have. */
  dropVmState?(bytes: number): Promise<void>;
  /** Copies inside the host from `source` (same driver); bytes copied, may be short. */
  copyRange?(
    source: DriverInstance,
    from: number,
    to: number,
    bytes: number,
    flags: number,
  ): Promise<number>;
  /**
   * Needs of a child, given what the node's parents need and share. Default by role. `isUsed`: the
   * node has parents at all.
   */
  childPerm?(child: Child, parents: PermPair, reopen: boolean, isUsed: boolean): PermPair;
  /** Whether a flush of the node flushes a child that it may write to. Absent: each. */
  flushesChild?(child: Child): boolean;
  preparePermissions?(perm: number, shared: number): Promise<PermStep>;
  /** Somebody else has written: what is remembered of lengths and holes is not true any more. */
  othersWrote?(): void;
  reopenPrepare?(request: ReopenRequest): Promise<ReopenStep>;
  /** A named point of the format above was reached (blkdebug's events); may suspend it. */
  debugEvent?(event: string): Promise<void> | undefined;
  /** Background work of the driver's own stops until drainEnd. */
  drainBegin?(): Promise<void>;
  drainEnd?(): void;
  /** Requests that wait for what may never come (a server, say) fail at once. */
  cancelInFlight?(): void;
  /** Options that make this node what it is, for `json:` file names (no secrets). */
  strongOptions?(): NodeOptions;
  /** Whether persistent dirty bitmaps of such an image can be measured and copied from it. */
  hasPersistentBitmaps?(): boolean;
  /** Plain file name that opens this node alone, if there is one (protocols). */
  exactFilename?(): string | undefined;
  /** Capabilities that only some formats have. */
  readonly snapshots?: SnapshotCapability;
  readonly bitmaps?: BitmapCapability;
  readonly snapshotAccess?: SnapshotAccess;
  readonly members?: MemberCapability;
  readonly breakpoints?: BreakpointCapability;
  /** Flushes, frees; the children are closed by the graph afterwards. */
  close(): Promise<void>;
}

/**
 * The content that a node had at some moment, beside the one it has now (copy-before-write). Throws
 * EACCES for what cannot be read any more.
 */
export interface SnapshotAccess {
  read(offset: number, iov: Iov): Promise<void>;
  blockStatus(offset: number, bytes: number, wantZero: boolean): Promise<DriverStatus>;
  /** The old content of the range is not needed any more. */
  discard(offset: number, bytes: number): Promise<void>;
}

/** Internal snapshots. `key` finds by id first, then by name, as QEMU does. */
export interface SnapshotCapability {
  list(): Promise<readonly SnapshotInfo[]>;
  create(snapshot: {
    name: string;
    vmStateSize: number;
    vmClockNsec: bigint;
    icount: bigint;
    dateSec: number;
    dateNsec: number;
  }): Promise<void>;
  /** Makes the active state equal to the snapshot. */
  apply(key: string): Promise<void>;
  delete(id: string | undefined, name: string | undefined): Promise<void>;
  /** The VM state that a snapshot has: reads from an offset in it, for as long as it is there. */
  openState(
    id: string | undefined,
    name: string | undefined,
  ): Promise<(offset: number, iov: Iov) => Promise<void>>;
  /** Shows the snapshot instead of the active state; the node must be read-only. */
  loadTemporary(id: string | undefined, name: string | undefined): Promise<void>;
}

/**
 * Children that come and go while the node is in use (quorum). The caller drains the node. Each
 * throws BlockError; then nothing has changed.
 */
export interface MemberCapability {
  add(member: BlockNode): Promise<void>;
  remove(member: Child): Promise<void>;
}

/**
 * Named stops in the request path (blkdebug). A tool that is given a node uses those of the first
 * node with this capability on the way down the primary children. Suspending and resuming is told
 * by `graph.notice`. Tags are the user's; a tag that nothing carries is ENOENT.
 */
export interface BreakpointCapability {
  /** The next request that reaches `event` (`write_aio`, `l2_load`, …) stops; ENOENT: no event. */
  set(event: string, tag: string): void;
  /** Takes the breakpoint away and lets the requests that it holds go on. */
  remove(tag: string): void;
  /** Lets one request that is held under `tag` go on. */
  resume(tag: string): void;
  isSuspended(tag: string): boolean;
}

/** Persistent dirty bitmaps of an image file; in-memory ones live on the node. */
export interface BitmapCapability {
  /** Whether `name` with `granularity` could be stored; throws BlockError if not. */
  canStore(name: string, granularity: number): Promise<void>;
  remove(name: string): Promise<void>;
  /**
   * Stores all persistent bitmaps for good, as closing does otherwise; nothing may be written
   * afterwards. Throws EINVAL after a warning that names the cause.
   */
  finish(): Promise<void>;
}

/** What a format needs to write a new image. */
export interface CreateContext {
  readonly graph: BlockGraph;
  readonly host: Host;
  /** As the user typed it, protocol prefix included. */
  readonly filename: string;
  readonly values: CreateValues;
  /** The files are not made here, but nodes that are open: nobody removes them. */
  readonly keepsFiles?: boolean;
  /** Creates the protocol-level file `filename` (default: this image's) and opens it writable. */
  createFile(bytes: number, filename?: string): Promise<Backend>;
}

/** How `blockdev-create` makes images of a driver on nodes that are open. */
export interface BlockdevCreate {
  /** This driver's branch of QMP's BlockdevCreateOptions. */
  readonly decl: Decl;
  /**
   * Options whose names and values differ from those of `-o` by more than `_` for `-`. Throws
   * BlockError for what only QMP's form refuses.
   */
  values?(options: NodeOptions): CreateValues;
  /** What is said of a size that the format cannot have; default "Image size is too large". */
  tooLarge?(size: number | bigint): string;
  /** Nodes beside `file`, in the order in which `create` asks for files of their names. */
  others?(options: NodeOptions): readonly (string | NodeOptions)[];
}

/** What QMP's x-blockdev-amend takes for a driver. */
export interface BlockdevAmend {
  /** This driver's branch of QMP's BlockdevAmendOptions. */
  readonly decl: Decl;
  /** The same as values for {@link DriverInstance.amend}; `opened`: options of the open node. */
  values(options: NodeOptions, opened: NodeOptions): CreateValues;
}

/** A driver: one entry of the catalogue. */
export interface Driver {
  /** QMP's name (BlockdevDriver). */
  readonly name: string;
  readonly kind: 'format' | 'filter' | 'protocol';
  /** File-name prefixes (`nbd+unix`) of a protocol. */
  readonly schemes?: readonly string[];
  /**
   * Score 0 (no) to 100 (sure) that an image with this head is of the format;
   * `head` holds up to 2048 bytes, fewer if the file is shorter.
   */
  probe?(head: Uint8Array, filename: string): number;
  /** Turns `scheme:…` into options; throws BlockError with EINVAL. */
  parseFilename?(filename: string): NodeOptions;
  /** Score for host paths that this protocol takes over (`/dev/cdrom`). */
  probePath?(path: string, kind: string): number;
  /** Needs a `file` child: true for formats and most filters. */
  readonly needsFile: boolean;
  /** Key of the child that a file name belongs to (`image` for blkdebug); default `file`. */
  readonly primaryChild?: string;
  /** Images may have a backing file. */
  readonly supportsBacking?: boolean;
  /** Images can be written compressed (`convert -c`), and can hold persistent bitmaps. */
  readonly compresses?: boolean;
  readonly storesBitmaps?: boolean;
  /** Options (keys) of this driver, for "does not support the option" errors; no children. */
  readonly optionNames: readonly string[];
  /**
   * What `blockdev-add` takes beside the options of every node, children included: this driver's
   * branch of QMP's BlockdevOptions. Absent: only file names and `json:` options open it.
   */
  readonly blockdev?: Decl;
  /** Of these, what may change while a node is open; see {@link DriverInstance.reopenPrepare}. */
  readonly reopenOptions?: readonly string[];
  /** Of the others, values that count as the default: a reopen may name them or leave them out. */
  readonly reopenDefaults?: NodeOptions;
  /**
   * Options of a reopen that keeps old values: `given` over `old`, both nested. Absent: a new value
   * replaces the old one of the same name, and objects are merged.
   */
  joinOptions?(old: NodeOptions, given: NodeOptions): NodeOptions;
  open(context: OpenContext): Promise<DriverInstance>;
  /**
   * Largest virtual size of its images; absent: MAX_LENGTH. Beyond MAX_LENGTH nothing can be read
   * or written (backends refuse it), and sizes are multiples of 512, so that they stay exact.
   */
  readonly maxSize?: number;
  /** Declaration of creation options; absent: images cannot be created. */
  readonly createOptions?: CreateOptionSet;
  /** Of `createOptions`, what `amend` accepts. */
  readonly amendOptions?: CreateOptionSet;
  create?(context: CreateContext): Promise<void>;
  /** What `blockdev-create` takes; absent: it makes no such images. */
  readonly blockdevCreate?: BlockdevCreate;
  /** Absent: x-blockdev-amend cannot change images of the driver. */
  readonly blockdevAmend?: BlockdevAmend;
  measure?(values: CreateValues, source: Backend | undefined): Promise<MeasureResult>;
}
