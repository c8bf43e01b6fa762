/** A serial port's two directions; what waits for the guest is bounded. */
import type { V86Uart } from '../../host/v86.js';

/** Bytes that wait for the guest before `write` says so: more than anyone types. */
const INPUT_LIMIT = 64 * 1024;
/** Depth of a 16550's queue: what the guest can take at once. */
const QUEUE = 16;

export class SerialPort {
  /** The guest sent a byte. */
  onByte: (byte: number) => void = () => undefined;
  /** There is room again after `send` returned false. */
  onDrain: () => void = () => undefined;
  readonly #uart: V86Uart;
  readonly #push: (byte: number) => void;
  #waiting: Uint8Array[] = [];
  #bytes = 0;
  #isFull = false;

  constructor(uart: V86Uart, push: (byte: number) => void) {
    this.#uart = uart;
    this.#push = push;
  }

  /** Bytes for the guest. False: wait for onDrain before more. */
  send(data: Uint8Array): boolean {
    this.#waiting.push(data.slice());
    this.#bytes += data.length;
    this.#isFull = this.#bytes >= INPUT_LIMIT;
    return !this.#isFull;
  }

  /** Gives the guest what it has room for; called between slices of its time. */
  feed(): void {
    if (this.#bytes === 0 || this.#uart.input.length > 0) return;
    for (let room = QUEUE; room > 0 && this.#bytes > 0;) {
      const piece = this.#waiting[0]!;
      const now = piece.subarray(0, room);
      for (const byte of now) this.#push(byte);
      if (now.length === piece.length) this.#waiting.shift();
      else this.#waiting[0] = piece.subarray(now.length);
      this.#bytes -= now.length;
      room -= now.length;
    }
    if (!this.#isFull || this.#bytes >= INPUT_LIMIT) return;
    this.#isFull = false;
    this.onDrain();
  }
}
