/**
 * A floppy drive as its controller sees it: where the head is, what medium there is, and the
 * disk-change line.
 */
import { Iov } from '../../../lib/iov.js';
import type { Drive } from '../drive.js';
import type { FloppyGeometry, FloppyType } from './geometry.js';
import { floppyGeometry, floppySectors } from './geometry.js';

export const SECTOR = 512;

export class FloppyDrive {
  readonly type: FloppyType;
  readonly #drive: Drive;
  /** Where the head stands. */
  cylinder = 0;
  head = 0;
  /** A medium came or went, and the head has not stepped since. */
  #hasChanged = true;
  #geometry: FloppyGeometry | undefined;

  constructor(type: FloppyType, drive: Drive) {
    this.type = type;
    this.#drive = drive;
    this.#guess();
  }

  #guess(): void {
    // Without a medium the last one's format stays: it bounds where the head goes.
    if (!this.isInserted) return;
    this.#geometry = floppyGeometry(Math.floor(this.#drive.bytes / SECTOR), this.type);
  }

  get isInserted(): boolean {
    return this.#drive.isInserted;
  }

  get isReadOnly(): boolean {
    return this.isInserted && !this.#drive.mayWrite;
  }

  /** Format of the medium, or of the one that was there last. */
  get geometry(): FloppyGeometry | undefined {
    return this.#geometry;
  }

  /** The disk-change line: the medium changed, or there is none. */
  get hasChanged(): boolean {
    return this.#hasChanged || !this.isInserted;
  }

  mediumChanged(): void {
    this.#hasChanged = true;
    this.#guess();
  }

  /** Steps to a cylinder; the head stays where it is when there is none such. */
  seek(cylinder: number): void {
    const most = (this.#geometry?.cylinders ?? 1) - 1;
    if (cylinder > most || cylinder === this.cylinder) return;
    this.cylinder = cylinder;
    if (this.isInserted) this.#hasChanged = false;
  }

  /** Number of a sector on the disk; undefined: there is no such one. */
  sectorAt(cylinder: number, head: number, sector: number): number | undefined {
    const geometry = this.#geometry;
    if (geometry === undefined) return undefined;
    const { cylinders, heads, sectors } = geometry;
    if (cylinder >= cylinders || head >= heads || sector < 1 || sector > sectors) return undefined;
    return (cylinder * heads + head) * sectors + sector - 1;
  }

  /** Reads one sector; beyond the end of a short image there are zeroes. Rejects: BlockError. */
  async read(number: number, out: Uint8Array): Promise<void> {
    const bytes = this.#inside(number);
    out.fill(0, bytes);
    if (bytes > 0) await this.#drive.read(number * SECTOR, Iov.of(out.subarray(0, bytes)));
  }

  /** Writes one sector; what is beyond the end of a short image goes nowhere. */
  async write(number: number, data: Uint8Array): Promise<void> {
    const bytes = this.#inside(number);
    if (bytes > 0) await this.#drive.write(number * SECTOR, Iov.of(data.subarray(0, bytes)));
  }

  #inside(number: number): number {
    return Math.max(0, Math.min(SECTOR, this.#drive.bytes - number * SECTOR));
  }

  /** Whether the medium's data rate is the one that the controller uses. */
  hasRate(rate: number): boolean {
    return this.#geometry === undefined || this.#geometry.rate === rate;
  }

  /** Sectors that the format holds. */
  get sectors(): number {
    return this.#geometry === undefined ? 0 : floppySectors(this.#geometry);
  }
}
