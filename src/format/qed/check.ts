/**
 * `check` ("Consistency checking" of the specification): reads the tables as they are in the file
 * and counts how often each cluster is named. A repair clears entries that name what cannot be;
 * what is named twice stays, as with QEMU, for nobody knows whose it is.
 */
import type { Child } from '../../block/child.js';
import type { CheckOptions, CheckResult } from '../../block/driver.js';
import { Iov, isZeroBytes } from '../../lib/iov.js';
import { readU64 } from '../../lib/fields.js';
import { SparseBits } from '../../lib/sparse-bits.js';
import { tableEntries } from './header.js';
import type { QedHeaderFields } from './layout.js';
import { Entry } from './layout.js';

/** Tables are read in pieces of this many bytes. */
const PIECE = 1024 * 1024;

/** Looks at a whole table, in order. `fix`: the entry is to become 0. Returns whether to. */
type Visit = (index: number, offset: number) => Promise<boolean> | boolean;

class Checker {
  readonly result: CheckResult = {
    corruptions: 0,
    leaks: 0,
    checkErrors: 0,
    corruptionsFixed: 0,
    leaksFixed: 0,
    totalClusters: 0,
    allocatedClusters: 0,
    fragmentedClusters: 0,
  };
  readonly #file: Child;
  readonly #fields: QedHeaderFields;
  readonly #fixes: boolean;
  readonly #used = new SparseBits();
  readonly #end: number;
  readonly #tableBytes: number;
  #allocated = 0;
  #fragmented = 0;

  constructor(file: Child, fields: QedHeaderFields, fixes: boolean) {
    this.#file = file;
    this.#fields = fields;
    this.#fixes = fixes;
    const size = fields.cluster_size;
    this.#end = file.size - (file.size % size);
    this.#tableBytes = tableEntries(size, fields.table_size) * Entry.bytes;
  }

  async run(): Promise<CheckResult> {
    const { cluster_size: size, table_size, header_size, l1_table_offset: l1 } = this.#fields;
    const { result } = this;
    if (!this.#use(l1, table_size)) return result;
    const isWhole = await this.#scan(l1, (index, offset) => this.#l1Entry(index, offset));
    if (isWhole) result.leaks = this.#end / size - header_size - this.#used.count;
    result.totalClusters = Math.ceil(this.#fields.image_size / size);
    result.allocatedClusters = this.#allocated;
    result.fragmentedClusters = this.#fragmented;
    return result;
  }

  /** True: the entry is cleared. */
  async #l1Entry(_index: number, offset: number): Promise<boolean> {
    const { table_size } = this.#fields;
    if (!this.#isPlace(offset, this.#tableBytes)) return this.#invalid();
    if (!this.#use(offset, table_size)) return false;
    let last = 0;
    await this.#scan(offset, (_i, cluster) => {
      if (cluster === Entry.zero) return false;
      const { cluster_size: size } = this.#fields;
      this.#allocated++;
      if (last !== 0 && last + size !== cluster) this.#fragmented++;
      last = cluster;
      if (!this.#isPlace(cluster, size)) return this.#invalid();
      this.#use(cluster, 1);
      return false;
    });
    return false;
  }

  #invalid(): boolean {
    if (this.#fixes) this.result.corruptionsFixed++;
    else this.result.corruptions++;
    return this.#fixes;
  }

  #isPlace(offset: number, bytes: number): boolean {
    const { cluster_size: size, header_size } = this.#fields;
    return offset % size === 0 && offset >= header_size * size && offset + bytes <= this.#end;
  }

  /** Marks clusters as named and counts those that were; false: one was. */
  #use(offset: number, clusters: number): boolean {
    let isFirst = true;
    const start = offset / this.#fields.cluster_size;
    for (let i = 0; i < clusters; i++) {
      if (this.#used.add(start + i)) continue;
      isFirst = false;
      this.result.corruptions++;
    }
    return isFirst;
  }

  /** Visits the entries that are not 0; false: some of the table could not be read. */
  async #scan(start: number, visit: Visit): Promise<boolean> {
    let isWhole = true;
    for (let at = 0; at < this.#tableBytes; at += PIECE) {
      const bytes = new Uint8Array(Math.min(PIECE, this.#tableBytes - at));
      try {
        await this.#file.read(start + at, Iov.of(bytes));
      } catch {
        this.result.checkErrors++;
        isWhole = false;
        continue;
      }
      if (isZeroBytes(bytes)) continue;
      const changed = await this.#visit(bytes, at / Entry.bytes, visit);
      if (changed) await this.#file.write(start + at, Iov.of(bytes));
    }
    return isWhole;
  }

  async #visit(bytes: Uint8Array, first: number, visit: Visit): Promise<boolean> {
    const view = new DataView(bytes.buffer);
    let changed = false;
    for (let i = 0; i < bytes.length; i += Entry.bytes) {
      const offset = readU64(view, i, true);
      if (offset === Entry.unallocated) continue;
      const clear = visit(first + i / Entry.bytes, offset);
      if (clear !== true && (clear === false || !(await clear))) continue;
      view.setBigUint64(i, 0n);
      changed = true;
    }
    return changed;
  }
}

/**
 * Checks the image in the file; nothing of it may be waiting in memory. Throws what writing
 * repairs throws.
 */
export async function checkImage(
  file: Child,
  fields: QedHeaderFields,
  { fixErrors, fixLeaks }: Pick<CheckOptions, 'fixErrors' | 'fixLeaks'>,
): Promise<CheckResult> {
  return new Checker(file, fields, fixErrors || fixLeaks).run();
}
