/**
 * Registers of the LSI 53C895A and its interrupts (LSI53C895A Technical Manual, chapter 4): the
 * bytes, what reading clears, and the level of the interrupt pin that follows from them.
 */
const REGISTERS = 256;

/** Offsets of the registers that mean something here; all others only keep what is written. */
export const R = {
  scntl0: 0x00,
  scntl1: 0x01,
  scntl2: 0x02,
  sdid: 0x06,
  sfbr: 0x08,
  ssid: 0x0a,
  sbcl: 0x0b,
  dstat: 0x0c,
  sstat0: 0x0d,
  sstat1: 0x0e,
  dsa: 0x10,
  istat: 0x14,
  ctest2: 0x1a,
  temp: 0x1c,
  dbc: 0x24,
  dnad: 0x28,
  dsp: 0x2c,
  dsps: 0x30,
  dmode: 0x38,
  dien: 0x39,
  dcntl: 0x3b,
  sien0: 0x40,
  sien1: 0x41,
  sist0: 0x42,
  sist1: 0x43,
  macntl: 0x46,
  stime1: 0x49,
  stest4: 0x52,
  ccntl0: 0x56,
  pmjad1: 0xc0,
  pmjad2: 0xc4,
  rbc: 0xc8,
  ua: 0xcc,
  esa: 0xd0,
  ia: 0xd4,
} as const;

/** Why a script stopped: bits of DSTAT. */
export const Dstat = {
  empty: 0x80,
  aborted: 0x10,
  step: 0x08,
  script: 0x04,
  illegal: 0x01,
} as const;

/** What happened on the bus: bits of SIST0. */
export const Sist0 = { mismatch: 0x80, disconnected: 0x04, reset: 0x02 } as const;

/** Timers: bits of SIST1. */
export const Sist1 = { selectionTimeout: 0x04, generalTimer: 0x02 } as const;

export const Istat = {
  abort: 0x80,
  reset: 0x40,
  signal: 0x20,
  semaphore: 0x10,
  connected: 0x08,
  fly: 0x04,
  scsi: 0x02,
  dma: 0x01,
} as const;

const SCNTL0_FULL_ARBITRATION = 0xc0;
const SCNTL1_CONNECTED = 0x10;
const CTEST2_ACKNOWLEDGE = 0x01;
const CTEST2_SIGNAL = 0x40;
const MACNTL_TYPE = 0xd0;
/** The bus is a low-voltage differential one, and the clock's multiplier is locked. */
const STEST4_BUS = 0xe0;

export class LsiRegisters {
  readonly #bytes = new Uint8Array(REGISTERS);
  readonly #view = new DataView(this.#bytes.buffer);
  readonly #interrupt: (level: boolean) => void;

  /** `interrupt`: sets the level of the pin. */
  constructor(interrupt: (level: boolean) => void) {
    this.#interrupt = interrupt;
  }

  reset(): void {
    this.#bytes.fill(0);
    this.#bytes[R.scntl0] = SCNTL0_FULL_ARBITRATION;
    this.#bytes[R.dstat] = Dstat.empty;
    this.#bytes[R.ctest2] = CTEST2_ACKNOWLEDGE;
    this.#bytes[R.macntl] = MACNTL_TYPE;
    this.#bytes[R.stest4] = STEST4_BUS;
    this.update();
  }

  get(offset: number): number {
    return this.#bytes[offset]!;
  }

  set(offset: number, value: number): void {
    this.#bytes[offset] = value;
  }

  /** Sets the bits of `mask` where `on`, else clears them. */
  flag(offset: number, mask: number, on: boolean): void {
    const value = this.#bytes[offset]!;
    this.#bytes[offset] = on ? value | mask : value & ~mask;
  }

  has(offset: number, mask: number): boolean {
    return (this.#bytes[offset]! & mask) !== 0;
  }

  get32(offset: number): number {
    return this.#view.getUint32(offset, true);
  }

  set32(offset: number, value: number): void {
    this.#view.setUint32(offset, value, true);
  }

  /** What the guest or a script reads, with what reading does. */
  read(offset: number): number {
    const value = this.#bytes[offset]!;
    switch (offset) {
      case R.dstat:
        this.#bytes[R.dstat] = Dstat.empty;
        this.flag(R.istat, Istat.dma, false);
        this.update();
        return value;
      case R.sist0:
      case R.sist1:
        this.#bytes[offset] = 0;
        if (this.#bytes[R.sist0] === 0 && this.#bytes[R.sist1] === 0) {
          this.flag(R.istat, Istat.scsi, false);
        }
        this.update();
        return value;
      case R.ctest2: {
        const signal = this.has(R.istat, Istat.signal) ? CTEST2_SIGNAL : 0;
        this.flag(R.istat, Istat.signal, false);
        return value | signal;
      }
      default:
        return value;
    }
  }

  /** The script stopped: `reason` is of DSTAT. */
  raiseDma(reason: number): void {
    this.flag(R.dstat, reason, true);
    this.flag(R.istat, Istat.dma, true);
    this.update();
  }

  /** Something happened on the bus: bits of SIST0 and SIST1. */
  raiseScsi(first: number, second: number): void {
    this.flag(R.sist0, first, true);
    this.flag(R.sist1, second, true);
    this.flag(R.istat, Istat.scsi, true);
    this.update();
  }

  /** An interrupt of a script that goes on. */
  raiseFly(): void {
    this.flag(R.istat, Istat.fly, true);
    this.update();
  }

  /** Whether the bus is ours. */
  setConnected(on: boolean): void {
    this.flag(R.istat, Istat.connected, on);
    this.flag(R.scntl1, SCNTL1_CONNECTED, on);
  }

  /** Brings the pin up to date after masks changed. */
  update(): void {
    const b = this.#bytes;
    const dma = this.has(R.istat, Istat.dma) && this.has(R.dstat, b[R.dien]!);
    const scsi = this.has(R.sist0, b[R.sien0]!) || this.has(R.sist1, b[R.sien1]!);
    this.#interrupt(dma || scsi || this.has(R.istat, Istat.fly));
  }
}
