/** Guest RAM that lies in the emulator's memory, which moves when it grows: only copies. */
import type { V86Cpu } from '../../host/v86.js';
import type { MachineRam } from '../processor.js';

export class V86Ram implements MachineRam {
  readonly bytes: number;
  readonly lowBytes: number;
  readonly #cpu: V86Cpu;

  constructor(cpu: V86Cpu) {
    this.#cpu = cpu;
    this.bytes = cpu.memory_size[0] ?? 0;
    this.lowBytes = this.bytes;
  }

  tryView(): undefined {
    return undefined;
  }

  read(address: number, out: Uint8Array): void {
    const there = this.#within(address, out.length);
    if (there < out.length) out.fill(0, there);
    if (there > 0) out.set(this.#cpu.read_blob(address, there));
  }

  /** Code that was compiled from these bytes is dropped. */
  write(address: number, data: Uint8Array): void {
    const there = this.#within(address, data.length);
    if (there > 0) this.#cpu.write_blob(data.subarray(0, there), address);
  }

  /** How many bytes from `address` on are RAM. */
  #within(address: number, bytes: number): number {
    return Math.max(0, Math.min(bytes, this.bytes - address));
  }
}
