/** Addresses and data of a disk's commands: PIO, DMA, VERIFY, TRIM. */
import { errorCode } from '../../block/errors.js';
import type { Iov } from '../../lib/iov.js';
import { Iov as IovOf } from '../../lib/iov.js';
import type { Drive } from '../bus/drive.js';
import type { Geometry } from '../bus/geometry.js';
import { guestBuffer } from '../../virtio/guest-buffer.js';
import type { DmaEngine, IdeUnit } from '../bus/ide/unit.js';
import { IdeError } from '../bus/ide/unit.js';

export const SECTOR = 512;
/** Sectors that a PIO command reads or gathers at a time. */
const PIO_CHUNK = 256;
/** Sectors that VERIFY reads at a time. */
const VERIFY_CHUNK = 2048;
/** Ranges in one block of DATA SET MANAGEMENT. */
const TRIM_RANGES = SECTOR / 8;
/** Blocks of ranges that one DATA SET MANAGEMENT may bring. */
const MAX_TRIM_BLOCKS = 64;

/** Sectors from `lba` on. */
export interface Extent {
  readonly lba: number;
  readonly count: number;
}

const lbaMode = 0x40;

export class DiskTransfers {
  /** Geometry of addresses by cylinder, head and sector. */
  geometry: Geometry;
  readonly #unit: IdeUnit;
  readonly #drive: Drive;

  constructor(unit: IdeUnit, drive: Drive, geometry: Geometry) {
    this.#unit = unit;
    this.#drive = drive;
    this.geometry = geometry;
  }

  get sectors(): number {
    return Math.floor(this.#drive.bytes / SECTOR);
  }

  /** The sector that the registers address; undefined: there is no such one. */
  address(wide: boolean): number | undefined {
    const { regs } = this.#unit;
    const { previous: p } = regs;
    if (wide) {
      const upper = p.high * 0x1_0000 + p.mid * 0x100 + p.low;
      return upper * 2 ** 24 + regs.high * 0x1_0000 + regs.mid * 0x100 + regs.low;
    }
    const head = regs.device & 15;
    const cylinder = regs.high * 0x100 + regs.mid;
    if ((regs.device & lbaMode) !== 0) return head * 2 ** 24 + cylinder * 0x100 + regs.low;
    const { cylinders, heads, sectors } = this.geometry;
    if (cylinder >= cylinders || head >= heads || regs.low < 1 || regs.low > sectors) {
      return undefined;
    }
    return (cylinder * heads + head) * sectors + regs.low - 1;
  }

  /** What the registers address; undefined: it is not all on the disk. */
  #extent(wide: boolean): Extent | undefined {
    const { regs } = this.#unit;
    const given = wide ? regs.previous.count * 0x100 + (regs.count & 0xff) : regs.count;
    const count = given === 0 ? (wide ? 0x1_0000 : 0x100) : given;
    const lba = this.address(wide);
    if (lba === undefined || lba + count > this.sectors) return undefined;
    return { lba, count };
  }

  /** Leaves the address `lba` in the registers. */
  setAddress(lba: number, wide: boolean): void {
    const { regs } = this.#unit;
    const low = lba % 2 ** 24;
    const upper = Math.floor(lba / 2 ** 24);
    if (!wide && (regs.device & lbaMode) === 0) {
      const { heads, sectors } = this.geometry;
      const track = Math.floor(lba / sectors);
      const cylinder = Math.floor(track / heads);
      regs.low = (lba % sectors) + 1;
      regs.device = (regs.device & 0xf0) | (track % heads);
      regs.mid = cylinder & 0xff;
      regs.high = (cylinder >> 8) & 0xff;
      return;
    }
    regs.low = low & 0xff;
    regs.mid = (low >> 8) & 0xff;
    regs.high = low >>> 16;
    if (wide) {
      regs.previous.low = upper & 0xff;
      regs.previous.mid = (upper >> 8) & 0xff;
      regs.previous.high = (upper >> 16) & 0xff;
    } else {
      regs.device = (regs.device & 0xf0) | (upper & 15);
    }
  }

  #ended(extent: Extent, wide: boolean): void {
    this.setAddress(extent.lba + extent.count - 1, wide);
    this.#unit.regs.count = 0;
  }

  #failed(error: unknown, lba: number, wide: boolean): void {
    this.setAddress(lba, wide);
    const code = errorCode(error);
    this.#unit.fail(
      code === 'ENOMEDIUM' ? IdeError.abort : IdeError.abort | IdeError.uncorrectable,
    );
  }

  /** Reads in data blocks of `block` sectors. */
  readPio(wide: boolean, block: number): boolean {
    const extent = this.#extent(wide);
    if (extent === undefined) return false;
    this.#readChunk(extent, 0, wide, block);
    return true;
  }

  #readChunk(extent: Extent, from: number, wide: boolean, block: number): void {
    // Whole blocks, so that only the command's last one may be shorter.
    const most = PIO_CHUNK - (PIO_CHUNK % block);
    const sectors = Math.min(most, extent.count - from);
    const data = new Uint8Array(sectors * SECTOR);
    const lba = extent.lba + from;
    this.#unit.wait(
      this.#drive.read(lba * SECTOR, IovOf.of(data)),
      () => {
        this.#offer(extent, from, wide, block, data, 0);
      },
      (e) => {
        this.#failed(e, lba, wide);
      },
    );
  }

  /** Offers the blocks of `data`, sector `from` of the command, one by one. */
  #offer(
    extent: Extent,
    from: number,
    wide: boolean,
    block: number,
    data: Uint8Array,
    at: number,
  ): void {
    const end = Math.min(at + block * SECTOR, data.length);
    this.#unit.pioIn(data.subarray(at, end), () => {
      if (end < data.length) return this.#offer(extent, from, wide, block, data, end);
      const next = from + data.length / SECTOR;
      if (next < extent.count) return this.#readChunk(extent, next, wide, block);
      this.#ended(extent, wide);
      this.#unit.dataTaken();
    });
  }

  /** Writes what comes in data blocks of `block` sectors. */
  writePio(wide: boolean, block: number, flags = 0): boolean {
    const extent = this.#extent(wide);
    if (extent === undefined) return false;
    if (this.#drive.isReadOnly) return false;
    this.#gatherChunk(extent, 0, wide, block, flags);
    return true;
  }

  #gatherChunk(extent: Extent, from: number, wide: boolean, block: number, flags: number): void {
    const most = PIO_CHUNK - (PIO_CHUNK % block);
    const sectors = Math.min(most, extent.count - from);
    const data = new Uint8Array(sectors * SECTOR);
    const lba = extent.lba + from;
    const gather = (at: number): void => {
      const end = Math.min(at + block * SECTOR, data.length);
      const isFirst = from === 0 && at === 0;
      this.#unit.pioOut(
        data.subarray(at, end),
        () => {
          if (end < data.length) return gather(end);
          this.#unit.wait(
            this.#drive.write(lba * SECTOR, IovOf.of(data), flags),
            () => {
              const next = from + sectors;
              if (next < extent.count) return this.#gatherChunk(extent, next, wide, block, flags);
              this.#ended(extent, wide);
              this.#unit.done();
            },
            (e) => {
              this.#failed(e, lba, wide);
            },
          );
        },
        !isFirst,
      );
    };
    gather(0);
  }

  readDma(wide: boolean): boolean {
    const extent = this.#extent(wide);
    if (extent === undefined) return false;
    this.#dma(extent, wide, 'to-guest', (offset, iov) => this.#drive.read(offset, iov));
    return true;
  }

  writeDma(wide: boolean, flags: number): boolean {
    const extent = this.#extent(wide);
    if (extent === undefined || this.#drive.isReadOnly) return false;
    this.#dma(extent, wide, 'from-guest', (o, iov) => this.#drive.write(o, iov, flags));
    return true;
  }

  #dma(
    extent: Extent,
    wide: boolean,
    direction: 'to-guest' | 'from-guest',
    move: (offset: number, iov: Iov) => Promise<void>,
  ): void {
    const unit = this.#unit;
    unit.dma(direction, (engine) => {
      const bytes = extent.count * SECTOR;
      const buffer = guestBuffer(engine.memory, engine.take(bytes), direction);
      if (buffer.iov.bytes < bytes) {
        engine.end('short');
        unit.doneSilently();
        return;
      }
      unit.wait(
        move(extent.lba * SECTOR, buffer.iov),
        () => {
          buffer.finish();
          engine.end('done');
          this.#ended(extent, wide);
          unit.done();
        },
        (e) => {
          engine.end('error');
          this.#failed(e, extent.lba, wide);
        },
      );
    });
  }

  /** READ VERIFY: reads and forgets. */
  verify(wide: boolean): boolean {
    const extent = this.#extent(wide);
    if (extent === undefined) return false;
    const step = async (): Promise<void> => {
      for (let at = 0; at < extent.count; at += VERIFY_CHUNK) {
        const sectors = Math.min(VERIFY_CHUNK, extent.count - at);
        await this.#drive.read((extent.lba + at) * SECTOR, IovOf.alloc(sectors * SECTOR));
      }
    };
    this.#unit.wait(
      step(),
      () => {
        this.#ended(extent, wide);
        this.#unit.done();
      },
      (e) => {
        this.#failed(e, extent.lba, wide);
      },
    );
    return true;
  }

  /** DATA SET MANAGEMENT with TRIM: 8-byte ranges by DMA. */
  trim(): boolean {
    const { regs } = this.#unit;
    const low = regs.count & 0xff;
    const wide = regs.previous.count * 0x100 + low;
    // The upper half may be what an older command left there.
    const blocks = wide > MAX_TRIM_BLOCKS ? low : wide;
    if (blocks === 0 || blocks > MAX_TRIM_BLOCKS || this.#drive.isReadOnly) return false;
    const unit = this.#unit;
    unit.dma('from-guest', (engine) => {
      // Fewer bytes than the blocks have are as many ranges less.
      const buffer = guestBuffer(engine.memory, engine.take(blocks * SECTOR), 'from-guest');
      const list = buffer.iov.flatten().slice();
      unit.wait(
        this.#discardRanges(list),
        () => {
          engine.end('done');
          unit.done();
        },
        () => {
          engine.end('error');
          unit.abort();
        },
      );
    });
    return true;
  }

  async #discardRanges(list: Uint8Array): Promise<void> {
    const view = new DataView(list.buffer, list.byteOffset, list.byteLength);
    for (let i = 0; i + 8 <= list.length && i < MAX_TRIM_BLOCKS * TRIM_RANGES * 8; i += 8) {
      const lba = view.getUint32(i, true) + view.getUint16(i + 4, true) * 2 ** 32;
      const count = view.getUint16(i + 6, true);
      if (count === 0) continue;
      if (lba + count > this.sectors) throw new RangeError('a range past the end of the disk');
      await this.#drive.discard(lba * SECTOR, count * SECTOR);
    }
  }
}

export type { DmaEngine };
