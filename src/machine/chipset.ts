/**
 * Chipsets: the PCI functions that a machine of a type has by itself, and how their interrupt
 * lines are routed. `pc` is the 82441FX with the PIIX3, `q35` the MCH with the ICH9.
 */
import type { PciBus } from '../device/bus/pci/bus.js';
import { PciFunction } from '../device/bus/pci/function.js';
import type { Interrupts } from './interrupts.js';
import { PinRouter } from './interrupts.js';

export type MachineType = 'pc' | 'q35';

const INTEL = 0x8086;
/** Bit of the header type register: the slot has several functions. */
const MULTIFUNCTION = 0x80;
/** A route register with this bit is switched off. */
const ROUTE_OFF = 0x80;
/** Where the route registers of PIRQ A to D, and E to H, are. */
const ROUTES = 0x60;
const MORE_ROUTES = 0x68;

/** A built chipset. */
export interface Chipset {
  /** Level of pin 1 to 4 of a slot of the root bus. */
  setPin(slot: number, pin: number, level: boolean): void;
  /** Puts the functions on the root bus. */
  attach(bus: PciBus): void;
  reset(): void;
}

interface Placed {
  readonly devfn: number;
  readonly fn: PciFunction;
}

function bridge(device: number, classCode: number, headerType = 0, revision = 2): PciFunction {
  return new PciFunction({ vendor: INTEL, device, classCode, headerType, revision });
}

/** Sets the power-on values of a bridge that routes interrupts. */
function resetRoutes(fn: PciFunction, router: PinRouter, places: readonly number[]): void {
  places.forEach((at, pirq) => {
    fn.config[at] = ROUTE_OFF;
    router.route(pirq, undefined);
  });
}

function routeOnWrite(fn: PciFunction, router: PinRouter, places: readonly number[]): void {
  for (const at of places) fn.allow(at, 0xff, 1);
  fn.onConfigWrite = (offset, bytes): void => {
    places.forEach((at, pirq) => {
      if (at < offset || at >= offset + bytes) return;
      const value = fn.config[at]!;
      router.route(pirq, (value & ROUTE_OFF) !== 0 ? undefined : value & 15);
    });
  };
}

function build(
  functions: readonly Placed[],
  isa: PciFunction,
  interrupts: Interrupts,
  places: readonly number[],
  line: (slot: number, pin: number) => number,
): Chipset {
  const router = new PinRouter(interrupts, places.length);
  routeOnWrite(isa, router, places);
  return {
    setPin: (slot, pin, level) => {
      router.set(line(slot, pin), `${slot}.${pin}`, level);
    },
    attach: (bus) => {
      for (const { devfn, fn } of functions) bus.attach(devfn, fn);
    },
    reset: () => {
      for (const { fn } of functions) fn.reset();
      resetRoutes(isa, router, places);
    },
  };
}

/** 82441FX host bridge, PIIX3 ISA bridge, PIIX4 power management; the IDE function is a device. */
export function pcChipset(interrupts: Interrupts): Chipset {
  const isa = bridge(0x7000, 0x0601, MULTIFUNCTION, 0);
  const functions = [
    { devfn: 0x00, fn: bridge(0x1237, 0x0600) },
    { devfn: 0x08, fn: isa },
    { devfn: 0x0b, fn: bridge(0x7113, 0x0680, 0, 3) },
  ];
  const places = [0, 1, 2, 3].map((i) => ROUTES + i);
  return build(functions, isa, interrupts, places, (slot, pin) => (slot + pin - 2 + 32) & 3);
}

/** MCH host bridge, ICH9 LPC bridge and SMBus; the AHCI function is a device. */
export function q35Chipset(interrupts: Interrupts): Chipset {
  const isa = bridge(0x2918, 0x0601, MULTIFUNCTION);
  const functions = [
    { devfn: 0x00, fn: bridge(0x29c0, 0x0600, 0, 0) },
    { devfn: 0xf8, fn: isa },
    { devfn: 0xfb, fn: bridge(0x2930, 0x0c05) },
  ];
  const places = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => (i < 4 ? ROUTES + i : MORE_ROUTES + i - 4));
  // Slots 0 to 24 use PIRQ E to H, those of the ICH9 itself A to D.
  const line = (slot: number, pin: number): number =>
    slot < 25 ? 4 + ((slot + pin - 1) & 3) : (pin - 1) & 3;
  return build(functions, isa, interrupts, places, line);
}
