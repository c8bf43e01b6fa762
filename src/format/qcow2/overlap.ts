/**
 * Guards against writes into metadata: each write of guest data or of a table is compared with
 * where the tables are. Option `overlap-check`; section "Overlap checks" of docs/internals.
 *
 * Lists of L2 tables and refcount blocks are sorted once and then kept with what was added since;
 * an answer that rests on an entry which may have gone is verified against L1 or refcount table.
 */
import type { Qcow2Image } from './image.js';
import { Entry, Limit } from './layout.js';
import { Overlap } from './options.js';
import { readSnapshotL1 } from './snapshot-l1.js';
import { roundDown } from './units.js';

/** Offsets of clusters: a sorted list, and those that came later. */
class ClusterSet {
  #sorted: Float64Array | undefined;
  #added = new Set<number>();

  get isBuilt(): boolean {
    return this.#sorted !== undefined;
  }

  build(offsets: Float64Array): void {
    this.#sorted = offsets.sort();
    this.#added.clear();
  }

  reset(): void {
    this.#sorted = undefined;
    this.#added.clear();
  }

  add(offset: number): void {
    if (this.#sorted !== undefined) this.#added.add(offset);
  }

  /** A cluster of the set that begins in [from, to); undefined if there is none. */
  find(from: number, to: number, clusterSize: number): number | undefined {
    const sorted = this.#sorted ?? new Float64Array(0);
    let low = 0;
    let high = sorted.length;
    while (low < high) {
      const mid = (low + high) >>> 1;
      if (sorted[mid]! < from) low = mid + 1;
      else high = mid;
    }
    const found = sorted[low];
    if (found !== undefined && found < to) return found;
    if (this.#added.size === 0) return undefined;
    if ((to - from) / clusterSize > this.#added.size) {
      for (const offset of this.#added) if (offset >= from && offset < to) return offset;
      return undefined;
    }
    for (let at = from; at < to; at += clusterSize) if (this.#added.has(at)) return at;
    return undefined;
  }
}

const names: readonly (readonly [number, string])[] = [
  [Overlap.mainHeader, 'qcow2_header'],
  [Overlap.activeL1, 'active L1 table'],
  [Overlap.activeL2, 'active L2 table'],
  [Overlap.refcountTable, 'refcount table'],
  [Overlap.refcountBlock, 'refcount block'],
  [Overlap.snapshotTable, 'snapshot table'],
  [Overlap.inactiveL1, 'inactive L1 table'],
  [Overlap.inactiveL2, 'inactive L2 table'],
  [Overlap.bitmapDirectory, 'bitmap directory'],
];

/** Bytes of the snapshot table's entries; the snapshot modules keep it up to date. */
export class OverlapChecker {
  readonly #image: Qcow2Image;
  readonly #l2 = new ClusterSet();
  readonly #blocks = new ClusterSet();
  /** Bytes of the snapshot table as it is on disk. */
  snapshotTableBytes = 0;

  constructor(image: Qcow2Image) {
    this.#image = image;
  }

  /** An L2 table of the active L1 came to be at `offset`. */
  addL2(offset: number): void {
    this.#l2.add(offset);
  }

  addRefcountBlock(offset: number): void {
    this.#blocks.add(offset);
  }

  /** The L1 table or the refcount table was replaced. */
  reset(): void {
    this.#l2.reset();
    this.#blocks.reset();
  }

  /**
   * Which structure [offset, offset + bytes) meets: one of {@link Overlap}, or 0. `ignore`: or-ed
   * structures that may be met. All checks but those of inactive L2 tables, which need I/O.
   */
  find(ignore: number, offset: number, bytes: number): number {
    const checks = this.#image.settings.overlapChecks & ~ignore;
    if (checks === 0 || bytes === 0) return 0;
    const { g } = this.#image;
    if ((checks & Overlap.mainHeader) !== 0 && offset < g.clusterSize) return Overlap.mainHeader;
    const from = roundDown(offset, g.clusterSize);
    const to = offset + bytes;
    return this.#findTables(checks, from, to) || this.#findClusters(checks, from, to);
  }

  #findTables(checks: number, from: number, to: number): number {
    const { l1, refcounts, header, snapshots } = this.#image;
    const { snapshots_offset: snapshotTable } = header.fields;
    const meets = (offset: number, bytes: number): boolean =>
      bytes > 0 && offset < to && from < offset + bytes;
    if ((checks & Overlap.activeL1) !== 0 && meets(l1.offset, l1.size * 8)) return Overlap.activeL1;
    if (
      (checks & Overlap.refcountTable) !== 0 &&
      meets(refcounts.tableOffset, refcounts.size * 8)
    ) {
      return Overlap.refcountTable;
    }
    if ((checks & Overlap.snapshotTable) !== 0 && meets(snapshotTable, this.snapshotTableBytes)) {
      return Overlap.snapshotTable;
    }
    if ((checks & Overlap.inactiveL1) !== 0) {
      for (const s of snapshots) {
        // One that is too long to be true meets all behind it: nothing can be written then. Where
        // inactive L2 tables are looked at, too, that table is refused by itself.
        const bytes = s.l1Size * 8;
        if (bytes > Limit.maxL1Bytes && (checks & Overlap.inactiveL2) !== 0) continue;
        if (meets(s.l1Offset, bytes)) return Overlap.inactiveL1;
      }
    }
    const bitmaps = header.extensions.bitmaps;
    if ((checks & Overlap.bitmapDirectory) !== 0 && bitmaps !== undefined) {
      const { bitmap_directory_offset: at, bitmap_directory_size: length } = bitmaps;
      if (meets(at, length)) return Overlap.bitmapDirectory;
    }
    return 0;
  }

  #findClusters(checks: number, from: number, to: number): number {
    const { l1, refcounts, g } = this.#image;
    if ((checks & Overlap.activeL2) !== 0) {
      if (!this.#l2.isBuilt) this.#l2.build(l2Offsets(this.#image));
      if (this.#l2.find(from, to, g.clusterSize) !== undefined && hasL2Inside(l1, from, to)) {
        return Overlap.activeL2;
      }
    }
    if ((checks & Overlap.refcountBlock) !== 0) {
      if (!this.#blocks.isBuilt) this.#blocks.build(refcounts.blockOffsets());
      const found = this.#blocks.find(from, to, g.clusterSize) !== undefined;
      if (found && refcounts.hasBlockInside(from, to)) return Overlap.refcountBlock;
    }
    return 0;
  }

  /**
   * Throws EIO after marking the image corrupt when a write of [offset, offset + bytes) would hit
   * metadata. Resolves to nothing, synchronously undefined when all is well.
   */
  check(ignore: number, offset: number, bytes: number): Promise<void> | undefined {
    const hit = this.find(ignore, offset, bytes);
    if (hit !== 0) return this.#report(hit, offset, bytes);
    const checks = this.#image.settings.overlapChecks & ~ignore;
    if ((checks & Overlap.inactiveL2) !== 0 && this.#image.snapshots.length > 0) {
      return this.#checkInactiveL2(offset, bytes);
    }
    return undefined;
  }

  /** Whether `check` would find nothing, and needs not read anything to know it. */
  isSurelyFree(offset: number, bytes: number): boolean {
    if (this.find(0, offset, bytes) !== 0) return false;
    const { settings, snapshots } = this.#image;
    return (settings.overlapChecks & Overlap.inactiveL2) === 0 || snapshots.length === 0;
  }

  /** As `check`, for guest data: an external data file holds no metadata. */
  checkData(host: number, bytes: number): Promise<void> | undefined {
    return this.#image.hasDataFile ? undefined : this.check(0, host, bytes);
  }

  async #report(hit: number, offset: number, size: number): Promise<void> {
    const name = names.find(([bit]) => bit === hit)?.[1] ?? '';
    throw await this.#image.corrupt(
      true,
      `Preventing invalid write on metadata (overlaps with ${name})`,
      { offset, size },
    );
  }

  /** Reads the L1 table of each snapshot and looks for the range among its L2 tables. */
  async #checkInactiveL2(offset: number, bytes: number): Promise<void> {
    const { g, snapshots } = this.#image;
    const from = roundDown(offset, g.clusterSize);
    for (const snapshot of snapshots) {
      const table = await readSnapshotL1(this.#image, snapshot);
      const length = table.length;
      const view = new DataView(table.buffer);
      for (let at = 0; at < length; at += 8) {
        const l2 =
          (view.getUint32(at) & Entry.offsetHi) * 0x1_0000_0000 +
          ((view.getUint32(at + 4) & Entry.offsetLo) >>> 0);
        if (l2 === 0 || l2 < from || l2 >= offset + bytes) continue;
        await this.#report(Overlap.inactiveL2, offset, bytes);
      }
    }
  }
}

function l2Offsets(image: Qcow2Image): Float64Array {
  const { l1 } = image;
  const out = new Float64Array(l1.size);
  let n = 0;
  for (let i = 0; i < l1.size; i++) {
    const offset = l1.l2Offset(i);
    if (offset !== 0) out[n++] = roundDown(offset, image.g.clusterSize);
  }
  return out.slice(0, n);
}

function hasL2Inside(l1: Qcow2Image['l1'], from: number, to: number): boolean {
  for (let i = 0; i < l1.size; i++) {
    const offset = l1.l2Offset(i);
    if (offset !== 0 && offset >= from && offset < to) return true;
  }
  return false;
}
