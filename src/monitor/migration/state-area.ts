/** The state of a machine in the VM state area of an image: where it is written and read. */
import type { DriverInstance } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { Iov } from '../../lib/iov.js';
import type { StateSink, StateSource } from '../../machine/state/stream.js';

/** Bytes that are written at a time: whole clusters of most images. */
const PIECE = 1 << 20;

/** Collects pieces, so that images are not written in small ones. */
export class StateAreaSink implements StateSink {
  readonly #instance: DriverInstance;
  readonly #held = new Uint8Array(PIECE);
  #filled = 0;
  #at = 0;

  constructor(instance: DriverInstance) {
    this.#instance = instance;
  }

  /** Bytes that were taken. */
  get bytes(): number {
    return this.#at + this.#filled;
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let taken = 0; taken < bytes.length;) {
      const n = Math.min(PIECE - this.#filled, bytes.length - taken);
      this.#held.set(bytes.subarray(taken, taken + n), this.#filled);
      taken += n;
      this.#filled += n;
      if (this.#filled === PIECE) await this.finish();
    }
  }

  /** Writes what is held. */
  async finish(): Promise<void> {
    if (this.#filled === 0) return;
    const instance = this.#instance;
    if (instance.writeVmState === undefined) throw new BlockError('ENOTSUP');
    const iov = Iov.of(this.#held.subarray(0, this.#filled));
    await instance.writeVmState(this.#at, iov);
    this.#at += this.#filled;
    this.#filled = 0;
  }
}

/** The state that a snapshot has. */
export class StateAreaSource implements StateSource {
  readonly #area: (offset: number, iov: Iov) => Promise<void>;
  readonly #bytes: number;
  #at = 0;

  /** `area` reads from an offset; the state has `bytes`. */
  constructor(area: (offset: number, iov: Iov) => Promise<void>, bytes: number) {
    this.#area = area;
    this.#bytes = bytes;
  }

  async read(out: Uint8Array): Promise<number> {
    const bytes = Math.min(out.length, this.#bytes - this.#at);
    if (bytes === 0) return 0;
    await this.#area(this.#at, Iov.of(out.subarray(0, bytes)));
    this.#at += bytes;
    return bytes;
  }
}
