/**
 * A PCI-to-PCI bridge (PCI-to-PCI Bridge Architecture Specification 1.2): a function with a bus
 * behind it. Configuration cycles find that bus by its number; accesses go through windows;
 * interrupt pins turn by slot.
 */
import { PciBus } from './bus.js';
import type { PciIdentity } from './function.js';
import { PciConfig, PciFunction } from './function.js';
import { WindowedSpace } from './window.js';

const PRIMARY = 0x18;
const SECONDARY = 0x19;
const SUBORDINATE = 0x1a;
const IO_BASE = 0x1c;
const IO_BASE_HIGH = 0x30;
const MEMORY_BASE = 0x20;
const PREFETCH_BASE = 0x24;
const PREFETCH_BASE_HIGH = 0x28;
const PREFETCH_LIMIT_HIGH = 0x2c;
const CONTROL = 0x3e;
/** Windows: 64-bit prefetchable memory, 16-bit ports. */
const PREFETCH_64 = 0x01;
const COMMAND_IO = 1;
const COMMAND_MEMORY = 2;
const PINS = 4;

export interface PciBridgeInit {
  readonly identity: Omit<PciIdentity, 'classCode' | 'headerType'>;
  /** Name of the bus behind it. */
  readonly busName: string;
  /** Path of the bus behind it in firmware's words. */
  readonly firmwarePath: () => string;
  /** Slots of the bus that devices may take. */
  readonly slots: readonly [first: number, last: number];
}

export class PciBridge {
  readonly fn: PciFunction;
  readonly bus: PciBus;
  readonly #ports: WindowedSpace;
  readonly #mmio: WindowedSpace;
  /** Who asserts each of the four pins above the bridge. */
  readonly #pins: readonly Set<string>[] = Array.from({ length: PINS }, () => new Set<string>());

  constructor(init: PciBridgeInit) {
    const fn = new PciFunction({
      subsystemVendor: 0,
      subsystem: 0,
      ...init.identity,
      classCode: 0x0604,
      headerType: 1,
    });
    this.fn = fn;
    fn.allow(PRIMARY, 0xffff_ffff, 4);
    fn.allow(IO_BASE, 0xf0f0, 2);
    fn.allow(MEMORY_BASE, 0xfff0_fff0, 4);
    fn.allow(PREFETCH_BASE, 0xfff0_fff0, 4);
    fn.allow(PREFETCH_BASE_HIGH, 0xffff_ffff, 4);
    fn.allow(PREFETCH_LIMIT_HIGH, 0xffff_ffff, 4);
    fn.allow(CONTROL, 0x0fff, 2);
    fn.onConfigWrite = (): void => {
      this.#update();
    };
    this.#ports = new WindowedSpace(
      () => fn.uplink?.ports,
      (base, end) => this.#isPortOpen(base, end),
    );
    this.#mmio = new WindowedSpace(
      () => fn.uplink?.mmio,
      (base, end) => this.#isMemoryOpen(base, end),
    );
    this.bus = new PciBus({
      name: init.busName,
      ports: this.#ports,
      mmio: this.#mmio,
      memory: fn.memory,
      sendMessage: (address, data) => {
        fn.sendMessage(address, data);
      },
      setPin: (slot, pin, level) => {
        this.#setPin(slot, pin, level);
      },
      firmwarePath: init.firmwarePath,
      slots: init.slots,
    });
    this.reset();
  }

  /** Number of the bus behind it, as the guest set it; 0: none yet. */
  get secondary(): number {
    return this.fn.config[SECONDARY]!;
  }

  reset(): void {
    this.fn.reset();
    this.fn.set32(PRIMARY, 0);
    this.fn.set16(IO_BASE, 0);
    this.fn.set32(MEMORY_BASE, 0);
    this.fn.set32(PREFETCH_BASE, PREFETCH_64 | (PREFETCH_64 << 16));
    this.fn.set32(PREFETCH_BASE_HIGH, 0);
    this.fn.set32(PREFETCH_LIMIT_HIGH, 0);
    this.fn.set32(IO_BASE_HIGH, 0);
    this.fn.set16(CONTROL, 0);
    this.#update();
  }

  /** The bus with a number, this one or one behind it. */
  tryBus(number: number): PciBus | undefined {
    const last = this.fn.config[SUBORDINATE]!;
    if (this.secondary === 0 || number < this.secondary || number > last) return undefined;
    return number === this.secondary ? this.bus : this.bus.tryBus(number);
  }

  #update(): void {
    this.#ports.update();
    this.#mmio.update();
  }

  #isPortOpen(base: number, end: number): boolean {
    if ((this.fn.config[PciConfig.command]! & COMMAND_IO) === 0) return false;
    const from = (this.fn.config[IO_BASE]! & 0xf0) << 8;
    const to = ((this.fn.config[IO_BASE + 1]! & 0xf0) << 8) | 0xfff;
    return base >= from && end - 1 <= to;
  }

  #isMemoryOpen(base: number, end: number): boolean {
    if ((this.fn.config[PciConfig.command]! & COMMAND_MEMORY) === 0) return false;
    const { fn } = this;
    const inside = (at: number, highBase: number, highLimit: number): boolean => {
      const from = (fn.get16(at) & 0xfff0) * 0x1_0000 + highBase * 2 ** 32;
      const to = (fn.get16(at + 2) & 0xfff0) * 0x1_0000 + 0xf_ffff + highLimit * 2 ** 32;
      return base >= from && end - 1 <= to;
    };
    if (inside(MEMORY_BASE, 0, 0)) return true;
    return inside(PREFETCH_BASE, fn.get32(PREFETCH_BASE_HIGH), fn.get32(PREFETCH_LIMIT_HIGH));
  }

  #setPin(slot: number, pin: number, level: boolean): void {
    const index = (pin - 1 + slot) % PINS;
    const asserting = this.#pins[index]!;
    const before = asserting.size > 0;
    const key = `${slot}.${pin}`;
    if (level) asserting.add(key);
    else asserting.delete(key);
    if (before !== asserting.size > 0) this.fn.uplink?.setPin(index + 1, !before);
  }
}
