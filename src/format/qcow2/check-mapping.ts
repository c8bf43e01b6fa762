/**
 * The first step of `check`: what L1 and L2 tables refer to, and what is wrong with them.
 *
 * Each L2 table is walked once, twice if it is shared. Where several L1 tables (of snapshots) name
 * the same one, its findings are told again for each, and its further references are added in one
 * go at the end: the time grows with the tables in the file, not with how often an image with
 * crafted loops names them.
 */
import { BlockError, errorText } from '../../block/errors.js';
import { Iov } from '../../lib/iov.js';
import type { L2Statistics } from './check-l2.js';
import { L2Walk } from './check-l2.js';
import type { CheckRun, Findings } from './check-run.js';
import { entryHex, entryOffset } from './entry.js';
import { Entry } from './layout.js';
import { ReadAhead } from './read-ahead.js';
import type { HostOffset } from './units.js';

/** First offset that no file can have. */
const HOST_END = 2 ** 63;

/** An L2 table that is named more than once: by how many entries besides the first. */
interface Shared {
  more: number;
  /** Those of them that are in the active L1 table. */
  moreActive: number;
}

export class MappingCheck {
  readonly #run: CheckRun;
  readonly #findings = new Map<HostOffset, Findings>();
  readonly #shared = new Map<HostOffset, Shared>();

  constructor(run: CheckRun) {
    this.#run = run;
  }

  /**
   * Counts an L1 table and all that it refers to. `active`: statistics of the disk are those of
   * this table. Throws what a read throws, after reporting it.
   */
  async l1Table(offset: HostOffset, entries: number, active: boolean): Promise<void> {
    const run = this.#run;
    if (entries === 0) return;
    run.countStructure(offset, entries * 8);
    const view = await this.#readL1(offset, entries);
    const ahead = new ReadAhead(run.file, run.g.clusterSize, this.#toRead(view, entries));
    for (let i = 0; i < entries; i++) {
      const hi = view.getUint32(i * 8);
      const lo = view.getUint32(i * 8 + 4);
      if ((hi | lo) === 0) continue;
      if ((hi & Entry.l1ReservedHi) !== 0 || (lo & Entry.l1ReservedLo) !== 0) {
        run.corrupt(`ERROR found L1 entry with reserved bits set: ${entryHex(hi, lo)}`);
      }
      if (active && (hi & Entry.copiedHi) === 0) run.hasUncopied = true;
      // An entry of flags alone points to the header, where no L2 table can be: that shows.
      await this.#l2Table(entryOffset(hi, lo), active, ahead);
      if (active && (i & 63) === 0) run.progress(i, entries);
    }
  }

  async #readL1(offset: HostOffset, entries: number): Promise<DataView> {
    const run = this.#run;
    try {
      if (offset >= HOST_END) throw new BlockError('EIO');
      return new DataView((await run.read(offset, entries * 8)).buffer);
    } catch (e) {
      run.report('ERROR: I/O error in check_refcounts_l1');
      run.result.checkErrors++;
      throw e;
    }
  }

  /** Offsets of the L2 tables that the walk is going to read, in its order. */
  *#toRead(view: DataView, entries: number): Generator<HostOffset> {
    const run = this.#run;
    for (let i = 0; i < entries; i++) {
      const hi = view.getUint32(i * 8);
      const lo = view.getUint32(i * 8 + 4);
      if ((hi | lo) === 0) continue;
      const offset = entryOffset(hi, lo);
      if (offset < run.fileLength && !this.#isVisited(offset)) yield offset;
    }
  }

  #isVisited(offset: HostOffset): boolean {
    const cluster = offset / this.#run.g.clusterSize;
    return Number.isInteger(cluster) && this.#run.visited.has(cluster);
  }

  async #l2Table(offset: HostOffset, active: boolean, ahead: ReadAhead): Promise<void> {
    const run = this.#run;
    const { clusterSize } = run.g;
    run.countRange(offset, clusterSize);
    if (offset % clusterSize !== 0) {
      run.corrupt(
        `ERROR l2_offset=${offset.toString(16)}: Table is not cluster aligned; L1 entry corrupted`,
      );
    }
    // What lies past the end reads as zeroes and refers to nothing.
    if (offset >= run.fileLength) return;
    if (this.#isVisited(offset)) {
      this.#again(offset, active);
      return;
    }
    const bytes = await this.#read(offset, ahead);
    if (offset % clusterSize === 0) run.visited.add(offset / clusterSize);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const walk = new L2Walk(run, view, (from, length, hex) => run.countRange(from, length, hex));
    const { counts, fileClusters } = run;
    const said = run.record(() => {
      walk.all({ counts, clusters: fileClusters, max: run.g.refcountMax, hot: run.target.hot });
    });
    if (active) this.#addStatistics(walk.statistics, 1);
    if (active && walk.hasUncopied) run.hasUncopied = true;
    for (const index of walk.repaired) await this.#writeEntry(offset, bytes, index);
    if (said !== undefined && walk.repaired.length === 0) this.#findings.set(offset, said);
  }

  async #read(offset: HostOffset, ahead: ReadAhead): Promise<Uint8Array> {
    try {
      return await ahead.take(offset);
    } catch (e) {
      this.#run.report('ERROR: I/O error in check_refcounts_l2');
      this.#run.result.checkErrors++;
      throw e;
    }
  }

  #addStatistics(statistics: L2Statistics, times: number): void {
    const { result } = this.#run;
    const { allocated, fragmented, compressed } = statistics;
    result.allocatedClusters = (result.allocatedClusters ?? 0) + allocated * times;
    result.fragmentedClusters = (result.fragmentedClusters ?? 0) + fragmented * times;
    result.compressedClusters = (result.compressedClusters ?? 0) + compressed * times;
  }

  /** An L2 table that was walked before. */
  #again(offset: HostOffset, active: boolean): void {
    let shared = this.#shared.get(offset);
    if (shared === undefined) this.#shared.set(offset, (shared = { more: 0, moreActive: 0 }));
    shared.more++;
    if (active) shared.moreActive++;
    const said = this.#findings.get(offset);
    if (said !== undefined) this.#run.repeat(said);
  }

  /** Adds the references of shared tables; call once after the last L1 table. */
  async finish(): Promise<void> {
    const run = this.#run;
    const offsets = [...this.#shared.keys()];
    const ahead = new ReadAhead(run.file, run.g.clusterSize, offsets);
    for (const offset of offsets) {
      const { more, moreActive } = this.#shared.get(offset)!;
      const bytes = await this.#read(offset, ahead);
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const quiet = run.quietly();
      const walk = new L2Walk(quiet, view, (from, length) => run.countAgain(from, length, more));
      walk.all();
      this.#addStatistics(walk.statistics, moreActive);
    }
  }

  /** A repaired entry goes to the file at once. */
  async #writeEntry(offset: HostOffset, bytes: Uint8Array, index: number): Promise<void> {
    const run = this.#run;
    const { l2EntrySize } = run.g;
    const at = index * l2EntrySize;
    try {
      await run.file.write(offset + at, Iov.of(bytes.slice(at, at + l2EntrySize)));
      run.result.corruptions--;
      run.result.corruptionsFixed++;
    } catch (e) {
      run.report(`ERROR: Failed to overwrite L2 table entry: ${errorText(e)}`);
      run.result.checkErrors++;
    }
  }
}
