/**
 * What moves where, in clusters: a pure plan over the references that were counted.
 *
 * What must stay together (a table of several clusters, compressed data that reaches from one
 * cluster into the next) is a *run* and moves as a whole. Free places are taken from the front.
 */
import type { ClusterCounts } from './check-counts.js';
import { ClusterSet } from './check-counts.js';
import type { Use } from './compact-references.js';
import type { Geometry } from './units.js';

/** `count` clusters from `from` on go to `to`. */
export interface Move {
  readonly from: number;
  readonly to: number;
  readonly count: number;
}

/** Clusters of one batch; bounds the memory for it. */
const BATCH = 0x4_0000;

export class CompactPlan {
  /** References to each cluster, those to refcount structures left out. */
  readonly counts: ClusterCounts;
  /** Refcount structures in force, and the end of the last. */
  structures = new ClusterSet();
  structuresEnd = 0;
  readonly #g: Geometry;
  /** Whether a refcount block counts a cluster. */
  readonly #isCounted: (cluster: number) => boolean;
  /** A cluster that belongs together with the one before it. */
  readonly #linked = new ClusterSet();
  readonly #fixed = new ClusterSet();
  readonly #guest = new ClusterSet();
  /** No used cluster lies at or behind it. */
  #end = 0;
  #structureCount = 0;
  /** Everything before it is in use. */
  #low = 0;

  constructor(g: Geometry, counts: ClusterCounts, isCounted: (cluster: number) => boolean) {
    this.#g = g;
    this.counts = counts;
    this.#isCounted = isCounted;
  }

  addStructure(cluster: number): void {
    this.structures.add(cluster);
    this.structuresEnd = Math.max(this.structuresEnd, cluster);
    this.#structureCount++;
  }

  /** [host, host + bytes) is referred to `times` times. */
  use(use: Use, host: number, bytes: number, times: number): void {
    const { clusterSize } = this.#g;
    const first = Math.floor(host / clusterSize);
    const last = Math.floor((host + bytes - 1) / clusterSize);
    for (let at = first; at <= last; at++) {
      this.counts.set(at, this.counts.get(at) + times);
      if (at > first) this.#linked.add(at);
      if (use === 'fixed') this.#fixed.add(at);
      if (use === 'guest') this.#guest.add(at);
    }
    this.#end = Math.max(this.#end, last + 1);
  }

  isGuest(cluster: number): boolean {
    return this.#guest.has(cluster);
  }

  /** The last cluster in use, refcount structures left out. */
  highestUsed(): number {
    let at = this.#end - 1;
    while (at > 0 && this.counts.get(at) === 0) at--;
    this.#end = at + 1;
    return at;
  }

  /** The last cluster in use. */
  highest(): number {
    return Math.max(this.highestUsed(), this.structuresEnd);
  }

  /** Whether new refcount structures would fit in front of where the old ones end. */
  hasRoomForStructures(): boolean {
    let free = 0;
    for (let at = 1; at < this.structuresEnd; at++) {
      if (this.#isFree(at) && ++free >= this.#structureCount) return true;
    }
    return false;
  }

  #isFree(cluster: number): boolean {
    return this.counts.get(cluster) === 0 && !this.structures.has(cluster);
  }

  /**
   * The moves of the next batch; none when the end cannot come nearer. The targets count as used
   * from now on. Every target lies before every source.
   */
  next(): Move[] {
    const moves: Move[] = [];
    let clusters = 0;
    let highestTarget = 0;
    let top = this.highestUsed();
    let runSearch = this.#low;
    while (clusters < BATCH) {
      while (top > highestTarget && this.counts.get(top) === 0) top--;
      if (top <= highestTarget) break;
      let first = top;
      while (this.#linked.has(first)) first--;
      const count = top - first + 1;
      if (this.#holdsFixed(first, count) || first <= highestTarget) break;
      const to = count === 1 ? this.#findOne(first) : this.#findRun(count, first, runSearch);
      if (to === undefined) break;
      if (count > 1) runSearch = to + count;
      for (let i = 0; i < count; i++) this.counts.set(to + i, 1);
      moves.push({ from: first, to, count });
      highestTarget = Math.max(highestTarget, to + count - 1);
      clusters += count;
      top = first - 1;
    }
    const ordered = inOrder(moves);
    for (const move of ordered) this.#take(move);
    return ordered;
  }

  #holdsFixed(first: number, count: number): boolean {
    for (let at = first; at < first + count; at++) if (this.#fixed.has(at)) return true;
    return false;
  }

  #findOne(below: number): number | undefined {
    while (this.#low < below && !this.#isUsable(this.#low)) this.#low++;
    return this.#low < below ? this.#low : undefined;
  }

  #findRun(count: number, below: number, from: number): number | undefined {
    let length = 0;
    for (let at = from; at < below; at++) {
      length = this.#isUsable(at) ? length + 1 : 0;
      if (length === count) return at - count + 1;
    }
    return undefined;
  }

  #isUsable(cluster: number): boolean {
    return this.#isFree(cluster) && this.#isCounted(cluster);
  }

  #take({ from, to, count }: Move): void {
    for (let i = 0; i < count; i++) {
      this.counts.set(to + i, this.counts.get(from + i));
      if (i > 0) this.#linked.add(to + i);
      if (this.#guest.has(from + i)) this.#guest.add(to + i);
    }
  }

  /** The sources are free. */
  moved(moves: readonly Move[]): void {
    for (const { from, count } of moves) {
      for (let i = 0; i < count; i++) this.counts.set(from + i, 0);
    }
  }

  /** The targets are free after all; nothing is planned with this plan any more. */
  undo(moves: readonly Move[]): void {
    for (const { to, count } of moves) {
      for (let i = 0; i < count; i++) this.counts.set(to + i, 0);
    }
  }

  /** Moves joined and cut to pieces of at most `most` clusters, each of one kind. */
  *pieces(moves: readonly Move[], most: number): Generator<Move> {
    let open: Move | undefined;
    for (const { from, to, count } of moves) {
      for (let i = 0; i < count; i++) {
        const joins =
          open !== undefined &&
          open.count < most &&
          open.from + open.count === from + i &&
          open.to + open.count === to + i &&
          this.#guest.has(open.from) === this.#guest.has(from + i);
        if (open !== undefined && joins) open = { ...open, count: open.count + 1 };
        else {
          if (open !== undefined) yield open;
          open = { from: from + i, to: to + i, count: 1 };
        }
      }
    }
    if (open !== undefined) yield open;
  }
}

/** Single clusters keep their order among themselves, so that neighbours stay neighbours. */
function inOrder(moves: readonly Move[]): Move[] {
  const singles = moves.filter(({ count }) => count === 1);
  const from = singles.map((move) => move.from).sort((a, b) => a - b);
  const to = singles.map((move) => move.to).sort((a, b) => a - b);
  const sorted = from.map((cluster, i) => ({ from: cluster, to: to[i]!, count: 1 }));
  const runs = moves.filter(({ count }) => count > 1);
  return [...sorted, ...runs].sort((a, b) => a.from - b.from);
}
