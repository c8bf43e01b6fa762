/**
 * A CD/DVD drive's state and its packet commands (MMC-6): everything but how data moves. A command
 * gives a reply; reading blocks is a reply, too, and done by whoever moves data.
 */
import type { Drive } from './drive.js';
import type { Sense } from '../../wire/mmc.js';
import * as mmc from '../../wire/mmc.js';

const { senses } = mmc;

export const CD_BLOCK = 2048;

/** What becomes of a packet command. */
export type CdReply =
  | { readonly kind: 'good' }
  | { readonly kind: 'check'; readonly sense: Sense }
  | { readonly kind: 'data'; readonly data: Uint8Array }
  | {
      readonly kind: 'blocks';
      readonly lba: number;
      readonly count: number;
      readonly raw: boolean;
    };

const good: CdReply = { kind: 'good' };
const check = (sense: Sense): CdReply => ({ kind: 'check', sense });

/** Commands that run although the medium changed or is not there. */
const alwaysAllowed = new Set([0x03, 0x12, 0x46, 0x4a]);
/** Commands that need a medium. */
const needMedium = new Set([0x00, 0x25, 0x28, 0xa8, 0xbe, 0x2b, 0x43, 0x42, 0x51, 0xad]);

export interface CdInit {
  readonly drive: Drive;
  readonly model: string;
  readonly version: string;
  /** The tray moved because the guest, or somebody else, wanted it. */
  readonly trayMoved: (open: boolean) => void;
}

export class CdDrive {
  isTrayOpen = false;
  isLocked = false;
  readonly #init: CdInit;
  #sense: Sense = senses.none;
  /** Checks that are still to be told after a new medium: 2 "none", 1 "changed". */
  #changed = 0;
  #event: 0 | 1 | 2 | 3 = 0;

  constructor(init: CdInit) {
    this.#init = init;
  }

  get #hasMedium(): boolean {
    return !this.isTrayOpen && this.#init.drive.isInserted;
  }

  /** Blocks of the medium, rounded down. */
  get blocks(): number {
    return this.#hasMedium ? Math.floor(this.#init.drive.bytes / CD_BLOCK) : 0;
  }

  /** Power-on. */
  reset(): void {
    this.#sense = senses.none;
    this.isLocked = false;
    this.#event = 0;
    this.#changed = 0;
    if (this.isTrayOpen) this.moveTray(false);
  }

  /** Somebody else wants the medium out: the guest hears of it when it asks. */
  requestEject(): void {
    this.#event = 1;
  }

  moveTray(open: boolean): void {
    if (open === this.isTrayOpen) return;
    this.isTrayOpen = open;
    this.#init.trayMoved(open);
  }

  /** A medium was put in or taken out. */
  mediumChanged(isInserted: boolean): void {
    this.#event = isInserted ? 2 : 3;
    this.#changed = isInserted ? 2 : 0;
  }

  get sense(): Sense {
    return this.#sense;
  }

  /** What became of an operation that failed underneath. */
  setSense(sense: Sense): void {
    this.#sense = sense;
  }

  /** Carries out a packet command. */
  execute(cdb: Uint8Array): CdReply {
    const code = cdb[0]!;
    const reply = this.#unready(code) ?? this.#command(code, cdb);
    if (reply.kind === 'check') this.#sense = reply.sense;
    else if (code !== 0x03) this.#sense = senses.none;
    return reply;
  }

  /** What stands in the way of a command. */
  #unready(code: number): CdReply | undefined {
    if (alwaysAllowed.has(code)) return undefined;
    if (this.#changed > 0 && this.#hasMedium) {
      return check(this.#changed-- === 2 ? senses.noMedium : senses.mediumChanged);
    }
    if (needMedium.has(code) && !this.#hasMedium) return check(senses.noMedium);
    return undefined;
  }

  #command(code: number, cdb: Uint8Array): CdReply {
    const view = new DataView(cdb.buffer, cdb.byteOffset, cdb.byteLength);
    switch (code) {
      case 0x00: // TEST UNIT READY
      case 0xbb: // SET CD SPEED
        return good;
      case 0x03: {
        const data = mmc.senseData(this.#sense);
        this.#sense = senses.none;
        return this.#data(data, cdb[4]!);
      }
      case 0x12:
        return this.#inquiry(cdb);
      case 0x1b:
        return this.#startStop(cdb[4]!);
      case 0x1e:
        this.isLocked = (cdb[4]! & 1) !== 0;
        return good;
      case 0x25:
        return this.#data(mmc.capacityData(this.blocks), 8);
      case 0x28:
        return this.#read(view.getUint32(2), view.getUint16(7), false);
      case 0xa8:
        return this.#read(view.getUint32(2), view.getUint32(6), false);
      case 0xbe:
        return this.#readCd(view);
      case 0x2b: // SEEK
        return view.getUint32(2) < this.blocks ? good : check(senses.outOfRange);
      case 0x5a:
        return this.#modeSense(cdb[2]!, view.getUint16(7));
      default:
        return this.#mmc(code, cdb, view);
    }
  }

  #mmc(code: number, cdb: Uint8Array, view: DataView): CdReply {
    switch (code) {
      case 0x42: // READ SUB-CHANNEL: no audio is played
        return this.#data(new Uint8Array([0, 0x15, 0, 0]), view.getUint16(7));
      case 0x43:
        return this.#toc(cdb, view.getUint16(7));
      case 0x46: {
        if ((cdb[1]! & 3) > 2) return check(senses.invalidField);
        const blocks = this.#hasMedium ? this.blocks : undefined;
        return this.#data(mmc.configurationData(blocks), view.getUint16(7));
      }
      case 0x4a: {
        // Only polled; nobody is told by itself.
        if ((cdb[1]! & 1) === 0) return check(senses.invalidField);
        const event = {
          code: this.#event,
          isTrayOpen: this.isTrayOpen,
          isPresent: this.#hasMedium,
        };
        if ((cdb[4]! & 0x10) !== 0) this.#event = 0;
        return this.#data(mmc.eventData(cdb[4]!, event), view.getUint16(7));
      }
      case 0x51:
        if ((cdb[1]! & 7) !== 0) return check(senses.invalidField);
        return this.#data(mmc.discData(), view.getUint16(7));
      case 0xad:
        return this.#dvdStructure(cdb, view.getUint16(8));
      case 0xbd: // MECHANISM STATUS
        return this.#data(new Uint8Array([0, 0, 0, 0, 0, 1, 0, 0]), view.getUint16(8));
      default:
        return check(senses.invalidCommand);
    }
  }

  #data(data: Uint8Array, allocated: number): CdReply {
    if (allocated === 0) return good;
    return { kind: 'data', data: data.length > allocated ? data.subarray(0, allocated) : data };
  }

  #inquiry(cdb: Uint8Array): CdReply {
    if ((cdb[1]! & 1) !== 0 || cdb[2] !== 0) return check(senses.invalidField);
    const { model, version } = this.#init;
    return this.#data(mmc.inquiryData('QEMU', model, version), cdb[4]!);
  }

  #startStop(flags: number): CdReply {
    // A power condition asks for nothing that the drive has.
    if (flags >> 4 !== 0 || (flags & 2) === 0) return good;
    const wantsOpen = (flags & 1) === 0;
    if (wantsOpen && this.isLocked && !this.isTrayOpen) return check(senses.removalPrevented);
    this.moveTray(wantsOpen);
    return good;
  }

  #read(lba: number, count: number, raw: boolean): CdReply {
    if (count === 0) return good;
    if (lba + count > this.blocks) return check(senses.outOfRange);
    return { kind: 'blocks', lba, count, raw };
  }

  #readCd(view: DataView): CdReply {
    const count = view.getUint32(5) & 0xff_ffff;
    if (count === 0) return good;
    switch (view.getUint8(9) & 0xf8) {
      case 0x00:
        return good;
      case 0x10:
        return this.#read(view.getUint32(2), count, false);
      case 0xf8:
        return this.#read(view.getUint32(2), count, true);
      default:
        return check(senses.invalidField);
    }
  }

  #modeSense(page: number, allocated: number): CdReply {
    // Values that were saved do not exist.
    if (page >> 6 === 3) return check({ key: 5, asc: 0x39, ascq: 0 });
    const medium = this.isTrayOpen ? 0x71 : this.#hasMedium ? 0x01 : 0x70;
    const data = mmc.modePage(page & 0x3f, this.isLocked, medium);
    return data === undefined ? check(senses.invalidField) : this.#data(data, allocated);
  }

  #toc(cdb: Uint8Array, allocated: number): CdReply {
    const msf = (cdb[1]! & 2) !== 0;
    const format = (cdb[2]! & 15) === 0 ? cdb[9]! >> 6 : cdb[2]! & 15;
    let data: Uint8Array | undefined;
    if (format === 0) data = mmc.tocData(this.blocks, msf, cdb[6]!);
    else if (format === 1) data = mmc.sessionData(msf);
    else if (format === 2) data = mmc.rawTocData(this.blocks, msf);
    return data === undefined ? check(senses.invalidField) : this.#data(data, allocated);
  }

  #dvdStructure(cdb: Uint8Array, allocated: number): CdReply {
    const format = cdb[7]!;
    if (format < 0xc0 && !mmc.isDvd(this.blocks)) return check(senses.incompatibleMedium);
    const data = cdb[6] !== 0 ? undefined : mmc.dvdStructure(format, this.blocks);
    return data === undefined ? check(senses.invalidField) : this.#data(data, allocated);
  }
}
