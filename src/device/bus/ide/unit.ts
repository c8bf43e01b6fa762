/**
 * One unit of an IDE channel or SATA port: task file, status, data phases (ATA8-ACS, chapters 6
 * and 7). What the commands do is the model's (ide-hd, ide-cd); how data reaches the guest is the
 * link's (a channel with ports and bus-master DMA, or an AHCI port).
 *
 * Invariants
 *  I1  A data phase has one buffer; outside it the data register reads 0 and drops writes, and
 *      inside it no access goes beyond the buffer.
 *  I2  After a reset nothing of an older command changes the registers (`#epoch`): writes that
 *      are under way go on to the sectors that they were for, and nothing else.
 *  I3  At most one command is in work; others are ignored while BSY or DRQ is set.
 */
import type { Drive } from '../drive.js';
import { Abandoned } from '../drive.js';
import type { DmaDirection } from '../../../virtio/guest-buffer.js';
import type { GuestMemory, GuestRange } from '../../../host/guest-memory.js';
import type { AccessSize } from '../space.js';

export const IdeStatus = {
  busy: 0x80,
  ready: 0x40,
  fault: 0x20,
  seek: 0x10,
  request: 0x08,
  error: 0x01,
} as const;

export const IdeError = {
  abort: 0x04,
  notFound: 0x10,
  uncorrectable: 0x40,
} as const;

/** Registers of the command block; `previous` holds what was written before (48-bit commands). */
export interface TaskFile {
  feature: number;
  /** 8 bits by ports; by a FIS 16, the upper ones also in `previous`. */
  count: number;
  low: number;
  mid: number;
  high: number;
  previous: { feature: number; count: number; low: number; mid: number; high: number };
  device: number;
}

/** A unit answers after reset with one of these: disk, packet device. */
export interface Signature {
  readonly mid: number;
  readonly high: number;
}

/** The commands of a kind of unit. */
export interface IdeModel {
  readonly isPacket: boolean;
  readonly signature: Signature;
  /** Carries out a command; false: unknown, or not for this kind. */
  command(code: number): boolean;
  /** Where queued commands (NCQ) go; absent: there are none. */
  readonly drive?: Drive;
  /** Software or hardware reset: what is under way is given up. */
  reset(): void;
}

/** Guest memory that a DMA engine lends, piece by piece. */
export interface DmaEngine {
  readonly memory: GuestMemory;
  /** The next at most `bytes` bytes of the guest's list; fewer when the list ends. */
  take(bytes: number): readonly GuestRange[];
  /** The data phase is over; `short`: the list was shorter than the request. */
  end(outcome: 'done' | 'short' | 'error'): void;
}

/** A DMA data phase that waits for the engine. */
export interface DmaPhase {
  readonly direction: DmaDirection;
  go(engine: DmaEngine): void;
}

/** What a unit needs of what it is connected to. */
export interface IdeLink {
  /** The unit asserts its interrupt. */
  interrupt(): void;
  /** A PIO phase is open; `interrupt`: the host is to be told. */
  pioReady(direction: DmaDirection, buffer: Uint8Array, interrupt: boolean): void;
  dmaReady(phase: DmaPhase): void;
  /** The command ended; status and error are final. */
  ended(): void;
  /** A reset gave up the command and its data phases. */
  abandoned(): void;
}

interface PioPhase {
  readonly direction: DmaDirection;
  readonly buffer: Uint8Array;
  at: number;
  readonly next: () => void;
}

/** Requests that resets gave up and that the host carries out still: more wait (bounded memory). */
const MOST_WORKING = 4;

export class IdeUnit {
  readonly regs: TaskFile = {
    feature: 0,
    count: 1,
    low: 1,
    mid: 0,
    high: 0,
    previous: { feature: 0, count: 0, low: 0, mid: 0, high: 0 },
    device: 0xa0,
  };
  status: number = IdeStatus.ready | IdeStatus.seek;
  error = 1;
  model: IdeModel | undefined;
  readonly #link: IdeLink;
  #pio: PioPhase | undefined;
  #epoch = 0;
  /** Requests of the disk that have not ended, those that resets gave up included. */
  #working = 0;
  /** A command that waits until fewer are. */
  #onRoom: (() => void) | undefined;

  constructor(link: IdeLink) {
    this.#link = link;
  }

  get isBusy(): boolean {
    return (this.status & (IdeStatus.busy | IdeStatus.request)) !== 0;
  }

  /** Registers as after power-on, software reset or EXECUTE DEVICE DIAGNOSTIC. */
  setSignature(): void {
    const { regs } = this;
    const { mid, high } = this.model?.signature ?? { mid: 0xff, high: 0xff };
    regs.count = 1;
    regs.low = 1;
    regs.mid = mid;
    regs.high = high;
    regs.device &= 0x10;
    regs.previous = { feature: 0, count: 0, low: 0, mid: 0, high: 0 };
    this.error = 1;
  }

  /** Gives up what is in work and answers with the signature. */
  reset(): void {
    this.abandon();
    this.model?.reset();
    this.setSignature();
    // A packet device is not ready until it has got a command.
    this.status = this.model?.isPacket === true ? 0 : IdeStatus.ready | IdeStatus.seek;
    if (this.model === undefined) this.status = 0;
  }

  /** Gives up what is in work (I2). */
  abandon(): void {
    this.#epoch++;
    this.#pio = undefined;
    this.#link.abandoned();
  }

  /** A command was written. */
  execute(code: number): void {
    const { model } = this;
    if (model === undefined) return;
    if (this.isBusy) {
      // DEVICE RESET is heard at any time, by packet devices.
      if (code !== 0x08 || !model.isPacket) return;
      this.abandon();
    }
    if (this.#working >= MOST_WORKING) {
      const epoch = this.#epoch;
      this.status = IdeStatus.busy | IdeStatus.ready | IdeStatus.seek;
      this.#onRoom = (): void => {
        if (epoch === this.#epoch) this.#start(model, code);
      };
    } else this.#start(model, code);
  }

  #start(model: IdeModel, code: number): void {
    this.status = IdeStatus.ready | IdeStatus.seek;
    this.error = 0;
    if (!model.command(code)) this.abort();
  }

  /** The command ended well. */
  done(): void {
    this.status = IdeStatus.ready | IdeStatus.seek;
    this.error = 0;
    this.#link.ended();
    this.#link.interrupt();
  }

  /** The last data of a PIO command was taken: it ended, and the host, who read it, knows. */
  dataTaken(): void {
    this.status = IdeStatus.ready | IdeStatus.seek;
    this.#link.ended();
  }

  /** The command ended well and nobody is told but by the status (DMA lists that end early). */
  doneSilently(): void {
    this.status = IdeStatus.ready | IdeStatus.seek;
    this.error = 0;
  }

  /** The command ended with these bits of the error register. */
  fail(error: number): void {
    this.status = IdeStatus.ready | IdeStatus.error;
    this.error = error;
    this.#link.ended();
    this.#link.interrupt();
  }

  abort(): void {
    this.fail(IdeError.abort);
  }

  /** Does `work` with BSY set, then goes on; not at all after a reset (I2). */
  wait(work: Promise<void>, then: () => void, failed: (error: unknown) => void): void {
    const epoch = this.#epoch;
    this.status = IdeStatus.busy | IdeStatus.ready | IdeStatus.seek;
    this.#working++;
    work.then(
      () => {
        this.#worked();
        if (epoch === this.#epoch) then();
      },
      (e: unknown) => {
        this.#worked();
        if (epoch === this.#epoch && !(e instanceof Abandoned)) failed(e);
      },
    );
  }

  #worked(): void {
    this.#working--;
    const go = this.#onRoom;
    this.#onRoom = undefined;
    go?.();
  }

  /** The host reads `buffer` from the data register; then `next`. */
  pioIn(buffer: Uint8Array, next: () => void, interrupt = true): void {
    this.#begin({ direction: 'to-guest', buffer, at: 0, next }, interrupt);
  }

  /** The host fills `buffer` through the data register; then `next`. */
  pioOut(buffer: Uint8Array, next: () => void, interrupt: boolean): void {
    this.#begin({ direction: 'from-guest', buffer, at: 0, next }, interrupt);
  }

  #begin(phase: PioPhase, interrupt: boolean): void {
    this.#pio = phase;
    this.status = IdeStatus.ready | IdeStatus.seek | IdeStatus.request;
    this.#link.pioReady(phase.direction, phase.buffer, interrupt);
  }

  /** The whole buffer of the open PIO phase was moved by other means than the data register. */
  pioMoved(): void {
    const phase = this.#pio;
    if (phase === undefined) return;
    this.#pio = undefined;
    this.status = IdeStatus.busy | IdeStatus.ready | IdeStatus.seek;
    phase.next();
  }

  /**
   * A DMA data phase: `go` gets the engine when it is there, and calls `end` of it before it ends
   * the command. After a reset it never comes.
   */
  dma(direction: DmaDirection, go: (engine: DmaEngine) => void): void {
    const epoch = this.#epoch;
    this.status = IdeStatus.ready | IdeStatus.seek | IdeStatus.request;
    this.#link.dmaReady({
      direction,
      go: (engine) => {
        if (epoch !== this.#epoch) return;
        this.status = IdeStatus.busy | IdeStatus.ready | IdeStatus.seek;
        go(engine);
      },
    });
  }

  /** A read of the data register (I1). */
  readData(size: AccessSize): number {
    const phase = this.#pio;
    if (phase?.direction !== 'to-guest') return 0;
    const { buffer } = phase;
    let value = 0;
    for (let i = 0; i < size && phase.at < buffer.length; i++) {
      value += buffer[phase.at++]! * 2 ** (8 * i);
    }
    if (phase.at >= buffer.length) this.pioMoved();
    return value;
  }

  /** A write to the data register (I1). */
  writeData(size: AccessSize, value: number): void {
    const phase = this.#pio;
    if (phase?.direction !== 'from-guest') return;
    const { buffer } = phase;
    for (let i = 0; i < size && phase.at < buffer.length; i++) {
      buffer[phase.at++] = (value >>> (8 * i)) & 0xff;
    }
    if (phase.at >= buffer.length) this.pioMoved();
  }
}
