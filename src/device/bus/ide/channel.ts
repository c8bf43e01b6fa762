/**
 * A parallel ATA channel: two units behind one set of registers (ATA/ATAPI-7 volume 2): command
 * block, control block, one interrupt.
 */
import type { IrqLine } from '../interrupt.js';
import type { IoRegion } from '../space.js';
import type { DmaPhase, IdeLink, TaskFile } from './unit.js';
import { IdeStatus, IdeUnit } from './unit.js';

const DEVICE_SELECT = 0x10;
const CONTROL_HOB = 0x80;
const CONTROL_RESET = 0x04;
const CONTROL_NO_INTERRUPT = 0x02;
const DIAGNOSTIC = 0x90;

export interface IdeChannelInit {
  readonly irq: IrqLine;
  /** A unit has a DMA phase that waits, or (undefined) gave it up. */
  readonly dma: (phase: DmaPhase | undefined) => void;
  /** A unit asserted the interrupt line. */
  readonly interrupted: () => void;
}

export class IdeChannel {
  readonly units: readonly [IdeUnit, IdeUnit];
  readonly #init: IdeChannelInit;
  #selected: 0 | 1 = 0;
  #control = 0;
  #pending = false;

  constructor(init: IdeChannelInit) {
    this.#init = init;
    this.units = [new IdeUnit(this.#link(0)), new IdeUnit(this.#link(1))];
  }

  /** Power-on state. */
  reset(): void {
    this.#control = 0;
    this.#selected = 0;
    for (const unit of this.units) {
      unit.reset();
      unit.regs.device = 0xa0;
    }
    this.#setPending(false);
  }

  get selected(): IdeUnit {
    return this.units[this.#selected];
  }

  get #isEmpty(): boolean {
    return this.units[0].model === undefined && this.units[1].model === undefined;
  }

  #link(number: 0 | 1): IdeLink {
    return {
      interrupt: () => {
        if (number === this.#selected) this.#setPending(true);
      },
      pioReady: (_direction, _buffer, interrupt) => {
        if (interrupt && number === this.#selected) this.#setPending(true);
      },
      dmaReady: (phase) => {
        this.#init.dma(phase);
      },
      ended: () => undefined,
      abandoned: () => {
        this.#init.dma(undefined);
      },
    };
  }

  #setPending(pending: boolean): void {
    this.#pending = pending;
    if (pending) this.#init.interrupted();
    this.#updateIrq();
  }

  #updateIrq(): void {
    this.#init.irq.set(this.#pending && (this.#control & CONTROL_NO_INTERRUPT) === 0);
  }

  /** Ports 0x1f0 to 0x1f7: the command block. */
  readonly command: IoRegion = {
    name: 'ide-command',
    bytes: 8,
    read: (offset, size) => {
      // The data register takes 32-bit accesses, which run over its neighbours.
      if (offset === 0) return this.#isEmpty ? 0 : this.selected.readData(size);
      return size === 1 ? this.#readRegister(offset) : this.#readWide(offset, size);
    },
    write: (offset, size, value) => {
      if (offset === 0) this.selected.writeData(size, value);
      else
        for (let i = 0; i < size; i++) this.#writeRegister(offset + i, (value >>> (8 * i)) & 255);
    },
  };

  /** Port 0x3f6: device control; alternate status. */
  readonly control: IoRegion = {
    name: 'ide-control',
    bytes: 1,
    read: () => this.#status(),
    write: (_offset, _size, value) => {
      this.#writeControl(value);
    },
  };

  #readWide(offset: number, size: number): number {
    let value = 0;
    for (let i = 0; i < size; i++) value += this.#readRegister(offset + i) * 2 ** (8 * i);
    return value;
  }

  /** An absent unit answers with zeroes through the present one; an empty channel, too. */
  #status(): number {
    if (this.#isEmpty || this.selected.model === undefined) return 0;
    return this.selected.status;
  }

  #readRegister(offset: number): number {
    if (offset === 7) {
      const status = this.#status();
      this.#setPending(false);
      return status;
    }
    if (this.#isEmpty) return 0;
    const { regs, error, model } = this.selected;
    if (offset === 6) return regs.device | 0xa0;
    if (model === undefined) return 0;
    if (offset === 1) return (this.#control & CONTROL_HOB) === 0 ? error : regs.previous.feature;
    const name = registerNames[offset];
    if (name === undefined) return 0;
    return (this.#control & CONTROL_HOB) === 0 ? regs[name] : regs.previous[name];
  }

  #writeRegister(offset: number, value: number): void {
    if (offset === 7) {
      this.#control &= ~CONTROL_HOB;
      this.#setPending(false);
      this.#execute(value);
      return;
    }
    if (this.selected.isBusy) return;
    this.#control &= ~CONTROL_HOB;
    if (offset === 6) {
      this.#selected = (value & DEVICE_SELECT) === 0 ? 0 : 1;
      for (const unit of this.units) unit.regs.device = value | 0xa0;
      return;
    }
    for (const { regs } of this.units) writeTaskFile(regs, offset, value);
  }

  #execute(code: number): void {
    // Both units carry out the diagnostic; unit 0 is selected afterwards and answers.
    if (code === DIAGNOSTIC && !this.#isEmpty) {
      if (this.units[0].isBusy || this.units[1].isBusy) return;
      for (const unit of this.units) {
        unit.setSignature();
        unit.status = unit.model?.isPacket === true ? 0 : IdeStatus.ready | IdeStatus.seek;
        unit.regs.device = 0xa0;
      }
      this.#selected = 0;
      this.#setPending(true);
      return;
    }
    this.selected.execute(code);
  }

  #writeControl(value: number): void {
    const before = this.#control;
    this.#control = value;
    if ((before & CONTROL_RESET) === 0 && (value & CONTROL_RESET) !== 0) {
      for (const unit of this.units) {
        unit.abandon();
        unit.status = IdeStatus.busy;
      }
    } else if ((before & CONTROL_RESET) !== 0 && (value & CONTROL_RESET) === 0) {
      for (const unit of this.units) {
        unit.reset();
        unit.regs.device = 0xa0;
      }
      this.#selected = 0;
      this.#pending = false;
    }
    this.#updateIrq();
  }
}

const registerNames: Readonly<Record<number, 'count' | 'low' | 'mid' | 'high'>> = {
  2: 'count',
  3: 'low',
  4: 'mid',
  5: 'high',
};

/** A write to one of the registers 1 to 5, which keep what they held before. */
export function writeTaskFile(regs: TaskFile, offset: number, value: number): void {
  const name = offset === 1 ? 'feature' : registerNames[offset];
  if (name === undefined) return;
  regs.previous[name] = regs[name];
  regs[name] = value;
}
