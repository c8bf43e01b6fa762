/** A SCSI disk's commands (SBC-3, SPC-4). */
import { Req } from '../../block/types.js';
import { Iov } from '../../lib/iov.js';
import { inquiryData, senses } from '../../wire/mmc.js';
import type { Sense } from '../../wire/mmc.js';
import type { BlockSizes } from '../bus/block-properties.js';
import type { Drive } from '../bus/drive.js';
import { Abandoned } from '../bus/drive.js';
import type { ScsiMove, ScsiOutcome, ScsiTask, ScsiUnit } from '../bus/scsi/bus.js';
import { ScsiStatus } from '../bus/scsi/bus.js';
import { failed, noMove, replyWith } from '../bus/scsi/target.js';
import { capacity16, diskInquiry, modeData, vitalPage } from './pages.js';

const powerOn: Sense = { key: 6, asc: 0x29, ascq: 0 };
const writeProtected: Sense = { key: 7, asc: 0x27, ascq: 0 };
const writeError: Sense = { key: 3, asc: 0x0c, ascq: 0 };
const ioError: Sense = { key: 0x0b, asc: 0, ascq: 6 };
/** Longest command in bytes; longer ones are refused, so that no one reads or writes for ever. */
const MAX_BYTES = 64 * 1024 * 1024;
/** Most bytes that one UNMAP or WRITE SAME names. */
const MAX_RANGE = 1024 * 1024 * 1024;
/** A piece in which WRITE SAME writes its pattern. */
const SAME_PIECE = 1024 * 1024;
const MAX_UNMAP_RANGES = 255;

export interface DiskNames {
  readonly vendor: string;
  readonly product: string;
  readonly revision: string;
  readonly serial: string;
  readonly identity: string;
  readonly wwn: bigint;
}

export interface DiskInit {
  readonly drive: Drive;
  readonly names: DiskNames;
  readonly sizes: BlockSizes;
  readonly isRemovable: boolean;
  readonly rotationRate: number;
  readonly dpofua: boolean;
}

/** Address and number of blocks in a command. */
interface Extent {
  readonly lba: number;
  readonly count: number;
}

function extent(cdb: Uint8Array): Extent {
  const view = new DataView(cdb.buffer, cdb.byteOffset, cdb.byteLength);
  switch (cdb[0]! >> 5) {
    case 0: // six bytes: 21 bits of address; no blocks are 256
      return { lba: view.getUint32(0) & 0x1f_ffff, count: cdb[4] === 0 ? 256 : cdb[4]! };
    case 1:
    case 2:
      return { lba: view.getUint32(2), count: view.getUint16(7) };
    case 4:
      return {
        lba: view.getUint32(2) * 2 ** 32 + view.getUint32(6),
        count: view.getUint32(10),
      };
    default:
      return { lba: view.getUint32(2), count: view.getUint32(6) };
  }
}

const reads = new Set([0x08, 0x28, 0xa8, 0x88]);
const writes = new Set([0x0a, 0x2a, 0xaa, 0x8a, 0x2e, 0xae, 0x8e]);
const verifies = new Set([0x2f, 0xaf, 0x8f]);
/** Commands that run although a unit attention waits. */
const quiet = new Set([0x03, 0x12, 0xa0]);

export class ScsiDisk implements ScsiUnit {
  readonly #init: DiskInit;
  /** What the next command hears of. */
  #attention: Sense | undefined = powerOn;
  #sense: Sense = senses.none;

  constructor(init: DiskInit) {
    this.#init = init;
  }

  reset(): void {
    this.#init.drive.abandon();
    this.#attention = powerOn;
    this.#sense = senses.none;
  }

  get #blockBytes(): number {
    return this.#init.sizes.logical;
  }

  get #blocks(): number {
    return Math.floor(this.#init.drive.bytes / this.#blockBytes);
  }

  moves(cdb: Uint8Array): ScsiMove {
    const code = cdb[0]!;
    const view = new DataView(cdb.buffer, cdb.byteOffset, cdb.byteLength);
    const into = (bytes: number): ScsiMove => ({ direction: 'in', bytes });
    const outOf = (bytes: number): ScsiMove => ({ direction: 'out', bytes });
    if (reads.has(code)) return into(extent(cdb).count * this.#blockBytes);
    if (writes.has(code)) return outOf(extent(cdb).count * this.#blockBytes);
    if (verifies.has(code)) {
      return (cdb[1]! & 2) === 0 ? noMove : outOf(extent(cdb).count * this.#blockBytes);
    }
    switch (code) {
      case 0x03:
      case 0x12:
      case 0x1a:
        return into(code === 0x12 ? view.getUint16(3) : cdb[4]!);
      case 0x15:
        return outOf(cdb[4]!);
      case 0x25:
        return into(8);
      case 0x42:
      case 0x55:
        return outOf(view.getUint16(7));
      case 0x5a:
        return into(view.getUint16(7));
      case 0x41:
      case 0x93:
        return (cdb[1]! & 1) !== 0 ? noMove : outOf(this.#blockBytes);
      case 0x9e:
        return into(view.getUint32(10));
      default:
        return noMove;
    }
  }

  async execute(task: ScsiTask): Promise<ScsiOutcome> {
    const code = task.cdb[0]!;
    if (this.#attention !== undefined && !quiet.has(code)) {
      const sense = this.#attention;
      this.#attention = undefined;
      return failed(sense);
    }
    const outcome = await this.#command(code, task).catch((e: unknown) => {
      if (e instanceof Abandoned) throw e;
      return failed(
        this.#isWrite(code) ? writeError : reads.has(code) ? senses.readError : ioError,
      );
    });
    this.#sense = outcome.sense ?? senses.none;
    return outcome;
  }

  #isWrite(code: number): boolean {
    return writes.has(code) || code === 0x41 || code === 0x93 || code === 0x42;
  }

  async #command(code: number, task: ScsiTask): Promise<ScsiOutcome> {
    const { cdb } = task;
    if (this.#isWrite(code) && this.#init.drive.isReadOnly) return failed(writeProtected);
    if (reads.has(code)) return this.#read(task);
    if (writes.has(code)) return this.#write(task);
    if (verifies.has(code)) return this.#verify(task);
    switch (code) {
      case 0x00: // TEST UNIT READY
      case 0x16: // RESERVE, RELEASE: there is one initiator
      case 0x17:
      case 0x1d: // SEND DIAGNOSTIC
      case 0x1e: // PREVENT ALLOW MEDIUM REMOVAL
        return good;
      case 0x1b: // START STOP UNIT
        return good;
      case 0x0b:
      case 0x2b: // SEEK
        return extent(cdb).lba < this.#blocks ? good : failed(senses.outOfRange);
      case 0x35:
      case 0x91: // SYNCHRONIZE CACHE
        await this.#init.drive.flush();
        return good;
      case 0x42:
        return this.#unmap(task);
      case 0x41:
      case 0x93:
        return this.#writeSame(task);
      default:
        return this.#tell(code, task);
    }
  }

  // --- what the disk tells of itself

  #tell(code: number, task: ScsiTask): ScsiOutcome {
    const { cdb } = task;
    const { drive, sizes } = this.#init;
    const view = new DataView(cdb.buffer, cdb.byteOffset, cdb.byteLength);
    switch (code) {
      case 0x03: {
        const { key, asc, ascq } = this.#sense;
        const data = Uint8Array.of(0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0);
        this.#sense = senses.none;
        return replyWith(task, data, cdb[4]!);
      }
      case 0x12:
        return this.#inquiry(task, view.getUint16(3));
      case 0x1a:
      case 0x5a: {
        const isLong = code === 0x5a;
        const flags = { writeCache: drive.backend.writeCache, isReadOnly: drive.isReadOnly };
        const data = modeData(cdb, isLong, flags, this.#blocks, sizes.logical);
        if (data === undefined) return failed(senses.invalidField);
        return replyWith(task, data, isLong ? view.getUint16(7) : cdb[4]!);
      }
      case 0x15:
      case 0x55:
        return this.#modeSelect(task, code === 0x55);
      case 0x25: {
        const out = new Uint8Array(8);
        const answer = new DataView(out.buffer);
        answer.setUint32(0, Math.min(this.#blocks - 1, 0xffff_ffff));
        answer.setUint32(4, sizes.logical);
        return replyWith(task, out, 8);
      }
      case 0x9e:
        if ((cdb[1]! & 31) !== 0x10) return failed(senses.invalidField);
        return replyWith(task, capacity16(this.#blocks, sizes), view.getUint32(10));
      default:
        return failed(senses.invalidCommand);
    }
  }

  #inquiry(task: ScsiTask, allocated: number): ScsiOutcome {
    const { cdb } = task;
    if ((cdb[1]! & 1) === 0) {
      if (cdb[2] !== 0) return failed(senses.invalidField);
      const { vendor, product, revision } = this.#init.names;
      const data = diskInquiry(inquiryData(vendor, product, revision), this.#init.isRemovable);
      return replyWith(task, data, allocated);
    }
    const page = vitalPage(cdb[2]!, this.#init);
    return page === undefined ? failed(senses.invalidField) : replyWith(task, page, allocated);
  }

  /** Only the write cache can be changed; all else is refused. */
  #modeSelect(task: ScsiTask, isLong: boolean): ScsiOutcome {
    const data = task.out.flatten();
    const header = isLong ? 8 : 4;
    if (data.length === 0) return good;
    const invalid = failed({ key: 5, asc: 0x26, ascq: 0 });
    if (data.length < header) return failed({ key: 5, asc: 0x1a, ascq: 0 });
    const descriptors = isLong ? data[6]! * 256 + data[7]! : data[3]!;
    const at = header + descriptors;
    if (descriptors >= 8 && at <= data.length) {
      const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
      const length = view.getUint32(header + 4) & 0xff_ffff;
      if (length !== 0 && length !== this.#blockBytes) return invalid;
    }
    for (let page = at; page < data.length;) {
      const bytes = (data[page + 1] ?? 0) + 2;
      if (page + bytes > data.length) return failed({ key: 5, asc: 0x1a, ascq: 0 });
      if ((data[page]! & 0x3f) !== 0x08 || bytes !== 20) return invalid;
      this.#init.drive.backend.writeCache = (data[page + 2]! & 4) !== 0;
      page += bytes;
    }
    return { ...good, bytes: data.length };
  }

  // --- blocks

  /** Where a command's blocks are in bytes, or why it has none. */
  #range(cdb: Uint8Array, most: number): { offset: number; bytes: number } | Sense {
    const { lba, count } = extent(cdb);
    if (lba + count > this.#blocks) return senses.outOfRange;
    const bytes = count * this.#blockBytes;
    return bytes > most ? senses.invalidField : { offset: lba * this.#blockBytes, bytes };
  }

  async #read(task: ScsiTask): Promise<ScsiOutcome> {
    const range = this.#range(task.cdb, MAX_BYTES);
    if ('key' in range) return failed(range);
    const bytes = Math.min(range.bytes, task.in.bytes);
    // An initiator with less room than it asks for gets what fits.
    const whole = Math.floor(bytes / this.#blockBytes) * this.#blockBytes;
    const { drive } = this.#init;
    if (whole > 0) await drive.read(range.offset, task.in.slice(0, whole));
    if (bytes > whole) {
      const rest = new Uint8Array(this.#blockBytes);
      await drive.read(range.offset + whole, Iov.of(rest));
      task.in.slice(whole, bytes - whole).copyFrom(rest.subarray(0, bytes - whole));
    }
    return { status: ScsiStatus.good, bytes };
  }

  async #write(task: ScsiTask): Promise<ScsiOutcome> {
    const range = this.#range(task.cdb, MAX_BYTES);
    if ('key' in range) return failed(range);
    const bytes = Math.min(range.bytes, task.out.bytes);
    const whole = Math.floor(bytes / this.#blockBytes) * this.#blockBytes;
    const isFua = task.cdb[0]! >= 0x20 && (task.cdb[1]! & 8) !== 0;
    const flags = isFua ? Req.fua : 0;
    if (whole > 0) {
      await this.#init.drive.write(range.offset, task.out.slice(0, whole), flags);
    }
    return { status: ScsiStatus.good, bytes: whole };
  }

  async #verify(task: ScsiTask): Promise<ScsiOutcome> {
    const range = this.#range(task.cdb, MAX_BYTES);
    if ('key' in range) return failed(range);
    if ((task.cdb[1]! & 2) === 0) return good;
    const bytes = Math.min(range.bytes, task.out.bytes);
    const whole = Math.floor(bytes / this.#blockBytes) * this.#blockBytes;
    const disk = Iov.alloc(whole);
    if (whole > 0) await this.#init.drive.read(range.offset, disk);
    const wanted = task.out.slice(0, whole).flatten();
    const isSame = disk.flatten().every((byte, i) => byte === wanted[i]);
    return isSame ? { status: ScsiStatus.good, bytes } : failed({ key: 14, asc: 0x1d, ascq: 0 });
  }

  async #unmap(task: ScsiTask): Promise<ScsiOutcome> {
    if ((task.cdb[1]! & 1) !== 0) return failed(senses.invalidField);
    const data = task.out.flatten();
    if (data.length === 0) return good;
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    if (data.length < 8) return failed({ key: 5, asc: 0x1a, ascq: 0 });
    const listed = Math.min(view.getUint16(2), data.length - 8);
    const count = Math.floor(listed / 16);
    if (count > MAX_UNMAP_RANGES) return failed(senses.invalidField);
    for (let i = 0; i < count; i++) {
      const at = 8 + 16 * i;
      const lba = view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
      const blocks = view.getUint32(at + 8);
      if (lba + blocks > this.#blocks) return failed(senses.outOfRange);
      const bytes = blocks * this.#blockBytes;
      if (bytes > MAX_RANGE) return failed(senses.invalidField);
      if (bytes > 0) await this.#init.drive.discard(lba * this.#blockBytes, bytes);
    }
    return { ...good, bytes: data.length };
  }

  async #writeSame(task: ScsiTask): Promise<ScsiOutcome> {
    const { cdb } = task;
    const range = this.#range(cdb, MAX_RANGE);
    if ('key' in range) return failed(range);
    const { drive } = this.#init;
    const { bytes } = range;
    // No data: zeroes; the anchor bit asks for what cannot be done.
    if ((cdb[1]! & 0x10) !== 0 || bytes === 0) return failed(senses.invalidField);
    const hasData = (cdb[1]! & 1) === 0;
    if (hasData && task.out.bytes < this.#blockBytes) return failed(senses.invalidField);
    const block = hasData ? task.out.slice(0, this.#blockBytes) : undefined;
    if (block === undefined || block.isZero()) {
      const flags = (cdb[1]! & 8) === 0 ? 0 : Req.mayUnmap;
      await drive.writeZeroes(range.offset, bytes, flags);
      return { ...good, bytes: block?.bytes ?? 0 };
    }
    const pattern = block.flatten();
    const piece = new Uint8Array(Math.min(SAME_PIECE, bytes));
    for (let at = 0; at < piece.length; at += pattern.length) piece.set(pattern, at);
    for (let done = 0; done < bytes; done += piece.length) {
      const length = Math.min(piece.length, bytes - done);
      await drive.write(range.offset + done, Iov.of(piece.subarray(0, length)));
    }
    return { ...good, bytes: pattern.length };
  }
}

const good: ScsiOutcome = { status: ScsiStatus.good, bytes: 0 };
