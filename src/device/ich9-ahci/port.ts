/**
 * One port of an AHCI controller (AHCI 1.3.1, sections 3.3, 5 and 6.2): registers, command list,
 * received FISes, queued commands.
 */
import type { GuestMemory } from '../../host/guest-memory.js';
import { guestBuffer } from '../../virtio/guest-buffer.js';
import type { DmaDirection } from '../../virtio/guest-buffer.js';
import type { DmaPhase, IdeLink } from '../bus/ide/unit.js';
import { IdeStatus, IdeUnit } from '../bus/ide/unit.js';
import { AhciCommand } from './command.js';

const SECTOR = 512;
const CMD_START = 1;
const CMD_OVERRIDE = 8;
const CMD_RECEIVE = 0x10;
const CMD_RECEIVING = 0x4000;
const CMD_RUNNING = 0x8000;
/** Bits of PxCMD that software sets. */
const CMD_WRITABLE = 0x0f00_0017;
/** Powered and spun up. */
const CMD_RESET = 0x06;
const CMD_ATAPI = 0x0100_0000;
const IE_MASK = 0xfdc0_00ff;
/** Bits of PxIS. */
const Is = { d2h: 1, pioSetup: 2, setBits: 8, overflow: 1 << 24, taskFile: 1 << 30 } as const;
/** Places of received FISes. */
const FIS_PIO = 0x20;
const FIS_D2H = 0x40;
const FIS_SET_BITS = 0x58;
const SSTS_PRESENT = 0x113;
const NO_DEVICE_TFD = 0x7f;
/** Bytes that queued commands in flight may move, but for the last of them; others wait. */
const MOST_IN_FLIGHT = 64 * 1024 * 1024;

export class AhciPort {
  readonly unit: IdeUnit;
  readonly #memory: GuestMemory;
  readonly #changed: () => void;
  #clb: [number, number] = [0, 0];
  #fb: [number, number] = [0, 0];
  #is = 0;
  #ie = 0;
  #cmd = CMD_RESET;
  #tfd = NO_DEVICE_TFD;
  #signature = 0xffff_ffff;
  #sctl = 0;
  #serr = 0;
  #sact = 0;
  #ci = 0;
  #current: AhciCommand | undefined;
  /** After an error nothing is begun until the port is started anew. */
  #halted = false;
  #toldSignature = false;
  #softReset = false;
  #epoch = 0;
  /** Tags of queued commands under way. */
  #queued = 0;
  /** Bytes of queued commands that have not ended, those that resets gave up included. */
  #inFlight = 0;
  /** Tags of which the guest was not told that they are done. */
  #finished = 0;
  readonly #setBits = new Uint8Array(8);
  readonly #setBitsView = new DataView(this.#setBits.buffer);

  constructor(memory: GuestMemory, changed: () => void) {
    this.#memory = memory;
    this.#changed = changed;
    this.unit = new IdeUnit(this.#link());
  }

  /** Interrupts that are pending and asked for. */
  get pending(): boolean {
    return (this.#is & this.#ie) !== 0;
  }

  get #hasDevice(): boolean {
    return this.unit.model !== undefined;
  }

  /** COMRESET, or that of the controller, which clears the registers too. */
  reset(isWhole: boolean): void {
    this.#forgetQueued();
    this.#current = undefined;
    this.#halted = false;
    this.#softReset = false;
    this.#toldSignature = false;
    this.#is = 0;
    this.#sact = 0;
    this.#ci = 0;
    this.#serr = 0;
    this.#tfd = NO_DEVICE_TFD;
    this.#signature = 0xffff_ffff;
    if (isWhole) {
      this.#clb = [0, 0];
      this.#fb = [0, 0];
      this.#ie = 0;
      this.#sctl = 0;
      this.#cmd = CMD_RESET;
    }
    this.unit.reset();
    this.#tellSignature();
  }

  // --- registers

  read(offset: number): number {
    switch (offset) {
      case 0x00:
      case 0x04:
        return this.#clb[offset / 4]!;
      case 0x08:
      case 0x0c:
        return this.#fb[(offset - 8) / 4]!;
      case 0x10:
        return this.#is;
      case 0x14:
        return this.#ie;
      case 0x18:
        return this.#cmd | (this.unit.model?.isPacket === true ? CMD_ATAPI : 0);
      case 0x20:
        return this.#tfd;
      case 0x24:
        return this.#signature;
      case 0x28:
        return this.#hasDevice ? SSTS_PRESENT : 0;
      case 0x2c:
        return this.#sctl;
      case 0x30:
        return this.#serr;
      case 0x34:
        return this.#sact;
      case 0x38:
        return this.#ci;
      default:
        return 0;
    }
  }

  write(offset: number, value: number): void {
    switch (offset) {
      case 0x00:
        this.#clb[0] = (value & ~0x3ff) >>> 0;
        return;
      case 0x04:
        this.#clb[1] = value;
        return;
      case 0x08:
        this.#fb[0] = (value & ~0xff) >>> 0;
        return;
      case 0x0c:
        this.#fb[1] = value;
        return;
      case 0x10:
        this.#is = (this.#is & ~value) >>> 0;
        this.#changed();
        return;
      case 0x14:
        this.#ie = (value & IE_MASK) >>> 0;
        this.#changed();
        return;
      case 0x18:
        this.#setCommand(value);
        return;
      case 0x2c: {
        const wasReset = (this.#sctl & 15) === 1;
        this.#sctl = value;
        if (wasReset && (value & 15) === 0) this.reset(false);
        return;
      }
      case 0x30:
        this.#serr = (this.#serr & ~value) >>> 0;
        return;
      case 0x34:
        if ((this.#cmd & CMD_START) !== 0) this.#sact = (this.#sact | value) >>> 0;
        return;
      case 0x38:
        if ((this.#cmd & CMD_START) === 0) return;
        this.#ci = (this.#ci | value) >>> 0;
        this.#next();
        return;
      default:
    }
  }

  #setCommand(value: number): void {
    const before = this.#cmd;
    let next = (before & ~CMD_WRITABLE) | (value & CMD_WRITABLE);
    if ((next & CMD_START) !== 0) next |= CMD_RUNNING;
    else next &= ~CMD_RUNNING;
    if ((next & CMD_RECEIVE) !== 0) next |= CMD_RECEIVING;
    else next &= ~CMD_RECEIVING;
    this.#cmd = next >>> 0;
    if ((before & CMD_START) !== 0 && (next & CMD_START) === 0) this.#stop();
    if ((value & CMD_OVERRIDE) !== 0) {
      this.#tfd &= ~(IdeStatus.busy | IdeStatus.request);
    }
    if ((next & CMD_RECEIVE) !== 0) this.#tellSignature();
    if ((before & CMD_START) === 0 && (next & CMD_START) !== 0) {
      this.#halted = false;
      this.#next();
    }
  }

  /** Commands that are not done are forgotten; what they write goes on to its place. */
  #stop(): void {
    this.#ci = 0;
    this.#sact = 0;
    this.#forgetQueued();
    if (this.#current === undefined) return;
    this.#current = undefined;
    this.unit.abandon();
    this.unit.model?.drive?.abandon();
    this.unit.status = IdeStatus.ready | IdeStatus.seek;
    this.#tfd = IdeStatus.ready | IdeStatus.seek;
  }

  // --- FISes

  #receive(offset: number, fis: Uint8Array): void {
    if ((this.#cmd & CMD_RECEIVE) === 0) return;
    this.#memory.write(this.#fb[1] * 2 ** 32 + this.#fb[0] + offset, fis);
  }

  /** The registers as a FIS has them. */
  #registers(type: number, bytes: number, interrupt: boolean): Uint8Array {
    const { regs, status, error } = this.unit;
    const { previous: p } = regs;
    const fis = new Uint8Array(bytes);
    fis.set([type, interrupt ? 0x40 : 0, status, error, regs.low, regs.mid, regs.high]);
    fis.set([regs.device, p.low, p.mid, p.high, 0, regs.count, p.count], 7);
    this.#tfd = (error << 8) | status;
    return fis;
  }

  #raise(bits: number): void {
    this.#is = (this.#is | bits) >>> 0;
    this.#changed();
  }

  /** The first FIS after a reset, when there is room for it: what the device is. */
  #tellSignature(): void {
    if (this.#toldSignature || !this.#hasDevice || (this.#cmd & CMD_RECEIVE) === 0) return;
    this.#toldSignature = true;
    const { regs } = this.unit;
    this.#receive(FIS_D2H, this.#registers(0x34, 20, false));
    this.#signature =
      ((regs.high << 24) | (regs.mid << 16) | (regs.low << 8) | (regs.count & 0xff)) >>> 0;
  }

  /** A drive came or went. */
  deviceChanged(): void {
    this.reset(false);
  }

  // --- commands

  #next(): void {
    while (
      this.#current === undefined &&
      !this.#halted &&
      this.#ci !== 0 &&
      (this.#cmd & CMD_START) !== 0
    ) {
      const slot = 31 - Math.clz32(this.#ci & -this.#ci);
      if (!this.#begin(slot)) return;
    }
  }

  /** False: it cannot begin now. */
  #begin(slot: number): boolean {
    const list = this.#clb[1] * 2 ** 32 + this.#clb[0];
    const command = new AhciCommand(this.#memory, list, slot);
    const { fis } = command;
    if (fis[0] !== 0x27 || !this.#hasDevice) {
      this.#halted = true;
      return false;
    }
    if ((fis[1]! & 0x80) === 0) {
      this.#control(fis[15]!);
      this.#clear(slot);
      return true;
    }
    const code = fis[2]!;
    if ((code === 0x60 || code === 0x61) && this.unit.model?.drive !== undefined) {
      if (this.#inFlight >= MOST_IN_FLIGHT) return false;
      this.#queue(command);
      return true;
    }
    // Other commands wait until no queued one is under way.
    if (this.#queued !== 0 || this.unit.isBusy) return false;
    this.#load(fis);
    this.#current = command;
    this.#cmd = ((this.#cmd & ~0x1f00) | (slot << 8)) >>> 0;
    this.#tfd = IdeStatus.busy | IdeStatus.ready;
    this.unit.execute(code);
    return true;
  }

  #clear(slot: number): void {
    this.#ci = (this.#ci & ~(1 << slot)) >>> 0;
  }

  #load(fis: Uint8Array): void {
    const { regs } = this.unit;
    [regs.feature, regs.low, regs.mid, regs.high, regs.device] = [
      fis[3]!,
      fis[4]!,
      fis[5]!,
      fis[6]!,
      fis[7]!,
    ];
    // A FIS has 16 bits of count for commands of 28-bit addresses, too, and drivers use them.
    regs.count = fis[12]! + fis[13]! * 0x100;
    regs.previous = {
      low: fis[8]!,
      mid: fis[9]!,
      high: fis[10]!,
      feature: fis[11]!,
      count: fis[13]!,
    };
  }

  /** A FIS that only sets the device control register: software reset. */
  #control(value: number): void {
    const isReset = (value & 4) !== 0;
    if (this.#softReset && !isReset) {
      this.unit.reset();
      this.#toldSignature = false;
      this.#tellSignature();
      this.#raise(Is.d2h);
    }
    this.#softReset = isReset;
  }

  #link(): IdeLink {
    return {
      interrupt: () => undefined,
      pioReady: (direction, buffer, interrupt) => {
        this.#pio(direction, buffer, interrupt);
      },
      dmaReady: (phase) => {
        this.#dma(phase);
      },
      ended: () => {
        this.#ended(0);
      },
      abandoned: () => undefined,
    };
  }

  #pio(direction: DmaDirection, buffer: Uint8Array, interrupt: boolean): void {
    const command = this.#current;
    if (command === undefined) return;
    const isPacket = command.isPacket && direction === 'from-guest';
    if (isPacket) command.packet(buffer);
    else {
      const guest = guestBuffer(this.#memory, command.take(buffer.length), direction);
      const { iov } = guest;
      if (direction === 'to-guest') iov.copyFrom(buffer.subarray(0, iov.bytes));
      else iov.copyTo(buffer);
      guest.finish();
      command.moved += iov.bytes;
    }
    const fis = this.#registers(0x5f, 20, interrupt);
    fis[1] = fis[1]! | (direction === 'to-guest' ? 0x20 : 0);
    fis[15] = IdeStatus.ready | IdeStatus.seek;
    fis[16] = buffer.length & 0xff;
    fis[17] = buffer.length >> 8;
    this.#receive(FIS_PIO, fis);
    if (interrupt) this.#raise(Is.pioSetup);
    this.unit.pioMoved();
  }

  #dma(phase: DmaPhase): void {
    const command = this.#current;
    if (command === undefined) return;
    phase.go({
      memory: this.#memory,
      take: (bytes) => {
        const ranges = command.take(bytes);
        for (const range of ranges) command.moved += range.bytes;
        return ranges;
      },
      end: (outcome) => {
        if (outcome !== 'short') return;
        // The command has no room for its data: it ends, and the port says why.
        command.moved = 0;
        this.unit.doneSilently();
        this.#ended(Is.overflow);
      },
    });
  }

  /** The command in work is over. */
  #ended(more: number): void {
    const command = this.#current;
    if (command === undefined) return;
    this.#current = undefined;
    command.report();
    this.#receive(FIS_D2H, this.#registers(0x34, 20, true));
    const failed = (this.unit.status & IdeStatus.error) !== 0;
    if (failed) this.#halted = true;
    else this.#clear(command.slot);
    this.#raise(Is.d2h | more | (failed ? Is.taskFile : 0));
    this.#next();
  }

  // --- queued commands (SATA 3.0, section 13.6)

  #queue(command: AhciCommand): void {
    const { fis, slot } = command;
    const tag = fis[12]! >> 3;
    const drive = this.unit.model?.drive;
    const bit = (1 << tag) >>> 0;
    this.#clear(slot);
    if (drive === undefined || (this.#queued & bit) !== 0) {
      this.#queueFailed(bit);
      return;
    }
    const sectors = fis[3]! + fis[11]! * 256 || 0x1_0000;
    const low = fis[4]! + fis[5]! * 0x100 + fis[6]! * 0x1_0000;
    const lba = low + (fis[8]! + fis[9]! * 0x100 + fis[10]! * 0x1_0000) * 2 ** 24;
    const bytes = sectors * SECTOR;
    const isRead = fis[2] === 0x60;
    const inside = (lba + sectors) * SECTOR <= drive.bytes;
    const buffer = inside
      ? guestBuffer(this.#memory, command.take(bytes), isRead ? 'to-guest' : 'from-guest')
      : undefined;
    if (buffer?.iov.bytes !== bytes) {
      this.#queueFailed(bit);
      return;
    }
    const epoch = this.#epoch;
    this.#queued = (this.#queued | bit) >>> 0;
    const offset = lba * SECTOR;
    const done = isRead ? drive.read(offset, buffer.iov) : drive.write(offset, buffer.iov);
    this.#inFlight += bytes;
    done.then(
      () => {
        this.#copied(bytes);
        if (epoch !== this.#epoch) return;
        buffer.finish();
        this.#queued = (this.#queued & ~bit) >>> 0;
        // One FIS for all that end in one go.
        if (this.#finished === 0) queueMicrotask(this.#tellFinished);
        this.#finished = (this.#finished | bit) >>> 0;
      },
      () => {
        this.#copied(bytes);
        if (epoch === this.#epoch) this.#queueFailed(bit);
      },
    );
  }

  /** A request ended, one that a reset gave up, too: others may have waited for its memory. */
  #copied(bytes: number): void {
    const wasFull = this.#inFlight >= MOST_IN_FLIGHT;
    this.#inFlight -= bytes;
    if (wasFull) queueMicrotask(this.#goOn);
  }

  readonly #goOn = (): void => {
    this.#next();
  };

  readonly #tellFinished = (): void => {
    const bits = this.#finished;
    if (bits === 0) return;
    this.#finished = 0;
    this.#queueDone(bits, IdeStatus.ready | IdeStatus.seek, 0);
    this.#next();
  };

  #forgetQueued(): void {
    this.#epoch++;
    this.#queued = 0;
    this.#finished = 0;
  }

  /** Tells of finished tags by a Set Device Bits FIS. */
  #queueDone(bits: number, status: number, error: number): void {
    this.#sact = (this.#sact & ~bits) >>> 0;
    const fis = this.#setBits;
    fis[0] = 0xa1;
    fis[1] = 0x40;
    fis[2] = status & 0x77;
    fis[3] = error;
    this.#setBitsView.setUint32(4, bits, true);
    this.#tfd = (error << 8) | status;
    this.#receive(FIS_SET_BITS, fis);
    this.#raise(Is.setBits | (error === 0 ? 0 : Is.taskFile));
  }

  /**
   * A queued command failed: its tag stays in PxSACT, and the others are forgotten but for those
   * that are done.
   */
  #queueFailed(bit: number): void {
    const finished = this.#finished;
    this.#forgetQueued();
    this.#halted = true;
    this.#sact = (this.#sact | bit) >>> 0;
    this.unit.status = IdeStatus.ready | IdeStatus.error;
    this.unit.error = 0x04;
    this.#queueDone(finished, IdeStatus.ready | IdeStatus.error, 0x04);
  }
}
