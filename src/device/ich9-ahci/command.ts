/** A command as it stands in guest memory (AHCI 1.3.1, section 4.2): header, table, regions. */
import type { GuestMemory, GuestRange } from '../../host/guest-memory.js';

const HEADER_BYTES = 32;
const TABLE_REGIONS = 0x80;
const TABLE_PACKET = 0x40;
const REGION_BYTES = 16;
/** Of a command FIS; there is room for more that no command has. */
const FIS_BYTES = 20;
/** Headers, regions and counts are looked at one at a time, in one place. */
const scratch = new Uint8Array(16);
const scratchView = new DataView(scratch.buffer);
const countBytes = new Uint8Array(4);
const countView = new DataView(countBytes.buffer);

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
    memory.read(this.#header, scratch);
    const flags = scratchView.getUint32(0, true);
    this.isPacket = (flags & 0x20) !== 0;
    this.#regions = flags >>> 16;
    const low = (scratchView.getUint32(8, true) & ~0x7f) >>> 0;
    this.#table = scratchView.getUint32(12, true) * 2 ** 32 + low;
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
    this.#memory.read(this.#table + TABLE_REGIONS + REGION_BYTES * this.#next++, scratch);
    this.#address = scratchView.getUint32(4, true) * 2 ** 32 + scratchView.getUint32(0, true);
    this.#left = (scratchView.getUint32(12, true) & 0x3f_ffff) + 1;
    return true;
  }

  /** Tells how many bytes were moved. */
  report(): void {
    countView.setUint32(0, this.moved, true);
    this.#memory.write(this.#header + 4, countBytes);
  }
}
