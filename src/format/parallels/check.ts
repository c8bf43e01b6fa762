/**
 * `check`, and the repair of images that were not closed: flag, start of the data, entries outside
 * the file, space at its end that nobody names, clusters that two entries name. Texts are QEMU's.
 */
import type { Child } from '../../block/child.js';
import type { CheckOptions, CheckResult } from '../../block/driver.js';
import { Iov } from '../../lib/iov.js';
import { SparseBits } from '../../lib/sparse-bits.js';
import type { Bat } from './bat.js';
import { InUse, SECTOR } from './layout.js';

/** Offsets of fields in the header. */
const IN_USE = 44;
const DATA_OFF = 48;

type Options = Pick<CheckOptions, 'fixErrors' | 'fixLeaks' | 'report'>;

/** What a check looks at. */
export interface Checked {
  readonly file: Child;
  readonly bat: Bat;
  /** The header said that the image was open. */
  readonly isUnclean: boolean;
  readonly isDataOffWrong: boolean;
}

export class Checker {
  readonly #at: Checked;
  readonly #options: Options;
  readonly result: CheckResult = {
    corruptions: 0,
    leaks: 0,
    checkErrors: 0,
    corruptionsFixed: 0,
    leaksFixed: 0,
  };

  constructor(at: Checked, options: Options) {
    this.#at = at;
    this.#options = options;
  }

  /** Nothing may wait in memory. Throws what writing repairs throws. */
  async run(): Promise<CheckResult> {
    const { bat, isUnclean, isDataOffWrong } = this.#at;
    if (isUnclean) {
      this.#corrupt('image was not closed correctly', () => {
        bat.setField(IN_USE, InUse.none);
      });
    }
    if (isDataOffWrong) {
      this.#corrupt('data_off field has incorrect value', () => {
        bat.setField(DATA_OFF, bat.header.dataStart / SECTOR);
      });
    }
    this.#outside();
    await this.#leaked();
    await this.#twice();
    await bat.store();
    this.#count();
    return this.result;
  }

  /** Tells of an error and mends it where that is asked for. */
  #corrupt(what: string, mend: () => void): void {
    const fixes = this.#options.fixErrors;
    this.#options.report(`${fixes ? 'Repairing' : 'ERROR'} ${what}`);
    this.result.corruptions++;
    if (!fixes) return;
    mend();
    this.result.corruptions--;
    this.result.corruptionsFixed++;
  }

  #isInside(offset: number): boolean {
    const { file, bat } = this.#at;
    return offset >= bat.header.dataStart && offset + bat.clusterBytes <= file.size;
  }

  #outside(): void {
    const { bat } = this.#at;
    for (let i = 0; i < bat.entries; i++) {
      const offset = bat.offsetAt(i);
      if (offset === 0 || this.#isInside(offset)) continue;
      this.#corrupt(`cluster ${String(i)} is outside image`, () => {
        bat.setEntry(i, 0);
      });
    }
  }

  /** End of what is named; it is also told as the end of the image. */
  #usedEnd(): number {
    const { bat } = this.#at;
    let end = bat.header.dataStart;
    for (let i = 0; i < bat.entries; i++) {
      const offset = bat.offsetAt(i);
      if (offset !== 0 && this.#isInside(offset)) end = Math.max(end, offset + bat.clusterBytes);
    }
    return end;
  }

  /** With a Format Extension the space may hold what it names. */
  async #leaked(): Promise<void> {
    const { bat, file } = this.#at;
    const end = this.#usedEnd();
    this.result.imageEndOffset = end;
    const bytes = file.size - end;
    if (bytes <= 0 || bat.header.fields.ext_off !== 0) return;
    const fixes = this.#options.fixLeaks;
    const count = Math.ceil(bytes / bat.clusterBytes);
    const word = fixes ? 'Repairing' : 'ERROR';
    this.#options.report(`${word} space leaked at the end of the image ${String(bytes)}`);
    if (!fixes) {
      this.result.leaks += count;
      return;
    }
    await bat.store();
    await file.truncate(end, { exact: true });
    this.result.leaksFixed += count;
  }

  /** The later entry gets a copy of its own. */
  async #twice(): Promise<void> {
    const { bat } = this.#at;
    const seen = new SparseBits();
    const copies: number[] = [];
    for (let i = 0; i < bat.entries; i++) {
      const offset = bat.offsetAt(i);
      if (offset === 0 || !this.#isInside(offset)) continue;
      const cluster = Math.floor((offset - bat.header.dataStart) / bat.clusterBytes);
      if (seen.add(cluster)) continue;
      this.#corrupt(`duplicate offset in BAT entry ${String(i)}`, () => copies.push(i));
    }
    for (const entry of copies) await this.#copy(entry, seen);
  }

  async #copy(entry: number, seen: SparseBits): Promise<void> {
    const { bat, file } = this.#at;
    const { dataStart } = bat.header;
    const data = Iov.alloc(bat.clusterBytes);
    await file.read(bat.offsetAt(entry), data);
    const end = Math.ceil((file.size - dataStart) / bat.clusterBytes);
    let free = bat.header.fields.ext_off === 0 ? 0 : end;
    while (free < end && seen.has(free)) free++;
    seen.add(free);
    const host = dataStart + free * bat.clusterBytes;
    await file.write(host, data);
    bat.setEntry(entry, host);
    const { imageEndOffset } = this.result;
    this.result.imageEndOffset = Math.max(imageEndOffset ?? 0, host + bat.clusterBytes);
  }

  #count(): void {
    const { bat } = this.#at;
    let allocated = 0;
    let fragmented = 0;
    let last = 0;
    for (let i = 0; i < bat.entries; i++) {
      const offset = bat.offsetAt(i);
      if (offset !== 0) {
        allocated++;
        if (last !== 0 && last + bat.clusterBytes !== offset) fragmented++;
      }
      last = offset;
    }
    this.result.totalClusters = bat.header.fields.nb_bat_entries;
    this.result.allocatedClusters = allocated;
    this.result.fragmentedClusters = fragmented;
    this.result.compressedClusters = 0;
  }
}
