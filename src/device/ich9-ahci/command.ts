/** A command as it stands in guest memory (AHCI 1.3.1, section 4.2): header, table, regions. */
import type { GuestMemory, GuestRange } from '../../host/guest-memory.js';

const HEADER_BYTES = 32;
const TABLE_REGIONS = 0x80;
const TABLE_PACKET = 0x40;
const REGION_BYTES = 16;
const FIS_BYTES = 64;

export class AhciCommand {
  readonly slot: number;
  readonly fis = new Uint8Array(FIS_BYTES);
  readonly isPacket: boolean;
  /** Bytes moved so far. */
  moved = 0;
  readonly #memory: GuestMemory;
  readonly #header: number;
  readonly #table: number;
  readonly #regions: number;
  #next = 0;
  #address = 0;
  #left = 0;

  constructor(memory: GuestMemory, list: number, slot: number) {
    this.#memory = memory;
    this.slot = slot;
    this.#header = list + HEADER_BYTES * slot;
    const raw = new Uint8Array(16);
    memory.read(this.#header, raw);
    const view = new DataView(raw.buffer);
    const flags = view.getUint32(0, true);
    this.isPacket = (flags & 0x20) !== 0;
    this.#regions = flags >>> 16;
    const low = (view.getUint32(8, true) & ~0x7f) >>> 0;
    this.#table = view.getUint32(12, true) * 2 ** 32 + low;
    memory.read(this.#table, this.fis);
  }

  /** The packet of a PACKET command. */
  packet(out: Uint8Array): void {
    this.#memory.read(this.#table + TABLE_PACKET, out);
  }

  /** The next `bytes` bytes that the regions describe, or fewer. */
  take(bytes: number): GuestRange[] {
    const ranges: GuestRange[] = [];
    for (let wanted = bytes; wanted > 0;) {
      if (this.#left === 0 && !this.#region()) break;
      const length = Math.min(this.#left, wanted);
      ranges.push({ address: this.#address, bytes: length });
      this.#address += length;
      this.#left -= length;
      wanted -= length;
    }
    return ranges;
  }

  #region(): boolean {
    if (this.#next >= this.#regions) return false;
    const raw = new Uint8Array(REGION_BYTES);
    this.#memory.read(this.#table + TABLE_REGIONS + REGION_BYTES * this.#next++, raw);
    const view = new DataView(raw.buffer);
    this.#address = view.getUint32(4, true) * 2 ** 32 + view.getUint32(0, true);
    this.#left = (view.getUint32(12, true) & 0x3f_ffff) + 1;
    return true;
  }

  /** Tells how many bytes were moved. */
  report(): void {
    const raw = new Uint8Array(4);
    new DataView(raw.buffer).setUint32(0, this.moved, true);
    this.#memory.write(this.#header + 4, raw);
  }
}
