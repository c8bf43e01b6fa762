/**
 * The last step of `check`: the copied flag of entries of the active L1 table and its L2 tables is
 * set if and only if the refcount is exactly one.
 */
import { BlockError, errorText } from '../../block/errors.js';
import { errnoText } from '../../lib/errno.js';
import { Iov } from '../../lib/iov.js';
import type { Comparison } from './check-compare.js';
import { blockOffset } from './check-compare.js';
import { ClusterSet } from './check-counts.js';
import type { CheckRun } from './check-run.js';
import { entryHex, entryOffset } from './entry.js';
import { Entry } from './layout.js';
import { ReadAhead } from './read-ahead.js';
import { refcountCodec } from './refcount-codec.js';

/** Lines that are told of tables that several entries name. */
const MAX_LINES = 1_000_000;

/** Checks all flags; `repair` sets them right. Throws what reading or writing tables throws. */
export async function checkCopied(
  run: CheckRun,
  compared: Comparison,
  repair: boolean,
): Promise<void> {
  await new CopiedCheck(run, compared, repair).run();
}

class CopiedCheck {
  readonly #run: CheckRun;
  readonly #compared: Comparison;
  readonly #repair: boolean;
  /** L2 tables that were looked at and need no second look. */
  readonly #done = new ClusterSet();
  #lines = 0;

  constructor(run: CheckRun, compared: Comparison, repair: boolean) {
    this.#run = run;
    this.#compared = compared;
    this.#repair = repair;
  }

  async run(): Promise<void> {
    const run = this.#run;
    const { l1_size, l1_table_offset } = run.target.header.fields;
    const l1 = new DataView((await run.read(l1_table_offset, l1_size * 8)).buffer);
    const ahead = new ReadAhead(run.file, run.g.clusterSize, tables(l1, l1_size));
    for (let i = 0; i < l1_size; i++) {
      const offset = entryOffset(l1.getUint32(i * 8), l1.getUint32(i * 8 + 4));
      if (offset === 0) continue;
      if (!(await this.#l1Entry(l1, i, offset))) continue;
      await this.#l2Table(offset, ahead);
    }
  }

  /** Whether the table behind the entry can be looked at. */
  async #l1Entry(l1: DataView, index: number, offset: number): Promise<boolean> {
    const run = this.#run;
    const refcount = await this.#refcount(offset);
    // Who cannot tell the refcount of a table leaves the flags in it alone.
    if (refcount === undefined) return false;
    const hi = l1.getUint32(index * 8);
    const lo = l1.getUint32(index * 8 + 4);
    const isCopied = (hi & Entry.copiedHi) !== 0;
    if ((refcount === 1) === isCopied) return true;
    run.result.corruptions++;
    run.report(
      `${this.#word()} OFLAG_COPIED L2 cluster: l1_index=${index} l1_entry=${entryHex(hi, lo)} ` +
        `refcount=${this.#text(offset, refcount)}`,
    );
    if (!this.#repair) return true;
    const fixed = new DataView(new ArrayBuffer(8));
    fixed.setUint32(0, withFlag(hi, refcount === 1));
    fixed.setUint32(4, lo);
    const at = run.target.header.fields.l1_table_offset + index * 8;
    // The L1 table itself is one structure; a second one, or an L2 table, must not be there.
    const cluster = Math.floor(at / run.g.clusterSize);
    if (run.structuresIn(at, 8) > 1 || run.visited.has(cluster)) throw new BlockError('EIO');
    await run.file.write(at, Iov.of(new Uint8Array(fixed.buffer)));
    run.result.corruptions--;
    run.result.corruptionsFixed++;
    return true;
  }

  #text(offset: number, refcount: number): string {
    if (this.#run.hasDataFile || Number.isSafeInteger(refcount)) return String(refcount);
    return this.#compared.differences.text(Math.floor(offset / this.#run.g.clusterSize));
  }

  #word(): string {
    return this.#repair ? 'Repairing' : 'ERROR';
  }

  async #l2Table(offset: number, ahead: ReadAhead): Promise<void> {
    const run = this.#run;
    // Crafted L1 tables name one table millions of times; it is right, or was put right, once.
    const cluster = Math.floor(offset / run.g.clusterSize);
    if (cluster < this.#compared.end && this.#done.has(cluster)) return;
    const { l2Entries, l2EntrySize, extendedL2 } = run.g;
    const bytes = await this.#read(offset, ahead);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let wrong = 0;
    for (let i = 0; i < l2Entries; i++) {
      const hi = view.getUint32(i * l2EntrySize);
      const lo = view.getUint32(i * l2EntrySize + 4);
      if ((hi | lo) === 0 || (hi & Entry.compressedHi) !== 0) continue;
      const isCopied = (hi & Entry.copiedHi) !== 0;
      const host = entryOffset(hi, lo);
      const zero = !extendedL2 && (lo & Entry.zeroLo) !== 0;
      if (host === 0 && (zero || !run.hasDataFile || !isCopied)) continue;
      // Clusters of a data file belong to one guest cluster by definition.
      const refcount = run.hasDataFile ? 1 : (this.#known(host) ?? (await this.#refcount(host)));
      if (refcount === undefined) continue;
      if ((refcount === 1) === isCopied) continue;
      run.report(
        `${this.#word()} OFLAG_COPIED data cluster: l2_entry=${entryHex(hi, lo)} ` +
          `refcount=${this.#text(host, refcount)}`,
      );
      wrong++;
      if (this.#repair) view.setUint32(i * l2EntrySize, withFlag(hi, refcount === 1));
    }
    if (wrong > 0) await this.#settle(offset, bytes, wrong);
    this.#lines += wrong;
    const isDone = wrong === 0 || this.#repair || this.#lines > MAX_LINES;
    if (isDone && cluster < this.#compared.end) this.#done.add(cluster);
  }

  async #settle(offset: number, bytes: Uint8Array, wrong: number): Promise<void> {
    const run = this.#run;
    if (!this.#repair) {
      run.result.corruptions += wrong;
      return;
    }
    if (run.structuresIn(offset, bytes.length) > 0) {
      const why = errnoText('EIO');
      run.report(`ERROR: Could not write L2 table; metadata overlap check failed: ${why}`);
      run.result.checkErrors++;
      throw new BlockError('EIO');
    }
    try {
      await run.file.write(offset, Iov.of(bytes.slice()));
    } catch (e) {
      run.report(`ERROR: Could not write L2 table: ${errorText(e)}`);
      run.result.checkErrors++;
      throw e;
    }
    run.result.corruptionsFixed += wrong;
  }

  async #read(offset: number, ahead: ReadAhead): Promise<Uint8Array> {
    try {
      return await ahead.take(offset);
    } catch (e) {
      this.#run.report(`ERROR: Could not read L2 table: ${errorText(e)}`);
      this.#run.result.checkErrors++;
      throw e;
    }
  }

  /** Refcount of the cluster at `offset` where the comparison has it. */
  #known(offset: number): number | undefined {
    const cluster = Math.floor(offset / this.#run.g.clusterSize);
    if (cluster >= this.#compared.end) return undefined;
    return this.#compared.differences.refcount(cluster);
  }

  /** The same from the image, for clusters past its end; undefined when it cannot be told. */
  async #refcount(offset: number): Promise<number | undefined> {
    const run = this.#run;
    const { clusterSize, refcountBlockEntries, refcountOrder } = run.g;
    const cluster = Math.floor(offset / clusterSize);
    if (cluster < this.#compared.end) return this.#known(offset);
    const block = blockOffset(run, Math.floor(cluster / refcountBlockEntries));
    if (block === undefined) return undefined;
    if (block === 0) return 0;
    const bytes = await run.read(block, clusterSize);
    return refcountCodec(refcountOrder).get(
      new DataView(bytes.buffer),
      cluster % refcountBlockEntries,
    );
  }
}

function* tables(l1: DataView, entries: number): Generator<number> {
  for (let i = 0; i < entries; i++) {
    const offset = entryOffset(l1.getUint32(i * 8), l1.getUint32(i * 8 + 4));
    if (offset !== 0) yield offset;
  }
}

function withFlag(hi: number, copied: boolean): number {
  return (copied ? hi | Entry.copiedHi : hi & ~Entry.copiedHi) >>> 0;
}
