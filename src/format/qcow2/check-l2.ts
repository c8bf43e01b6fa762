/** One L2 table under `check`: its entries' rules, references and statistics. */
import type { Hot } from '../../host/host.js';
import { Scan } from '../../lib/table-scan.js';
import type { ClusterCounts } from './check-counts.js';
import { AREA, MAX_BYTE_COUNT, MAX_CHECK_CLUSTERS } from './check-counts.js';
import type { L2Judge } from './check-run.js';
import { compressedSpan, entryHex, entryOffset } from './entry.js';
import { Entry } from './layout.js';

/** Statistics of an L2 table, in clusters. */
export interface L2Statistics {
  allocated: number;
  fragmented: number;
  compressed: number;
}

/** Takes the references of entries; `hex` is the offset for messages, where it is not exact. */
export type RangeCounter = (offset: number, bytes: number, hex?: string) => void;

/** Where plain entries are counted. */
export interface PlainCounter {
  readonly counts: ClusterCounts;
  /** Clusters of the file; those behind are left to the careful way. */
  readonly clusters: number;
  /** Largest refcount of the image. */
  readonly max: number;
  readonly hot: Pick<Hot, 'countPlain'>;
}

const NO_COUNTS = new Uint8Array(0);

function bytesOf({ buffer, byteOffset, byteLength }: DataView): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** The host cluster of an entry that has the copied flag and an aligned offset only; else 0. */
function plainCluster(view: DataView, index: number, clusterBits: number): number {
  const hi = view.getUint32(index * 8);
  const lo = view.getUint32(index * 8 + 4);
  if ((hi & Entry.copiedHi) === 0) return 0;
  const cluster = ((hi & 0x7fff_ffff) * 2 ** 32 + lo) / 2 ** clusterBits;
  return Number.isInteger(cluster) && cluster <= MAX_CHECK_CLUSTERS ? cluster : 0;
}

export class L2Walk {
  readonly #judge: L2Judge;
  readonly #view: DataView;
  readonly #count: RangeCounter;
  readonly #dataFile: boolean;
  readonly statistics: L2Statistics = { allocated: 0, fragmented: 0, compressed: 0 };
  /** Entries that were changed in the table and have to be written. */
  readonly repaired: number[] = [];
  /** Host cluster that comes next when the disk is not fragmented; 0: none yet. */
  #nextContiguous = 0;
  /** Some standard entry lacks the copied flag. */
  hasUncopied = false;

  constructor(judge: L2Judge, view: DataView, count: RangeCounter) {
    this.#judge = judge;
    this.#view = view;
    this.#count = count;
    this.#dataFile = judge.hasDataFile;
  }

  /** Walks all entries. `plain`: counts plain entries of this image directly (hot: bench check). */
  all(plain?: PlainCounter): void {
    const { l2Entries, l2EntrySize } = this.#judge.g;
    const view = this.#view;
    const isPlain = plain !== undefined && l2EntrySize === 8 && !this.#dataFile;
    for (let i = 0; i < l2Entries; i++) {
      if (isPlain) {
        i = this.#plainFrom(i, plain);
        if (i === l2Entries) return;
      }
      const hi = view.getUint32(i * l2EntrySize);
      const lo = view.getUint32(i * l2EntrySize + 4);
      if ((hi | lo) !== 0 || l2EntrySize === 16) this.#entry(i, hi, lo);
    }
  }

  /**
   * Counts entries from `start` on that are empty or plain data clusters inside the file, with
   * the copied flag; returns the index of the first that is neither.
   */
  #plainFrom(start: number, { counts, clusters, max, hot }: PlainCounter): number {
    const { l2Entries, clusterBits } = this.#judge.g;
    const scan = new Float64Array(Scan.size);
    scan[Scan.clusterBits] = clusterBits;
    scan[Scan.max] = Math.min(max, MAX_BYTE_COUNT);
    scan[Scan.next] = this.#nextContiguous;
    scan[Scan.highest] = -1;
    const table = bytesOf(this.#view).subarray(0, l2Entries * 8);
    let area: Uint8Array = NO_COUNTS;
    let i = start;
    for (;;) {
      const before = i;
      i = hot.countPlain(table, i, area, scan);
      if (i === l2Entries || (i === before && area !== NO_COUNTS)) break;
      const cluster = plainCluster(this.#view, i, clusterBits);
      if (cluster === 0 || cluster >= clusters) break;
      scan[Scan.first] = cluster - (cluster % AREA);
      area = counts.area(cluster).subarray(0, clusters - scan[Scan.first]!);
    }
    counts.noteScan(scan[Scan.highest]!, scan[Scan.shared] !== 0);
    this.statistics.allocated += scan[Scan.allocated]!;
    this.statistics.fragmented += scan[Scan.fragmented]!;
    this.#nextContiguous = scan[Scan.next]!;
    return i;
  }

  #entry(index: number, hi: number, lo: number): void {
    if ((hi & Entry.compressedHi) !== 0) {
      this.#compressed(index, hi, lo);
      return;
    }
    if ((hi & Entry.l2ReservedHi) !== 0 || (lo & Entry.l2ReservedLo) !== 0) {
      this.#judge.corrupt(`ERROR found l2 entry with reserved bits set: ${entryHex(hi, lo)}`);
    }
    const { extendedL2 } = this.#judge.g;
    const zero = !extendedL2 && (lo & Entry.zeroLo) !== 0;
    const offset = entryOffset(hi, lo);
    const isHere = offset !== 0 || (!zero && this.#dataFile && (hi & Entry.copiedHi) !== 0);
    if (isHere) this.#standard(index, offset, zero);
    else if (extendedL2) this.#unallocated(index);
  }

  #compressed(index: number, hi: number, lo: number): void {
    const judge = this.#judge;
    const span = compressedSpan(judge.g, hi, lo);
    const at = this.#compressedHex(hi, lo);
    const shown = entryHex((hi & ~Entry.copiedHi) >>> 0, lo);
    if ((hi & Entry.copiedHi) !== 0) {
      judge.corrupt(
        `ERROR: coffset=0x${at}: copied flag must never be set for compressed clusters`,
      );
    }
    if (this.#dataFile) {
      judge.corrupt(`ERROR compressed cluster ${index} with data file, entry=0x${shown}`);
      return;
    }
    if (judge.g.extendedL2 && this.#bitmapHex(index) !== '0') {
      judge.corrupt(
        `ERROR compressed cluster ${index} with non-zero subcluster allocation bitmap, ` +
          `entry=0x${shown}`,
      );
      return;
    }
    this.#count(span.host, span.bytes, at);
    this.statistics.allocated++;
    this.statistics.compressed++;
    // Compressed clusters lie wherever there was room, so each counts as fragmented.
    this.statistics.fragmented++;
  }

  /** The host offset of a compressed cluster, exact where a number would be rounded. */
  #compressedHex(hi: number, lo: number): string {
    const mask = 2 ** (this.#judge.g.compressedOffsetBits - 32) - 1;
    return entryHex((hi & mask) >>> 0, lo);
  }

  /** A data cluster or a preallocated zero cluster. */
  #standard(index: number, offset: number, zero: boolean): void {
    const judge = this.#judge;
    const { clusterSize } = judge.g;
    if (judge.g.extendedL2 && this.#hasBadBitmap(index)) {
      judge.corrupt(
        `ERROR offset=${offset.toString(16)}: Allocated cluster has corrupted subcluster ` +
          'allocation bitmap',
      );
    }
    if (offset % clusterSize !== 0) {
      const hasData = judge.g.extendedL2 ? this.#view.getUint32(index * 16 + 12) !== 0 : !zero;
      if (!this.#unaligned(index, offset, hasData)) return;
    }
    const statistics = this.statistics;
    const cluster = offset / clusterSize;
    statistics.allocated++;
    if (this.#nextContiguous !== 0 && cluster !== this.#nextContiguous) statistics.fragmented++;
    this.#nextContiguous = cluster + 1;
    if ((this.#view.getUint32(index * judge.g.l2EntrySize) & Entry.copiedHi) === 0) {
      this.hasUncopied = true;
    }
    if (!this.#dataFile) this.#count(offset, clusterSize);
  }

  /** An entry off the cluster boundary; whether it still refers to a cluster. */
  #unaligned(index: number, offset: number, hasData: boolean): boolean {
    const judge = this.#judge;
    const at = offset.toString(16);
    if (hasData) {
      judge.corrupt(
        `ERROR offset=${at}: Data cluster is not properly aligned; L2 entry corrupted.`,
      );
      return true;
    }
    const what = judge.fixErrors ? 'Repairing' : 'ERROR';
    judge.corrupt(
      `${what} offset=${at}: Preallocated cluster is not properly aligned; L2 entry corrupted.`,
    );
    if (!judge.fixErrors) return true;
    // The cluster reads the same without the preallocation.
    this.#view.setUint32(index * judge.g.l2EntrySize, 0);
    this.#view.setUint32(index * judge.g.l2EntrySize + 4, judge.g.extendedL2 ? 0 : Entry.zeroLo);
    this.repaired.push(index);
    return false;
  }

  #unallocated(index: number): void {
    const at = index * 16;
    if (this.#view.getUint32(at + 12) !== 0) {
      this.#judge.corrupt('ERROR: Unallocated cluster has non-zero subcluster allocation map');
    }
  }

  #hasBadBitmap(index: number): boolean {
    const at = index * 16;
    return (this.#view.getUint32(at + 8) & this.#view.getUint32(at + 12)) !== 0;
  }

  #bitmapHex(index: number): string {
    const at = index * 16;
    return entryHex(this.#view.getUint32(at + 8), this.#view.getUint32(at + 12));
  }
}
