/**
 * The state of one open qcow2 image, which the parts of the driver share. The parts are
 * functions and small classes over it; invariants and locks are written at the head of driver.ts.
 */
import type { Host } from '../../host/host.js';
import { Iov } from '../../lib/iov.js';
import { Mutex } from '../../lib/mutex.js';
import type { Child } from '../../block/child.js';
import type { LuksHeader } from '../../block/crypto/luks-header.js';
import type { LuksVolume } from '../../block/crypto/luks.js';
import { BlockError } from '../../block/errors.js';
import type { BlockGraph } from '../../block/graph.js';
import type { BlockNode } from '../../block/node.js';
import { deviceName } from '../../block/op-blockers.js';
import type { Allocator } from './allocate.js';
import type { DirectoryEntry } from './bitmap-directory.js';
import type { MetaCache } from './cache.js';
import type { ClusterKeeper } from './compressed-read.js';
import type { FileGrowth } from '../../block/file-growth.js';
import type { Qcow2Header } from './header.js';
import { storeHeader } from './header-switch.js';
import { InFlight } from './in-flight.js';
import type { L1Table } from './l1.js';
import { Autoclear, encodeFields, HEADER_FIELDS, HEADER_V2_LENGTH, Incompat } from './layout.js';
import type { Mapping } from './mapping.js';
import type { Qcow2Settings } from './options.js';
import type { OverlapChecker } from './overlap.js';
import type { Refcounts } from './refcount.js';
import type { Qcow2Snapshot } from './snapshot-table.js';
import type { Geometry } from './units.js';
import { l1EntriesFor } from './units.js';
import type { Writeback } from './writeback.js';
import type { WriteEngine } from './write.js';

/**
 * Encryption of guest data. Offsets and lengths are whole sectors of `sectorBytes`;
 * `offset` is the guest offset or the host offset, as `hostOffsets` says.
 */
export interface CryptoBlock {
  /** 512 in every format known. */
  readonly sectorBytes: number;
  /** LUKS: initialization vectors follow the host offset; AES: the guest offset. */
  readonly hostOffsets: boolean;
  /** Encrypts `data` in place. */
  encryptSectors(offset: number, data: Uint8Array): void | Promise<void>;
  /** Decrypts `data` in place. */
  decryptSectors(offset: number, data: Uint8Array): void | Promise<void>;
}

/** What `Qcow2Image` is made from; the rest is attached by open.ts. */
export interface ImageInit {
  readonly graph: BlockGraph;
  readonly host: Host;
  readonly node: BlockNode;
  readonly file: Child;
  readonly header: Qcow2Header;
  readonly geometry: Geometry;
  readonly settings: Qcow2Settings;
}

export class Qcow2Image {
  readonly graph: BlockGraph;
  readonly host: Host;
  readonly node: BlockNode;
  /** Metadata, and guest data unless there is a data file. */
  readonly file: Child;
  /** Guest data: `file`, or the external data file. */
  dataFile: Child;
  header: Qcow2Header;
  g: Geometry;
  settings: Qcow2Settings;
  /** Virtual size in bytes. */
  size: number;
  snapshots: readonly Qcow2Snapshot[] = [];
  /** The bitmap directory as it is on disk; see bitmaps.ts. */
  bitmapEntries: DirectoryEntry[] = [];
  /** The bitmaps were stored: the image is not written any more. */
  bitmapsKept = false;
  crypto: CryptoBlock | undefined;
  /** The LUKS header; `volume` when it was unlocked. */
  luks: { readonly header: LuksHeader; readonly volume: LuksVolume | undefined } | undefined;

  // Set by open.ts before the image is used.
  l1!: L1Table;
  l2!: MetaCache;
  refcounts!: Refcounts;
  alloc!: Allocator;
  mapping!: Mapping;
  overlap!: OverlapChecker;
  growth!: FileGrowth;
  dataGrowth!: FileGrowth;
  writeback!: Writeback;
  writes!: WriteEngine;
  keeper!: ClusterKeeper;
  /** Clusters are mapped that the file does not store; undefined: not known yet. */
  holes: boolean | undefined;

  /** Held while metadata in memory changes across an `await` (lock 1). */
  readonly lock = new Mutex();
  /** Held while the header is written (lock 3). */
  readonly headerLock = new Mutex();
  readonly inFlight = new InFlight();
  /** Writers must queue: somebody works on the whole image (`exclusive`). */
  gateClosed = false;
  /** Dropped after fatal corruption: nothing works any more. */
  unusable = false;
  /** Nobody knows which header is on disk (HW2); `unusable` then, too. */
  headerLost = false;
  #signaled = false;

  constructor(init: ImageInit) {
    this.graph = init.graph;
    this.host = init.host;
    this.node = init.node;
    this.file = init.file;
    this.dataFile = init.file;
    this.header = init.header;
    this.g = init.geometry;
    this.settings = init.settings;
    this.size = init.header.fields.size;
  }

  get version(): number {
    return this.header.fields.version;
  }

  get hasDataFile(): boolean {
    return this.dataFile !== this.file;
  }

  /** The data file is to be read as a raw image by itself. */
  get isRawData(): boolean {
    return (this.header.fields.autoclear_features & Autoclear.dataFileRaw) !== 0n;
  }

  get isWritable(): boolean {
    return !this.node.readOnly;
  }

  get backing(): Child | undefined {
    return this.node.backing;
  }

  /** Guest offset at which VM state begins. */
  get vmStateOffset(): number {
    return l1EntriesFor(this.g, this.size) * this.g.l2Coverage;
  }

  has(feature: bigint): boolean {
    return (this.header.fields.incompatible_features & feature) !== 0n;
  }

  /** Throws ENOMEDIUM after fatal corruption. */
  checkUsable(): void {
    if (this.unusable) throw new BlockError('ENOMEDIUM');
  }

  /** Refcounts are written late: the dirty bit stands for them. */
  get lazyRefcounts(): boolean {
    return this.settings.lazyRefcounts && this.version >= 3;
  }

  /**
   * Sets or clears the dirty bit, durably in order: it is on disk before any refcount lags, and
   * refcounts are on disk before it is cleared (the caller flushed them).
   */
  async setDirty(dirty: boolean): Promise<void> {
    if (this.has(Incompat.dirty) === dirty) return;
    await this.#setIncompat(Incompat.dirty, dirty);
    await this.file.flush();
  }

  async #setIncompat(feature: bigint, on: boolean): Promise<void> {
    const fields = this.header.fields;
    const before = fields.incompatible_features;
    fields.incompatible_features = on ? before | feature : before & ~feature;
    try {
      await this.writeFields();
    } catch (e) {
      fields.incompatible_features = before;
      throw e;
    }
  }

  /** Writes the fixed fields of the header, which lie in one sector, and nothing else. */
  writeFields(): Promise<void> {
    return this.headerLock.run(async () => {
      const { fields } = this.header;
      const length = fields.version === 2 ? HEADER_V2_LENGTH : Math.min(fields.header_length, 112);
      const bytes = new Uint8Array(length);
      encodeFields(HEADER_FIELDS, fields, bytes);
      await this.file.write(0, Iov.of(bytes));
    });
  }

  /** Writes the whole first cluster: fields, extensions, backing name. ENOSPC if it is too long. */
  writeHeader(): Promise<void> {
    return this.headerLock.run(() => storeHeader(this.file, this.header));
  }

  /**
   * Corruption was found. Fatal (only while the image is writable): the corrupt bit is set and the
   * node refuses everything from now on. `where`: the bytes of the file that were about to be
   * damaged. Returns the error for the request at hand.
   */
  async corrupt(
    fatal: boolean,
    message: string,
    where?: { readonly offset: number; readonly size: number },
  ): Promise<BlockError> {
    const grave = fatal && this.isWritable;
    const error = new BlockError('EIO', undefined, { node: this.node.name });
    if (this.#signaled && (!grave || this.has(Incompat.corrupt))) return error;
    this.#signaled = true;
    this.graph.emit('BLOCK_IMAGE_CORRUPTED', {
      device: deviceName(this.node),
      'node-name': this.node.name,
      msg: message,
      ...where,
      fatal: grave,
    });
    if (!grave) {
      this.graph.warn(
        `qcow2: Image is corrupt: ${message}; ` +
          'further non-fatal corruption events will be suppressed',
      );
      return error;
    }
    this.graph.warn(
      `qcow2: Marking image as corrupt: ${message}; further corruption events will be suppressed`,
    );
    this.unusable = true;
    if (this.version >= 3) {
      try {
        await this.#setIncompat(Incompat.corrupt, true);
      } catch {
        // The request fails anyway; the next open meets the same damage.
      }
    }
    return error;
  }

  /**
   * Runs `fn` alone: no other metadata change, no guest write in flight, everything that was
   * written mapped and on its way to the file (`flushMetadata`). For snapshots, truncate, amend.
   * Reads go on; `fn` must not wait for guest requests of this image.
   */
  async exclusive<T>(fn: () => Promise<T>): Promise<T> {
    return this.lock.run(async () => {
      this.gateClosed = true;
      try {
        await this.writes.settleAll();
        await this.inFlight.barrier();
        await this.growth.settled();
        await this.dataGrowth.settled();
        await this.writeback.everything();
        return await fn();
      } finally {
        this.gateClosed = false;
        this.writes.kick();
      }
    });
  }

  /** Writes a table or a part of one; the file is long enough before it does (growth.ts). */
  async writeMeta(offset: number, from: Iov): Promise<void> {
    const growing = this.growth.before(offset + from.bytes);
    if (growing !== undefined) await growing;
    await this.file.write(offset, from);
  }

  /** Reads metadata; past the end of the file there are zeroes. */
  readMeta(offset: number, into: Iov): Promise<void> {
    return this.file.read(offset, into);
  }
}
