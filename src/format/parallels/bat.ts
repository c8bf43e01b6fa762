/**
 * Header and BAT ("Block Allocation Table") in memory, and which clusters of the file are in use.
 *
 * All of the BAT that is in the file is held: 4 bytes for each cluster, and decoded pieces of it.
 * What a crafted header asks for beyond the end of the file is not there.
 */
import type { Child } from '../../block/child.js';
import type { ClusterMap, Taken } from '../../block/cluster-map.js';
import { Place } from '../../block/cluster-map.js';
import { BlockError, withErrno } from '../../block/errors.js';
import type { FileGrowth } from '../../block/file-growth.js';
import { Iov } from '../../lib/iov.js';
import { Mutex } from '../../lib/mutex.js';
import { settleAll } from '../../lib/settle-all.js';
import { SparseBits } from '../../lib/sparse-bits.js';
import type { ParallelsHeader } from './header.js';
import { HEADER_BYTES, Limit, SECTOR } from './layout.js';

/** The BAT is read in pieces of this many bytes. */
const PIECE = 4 * 1024 * 1024;
/** Entries of a decoded piece, and how many of those are kept. */
const SLICE = 4096;
const MAX_SLICES = 256;

export class Bat implements ClusterMap {
  readonly clusterBytes: number;
  readonly perTable = SLICE;
  readonly header: ParallelsHeader;
  /** Header and BAT as they are to be in the file. */
  readonly bytes: Uint8Array;
  readonly #view: DataView;
  /** Entries that the file holds. */
  readonly entries: number;
  /** Clusters that hold nothing of the BAT's are to be kept: no hole is filled. */
  readonly #keepsHoles: boolean;
  readonly #file: Child;
  readonly #growth: FileGrowth;
  readonly #slices = new Map<number, Float64Array>();
  /** Sectors of the file that differ from `bytes`. */
  readonly #dirty = new Set<number>();
  readonly #storing = new Mutex();
  /** Clusters of the data area in use; made when the first is given out. */
  #used: SparseBits | undefined;
  /** Where the search for holes goes on, in clusters of the data area, and where it ends. */
  #hole = 0;
  #end = 0;
  /** Clusters were freed since the image was opened. */
  hasFreed = false;
  /** Called before the first change. */
  onPrepare: (() => Promise<void> | undefined) | undefined;

  constructor(file: Child, header: ParallelsHeader, bytes: Uint8Array, growth: FileGrowth) {
    this.#file = file;
    this.header = header;
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#growth = growth;
    this.clusterBytes = header.clusterBytes;
    this.#keepsHoles = header.fields.ext_off !== 0;
    const held = Math.floor((bytes.length - HEADER_BYTES) / 4);
    this.entries = Math.max(0, Math.min(header.fields.nb_bat_entries, held));
  }

  /** The host offset in an entry; 0: unallocated. */
  offsetAt(entry: number): number {
    return this.#view.getUint32(HEADER_BYTES + entry * 4, true) * this.header.entryUnit;
  }

  /**
   * Whether data may stand there: it begins inside the file, behind the BAT. QEMU 10 puts the first
   * cluster in front of `data_off` when it converts into clusters that are no multiple of 4 KiB;
   * that one is read.
   */
  #placeAt(entry: number): number {
    const offset = this.offsetAt(entry);
    if (offset === 0) return Place.unallocated;
    const isInside = offset >= HEADER_BYTES + this.entries * 4 && offset < this.#growth.usedEnd;
    return isInside ? offset : Place.damaged;
  }

  tryTable(index: number): Float64Array | null {
    const found = this.#slices.get(index);
    if (found !== undefined) return found;
    const first = index * SLICE;
    if (first >= this.entries) return null;
    const slice = new Float64Array(SLICE).fill(Place.unallocated);
    const count = Math.min(SLICE, this.entries - first);
    for (let i = 0; i < count; i++) slice[i] = this.#placeAt(first + i);
    if (this.#slices.size >= MAX_SLICES) {
      for (const oldest of this.#slices.keys()) {
        this.#slices.delete(oldest);
        break;
      }
    }
    this.#slices.set(index, slice);
    return slice;
  }

  async table(index: number): Promise<Float64Array | null> {
    return this.tryTable(index);
  }

  set(index: number, entry: number, place: number, count: number): void {
    const first = index * SLICE + entry;
    if (first + count > this.entries) {
      throw new BlockError('EINVAL', 'The disk is larger than the BAT');
    }
    const slice = this.tryTable(index);
    for (let i = 0; i < count; i++) {
      const each = place < 0 ? Place.unallocated : place + i * this.clusterBytes;
      if (slice !== null) slice[entry + i] = each;
      this.setEntry(first + i, each < 0 ? 0 : each);
    }
  }

  setEntry(entry: number, offset: number): void {
    const at = HEADER_BYTES + entry * 4;
    this.#view.setUint32(at, offset / this.header.entryUnit, true);
    this.#dirty.add(Math.floor(at / SECTOR));
  }

  /** A 32-bit field of the header, by its offset; stored with the next `store`. */
  setField(offset: number, value: number): void {
    this.#view.setUint32(offset, value, true);
    this.#dirty.add(0);
  }

  /** Entries were changed one by one: nothing decoded is right, nor what is in use. */
  forget(): void {
    this.#slices.clear();
    this.#used = undefined;
  }

  prepare(): Promise<void> | undefined {
    return this.onPrepare?.();
  }

  /** Index in the data area; undefined for what stands between two clusters. */
  #indexOf(offset: number): number | undefined {
    const index = (offset - this.header.dataStart) / this.clusterBytes;
    return Number.isInteger(index) && index >= 0 ? index : undefined;
  }

  /** Whether two entries name the same cluster. */
  hasTwice(): boolean {
    const seen = new SparseBits();
    for (let entry = 0; entry < this.entries; entry++) {
      const index = this.#indexOf(this.offsetAt(entry));
      if (index !== undefined && !seen.add(index)) return true;
    }
    return false;
  }

  /** Throws EINVAL where two entries name the same cluster: to write would damage the other. */
  #findUsed(): SparseBits {
    const used = new SparseBits();
    let mayFill = !this.#keepsHoles;
    for (let entry = 0; entry < this.entries; entry++) {
      const offset = this.offsetAt(entry);
      if (offset === 0) continue;
      const index = this.#indexOf(offset);
      if (index === undefined) mayFill = false;
      else if (!used.add(index)) {
        const text = `Cannot write to the image: entry ${String(entry)} of the BAT names a cluster`;
        throw new BlockError('EINVAL', `${text} that another names; run check`);
      }
    }
    const past = this.#growth.usedEnd - this.header.dataStart;
    this.#end = Math.max(0, Math.ceil(past / this.clusterBytes));
    this.#hole = mayFill ? 0 : this.#end;
    return used;
  }

  take(clusters: number): Taken {
    const used = (this.#used ??= this.#findUsed());
    while (this.#hole < this.#end && used.has(this.#hole)) this.#hole++;
    const first = this.#hole < this.#end ? this.#hole : this.#end;
    let count = 1;
    if (first === this.#end) count = clusters;
    else while (count < clusters && this.#isHole(used, first + count)) count++;
    const host = this.header.dataStart + first * this.clusterBytes;
    const last = (host + (count - 1) * this.clusterBytes) / this.header.entryUnit;
    if (last > Limit.maxClusters) throw new BlockError('EFBIG', 'The image is full');
    for (let i = 0; i < count; i++) used.add(first + i);
    this.#end = Math.max(this.#end, first + count);
    this.#hole = first + count;
    const isFresh = this.#growth.take(host, count * this.clusterBytes);
    return { host, clusters: count, isFresh };
  }

  #isHole(used: SparseBits, index: number): boolean {
    return index < this.#end && !used.has(index);
  }

  giveBack(host: number, clusters: number): void {
    const first = this.#indexOf(host) ?? 0;
    for (let i = 0; i < clusters; i++) this.#used?.delete(first + i);
    if (!this.#keepsHoles) this.#hole = Math.min(this.#hole, first);
  }

  /**
   * The guest needs them no more. They are given out again when the image is opened next, for
   * requests may be under way that found them here, and the BAT in the file still names them.
   */
  free(index: number, entry: number, count: number): void {
    // From here on what is in use is known, so that what is freed counts as used.
    this.#used ??= this.#findUsed();
    this.set(index, entry, Place.unallocated, count);
    this.hasFreed = true;
  }

  /** End of the last cluster in use. */
  usedEnd(): number {
    let end = this.header.dataStart;
    for (let i = 0; i < this.entries; i++) {
      const offset = this.offsetAt(i);
      if (offset !== 0) end = Math.max(end, offset + this.clusterBytes);
    }
    return end;
  }

  get isFull(): boolean {
    return false;
  }

  get isDirty(): boolean {
    return this.#dirty.size > 0;
  }

  /** Data, a flush, then the BAT. Throws; it is tried again then. */
  store(): Promise<void> {
    if (!this.isDirty && !this.#storing.isLocked) return Promise.resolve();
    return this.#storing.run(async () => {
      if (!this.isDirty) return;
      const sectors = [...this.#dirty].sort((a, b) => a - b);
      this.#dirty.clear();
      const writes = this.#runs(sectors);
      try {
        await this.#growth.cover();
        await this.#file.flush();
        await settleAll(writes.map((w) => this.#file.write(w.offset, Iov.of(w.bytes))));
      } catch (e) {
        for (const each of sectors) this.#dirty.add(each);
        throw e;
      }
    });
  }

  /** Copies of sectors as they are now, joined where they touch. */
  #runs(sectors: readonly number[]): { offset: number; bytes: Uint8Array }[] {
    const out: { offset: number; bytes: Uint8Array }[] = [];
    for (let i = 0; i < sectors.length;) {
      const first = sectors[i] ?? 0;
      let n = 1;
      while (sectors[i + n] === first + n) n++;
      out.push({
        offset: first * SECTOR,
        bytes: this.bytes.slice(first * SECTOR, (first + n) * SECTOR),
      });
      i += n;
    }
    return out;
  }
}

/** Reads header and BAT, as much of them as the file holds. Throws what reading throws. */
export async function readBat(file: Child, header: ParallelsHeader): Promise<Uint8Array> {
  const asked = HEADER_BYTES + header.fields.nb_bat_entries * 4;
  const bytes = new Uint8Array(Math.min(asked, Math.max(file.size, HEADER_BYTES)));
  for (let at = 0; at < bytes.length; at += PIECE) {
    try {
      await file.read(at, Iov.of(bytes.subarray(at, at + PIECE)));
    } catch (e) {
      throw withErrno('Could not read the BAT', e);
    }
  }
  return bytes;
}
