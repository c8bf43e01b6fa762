/** A CD/DVD drive as a SCSI unit: its packet commands, and blocks as data. */
import { Iov } from '../../lib/iov.js';
import { senses } from '../../wire/mmc.js';
import type { CdDrive, CdReply } from '../bus/cd-drive.js';
import { CD_BLOCK } from '../bus/cd-drive.js';
import type { Drive } from '../bus/drive.js';
import { Abandoned } from '../bus/drive.js';
import type { ScsiMove, ScsiOutcome, ScsiTask, ScsiUnit } from '../bus/scsi/bus.js';
import { ScsiStatus } from '../bus/scsi/bus.js';
import { failed, noMove, replyWith } from '../bus/scsi/target.js';

const PACKET_BYTES = 12;
const WRITES = new Set([0x0a, 0x2a, 0xaa, 0x8a, 0x41, 0x93]);
/** Blocks that are read at a time. */
const CHUNK_BLOCKS = 512;
const MAX_BLOCKS = 32_768;

export class ScsiCd implements ScsiUnit {
  readonly #cd: CdDrive;
  readonly #drive: Drive;
  #hasAttention = true;

  constructor(cd: CdDrive, drive: Drive) {
    this.#cd = cd;
    this.#drive = drive;
  }

  reset(): void {
    this.#drive.abandon();
    this.#cd.reset();
    this.#hasAttention = true;
  }

  moves(cdb: Uint8Array): ScsiMove {
    const view = new DataView(cdb.buffer, cdb.byteOffset, cdb.byteLength);
    const into = (bytes: number): ScsiMove => ({ direction: 'in', bytes });
    switch (cdb[0]) {
      case 0x28:
        return into(view.getUint16(7) * CD_BLOCK);
      case 0xa8:
        return into(view.getUint32(6) * CD_BLOCK);
      case 0xbe:
        return into((view.getUint32(5) & 0xff_ffff) * 2352);
      case 0x03:
      case 0x12:
        return into(cdb[4]!);
      case 0x25:
        return into(8);
      case 0x5a:
      case 0x42:
      case 0x43:
      case 0x46:
      case 0x4a:
      case 0x51:
        return into(view.getUint16(7));
      case 0xad:
      case 0xbd:
        return into(view.getUint16(8));
      default:
        return noMove;
    }
  }

  async execute(task: ScsiTask): Promise<ScsiOutcome> {
    const code = task.cdb[0]!;
    if (this.#hasAttention && code !== 0x12 && code !== 0x03) {
      this.#hasAttention = false;
      return failed({ key: 6, asc: 0x29, ascq: 0 });
    }
    if (WRITES.has(code)) return failed({ key: 7, asc: 0x27, ascq: 0 });
    const cdb = new Uint8Array(PACKET_BYTES);
    cdb.set(task.cdb.subarray(0, PACKET_BYTES));
    const reply = this.#cd.execute(cdb);
    switch (reply.kind) {
      case 'good':
        return { status: ScsiStatus.good, bytes: 0 };
      case 'check':
        return failed(reply.sense);
      case 'data':
        return replyWith(task, reply.data, reply.data.length);
      case 'blocks':
        return this.#blocks(reply, task);
    }
  }

  async #blocks(
    { lba, count, raw }: Extract<CdReply, { readonly kind: 'blocks' }>,
    task: ScsiTask,
  ): Promise<ScsiOutcome> {
    // Frames with headers are for drives that are read like discs; disks of a bus have blocks.
    if (raw || count > MAX_BLOCKS) return failed(senses.invalidField);
    const bytes = Math.min(count * CD_BLOCK, task.in.bytes);
    try {
      for (let done = 0; done < bytes; done += CHUNK_BLOCKS * CD_BLOCK) {
        const length = Math.min(CHUNK_BLOCKS * CD_BLOCK, bytes - done);
        const whole = Math.ceil(length / CD_BLOCK) * CD_BLOCK;
        const piece = new Uint8Array(whole);
        await this.#drive.read(lba * CD_BLOCK + done, Iov.of(piece));
        task.in.slice(done, length).copyFrom(piece.subarray(0, length));
      }
    } catch (e) {
      if (e instanceof Abandoned) throw e;
      return failed(this.#drive.isInserted ? senses.readError : senses.noMedium);
    }
    return { status: ScsiStatus.good, bytes };
  }
}
