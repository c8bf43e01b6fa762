/**
 * The ATA side of a packet device (ATA8-ACS, PACKET feature set): PACKET with its data phases by
 * PIO and DMA, and the few other commands that such devices know.
 */
import { Iov } from '../../lib/iov.js';
import { rawFrame, senses } from '../../wire/mmc.js';
import type { Drive } from '../bus/drive.js';
import { guestBuffer } from '../../virtio/guest-buffer.js';
import { IdentifyWords } from '../bus/ide/identify.js';
import type { IdeNames } from '../bus/ide/names.js';
import type { DmaEngine, IdeModel, IdeUnit } from '../bus/ide/unit.js';
import type { CdDrive, CdReply } from '../bus/cd-drive.js';
import { CD_BLOCK } from '../bus/cd-drive.js';

const PACKET_BYTES = 12;
/** Blocks that are read at a time. */
const CHUNK_BLOCKS = 64;
/** The count register says what the data phase is about. */
const REASON_COMMAND = 1;
const REASON_TO_HOST = 2;
const REASON_DONE = 3;
/** A data phase of PIO is offered in pieces of at most this. */
const PIECE = 2048;

type Blocks = Extract<CdReply, { readonly kind: 'blocks' }>;

export class PacketDevice implements IdeModel {
  readonly isPacket = true;
  readonly signature = { mid: 0x14, high: 0xeb };
  readonly #unit: IdeUnit;
  readonly #drive: Drive;
  readonly #cd: CdDrive;
  readonly #names: IdeNames;
  #useDma = false;
  /** Longest burst by PIO. */
  #limit = 0;

  constructor(unit: IdeUnit, drive: Drive, cd: CdDrive, names: IdeNames) {
    this.#unit = unit;
    this.#drive = drive;
    this.#cd = cd;
    this.#names = names;
  }

  reset(): void {
    this.#drive.abandon();
  }

  command(code: number): boolean {
    const unit = this.#unit;
    switch (code) {
      case 0x08: // DEVICE RESET: the signature, no interrupt
        this.reset();
        unit.setSignature();
        unit.status = 0;
        return true;
      case 0x90:
        unit.setSignature();
        unit.done();
        unit.status = 0;
        unit.error = 1;
        return true;
      case 0xa0:
        return this.#packet();
      case 0xa1: {
        const data = this.#identify();
        unit.pioIn(data, () => {
          unit.dataTaken();
        });
        return true;
      }
      case 0x20: // commands of disks: "I am none", says the signature
      case 0xec:
        unit.setSignature();
        return false;
      case 0xe5:
        unit.regs.count = 0xff;
        unit.done();
        return true;
      case 0xe0:
      case 0xe1:
      case 0xe2:
      case 0xe3:
      case 0xe6:
      case 0xe7: // nothing is cached
      case 0xef:
        unit.done();
        return true;
      default:
        return false;
    }
  }

  #identify(): Uint8Array {
    const { serial, version, model } = this.#names;
    return new IdentifyWords()
      .set(0, 0x8580)
      .text(10, 10, serial)
      .set(20, 3)
      .set(21, 512)
      .set(22, 4)
      .text(23, 4, version)
      .text(27, 20, model)
      .set(48, 1)
      .set(49, 0x0300)
      .set(53, 7)
      .set(62, 7)
      .set(63, 7)
      .set(64, 3)
      .set(65, 0xb4)
      .set(66, 0xb4)
      .set(67, 0x12c)
      .set(68, 0xb4)
      .set(71, 30)
      .set(72, 30)
      .set(80, 0x1e)
      .set(82, 0x0210)
      .set(83, 0x4000)
      .set(84, 0x4000)
      .set(85, 0x0210)
      .set(87, 0x4000)
      .set(88, 0x203f).bytes;
  }

  #packet(): boolean {
    const { regs } = this.#unit;
    this.#useDma = (regs.feature & 1) !== 0;
    this.#limit = regs.high * 0x100 + regs.mid;
    regs.count = REASON_COMMAND;
    const cdb = new Uint8Array(PACKET_BYTES);
    this.#unit.pioOut(
      cdb,
      () => {
        this.#reply(this.#cd.execute(cdb));
      },
      false,
    );
    return true;
  }

  #reply(reply: CdReply): void {
    switch (reply.kind) {
      case 'good':
        return this.#end();
      case 'check':
        return this.#check();
      case 'data':
        return this.#begin(reply.data.length, (data) => data(reply.data, () => this.#end()));
      case 'blocks':
        return this.#begin(blockBytes(reply) * reply.count, (data) => {
          this.#readBlocks(reply, 0, data);
        });
    }
  }

  #end(): void {
    this.#unit.regs.count = REASON_DONE;
    this.#unit.done();
  }

  /** The command failed: the sense data say why. */
  #check(): void {
    const { key } = this.#cd.sense;
    this.#unit.regs.count = REASON_DONE;
    this.#unit.fail(key << 4);
  }

  /** Opens the data phase of `bytes` bytes; `send` gets what brings each piece to the guest. */
  #begin(bytes: number, send: (data: (piece: Uint8Array, next: () => void) => void) => void): void {
    if (this.#useDma) {
      this.#unit.dma('to-guest', (engine) => {
        let left = bytes;
        send((piece, next) => {
          left -= piece.length;
          if (this.#toMemory(engine, piece, left === 0)) next();
        });
      });
      return;
    }
    // Without room for a byte, data cannot go.
    if (this.#limit === 0) return this.#unit.abort();
    const burst = new Burst(this.#unit, bytes, this.#limit);
    send((piece, next) => {
      burst.send(piece, next);
    });
  }

  /** False: the guest's list was too short and the command ended. */
  #toMemory(engine: DmaEngine, piece: Uint8Array, isLast: boolean): boolean {
    const buffer = guestBuffer(engine.memory, engine.take(piece.length), 'to-guest');
    const fits = buffer.iov.bytes === piece.length;
    buffer.iov.copyFrom(fits ? piece : piece.subarray(0, buffer.iov.bytes));
    buffer.finish();
    if (!fits) {
      engine.end('short');
      this.#unit.doneSilently();
    } else if (isLast) engine.end('done');
    return fits;
  }

  #readBlocks(
    blocks: Blocks,
    from: number,
    data: (piece: Uint8Array, next: () => void) => void,
  ): void {
    const count = Math.min(CHUNK_BLOCKS, blocks.count - from);
    const lba = blocks.lba + from;
    const buffer = new Uint8Array(count * CD_BLOCK);
    this.#unit.wait(
      this.#drive.read(lba * CD_BLOCK, Iov.of(buffer)),
      () => {
        data(blocks.raw ? rawFrames(lba, buffer) : buffer, () => {
          const next = from + count;
          if (next < blocks.count) this.#readBlocks(blocks, next, data);
          else this.#end();
        });
      },
      () => {
        this.#cd.setSense(this.#drive.isInserted ? senses.readError : senses.noMedium);
        this.#check();
      },
    );
  }
}

function blockBytes({ raw }: Blocks): number {
  return raw ? 2352 : CD_BLOCK;
}

function rawFrames(lba: number, data: Uint8Array): Uint8Array {
  const count = data.length / CD_BLOCK;
  const out = new Uint8Array(count * 2352);
  for (let i = 0; i < count; i++) {
    out.set(rawFrame(lba + i, data.subarray(i * CD_BLOCK, (i + 1) * CD_BLOCK)), i * 2352);
  }
  return out;
}

/** Data by PIO: bursts of at most the limit that the host gave, each with an interrupt. */
class Burst {
  readonly #unit: IdeUnit;
  readonly #limit: number;
  #left: number;
  #inBurst = 0;

  constructor(unit: IdeUnit, bytes: number, limit: number) {
    this.#unit = unit;
    this.#left = bytes;
    // All bursts but the last are even.
    this.#limit = limit === 0xffff ? 0xfffe : limit;
  }

  /** Sends a piece; `next` when the host has it all. */
  send(piece: Uint8Array, next: () => void): void {
    if (piece.length === 0) return next();
    const isNew = this.#inBurst === 0;
    if (isNew) {
      const even = this.#limit & ~1;
      const wanted = this.#left <= this.#limit ? this.#left : even === 0 ? 1 : even;
      // The host takes a burst without looking at the status: it has to be here as a whole.
      this.#inBurst = Math.min(wanted, piece.length);
      const { regs } = this.#unit;
      regs.count = REASON_TO_HOST;
      regs.mid = this.#inBurst & 0xff;
      regs.high = (this.#inBurst >> 8) & 0xff;
    }
    const bytes = Math.min(piece.length, this.#inBurst, PIECE);
    this.#inBurst -= bytes;
    this.#left -= bytes;
    this.#unit.pioIn(
      piece.subarray(0, bytes),
      () => {
        this.send(piece.subarray(bytes), next);
      },
      isNew,
    );
  }
}
