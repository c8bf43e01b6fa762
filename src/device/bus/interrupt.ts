/** Interrupt lines: wires with a level. */

/** One end of a wire: whoever drives it says its level. */
export interface IrqLine {
  set(level: boolean): void;
}

/** A wire that goes nowhere. */
export const noIrq: IrqLine = {
  set: () => undefined,
};

/**
 * An input that several lines drive: it is high while at least one of them is. `onChange` hears
 * of changes only.
 */
export class IrqInput {
  readonly #onChange: (level: boolean) => void;
  #high = 0;

  constructor(onChange: (level: boolean) => void) {
    this.#onChange = onChange;
  }

  get level(): boolean {
    return this.#high > 0;
  }

  /** One more line that drives this input, low at first. */
  line(): IrqLine {
    let level = false;
    return {
      set: (next): void => {
        if (next === level) return;
        level = next;
        this.#high += next ? 1 : -1;
        if (this.#high === (next ? 1 : 0)) this.#onChange(next);
      },
    };
  }
}
