/**
 * New refcount structures from the references that `check` counted.
 *
 * Order of writes
 *  RB1  Refcount blocks and the table go to clusters that nothing refers to and that the old
 *       structures do not occupy.
 *  RB2  They are durable before the header names them.
 *  RB3  The header changes in one sector: before it the old structures are in force, after it
 *       the new ones.
 *  RB4  The old structures stay counted until then, so that after a crash they are leaks at most.
 */
import { BlockError } from '../../block/errors.js';
import { Iov } from '../../lib/iov.js';
import type { CheckRun } from './check-run.js';
import { ClusterSet } from './check-counts.js';
import { Limit } from './layout.js';
import { refcountCodec } from './refcount-codec.js';

/** Blocks that are written at a time. */
const BATCH = 16;

/** Builds, writes and hooks up new structures. Throws what writing throws; EFBIG: no room. */
export async function rebuildRefcounts(run: CheckRun): Promise<void> {
  const plan = new Plan(run);
  plan.make();
  await plan.write();
  const { fields } = run.target.header;
  const before = { ...fields };
  fields.refcount_table_offset = plan.tableOffset;
  fields.refcount_table_clusters = plan.tableClusters;
  try {
    await run.target.writeFields();
  } catch (e) {
    Object.assign(fields, before);
    throw e;
  }
  run.reftable = plan.reftable();
  run.measureFile();
}

class Plan {
  readonly #run: CheckRun;
  /** Cluster of each refcount block, by index of the block. */
  readonly #blocks = new Map<number, number>();
  readonly #reserved = new ClusterSet();
  #nextFree = 1;
  #tableCluster = 0;
  tableClusters = 0;

  constructor(run: CheckRun) {
    this.#run = run;
  }

  get tableOffset(): number {
    return this.#tableCluster * this.#run.g.clusterSize;
  }

  /** Chooses clusters until blocks cover all that is used, themselves and the table included. */
  make(): void {
    const { counts, g } = this.#run;
    this.#reserveOld();
    const per = g.refcountBlockEntries;
    for (let at = counts.nextUsedArea(0); at < counts.end; at++) {
      if (counts.get(at) !== 0) {
        this.#cover(at);
        // The rest of this block's clusters is covered as well.
        at = (Math.floor(at / per) + 1) * per - 1;
      }
      if (((at + 1) & 0xffff) === 0) at = counts.nextUsedArea(at + 1) - 1;
    }
    this.#placeTable();
  }

  /** What is in force now is not written to, though perhaps nobody counts it. */
  #reserveOld(): void {
    const { g, reftable, target } = this.#run;
    const { refcount_table_offset, refcount_table_clusters } = target.header.fields;
    const first = Math.floor(refcount_table_offset / g.clusterSize);
    for (let i = 0; i < refcount_table_clusters; i++) this.#reserve(first + i);
    for (let at = 0; at < reftable.byteLength; at += 8) {
      const offset =
        reftable.getUint32(at) * 0x1_0000_0000 + (reftable.getUint32(at + 4) & 0xffff_fe00);
      if (offset > 0) this.#reserve(Math.floor(offset / g.clusterSize));
    }
  }

  #reserve(cluster: number): void {
    if (cluster < this.#run.fileClusters) this.#reserved.add(cluster);
  }

  /** Makes sure that a block holds the refcount of `cluster`. */
  #cover(cluster: number): void {
    const index = Math.floor(cluster / this.#run.g.refcountBlockEntries);
    if (this.#blocks.has(index)) return;
    this.#blocks.set(index, -1);
    const place = this.#take(1);
    this.#blocks.set(index, place);
    this.#cover(place);
  }

  /** Finds and counts `length` free clusters in a row. */
  #take(length: number): number {
    const { counts } = this.#run;
    let at = this.#nextFree;
    let found = 0;
    while (found < length) {
      const isFree = counts.get(at + found) === 0 && !this.#reserved.has(at + found);
      if (isFree) found++;
      else {
        at += found + 1;
        found = 0;
      }
    }
    for (let i = 0; i < length; i++) counts.set(at + i, 1);
    if (length === 1) this.#nextFree = at + 1;
    return at;
  }

  #placeTable(): void {
    const { g } = this.#run;
    for (;;) {
      let entries = 0;
      for (const index of this.#blocks.keys()) entries = Math.max(entries, index + 1);
      this.tableClusters = Math.ceil(entries / g.reftableClusterEntries);
      if (this.tableClusters * g.clusterSize > Limit.maxReftableBytes) {
        throw new BlockError('EFBIG');
      }
      const place = this.#take(this.tableClusters);
      const blocks = this.#blocks.size;
      this.#cover(place);
      this.#cover(place + this.tableClusters - 1);
      this.#tableCluster = place;
      let highest = 0;
      for (const index of this.#blocks.keys()) highest = Math.max(highest, index);
      if (blocks === this.#blocks.size || highest < this.tableClusters * g.reftableClusterEntries) {
        return;
      }
      // The blocks that cover the table made the table longer: another place for it.
      for (let i = 0; i < this.tableClusters; i++) this.#run.counts.set(place + i, 0);
    }
  }

  reftable(): DataView {
    const { clusterSize } = this.#run.g;
    const view = new DataView(new ArrayBuffer(this.tableClusters * clusterSize));
    for (const [index, cluster] of this.#blocks) {
      const offset = cluster * clusterSize;
      view.setUint32(index * 8, Math.floor(offset / 0x1_0000_0000));
      view.setUint32(index * 8 + 4, offset % 0x1_0000_0000);
    }
    return view;
  }

  /** RB1 and RB2. */
  async write(): Promise<void> {
    const run = this.#run;
    const { clusterSize } = run.g;
    const blocks = [...this.#blocks];
    for (let i = 0; i < blocks.length; i += BATCH) {
      const batch = blocks.slice(i, i + BATCH);
      const writes = batch.map(([index, cluster]) =>
        run.file.write(cluster * clusterSize, Iov.of(this.#encode(index))),
      );
      await Promise.all(writes);
    }
    await run.file.write(this.tableOffset, Iov.of(new Uint8Array(this.reftable().buffer)));
    await run.file.flush();
  }

  #encode(index: number): Uint8Array {
    const { counts, g } = this.#run;
    const block = new DataView(new ArrayBuffer(g.clusterSize));
    const codec = refcountCodec(g.refcountOrder);
    const first = index * g.refcountBlockEntries;
    const last = Math.min(first + g.refcountBlockEntries, counts.end);
    for (let at = first; at < last; at++) {
      const count = counts.get(at);
      if (count !== 0) codec.set(block, at - first, count);
    }
    return new Uint8Array(block.buffer);
  }
}
