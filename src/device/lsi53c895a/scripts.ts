/**
 * The SCRIPTS processor of the LSI 53C895A (LSI53C895A Technical Manual, chapter 5) as an
 * initiator: instructions from guest memory that move data over the bus, jump, and compute with
 * registers.
 *
 * Invariants
 *  L1  Between two things that guest or disk do a script takes at most MAX_STEPS steps, where an
 *      instruction is one and every STEP_BYTES that it moves or has room made for are one more;
 *      then it stops with the interrupt of an unexpected disconnection.
 *  L2  Instructions and data come from RAM or the function's own 8 KiB: no register is reached by
 *      the processor's addresses (GuestMemory), so that nothing here is entered twice.
 *  L3  A script's own writes to registers never start a second run: one run is under way or none.
 */
import type { Clock } from '../../host/host.js';
import type { GuestMemory } from '../../host/guest-memory.js';
import type { ScsiBus } from '../bus/scsi/bus.js';
import { Initiator, Phase } from './initiator.js';
import { Dstat, Istat, LsiRegisters, R, Sist0, Sist1 } from './registers.js';

export const RAM_BYTES = 8192;
const MAX_STEPS = 10_000;
const STEP_BYTES = 65_536;
/** Pieces in which memory is moved. */
const MOVE_BYTES = 65_536;

const SCNTL1_RESET_BUS = 0x08;
const SCNTL2_WIDE_RESIDUE = 0x01;
const DCNTL_STEP = 0x10;
const DCNTL_START = 0x04;
const DMODE_MANUAL = 0x01;
const CCNTL0_JUMP = 0x80;
const CCNTL0_BY_DIRECTION = 0x40;
const STIME1_TIMER = 0x0f;
const SSTAT0_WON = 0x04;
const SBCL_REQUEST = 0xa0;
const SBCL_ATTENTION = 0x08;

const readOnly = new Set<number>([
  R.ssid,
  R.sbcl,
  R.dstat,
  R.sstat0,
  R.sstat1,
  R.ctest2,
  R.sist0,
  R.sist1,
  R.stest4,
]);

export interface ScriptsInit {
  readonly bus: ScsiBus;
  /** Memory as the function may reach it. */
  readonly memory: GuestMemory;
  readonly clock: Clock;
  /** Level of the interrupt pin. */
  readonly interrupt: (level: boolean) => void;
}

export class ScriptsProcessor {
  readonly ram = new Uint8Array(RAM_BYTES);
  readonly #init: ScriptsInit;
  readonly #regs: LsiRegisters;
  readonly #initiator: Initiator;
  #isRunning = false;
  /** {@link #run} is on the stack. */
  #isInside = false;
  #waitsForReselect = false;
  #carry = false;
  #steps = 0;

  constructor(init: ScriptsInit) {
    this.#init = init;
    this.#regs = new LsiRegisters(init.interrupt);
    this.#initiator = new Initiator({
      bus: init.bus,
      memory: init.memory,
      clock: init.clock,
      ready: () => {
        this.#run();
      },
      lost: () => {
        this.#scsi(Sist0.disconnected, 0);
      },
    });
    this.#regs.reset();
  }

  /** The chip as it is after power-on; its RAM stays. */
  reset(): void {
    this.#initiator.reset();
    this.#isRunning = false;
    this.#waitsForReselect = false;
    this.#carry = false;
    this.#regs.reset();
  }

  // --- registers

  read(offset: number): number {
    switch (offset) {
      case R.sbcl: {
        if (!this.#initiator.isConnected) return 0;
        const attention = this.#initiator.attention ? SBCL_ATTENTION : 0;
        return SBCL_REQUEST | attention | (this.#initiator.phase ?? 0);
      }
      case R.sstat1:
        return this.#initiator.phase ?? 0;
      default:
        return this.#regs.read(offset);
    }
  }

  write(offset: number, value: number): void {
    const regs = this.#regs;
    if (readOnly.has(offset)) return;
    if (offset === R.istat) {
      this.#setInterruptStatus(value);
      return;
    }
    const resetsBus = offset === R.scntl1 && (value & ~regs.get(offset) & SCNTL1_RESET_BUS) !== 0;
    regs.set(offset, value);
    if (resetsBus) this.#resetBus();
    if (offset === R.dien || offset === R.sien0 || offset === R.sien1) regs.update();
    // The general purpose timer: it has always just run down.
    if (offset === R.stime1 && (value & STIME1_TIMER) !== 0) {
      regs.raiseScsi(0, Sist1.generalTimer);
    }
    const isLast = offset === R.dsp + 3 && !regs.has(R.dmode, DMODE_MANUAL);
    if (isLast || (offset === R.dcntl && (value & DCNTL_START) !== 0)) this.#start();
  }

  #setInterruptStatus(value: number): void {
    const regs = this.#regs;
    if ((value & Istat.reset) !== 0) {
      this.reset();
      return;
    }
    const held = regs.get(R.istat);
    const kept = held & (Istat.connected | Istat.scsi | Istat.dma);
    const fly = held & ~value & Istat.fly;
    regs.set(R.istat, kept | fly | (value & (Istat.abort | Istat.signal | Istat.semaphore)));
    regs.update();
    if ((value & Istat.abort) !== 0) this.#stop(Dstat.aborted);
    else if ((value & Istat.signal) !== 0 && this.#waitsForReselect) {
      // The wait ends and the script goes on at its other way.
      regs.set32(R.dsp, regs.get32(R.dnad));
      this.#start();
    }
  }

  #resetBus(): void {
    this.#initiator.reset();
    this.#regs.setConnected(false);
    this.#init.bus.reset();
    this.#scsi(Sist0.reset, 0);
  }

  /** The script stops and says why in DSTAT. */
  #stop(reason: number): void {
    this.#isRunning = false;
    this.#waitsForReselect = false;
    this.#regs.raiseDma(reason);
  }

  /** Something happened on the bus that stops the script. */
  #scsi(first: number, second: number): void {
    this.#isRunning = false;
    this.#waitsForReselect = false;
    if ((first & Sist0.disconnected) !== 0) this.#disconnect();
    this.#regs.raiseScsi(first, second);
  }

  #disconnect(): void {
    this.#initiator.disconnect();
    this.#regs.setConnected(false);
  }

  // --- running

  #start(): void {
    this.#waitsForReselect = false;
    this.#isRunning = true;
    this.#run();
  }

  #run(): void {
    if (this.#isInside) return;
    this.#isInside = true;
    const regs = this.#regs;
    this.#steps = 0;
    while (this.#isRunning) {
      if (++this.#steps > MAX_STEPS) {
        this.#scsi(Sist0.disconnected, 0);
        break;
      }
      const at = regs.get32(R.dsp);
      const raw = new DataView(this.#memory(at, 8).buffer);
      const word = raw.getUint32(0, true);
      const address = raw.getUint32(4, true);
      regs.set32(R.dbc, word);
      regs.set32(R.dsps, address);
      regs.set32(R.dsp, (at + 8) >>> 0);
      // What waits for the disk is looked at again when that is done.
      if (!this.#execute(word, address)) {
        regs.set32(R.dsp, at);
        break;
      }
      if (regs.has(R.dcntl, DCNTL_STEP)) this.#stepped();
    }
    this.#isInside = false;
  }

  #stepped(): void {
    if (this.#isRunning) this.#stop(Dstat.step);
  }

  /** False: the instruction waits. */
  #execute(word: number, address: number): boolean {
    switch (word >>> 30) {
      case 0:
        return this.#blockMove(word, address);
      case 1:
        if (((word >>> 27) & 7) < 5) return this.#io(word, address);
        this.#register(word);
        return true;
      case 2:
        return this.#transferControl(word, address);
      default:
        if ((word & 0x2000_0000) !== 0) this.#loadStore(word, address);
        else this.#memoryMove(word, address);
        return true;
    }
  }

  #memory(address: number, bytes: number): Uint8Array<ArrayBuffer> {
    const out = new Uint8Array(bytes);
    this.#init.memory.read(address, out);
    return out;
  }

  #read32(address: number): number {
    return new DataView(this.#memory(address, 4).buffer).getUint32(0, true);
  }

  /** An offset of 24 bits with sign, from an address. */
  #from(base: number, offset: number): number {
    return (base + ((offset << 8) >> 8)) >>> 0;
  }

  #tableAddress(offset: number): number {
    return this.#from(this.#regs.get32(R.dsa), offset);
  }

  /** Where a jump goes: an address, or from the next instruction. */
  #way(isRelative: boolean, address: number): number {
    return isRelative ? this.#from(this.#regs.get32(R.dsp), address) : address;
  }

  // --- block moves

  #blockMove(word: number, given: number): boolean {
    const regs = this.#regs;
    if (this.#initiator.isBusy) return false;
    let address = given;
    let count = word & 0xff_ffff;
    if ((word & 0x1000_0000) !== 0) {
      const entry = this.#tableAddress(given);
      regs.set32(R.esa, entry);
      count = this.#read32(entry) & 0xff_ffff;
      address = this.#read32((entry + 4) >>> 0);
    } else if ((word & 0x2000_0000) !== 0) address = this.#read32(given);
    const phase = this.#initiator.phase;
    if (phase === undefined) {
      this.#scsi(Sist0.disconnected, 0);
      return true;
    }
    regs.set32(R.ia, (regs.get32(R.dsp) - 8) >>> 0);
    this.#setPlace(address, count);
    if (phase !== ((word >>> 24) & 7)) {
      this.#mismatch((word >>> 24) & 7);
      return true;
    }
    const moved = this.#initiator.transfer(address, count);
    // A command costs the room for its data.
    const cost = phase === Phase.command ? this.#initiator.dataBytes : moved.bytes;
    this.#steps += Math.ceil(cost / STEP_BYTES);
    if (moved.first !== undefined) regs.set(R.sfbr, moved.first);
    this.#setPlace((address + moved.bytes) >>> 0, count - moved.bytes);
    if (!this.#initiator.isConnected) regs.setConnected(false);
    // More was asked for than there is.
    const hasData = phase === Phase.dataIn || phase === Phase.dataOut;
    if (hasData && moved.bytes < count) this.#mismatch(phase);
    return true;
  }

  /** What is left of a block move, where guests look for it. */
  #setPlace(address: number, count: number): void {
    const regs = this.#regs;
    const rest = ((regs.get32(R.dbc) & 0xff00_0000) | count) >>> 0;
    regs.set32(R.dbc, rest);
    regs.set32(R.rbc, rest);
    regs.set32(R.dnad, address);
    regs.set32(R.ua, address);
  }

  /** The target wants another phase than the script: by a jump where that is on. */
  #mismatch(phase: number): void {
    const regs = this.#regs;
    if (!regs.has(R.ccntl0, CCNTL0_JUMP)) {
      this.#scsi(Sist0.mismatch, 0);
      return;
    }
    const isFirst = regs.has(R.ccntl0, CCNTL0_BY_DIRECTION)
      ? (phase & 1) === 0
      : !regs.has(R.scntl2, SCNTL2_WIDE_RESIDUE);
    regs.set32(R.dsp, regs.get32(isFirst ? R.pmjad1 : R.pmjad2));
  }

  // --- selection, flags, registers

  #io(word: number, address: number): boolean {
    const other = this.#way((word & 0x0400_0000) !== 0, address);
    switch ((word >>> 27) & 7) {
      case 0:
        this.#select(word, other);
        return true;
      case 1: // WAIT DISCONNECT
        if (this.#initiator.isBusy) return false;
        this.#disconnect();
        return true;
      case 2:
        this.#waitReselect(other);
        return true;
      case 3:
        this.#setFlags(word, true);
        return true;
      default:
        this.#setFlags(word, false);
        return true;
    }
  }

  #setFlags(word: number, on: boolean): void {
    if ((word & 0x400) !== 0) this.#carry = on;
    if ((word & 0x08) !== 0) this.#initiator.setAttention(on);
  }

  #select(word: number, other: number): void {
    const regs = this.#regs;
    if (this.#initiator.isConnected) {
      regs.set32(R.dsp, other);
      return;
    }
    // By a table's entry: SCNTL3, identification, SXFER.
    const fromTable = (word & 0x0200_0000) !== 0;
    const source = fromTable ? this.#read32(this.#tableAddress(word & 0xff_ffff)) : word;
    const target = (source >>> 16) & 15;
    regs.set(R.sdid, target);
    regs.flag(R.sstat0, SSTAT0_WON, true);
    if (this.#initiator.select(target, (word & 0x0100_0000) !== 0)) regs.setConnected(true);
    else this.#scsi(0, Sist1.selectionTimeout);
  }

  /** Nobody reselects: what ends the wait is the guest's signal. */
  #waitReselect(other: number): void {
    const regs = this.#regs;
    if (regs.has(R.istat, Istat.signal)) {
      regs.set32(R.dsp, other);
      return;
    }
    regs.set32(R.dnad, other);
    this.#waitsForReselect = true;
    this.#isRunning = false;
  }

  /** Moves between a register and SFBR, with an operation on the way. */
  #register(word: number): void {
    const register = ((word >>> 16) & 0x7f) | (word & 0x80);
    const opcode = (word >>> 27) & 7;
    const operator = (word >>> 24) & 7;
    const sfbr = this.#regs.get(R.sfbr);
    const data = (word & 0x0080_0000) !== 0 ? sfbr : (word >>> 8) & 0xff;
    // Reading has effects: a register whose value is not used is not read.
    const operand = opcode === 5 ? sfbr : operator === 0 ? 0 : this.read(register);
    const result = this.#operate(operator, operand, data);
    if (opcode === 6) this.#regs.set(R.sfbr, result);
    else this.write(register, result);
  }

  #operate(operator: number, a: number, b: number): number {
    const carryIn = this.#carry ? 1 : 0;
    switch (operator) {
      case 0:
        return b;
      case 1:
        this.#carry = (a & 0x80) !== 0;
        return ((a << 1) | carryIn) & 0xff;
      case 2:
        return a | b;
      case 3:
        return a ^ b;
      case 4:
        return a & b;
      case 5:
        this.#carry = (a & 1) !== 0;
        return (a >> 1) | (carryIn << 7);
      default: {
        const sum = a + b + (operator === 7 ? carryIn : 0);
        this.#carry = sum > 0xff;
        return sum & 0xff;
      }
    }
  }

  // --- jumps

  #transferControl(word: number, address: number): boolean {
    const regs = this.#regs;
    const asksPhase = (word & 0x0002_0000) !== 0;
    if (asksPhase && this.#initiator.isBusy) return false;
    if (!this.#condition(word)) return true;
    const next = regs.get32(R.dsp);
    const to = this.#way((word & 0x0080_0000) !== 0, address);
    switch ((word >>> 27) & 7) {
      case 0:
        regs.set32(R.dsp, to);
        break;
      case 1:
        regs.set32(R.temp, next);
        regs.set32(R.dsp, to);
        break;
      case 2:
        regs.set32(R.dsp, regs.get32(R.temp));
        break;
      case 3:
        if ((word & 0x0010_0000) === 0) this.#stop(Dstat.script);
        else regs.raiseFly();
        break;
      default:
        this.#stop(Dstat.illegal);
    }
    return true;
  }

  #condition(word: number): boolean {
    const wanted = (word & 0x0008_0000) !== 0;
    const tests: boolean[] = [];
    if ((word & 0x0020_0000) !== 0) tests.push(this.#carry);
    if ((word & 0x0002_0000) !== 0) tests.push(this.#initiator.phase === ((word >>> 24) & 7));
    if ((word & 0x0004_0000) !== 0) {
      const mask = ~(word >>> 8) & 0xff;
      tests.push((this.#regs.get(R.sfbr) & mask) === (word & mask & 0xff));
    }
    return tests.length === 0 ? wanted : tests.every((each) => each === wanted);
  }

  // --- memory

  #memoryMove(word: number, from: number): void {
    const regs = this.#regs;
    const next = regs.get32(R.dsp);
    const to = this.#read32(next);
    regs.set32(R.temp, to);
    regs.set32(R.dsp, (next + 4) >>> 0);
    const count = word & 0xff_ffff;
    this.#steps += Math.ceil(count / STEP_BYTES);
    for (let done = 0; done < count; done += MOVE_BYTES) {
      const piece = this.#memory((from + done) >>> 0, Math.min(MOVE_BYTES, count - done));
      this.#init.memory.write((to + done) >>> 0, piece);
    }
  }

  #loadStore(word: number, given: number): void {
    const register = (word >>> 16) & 0xff;
    const count = word & 7;
    const address = (word & 0x1000_0000) === 0 ? given : this.#tableAddress(given);
    if (count > 4 || (register & 3) + count > 4) {
      this.#stop(Dstat.illegal);
      return;
    }
    if ((word & 0x0100_0000) !== 0) {
      this.#memory(address, count).forEach((byte, i) => {
        this.write(register + i, byte);
      });
    } else {
      const out = Uint8Array.from({ length: count }, (_, i) => this.read(register + i));
      this.#init.memory.write(address, out);
    }
  }
}
