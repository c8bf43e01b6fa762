/**
 * Power management as firmware and systems expect it of a PIIX4 (82371AB data sheet, chapter 7;
 * ACPI 6.1, section 4.8): event, control and timer registers at the base that the function's
 * configuration space says, general-purpose events, and the port that switches to ACPI mode.
 */
import type { GuestClock } from '../device/bus/clock.js';
import type { IrqLine } from '../device/bus/interrupt.js';
import type { PciFunction } from '../device/bus/pci/function.js';
import type { IoRegion, IoSpace, Mapping } from '../device/bus/space.js';

const BASE = 0x40;
const ENABLE = 0x80;
const PORTS = 64;
const GPE_BASE = 0xafe0;
const COMMAND_PORT = 0xb2;
/** Commands that FADT names for switching ACPI mode on and off. */
const ACPI_ON = 0xf1;
const ACPI_OFF = 0xf0;

const TIMER_HZ = 3_579_545;
const TIMER_BIT = 2 ** 23;
const TIMER_STATUS = 0x0001;
const BUTTON = 0x0100;
const STATUS_BITS = 0x8731;
const ENABLE_BITS = 0x0721;
const SCI_ENABLE = 0x0001;
const SLEEP = 0x2000;
/** Sleep type of S5 in firmware's tables. */
const SOFT_OFF = 0;
/** Global lock and sleep bits read as zeroes. */
const CONTROL_BITS = 0x1c03;

export interface PowerInit {
  readonly ports: IoSpace;
  readonly clock: GuestClock;
  /** The system control interrupt. */
  readonly irq: IrqLine;
  /** The guest switched itself off. */
  readonly onPowerOff: () => void;
}

export class PowerControl {
  readonly #init: PowerInit;
  #function: PciFunction | undefined;
  #mapping: Mapping | undefined;
  #status = 0;
  #enable = 0;
  #control = 0;
  /** General-purpose events: status and enable, 16 bits each. */
  #gpeStatus = 0;
  #gpeEnable = 0;
  #cancelTimer: (() => void) | undefined;

  constructor(init: PowerInit) {
    this.#init = init;
    init.ports.map(GPE_BASE, this.#gpe);
    init.ports.map(COMMAND_PORT, this.#command);
  }

  /** Its registers are where this function says. */
  attach(fn: PciFunction): void {
    this.#function = fn;
    fn.set32(BASE, 1);
    fn.allow(BASE, 0xffc0, 4);
    fn.allow(ENABLE, 1, 1);
    fn.onConfigWrite = (): void => {
      this.#place();
    };
  }

  reset(): void {
    this.#function?.set32(BASE, 1);
    if (this.#function !== undefined) this.#function.config[ENABLE] = 0;
    this.#place();
    this.#status = 0;
    this.#enable = 0;
    this.#control = 0;
    this.#gpeStatus = 0;
    this.#gpeEnable = 0;
    this.#update();
  }

  /** Somebody pressed the button. */
  pressButton(): void {
    this.#status |= BUTTON;
    this.#update();
  }

  /** A general-purpose event happened. */
  notify(event: number): void {
    this.#gpeStatus |= 1 << event;
    this.#update();
  }

  #place(): void {
    const { ports } = this.#init;
    if (this.#mapping !== undefined) ports.unmap(this.#mapping);
    this.#mapping = undefined;
    const fn = this.#function;
    const base = fn === undefined ? 0 : fn.get32(BASE) & 0xffc0;
    if (fn === undefined || base === 0 || (fn.config[ENABLE]! & 1) === 0) return;
    this.#mapping = ports.map(base, this.#registers);
  }

  /** Level of the interrupt, and the timer's next event. */
  #update(): void {
    const isDue = (this.#status & this.#enable & ENABLE_BITS) !== 0;
    const isEvent = (this.#gpeStatus & this.#gpeEnable) !== 0;
    this.#init.irq.set((this.#control & SCI_ENABLE) !== 0 && (isDue || isEvent));
    const wanted = (this.#enable & TIMER_STATUS) !== 0;
    if (wanted && this.#cancelTimer === undefined) this.#awaitTimer();
    else if (!wanted) {
      this.#cancelTimer?.();
      this.#cancelTimer = undefined;
    }
  }

  #ticks(): number {
    return Math.floor((this.#init.clock.now() / 1e9) * TIMER_HZ);
  }

  #awaitTimer(): void {
    const left = TIMER_BIT - (this.#ticks() % TIMER_BIT);
    this.#cancelTimer = this.#init.clock.after((left / TIMER_HZ) * 1e9, () => {
      this.#cancelTimer = undefined;
      this.#status |= TIMER_STATUS;
      this.#update();
    });
  }

  readonly #registers: IoRegion = {
    name: 'acpi-pm',
    bytes: PORTS,
    read: (offset, size) => {
      const value =
        offset < 4
          ? (this.#status | (this.#enable << 16)) >>> 0
          : offset < 8
            ? this.#control
            : offset < 12
              ? this.#ticks() % (2 * TIMER_BIT)
              : 0;
      const shifted = Math.floor(value / 2 ** (8 * (offset & 3)));
      return size === 4 ? shifted : shifted % 2 ** (8 * size);
    },
    write: (offset, size, value) => {
      if (size === 4) {
        this.#write(offset, value & 0xffff);
        this.#write(offset + 2, value >>> 16);
      } else if (size === 2) this.#write(offset, value);
      else this.#writeByte(offset, value);
      this.#update();
    },
  };

  /** A byte of a 16-bit register: the other one stays (of the status: nothing is cleared). */
  #writeByte(offset: number, value: number): void {
    const at = offset & ~1;
    const shift = 8 * (offset & 1);
    const kept = at === 2 ? this.#enable : at === 4 ? this.#control : 0;
    this.#write(at, (kept & ~(0xff << shift)) | (value << shift));
  }

  #write(offset: number, value: number): void {
    if (offset === 0) this.#status &= ~(value & STATUS_BITS);
    else if (offset === 2) this.#enable = value & ENABLE_BITS;
    else if (offset === 4) {
      this.#control = value & CONTROL_BITS;
      const isOff = (value & SLEEP) !== 0 && ((value >> 10) & 7) === SOFT_OFF;
      if (isOff) this.#init.onPowerOff();
    }
  }

  readonly #gpe: IoRegion = {
    name: 'acpi-gpe0',
    bytes: 4,
    widest: 1,
    read: (offset) => {
      const value = offset < 2 ? this.#gpeStatus : this.#gpeEnable;
      return (value >> (8 * (offset & 1))) & 0xff;
    },
    write: (offset, _size, value) => {
      const shift = 8 * (offset & 1);
      if (offset < 2) this.#gpeStatus &= ~(value << shift);
      else this.#gpeEnable = (this.#gpeEnable & ~(0xff << shift)) | (value << shift);
      this.#update();
    },
  };

  readonly #command: IoRegion = {
    name: 'apm',
    bytes: 1,
    read: () => 0,
    write: (_offset, _size, value) => {
      if (value === ACPI_ON) this.#control |= SCI_ENABLE;
      else if (value === ACPI_OFF) this.#control &= ~SCI_ENABLE;
      this.#update();
    },
  };
}
