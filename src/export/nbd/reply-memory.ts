/**
 * Memory for replies, used again when they have been sent: recently used memory is in the
 * processor's cache, and none has to be cleared or collected.
 */
import { assert } from '../../lib/assert.js';

const SLAB_BYTES = 512 * 1024;
/** Slabs kept for later. */
const KEPT_SLABS = 4;
/** Buffers kept for later, all sizes together, in bytes: several clients at their limit. */
const KEPT_BYTES = 64 * 1024 * 1024;
/** Long reads of one session after which it is said to be alone. */
const TURNS = 32;
const SMALLEST_BUFFER = 4096;

/** Memory that is given back once for each time it was taken. */
export interface Owed {
  release(): void;
}

/** Headers and short replies stand one behind the other in a slab. */
export class Slab implements Owed {
  readonly bytes = new Uint8Array(SLAB_BYTES);
  readonly view = new DataView(this.bytes.buffer);
  used = 0;
  refs = 0;
  readonly #memory: ReplyMemory;

  constructor(memory: ReplyMemory) {
    this.#memory = memory;
  }

  release(): void {
    assert(this.refs > 0, 'a slab was released too often');
    if (--this.refs === 0) this.#memory.idle(this);
  }
}

/** A buffer of its own for long data. */
export class DataBuffer implements Owed {
  readonly bytes: Uint8Array;
  readonly #memory: ReplyMemory;

  constructor(memory: ReplyMemory, bytes: Uint8Array) {
    this.bytes = bytes;
    this.#memory = memory;
  }

  release(): void {
    this.#memory.keep(this);
  }
}

export class ReplyMemory {
  readonly #allocate: (bytes: number) => Uint8Array;
  #slab: Slab;
  readonly #slabs: Slab[] = [];
  readonly #buffers = new Map<number, DataBuffer[]>();
  #kept = 0;
  #lastReader: object | undefined;
  #turns = 0;

  /** `allocate` makes buffers for data, aligned as the files below want it. */
  constructor(allocate: (bytes: number) => Uint8Array) {
    this.#allocate = allocate;
    this.#slab = new Slab(this);
  }

  /** The slab with room for `bytes` (at most a quarter of one) at its `used`; one more ref. */
  slab(bytes: number): Slab {
    assert(bytes <= SLAB_BYTES / 4, 'a reply is too long for a slab');
    if (this.#slab.used + bytes > SLAB_BYTES) {
      // The full one comes back when the last of its replies is sent.
      this.#slab = this.#slabs.pop() ?? new Slab(this);
    }
    this.#slab.refs++;
    return this.#slab;
  }

  /** A buffer of at least `bytes`; its content is whatever it held before. */
  buffer(bytes: number): DataBuffer {
    let size = SMALLEST_BUFFER;
    while (size < bytes) size *= 2;
    const found = this.#buffers.get(size)?.pop();
    if (found === undefined) return new DataBuffer(this, this.#allocate(size));
    this.#kept -= size;
    return found;
  }

  /** Notes a long read of a session: whether several take turns in such reads lately. */
  takesTurns(session: object): boolean {
    if (session === this.#lastReader) {
      if (this.#turns > 0) this.#turns--;
    } else {
      this.#turns = this.#lastReader === undefined ? 0 : TURNS;
      this.#lastReader = session;
    }
    return this.#turns > 0;
  }

  /** A slab with no ref left: its memory is free. */
  idle(slab: Slab): void {
    slab.used = 0;
    if (slab !== this.#slab && this.#slabs.length < KEPT_SLABS) this.#slabs.push(slab);
  }

  keep(buffer: DataBuffer): void {
    const size = buffer.bytes.byteLength;
    if (this.#kept + size > KEPT_BYTES) return;
    this.#kept += size;
    const list = this.#buffers.get(size);
    if (list === undefined) this.#buffers.set(size, [buffer]);
    else list.push(buffer);
  }
}
