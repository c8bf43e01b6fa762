/** What the steps of one `check` share. */
import type { CheckOptions, CheckResult } from '../../block/driver.js';
import type { Hot } from '../../host/host.js';
import { BlockError } from '../../block/errors.js';
import { Iov } from '../../lib/iov.js';
import { ClusterCounts, ClusterSet, MAX_CHECK_CLUSTERS } from './check-counts.js';
import type { Qcow2Header } from './header.js';
import { Incompat } from './layout.js';
import type { Qcow2Snapshot } from './snapshot-table.js';
import type { Geometry } from './units.js';
import { roundDown, roundUp } from './units.js';

/** The image file; a child of the node has all of it. */
export interface CheckFile {
  readonly size: number;
  read(offset: number, iov: Iov): Promise<void>;
  write(offset: number, iov: Iov): Promise<void>;
  truncate(bytes: number, options: { readonly exact: boolean }): Promise<void>;
  flush(): Promise<void>;
}

/** The image as `check` sees it: tables are read from the file, whatever caches hold. */
export interface CheckTarget {
  readonly file: CheckFile;
  /** Changed by repairs, which then write it. */
  readonly header: Qcow2Header;
  readonly g: Geometry;
  readonly hot: Hot;
  /** Writes the fixed fields of the header, durably. */
  writeFields(): Promise<void>;
}

/** What was told while some structure was walked, to be told again when it is met again. */
export interface Findings {
  readonly lines: string[];
  corruptions: number;
}

/** Who hears what is wrong with an L2 table. */
export interface L2Judge {
  readonly g: Geometry;
  readonly hasDataFile: boolean;
  readonly fixErrors: boolean;
  corrupt(line: string): void;
}

/** Lines that are kept for telling again; further ones only count. */
const MAX_RECORDED_LINES = 100_000;
/** Lines that are told again; crafted tables could ask for billions. */
const MAX_REPEATED_LINES = 1_000_000;

/** Granularity in which lengths of files count. */
const SECTOR = 512;

export class CheckRun implements L2Judge {
  readonly target: CheckTarget;
  readonly g: Geometry;
  readonly fixLeaks: boolean;
  readonly fixErrors: boolean;
  readonly result: CheckResult;
  /** References that were found. */
  counts = new ClusterCounts();
  /** Structures other than L2 tables that lie in a cluster; repairs must not write over them. */
  structures = new ClusterCounts();
  /** L2 tables whose entries are counted. */
  visited = new ClusterSet();
  /** An entry of the active tables lacks the copied flag although it names a cluster. */
  hasUncopied = false;
  snapshots: readonly Qcow2Snapshot[] = [];
  snapshotTableBytes = 0;
  /** The refcount table, big endian, as in the file. */
  reftable: DataView = new DataView(new ArrayBuffer(0));
  /** Clusters of the file, the last one perhaps in part. */
  fileClusters = 0;
  /** Length of the file in bytes, whole sectors. */
  fileLength = 0;
  /** A structure is so damaged that single refcounts cannot be repaired. */
  needsRebuild = false;
  readonly #options: CheckOptions;
  #recording: Findings | undefined;
  #recorded = 0;
  #repeated = 0;
  #overflows = 0;

  constructor(target: CheckTarget, options: CheckOptions) {
    this.target = target;
    this.g = target.g;
    this.#options = options;
    this.fixLeaks = options.fixLeaks;
    this.fixErrors = options.fixErrors;
    this.result = {
      corruptions: 0,
      leaks: 0,
      checkErrors: 0,
      corruptionsFixed: 0,
      leaksFixed: 0,
      totalClusters: Math.ceil(roundDown(target.header.fields.size, SECTOR) / target.g.clusterSize),
      allocatedClusters: 0,
      fragmentedClusters: 0,
      compressedClusters: 0,
    };
  }

  get file(): CheckFile {
    return this.target.file;
  }

  get hasDataFile(): boolean {
    return (this.target.header.fields.incompatible_features & Incompat.dataFile) !== 0n;
  }

  report(line: string): void {
    this.#options.report(line);
    if (this.#recording !== undefined && this.#recorded < MAX_RECORDED_LINES) {
      this.#recorded++;
      this.#recording.lines.push(line);
    }
  }

  /** As report, for a line before which QEMU puts the name of the tool. */
  reportAsTool(line: string): void {
    this.#options.report(line, true);
  }

  /** Collects what `fn` tells; undefined when it tells nothing. */
  record(fn: () => void): Findings | undefined {
    const before = this.result.corruptions - this.#overflows;
    const said: Findings = { lines: [], corruptions: 0 };
    this.#recording = said;
    fn();
    this.#recording = undefined;
    said.corruptions = this.result.corruptions - this.#overflows - before;
    return said.corruptions === 0 ? undefined : said;
  }

  /** Tells again what was recorded. */
  repeat(said: Findings): void {
    this.result.corruptions += said.corruptions;
    for (const line of said.lines) {
      if (this.#repeated++ >= MAX_REPEATED_LINES) return;
      this.#options.report(line);
    }
  }

  progress(done: number, total: number): void {
    this.#options.onProgress?.(done, total);
  }

  corrupt(line: string): void {
    this.report(line);
    this.result.corruptions++;
  }

  /** A judge that tells nothing, for a second look at what was judged. */
  quietly(): L2Judge {
    const { g, hasDataFile } = this;
    return { g, hasDataFile, fixErrors: false, corrupt: () => undefined };
  }

  /** Starts a pass over all references. Throws EFBIG for a file with too many clusters. */
  beginPass(): void {
    this.counts = new ClusterCounts();
    this.visited = new ClusterSet();
    this.structures = new ClusterCounts();
    this.hasUncopied = false;
    this.measureFile();
  }

  /** Takes the length of the file over. */
  measureFile(): void {
    this.fileLength = roundUp(this.file.size, SECTOR);
    this.fileClusters = Math.ceil(this.fileLength / this.g.clusterSize);
    if (this.fileClusters > MAX_CHECK_CLUSTERS) {
      this.result.checkErrors++;
      throw new BlockError('EFBIG');
    }
  }

  /**
   * Counts a reference to each cluster of [offset, offset + bytes). A region that ends one cluster
   * or more past the end of the file is a corruption and counts nothing. `hex`: the offset for
   * messages.
   */
  countRange(offset: number, bytes: number, hex?: string): void {
    if (bytes <= 0) return;
    const { clusterSize } = this.g;
    if (offset + bytes - this.fileLength >= clusterSize) {
      this.corrupt(
        'ERROR: counting reference for region exceeding the end of the file by one cluster or ' +
          `more: offset 0x${hex ?? offset.toString(16)} size 0x${bytes.toString(16)}`,
      );
      return;
    }
    const last = Math.floor((offset + bytes - 1) / clusterSize);
    for (let at = Math.floor(offset / clusterSize); at <= last; at++) {
      if (!this.counts.increment(at, this.g.refcountMax)) this.#overflow(at);
    }
  }

  /** As countRange, for a structure that no repair of another one may overwrite. */
  countStructure(offset: number, bytes: number): void {
    this.countRange(offset, bytes);
    if (bytes <= 0 || offset >= this.fileLength) return;
    const { clusterSize } = this.g;
    const last = Math.floor((Math.min(offset + bytes, this.fileLength) - 1) / clusterSize);
    for (let at = Math.floor(offset / clusterSize); at <= last; at++) {
      this.structures.increment(at, MAX_CHECK_CLUSTERS);
    }
  }

  /** How many structures, L2 tables aside, share the clusters of [offset, offset + bytes). */
  structuresIn(offset: number, bytes: number): number {
    const { clusterSize } = this.g;
    let most = 0;
    for (let at = Math.floor(offset / clusterSize); at * clusterSize < offset + bytes; at++) {
      most = Math.max(most, this.structures.get(at));
    }
    return most;
  }

  /** As countRange, `more` times at once, for a region that was counted before. */
  countAgain(offset: number, bytes: number, more: number): void {
    const { clusterSize, refcountMax } = this.g;
    if (offset + bytes - this.fileLength >= clusterSize) return;
    const last = Math.floor((offset + bytes - 1) / clusterSize);
    for (let at = Math.floor(offset / clusterSize); at <= last; at++) {
      const sum = this.counts.get(at) + more;
      this.counts.set(at, Math.min(sum, refcountMax));
      if (sum > refcountMax) {
        this.#overflow(at);
        this.result.corruptions += sum - refcountMax - 1;
        this.#overflows += sum - refcountMax - 1;
      }
    }
  }

  #overflow(cluster: number): void {
    const offset = cluster * this.g.clusterSize;
    // Not recorded: the next visit of a table adds its references and overflows by itself.
    this.#options.report(`ERROR: overflow cluster offset=0x${offset.toString(16)}`);
    this.#options.report(
      'Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a ' +
        'clean copy if the image cannot be opened for writing',
    );
    this.result.corruptions++;
    this.#overflows++;
  }

  /** Reads `bytes` bytes of metadata; zeroes past the end of the file. */
  async read(offset: number, bytes: number): Promise<Uint8Array> {
    const out = new Uint8Array(bytes);
    if (bytes > 0) await this.file.read(offset, Iov.of(out));
    return out;
  }
}
