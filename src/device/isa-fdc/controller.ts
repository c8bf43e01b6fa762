/**
 * The floppy controller (Intel 82078 data sheet, AT mode): its registers, the phases of a
 * command, interrupts, and data by DMA or byte by byte.
 *
 *   idle → command → (execution → data →) result → idle
 *
 * Invariants
 *  F1  Bytes of a command and of a result never go beyond their buffers, whatever a guest writes
 *      or reads, and whatever command it gave (`MAX_PHASE_BYTES`).
 *  F2  A reset gives up what is under way: nothing of it changes a register afterwards.
 *  F3  A data phase without DMA has one buffer of its own, of as many bytes as the command means.
 */
import type { GuestClock } from '../bus/clock.js';
import type { DmaChannel } from '../bus/dma.js';
import type { FloppyDrive } from '../bus/floppy/drive.js';
import { SECTOR } from '../bus/floppy/drive.js';
import type { IrqLine } from '../bus/interrupt.js';
import type { Command } from './commands.js';
import { fdcCommand, MAX_PHASE_BYTES } from './commands.js';
import type { DataPath, Outcome, SectorCommand } from './transfer.js';
import * as sectors from './transfer.js';

const { St0 } = sectors;

/** Main status register. */
const RQM = 0x80;
const DIO = 0x40;
const NON_DMA = 0x20;
const BUSY = 0x10;
/** Digital output register. */
const DOR_NOT_RESET = 0x04;
const DOR_DMA = 0x08;
/** Digital input register. */
const DIR_CHANGED = 0x80;
const DSR_RESET = 0x80;
/** CONFIGURE: no interrupt when drives become ready. */
const CONFIG_NO_POLL = 0x10;
/** Implied seeks, FIFO off: what holds after power-on. */
const CONFIG_DEFAULT = 0x60;
const LAST_SPECIFICATION = 0x80;
/** A disk turns 300 times a minute; the next identification is at most a tenth away. */
const READ_ID_NS = 20_000_000;
const POLLED_DRIVES = 4;
const VERSION_82078 = 0x90;
const PART_82078 = 0x41;

type Phase = 'reset' | 'idle' | 'command' | 'busy' | 'from-guest' | 'to-guest' | 'result';

export interface FdcInit {
  readonly drives: readonly (FloppyDrive | undefined)[];
  readonly irq: IrqLine;
  readonly dma: DmaChannel;
  readonly clock: GuestClock;
}

export class FloppyController {
  readonly #init: FdcInit;
  #phase: Phase = 'idle';
  #dor = 0;
  #tape = 0;
  #rate = 0;
  #isHigh = false;
  /** Bytes of the phase, how many there are and how far it got. */
  readonly #fifo = new Uint8Array(MAX_PHASE_BYTES);
  #length = 0;
  #at = 0;
  #command: Command | undefined;
  #data = new Uint8Array(0);
  /** Called when the guest has given all data of a phase without DMA. */
  #given: (() => void) | undefined;
  /** What happens when the guest has taken all data. */
  #taken: (() => void) | undefined;
  /** What was under way before a reset is not heard of any more. */
  #epoch = 0;
  #cancelTimer: (() => void) | undefined;
  /** ST0 for SENSE INTERRUPT; undefined: no interrupt is to be sensed. */
  #sense: number | undefined;
  /** Drives whose readiness the controller still tells after a reset. */
  #polled = 0;
  #specified: [number, number] = [0, 0];
  #config = CONFIG_DEFAULT;
  #precompensation = 0;
  #perpendicular = 0;
  #isLocked = false;
  #powerdown = 0;
  #lastSector = 0;

  constructor(init: FdcInit) {
    this.#init = init;
    this.powerOn();
  }

  /** As the reset button of the machine. */
  powerOn(): void {
    this.#isLocked = false;
    this.#dor = DOR_NOT_RESET | DOR_DMA;
    this.#tape = 0;
    this.#rate = 0;
    this.#perpendicular = 0;
    this.#specified = [0, 0];
    this.#reset(false);
  }

  #reset(interrupts: boolean): void {
    this.#giveUp();
    this.#setIrq(false);
    this.#phase = 'idle';
    this.#sense = undefined;
    this.#polled = 0;
    if (!this.#isLocked) {
      this.#config = CONFIG_DEFAULT;
      this.#precompensation = 0;
    }
    this.#perpendicular &= 0x3c;
    if (!interrupts || (this.#config & CONFIG_NO_POLL) !== 0) return;
    this.#polled = POLLED_DRIVES;
    this.#setIrq(true);
  }

  /** Nothing that is under way is heard of any more (F2). */
  #giveUp(): void {
    this.#epoch++;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    this.#init.dma.await(undefined);
    this.#given = undefined;
    this.#taken = undefined;
    this.#data = new Uint8Array(0);
    this.#length = 0;
    this.#at = 0;
  }

  /** The controller is gone. */
  close(): void {
    this.#giveUp();
    this.#setIrq(false);
  }

  #setIrq(level: boolean): void {
    this.#isHigh = level;
    this.#init.irq.set(level);
  }

  get #drive(): FloppyDrive | undefined {
    return this.#init.drives[this.#dor & 3];
  }

  get #usesDma(): boolean {
    return (this.#dor & DOR_DMA) !== 0 && (this.#specified[1] & 1) === 0;
  }

  // --- registers

  /** A byte of registers 0 to 7. */
  read(register: number): number {
    switch (register) {
      case 0:
        return (this.#isHigh ? 0x80 : 0) | (this.#init.drives[1] === undefined ? 0x40 : 0);
      case 1:
        return 0xc0 | ((this.#dor & 1) << 5) | ((this.#dor >> 4) & 3);
      case 2:
        return this.#dor;
      case 3:
        return this.#tape;
      case 4:
        return this.#status();
      case 5:
        return this.#readFifo();
      case 7:
        return this.#drive?.hasChanged === false ? 0 : DIR_CHANGED;
      default:
        return 0;
    }
  }

  write(register: number, value: number): void {
    switch (register) {
      case 2:
        this.#setOutput(value);
        return;
      case 3:
        this.#tape = value & 3;
        return;
      case 4:
        this.#rate = value & 3;
        if ((value & DSR_RESET) !== 0 && this.#phase !== 'reset') this.#reset(true);
        return;
      case 5:
        this.#writeFifo(value);
        return;
      case 7:
        this.#rate = value & 3;
        return;
      default:
    }
  }

  #setOutput(value: number): void {
    this.#dor = value;
    if ((value & DOR_NOT_RESET) === 0) {
      if (this.#phase !== 'reset') this.#reset(false);
      this.#phase = 'reset';
    } else if (this.#phase === 'reset') this.#reset(true);
  }

  #status(): number {
    switch (this.#phase) {
      case 'reset':
        return 0;
      case 'idle':
        return RQM;
      case 'command':
        return RQM | BUSY;
      case 'busy':
        return BUSY;
      case 'from-guest':
        return RQM | BUSY | NON_DMA;
      case 'to-guest':
        return RQM | DIO | BUSY | NON_DMA;
      case 'result':
        return RQM | DIO | BUSY;
    }
  }

  #readFifo(): number {
    if (this.#phase === 'to-guest') {
      const value = this.#data[this.#at++] ?? 0;
      if (this.#at >= this.#data.length) this.#taken?.();
      return value;
    }
    if (this.#phase !== 'result') return 0;
    const value = this.#fifo[this.#at++] ?? 0;
    if (this.#at >= this.#length) {
      this.#setIrq(false);
      this.#phase = 'idle';
    }
    return value;
  }

  #writeFifo(value: number): void {
    switch (this.#phase) {
      case 'from-guest':
        if (this.#at < this.#data.length) this.#data[this.#at++] = value;
        if (this.#at >= this.#data.length) this.#given?.();
        return;
      case 'idle':
        this.#begin(value);
        return;
      case 'command':
        this.#parameter(value);
        return;
      default:
    }
  }

  // --- the command phase

  #begin(value: number): void {
    this.#fifo.fill(0);
    this.#fifo[0] = value;
    this.#at = 1;
    const command = fdcCommand(value);
    if (command === undefined) {
      this.#result([St0.invalid], false);
      return;
    }
    this.#command = command;
    this.#phase = 'command';
    if (command.parameters === 0) this.#run(command);
  }

  #parameter(value: number): void {
    const command = this.#command;
    if (command === undefined || this.#at > command.parameters) return;
    this.#fifo[this.#at++] = value;
    const endsEarly = command.name === 'drive-specification' && (value & LAST_SPECIFICATION) !== 0;
    if (this.#at > command.parameters || endsEarly) this.#run(command);
  }

  #run(command: Command): void {
    const bytes = this.#fifo.slice(0, this.#at);
    const [first = 0, second = 0, third = 0] = bytes;
    this.#command = undefined;
    switch (command.name) {
      case 'recalibrate':
        return this.#seek(second, 0);
      case 'seek':
        return this.#seek(second, third);
      case 'seek-in':
      case 'seek-out':
        return this.#seekBy(second, command.name === 'seek-in' ? third : -third);
      case 'sense-interrupt':
        return this.#senseInterrupt();
      case 'sense-drive':
        return this.#result([this.#driveStatus(second)], false);
      case 'read-id':
        return this.#readId(second);
      case 'format':
        return this.#format(sectors.sectorCommand(command, bytes), second);
      case 'specify':
        this.#specified = [second, third];
        return this.#done();
      case 'configure':
        this.#config = third;
        this.#precompensation = bytes[3]!;
        return this.#done();
      case 'perpendicular':
        // Bits of drives count only when software says that it means them.
        if ((second & 0x80) !== 0) this.#perpendicular = second & 0x3f;
        else this.#perpendicular = (this.#perpendicular & 0x3c) | (second & 3);
        return this.#done();
      case 'option':
        return this.#done();
      case 'restore':
        return this.#restore(bytes);
      case 'drive-specification':
        return this.#driveSpecification(bytes);
      default:
        return this.#tell(command, first, second, bytes);
    }
  }

  /** Commands whose answers are known at once, and those that move sectors. */
  #tell(command: Command, first: number, second: number, bytes: Uint8Array): void {
    switch (command.name) {
      case 'version':
        return this.#result([VERSION_82078], false);
      case 'part-id':
        return this.#result([PART_82078], false);
      case 'lock':
        this.#isLocked = (first & 0x80) !== 0;
        return this.#result([this.#isLocked ? 0x10 : 0], false);
      case 'powerdown':
        this.#powerdown = second;
        return this.#result([second], false);
      case 'dump-registers':
        return this.#result([...this.#cylinders(), ...this.#settings()], false);
      case 'save':
        return this.#result(
          [0, 0, ...this.#cylinders(), ...this.#settings(), this.#powerdown, 0, 0, 0],
          false,
        );
      default:
        return this.#sectors(sectors.sectorCommand(command, bytes), second);
    }
  }

  #done(): void {
    this.#phase = 'idle';
  }

  #result(bytes: readonly number[], interrupts: boolean): void {
    this.#fifo.fill(0);
    this.#fifo.set(bytes);
    this.#length = bytes.length;
    this.#at = 0;
    this.#phase = 'result';
    if (interrupts) this.#setIrq(true);
  }

  #cylinders(): number[] {
    return Array.from({ length: 4 }, (_, i) => this.#init.drives[i]?.cylinder ?? 0);
  }

  #settings(): number[] {
    const perpendicular = (this.#isLocked ? 0x80 : 0) | this.#perpendicular;
    return [
      ...this.#specified,
      this.#lastSector,
      perpendicular,
      this.#config,
      this.#precompensation,
    ];
  }

  #restore(bytes: Uint8Array): void {
    this.#specified = [bytes[7]!, bytes[8]!];
    this.#lastSector = bytes[9]!;
    this.#isLocked = (bytes[10]! & 0x80) !== 0;
    this.#perpendicular = bytes[10]! & 0x3f;
    this.#config = bytes[11]!;
    this.#precompensation = bytes[12]!;
    this.#powerdown = bytes[13]!;
    this.#done();
  }

  /** The drives' specifications, each told again where the guest asked for them (bit 6). */
  #driveSpecification(bytes: Uint8Array): void {
    const last = bytes.at(-1) ?? 0;
    if ((last & LAST_SPECIFICATION) === 0 || (last & 0x40) !== 0) this.#done();
    else this.#result([0, 0, 0, 0], false);
  }

  // --- the head

  /** Chooses drive and head as a command's second byte does. */
  #select(second: number): FloppyDrive | undefined {
    this.#dor = (this.#dor & ~3) | (second & 3);
    const drive = this.#drive;
    if (drive !== undefined) drive.head = (second >> 2) & 1;
    return drive;
  }

  #seek(second: number, cylinder: number): void {
    const drive = this.#select(second);
    drive?.seek(cylinder);
    const error = drive === undefined ? St0.abnormal | St0.equipment : 0;
    this.#sense = St0.seekEnd | error | (second & 3);
    this.#polled = 0;
    this.#phase = 'idle';
    this.#setIrq(true);
  }

  #seekBy(second: number, steps: number): void {
    const drive = this.#init.drives[second & 3];
    const most = (drive?.geometry?.cylinders ?? 1) - 1;
    const wanted = (drive?.cylinder ?? 0) + steps;
    this.#seek(second, Math.max(0, Math.min(most, wanted)));
  }

  #senseInterrupt(): void {
    const cylinder = this.#drive?.cylinder ?? 0;
    if (this.#polled > 0) {
      const unit = POLLED_DRIVES - this.#polled--;
      this.#setIrq(false);
      this.#result([0xc0 | unit, this.#init.drives[unit]?.cylinder ?? 0], false);
      return;
    }
    const status = this.#sense;
    this.#sense = undefined;
    this.#setIrq(false);
    if (status === undefined) this.#result([St0.invalid], false);
    else this.#result([status, cylinder], false);
  }

  #driveStatus(second: number): number {
    const drive = this.#select(second);
    // Ready and two-sided always; the guest learns of the medium in other ways.
    const status = 0x28 | (second & 7);
    if (drive === undefined) return status;
    return status | (drive.cylinder === 0 ? 0x10 : 0) | (drive.isReadOnly ? 0x40 : 0);
  }

  #readId(second: number): void {
    const drive = this.#select(second);
    this.#phase = 'busy';
    this.#cancelTimer = this.#init.clock.after(READ_ID_NS, () => {
      this.#cancelTimer = undefined;
      const next = { cylinder: drive?.cylinder ?? 0, head: drive?.head ?? 0, sector: 1 };
      const isFound = drive !== undefined && (!drive.isInserted || drive.hasRate(this.#rate));
      this.#end({
        st0: (isFound ? 0 : St0.abnormal) | (next.head << 2),
        st1: isFound ? 0 : sectors.St1.missingMark,
        st2: 0,
        next,
      });
    });
  }

  // --- sectors

  #end({ st0, st1, st2, next }: Outcome): void {
    const { cylinder, head, sector } = next;
    const unit = this.#dor & 3;
    this.#sense = undefined;
    this.#result([st0 | unit, st1, st2, cylinder & 0xff, head, sector & 0xff, 2], true);
  }

  #sectors(command: SectorCommand, second: number): void {
    this.#start(command, second, sectors.sectorCount(command) * SECTOR, (drive, path) =>
      sectors.transfer(drive, command, path),
    );
  }

  #format(command: SectorCommand, second: number): void {
    this.#start(command, second, command.last * 4, (drive, path) =>
      sectors.format(drive, command, path),
    );
  }

  /** Begins the execution of a command that moves at most `bytes` bytes. */
  #start(
    command: SectorCommand,
    second: number,
    bytes: number,
    run: (drive: FloppyDrive, path: DataPath) => Promise<Outcome | undefined>,
  ): void {
    const drive = this.#select(second);
    this.#lastSector = command.last;
    const refused = sectors.tryRefuse(drive, command, this.#rate);
    if (drive === undefined || refused !== undefined) {
      const { st0, st1 } = refused ?? { st0: St0.abnormal, st1: sectors.St1.missingMark };
      this.#end({ st0: st0 | ((drive?.head ?? 0) << 2), st1, st2: 0, next: command.start });
      return;
    }
    const epoch = this.#epoch;
    const ended = (outcome: Outcome | undefined): void => {
      if (epoch === this.#epoch && outcome !== undefined) this.#end(outcome);
    };
    this.#phase = 'busy';
    if (this.#usesDma || command.name === 'verify') {
      void run(drive, this.#dmaPath()).then(ended);
      return;
    }
    const isRead = command.name.startsWith('read');
    const buffer = new Uint8Array(bytes);
    const pieces = new ProgrammedPath(buffer);
    const go = (): void => {
      this.#phase = 'busy';
      void run(drive, pieces).then((outcome) => {
        if (epoch !== this.#epoch || outcome === undefined) return;
        if (!isRead || pieces.at === 0) this.#end(outcome);
        else this.#offer(buffer.subarray(0, pieces.at), outcome);
      });
    };
    if (isRead) go();
    else this.#ask(buffer, go);
  }

  /** A data phase in which the guest reads all of `data` from the FIFO. */
  #offer(data: Uint8Array<ArrayBuffer>, outcome: Outcome): void {
    this.#data = data;
    this.#at = 0;
    this.#phase = 'to-guest';
    this.#taken = (): void => {
      this.#taken = undefined;
      this.#end(outcome);
    };
    this.#setIrq(true);
  }

  /** A data phase in which the guest writes all of `data`. */
  #ask(data: Uint8Array<ArrayBuffer>, then: () => void): void {
    this.#data = data;
    this.#at = 0;
    this.#phase = 'from-guest';
    this.#given = (): void => {
      this.#given = undefined;
      this.#setIrq(false);
      then();
    };
    this.#setIrq(true);
  }

  /** Data by DMA: each piece waits until the guest opens the channel. */
  #dmaPath(): DataPath {
    const { dma } = this.#init;
    const epoch = this.#epoch;
    let isOver = false;
    const move = async (
      bytes: number,
      some: (from: number) => { readonly bytes: number; readonly isDone: boolean },
    ): Promise<boolean | undefined> => {
      for (let at = 0; at < bytes && !isOver;) {
        if (!dma.isReady)
          await new Promise<void>((go) => {
            dma.await(go);
          });
        if (epoch !== this.#epoch) return undefined;
        const moved = some(at);
        if (moved.bytes === 0) return undefined;
        at += moved.bytes;
        isOver = moved.isDone;
      }
      return epoch === this.#epoch ? !isOver : undefined;
    };
    return {
      give: (data) => move(data.length, (at) => dma.give(data.subarray(at))),
      take: (out) => move(out.length, (at) => dma.take(out.subarray(at))),
    };
  }
}

/** Data without DMA: the guest gave them before, or takes them afterwards. */
class ProgrammedPath implements DataPath {
  /** How much has moved. */
  at = 0;
  readonly #buffer: Uint8Array;

  constructor(buffer: Uint8Array) {
    this.#buffer = buffer;
  }

  give(data: Uint8Array): Promise<boolean> {
    const room = this.#buffer.length - this.at;
    this.#buffer.set(data.subarray(0, room), this.at);
    this.at += Math.min(room, data.length);
    return Promise.resolve(true);
  }

  take(out: Uint8Array): Promise<boolean> {
    out.set(this.#buffer.subarray(this.at, this.at + out.length));
    this.at += out.length;
    return Promise.resolve(true);
  }
}
