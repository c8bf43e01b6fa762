/** Interrupt inputs of a machine: 24, as an I/O APIC has; the first 16 are the ISA interrupts. */
import type { IrqLine } from '../device/bus/interrupt.js';
import { IrqInput } from '../device/bus/interrupt.js';

export const INPUTS = 24;

export class Interrupts {
  /** Hears of each change of an input. */
  onChange: ((input: number, level: boolean) => void) | undefined;
  readonly #inputs: readonly IrqInput[];

  constructor() {
    this.#inputs = Array.from(
      { length: INPUTS },
      (_, number) =>
        new IrqInput((level) => {
          this.onChange?.(number, level);
        }),
    );
  }

  /** One more line to an input. Throws RangeError when there is no such one. */
  line(number: number): IrqLine {
    const input = this.#inputs[number];
    if (input === undefined) throw new RangeError(`there is no interrupt input ${number}`);
    return input.line();
  }

  level(number: number): boolean {
    return this.#inputs[number]?.level ?? false;
  }
}

/** Lines of PCI slots to inputs, as a chipset's registers route them. */
export class PinRouter {
  readonly #inputs: readonly IrqLine[];
  readonly #asserted: readonly Set<string>[];
  readonly #routes: (number | undefined)[];

  /** `count`: of the chipset's own lines (PIRQ A to D, or to H). */
  constructor(interrupts: Interrupts, count: number) {
    this.#inputs = Array.from({ length: INPUTS }, (_, i) => interrupts.line(i));
    this.#asserted = Array.from({ length: count }, () => new Set<string>());
    this.#routes = Array.from({ length: count }, () => undefined);
  }

  /** Sets where line `pirq` goes; undefined: nowhere. */
  route(pirq: number, input: number | undefined): void {
    const before = this.#routes[pirq];
    this.#routes[pirq] = input;
    if (before !== undefined) this.#update(before);
    if (input !== undefined) this.#update(input);
  }

  /** Somebody asserts line `pirq` or stops doing so. */
  set(pirq: number, source: string, level: boolean): void {
    const asserted = this.#asserted[pirq];
    const input = this.#routes[pirq];
    if (level) asserted?.add(source);
    else asserted?.delete(source);
    if (input !== undefined) this.#update(input);
  }

  #update(input: number): void {
    let isHigh = false;
    for (let pirq = 0; pirq < this.#routes.length; pirq++) {
      if (this.#routes[pirq] === input && this.#asserted[pirq]!.size > 0) isHigh = true;
    }
    this.#inputs[input]?.set(isHigh);
  }
}
