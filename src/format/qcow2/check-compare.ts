/**
 * The second step of `check`: refcounts of the image against the references that were found.
 *
 * Refcount blocks are read in order and each is written at most once. A repaired refcount moves
 * towards the number of references, so a crash in between leaves mismatches that the next check
 * meets again, never a used cluster that counts as free and was not one before.
 */
import { errorText } from '../../block/errors.js';
import { errnoText } from '../../lib/errno.js';
import { Iov } from '../../lib/iov.js';
import { AREA, ClusterCounts, ClusterSet } from './check-counts.js';
import type { CheckRun } from './check-run.js';
import { ReadAhead } from './read-ahead.js';
import { refcountCodec } from './refcount-codec.js';

/** What to do with mismatches in one comparison. */
export interface CompareHow {
  readonly fixLeaks: boolean;
  readonly fixErrors: boolean;
}

/** Where refcounts of the image differ from the references, after a comparison. */
export class Differences {
  /** Refcounts of the clusters in `differ`. */
  readonly #counts = new ClusterCounts();
  readonly #differ = new ClusterSet();
  readonly #unreadable = new ClusterSet();
  readonly #run: CheckRun;
  /** Texts of refcounts that a number does not hold exactly. */
  readonly #texts = new Map<number, string>();

  constructor(run: CheckRun) {
    this.#run = run;
  }

  note(cluster: number, refcount: number, text: string): void {
    this.#differ.add(cluster);
    this.#counts.set(cluster, refcount);
    if (!Number.isSafeInteger(refcount)) this.#texts.set(cluster, text);
  }

  /** The refcount for messages. */
  text(cluster: number): string {
    return this.#texts.get(cluster) ?? String(this.refcount(cluster));
  }

  noteUnreadable(cluster: number): void {
    this.#unreadable.add(cluster);
  }

  /** Refcount of a cluster in the image; undefined when it could not be read. */
  refcount(cluster: number): number | undefined {
    if (this.#unreadable.has(cluster)) return undefined;
    return this.#differ.has(cluster) ? this.#counts.get(cluster) : this.#run.counts.get(cluster);
  }
}

/** What a comparison found. */
export interface Comparison {
  readonly differences: Differences;
  /** Clusters from 0 to this one were compared. */
  readonly end: number;
  /** The highest cluster that is referenced or has a refcount; 0 when none is. */
  readonly highest: number;
}

/** Compares, tells, and repairs what `how` says. Throws only what writing a block throws. */
export async function compareRefcounts(run: CheckRun, how: CompareHow): Promise<Comparison> {
  const comparer = new Comparer(run, how);
  return comparer.run();
}

/**
 * Sets to 0 the refcounts of clusters from `end` on: the file ends before them and nothing
 * refers to them. A power cut leaves such refcounts when the file had not grown yet. No
 * comparison sees them, here or in qemu-img, but they would be leaks as soon as the file has
 * grown. A block that anything but its one table entry refers to is left alone. Throws what
 * writing a block throws.
 */
export async function dropRefcountsPastEnd(run: CheckRun, end: number): Promise<void> {
  const per = run.g.refcountBlockEntries;
  const codec = refcountCodec(run.g.refcountOrder);
  for (let index = Math.floor(end / per); index * 8 < run.reftable.byteLength; index++) {
    const offset = blockOffset(run, index);
    if (offset === undefined || offset === 0) continue;
    if (run.counts.get(offset / run.g.clusterSize) !== 1) continue;
    const bytes = new Uint8Array(run.g.clusterSize);
    try {
      await run.file.read(offset, Iov.of(bytes));
    } catch {
      // The comparison tells of blocks that can matter.
      continue;
    }
    const block = new DataView(bytes.buffer);
    let isChanged = false;
    for (let entry = Math.max(0, end - index * per); entry < per; entry++) {
      if (codec.get(block, entry) === 0) continue;
      codec.set(block, entry, 0);
      isChanged = true;
    }
    if (isChanged) await run.file.write(offset, Iov.of(bytes));
  }
}

class Comparer {
  readonly #run: CheckRun;
  readonly #how: CompareHow;
  readonly #differences: Differences;
  #highest = 0;

  constructor(run: CheckRun, how: CompareHow) {
    this.#run = run;
    this.#how = how;
    this.#differences = new Differences(run);
  }

  async run(): Promise<Comparison> {
    const run = this.#run;
    const per = run.g.refcountBlockEntries;
    const total = Math.max(run.fileClusters, run.counts.end);
    const ahead = new ReadAhead(run.file, run.g.clusterSize, this.#blocks(total));
    for (let from = 0; from < total; from = this.#nextBlock(from, total)) {
      const to = Math.min(from + per, total);
      const offset = blockOffset(run, from / per);
      if (offset === undefined) this.#unreadable(from, to, errnoText('EIO'));
      else if (offset === 0) this.#withoutBlock(from, to);
      else await this.#withBlock(offset, from, to, ahead);
    }
    return { differences: this.#differences, end: total, highest: this.#highest };
  }

  /** First cluster of the next block that exists, or whose clusters may be referenced. */
  #nextBlock(from: number, total: number): number {
    const run = this.#run;
    const per = run.g.refcountBlockEntries;
    const used = Math.min(run.counts.nextUsedArea(from + per), total);
    const entries = run.reftable.byteLength / 8;
    let index = from / per + 1;
    while (index * per < used && index < entries && blockOffset(run, index) === 0) index++;
    return index < entries ? index * per : Math.max(index, Math.floor(used / per)) * per;
  }

  *#blocks(total: number): Generator<number> {
    const per = this.#run.g.refcountBlockEntries;
    for (let i = 0; i * per < total; i++) {
      const offset = blockOffset(this.#run, i);
      if (offset !== undefined && offset !== 0) yield offset;
    }
  }

  async #withBlock(offset: number, from: number, to: number, ahead: ReadAhead): Promise<void> {
    const run = this.#run;
    let bytes: Uint8Array;
    try {
      bytes = await ahead.take(offset);
    } catch (e) {
      this.#unreadable(from, to, errorText(e));
      return;
    }
    const block = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const codec = refcountCodec(run.g.refcountOrder);
    let isChanged = false;
    for (let cluster = this.#equalUntil(block, from, to); cluster < to; cluster++) {
      const refcount = codec.get(block, cluster - from);
      const references = run.counts.get(cluster);
      if (refcount === references) {
        if (references !== 0) this.#highest = cluster;
        continue;
      }
      this.#highest = cluster;
      const text = Number.isSafeInteger(refcount)
        ? String(refcount)
        : String(block.getBigUint64((cluster - from) * 8));
      if (this.#mismatch(cluster, refcount, references, text)) {
        codec.set(block, cluster - from, references);
        isChanged = true;
      }
    }
    if (isChanged) await run.file.write(offset, Iov.of(bytes.slice()));
  }

  /**
   * First cluster from `from` on whose 16-bit refcount may differ from its count; the way that
   * nearly all blocks take (hot: bench check).
   */
  #equalUntil(block: DataView, from: number, to: number): number {
    const { counts, g, target } = this.#run;
    if (g.refcountOrder !== 4) return from;
    const bytes = new Uint8Array(block.buffer, block.byteOffset, block.byteLength);
    for (let at = from; at < to;) {
      const area = counts.tryBytes(at);
      if (area === undefined) return at;
      const stop = Math.min(to, at - (at % AREA) + AREA);
      const wanted = area.subarray(at % AREA, (at % AREA) + stop - at);
      const equal = target.hot.equalCounts(bytes.subarray((at - from) * 2), wanted);
      const last = wanted.subarray(0, equal).findLastIndex((count) => count !== 0);
      if (last >= 0) this.#highest = at + last;
      at += equal;
      if (at < stop) return at;
    }
    return to;
  }

  /** Clusters that no block covers have refcount 0. */
  #withoutBlock(from: number, to: number): void {
    const { counts } = this.#run;
    for (let at = counts.nextUsedArea(from); at < to; at++) {
      const references = counts.get(at);
      if (references === 0) {
        at = counts.nextUsedArea(at + 1) - 1;
        continue;
      }
      this.#highest = at;
      this.#mismatch(at, 0, references);
    }
  }

  #unreadable(from: number, to: number, why: string): void {
    const run = this.#run;
    for (let cluster = from; cluster < to; cluster++) {
      run.report(`Can't get refcount for cluster ${cluster}: ${why}`);
      run.result.checkErrors++;
      this.#differences.noteUnreadable(cluster);
    }
  }

  /** Judges one cluster; whether its refcount is to be repaired. */
  #mismatch(cluster: number, refcount: number, references: number, text = '0'): boolean {
    const run = this.#run;
    const { result } = run;
    const isLeak = refcount > references;
    let isFixed = false;
    if (refcount === 0) run.needsRebuild = true;
    else isFixed = isLeak ? this.#how.fixLeaks : this.#how.fixErrors;
    const what = isFixed ? 'Repairing' : isLeak ? 'Leaked' : 'ERROR';
    run.report(`${what} cluster ${cluster} refcount=${text} reference=${references}`);
    if (isFixed) {
      if (isLeak) result.leaksFixed++;
      else result.corruptionsFixed++;
      return true;
    }
    if (isLeak) result.leaks++;
    else result.corruptions++;
    this.#differences.note(cluster, refcount, text);
    return false;
  }
}

/** Offset of refcount block `index`, 0 when there is none; undefined when the entry is damaged. */
export function blockOffset(run: CheckRun, index: number): number | undefined {
  const { reftable, g } = run;
  if (index * 8 >= reftable.byteLength) return 0;
  const hi = reftable.getUint32(index * 8);
  const lo = (reftable.getUint32(index * 8 + 4) & 0xffff_fe00) >>> 0;
  if (lo % g.clusterSize !== 0) return undefined;
  // What no file can hold cannot be read.
  return hi > 0x7fff_ffff ? undefined : hi * 0x1_0000_0000 + lo;
}
