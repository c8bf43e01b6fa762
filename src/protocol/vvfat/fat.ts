/** The file allocation table, computed from the runs of clusters (F2). */
import { mediaByte } from './boot.js';
import type { Layout } from './layout.js';
import type { FatNode } from './tree.js';

export class FatTable {
  readonly #layout: Layout;
  /** Files and folders that have clusters, by their first. */
  readonly #runs: readonly FatNode[];
  /** The run that was looked at last: neighbours ask for it again. */
  #last = 0;

  constructor(layout: Layout, runs: readonly FatNode[]) {
    this.#layout = layout;
    this.#runs = runs;
  }

  /** Bytes [from, from + bytes) of a FAT; with FAT16 and FAT32 at multiples of an entry. */
  bytes(from: number, bytes: number): Uint8Array {
    const out = new Uint8Array(bytes);
    const { bits } = this.#layout;
    if (bits === 12) {
      for (let i = 0; i < bytes; i++) out[i] = this.#byteOf12(from + i);
      return out;
    }
    const view = new DataView(out.buffer);
    const width = bits / 8;
    for (let at = 0; at < bytes; at += width) {
      const value = this.#entry((from + at) / width);
      if (bits === 16) view.setUint16(at, value, true);
      else view.setUint32(at, value, true);
    }
    return out;
  }

  /** Two entries of 12 bits share three bytes. */
  #byteOf12(at: number): number {
    const pair = Math.floor(at / 3) * 2;
    switch (at % 3) {
      case 0:
        return this.#entry(pair) & 0xff;
      case 1:
        return (this.#entry(pair) >> 8) | ((this.#entry(pair + 1) & 0x0f) << 4);
      default:
        return this.#entry(pair + 1) >> 4;
    }
  }

  /** What stands for `cluster`: the next one of its file, the end of the chain, or 0: free. */
  #entry(cluster: number): number {
    const { bits } = this.#layout;
    const end = bits === 32 ? 0x0fff_ffff : 2 ** bits - 1;
    if (cluster === 0) return end - 0xff + mediaByte(this.#layout);
    if (cluster === 1) return end;
    const run = this.#runOf(cluster);
    if (run === undefined) return 0;
    return cluster === run.cluster + run.clusters - 1 ? end : cluster + 1;
  }

  #runOf(cluster: number): FatNode | undefined {
    for (const near of [this.#last, this.#last + 1]) {
      const run = this.#runs[near];
      if (run === undefined || cluster < run.cluster) continue;
      if (cluster >= run.cluster + run.clusters) continue;
      this.#last = near;
      return run;
    }
    const found = lastAtOrBelow(this.#runs, cluster, (run) => run.cluster);
    const run = this.#runs[found];
    if (run === undefined || cluster >= run.cluster + run.clusters) return undefined;
    this.#last = found;
    return run;
  }
}

/** Index of the last of `sorted` whose key is not above `key`; -1: there is none. */
export function lastAtOrBelow<T>(
  sorted: readonly T[],
  key: number,
  keyOf: (each: T) => number,
): number {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    const each = sorted[middle];
    if (each !== undefined && keyOf(each) <= key) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
