/**
 * Memory whose address is known to be page-aligned without native code:
 * a WebAssembly.Memory starts at a page of the host. Needed for O_DIRECT.
 */
const PAGE = 65536;

/** Every allocation made here, so that users can tell aligned memory from other. */
const aligned = new WeakSet<ArrayBufferLike>();

/** A page-aligned array of `bytes` bytes. */
export function allocateAligned(bytes: number): Uint8Array {
  const pages = Math.max(1, Math.ceil(bytes / PAGE));
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
  aligned.add(memory.buffer);
  return new Uint8Array(memory.buffer, 0, bytes);
}

/** Whether `b` is known to start at a multiple of `alignment` (a power of two up to 4096). */
export function isAligned(b: Uint8Array, alignment: number): boolean {
  return aligned.has(b.buffer) && (b.byteOffset & (alignment - 1)) === 0;
}

/** Buffers kept for the next request, per size class (powers of two of 64 KiB). */
const KEPT_PER_CLASS = 16;

/** A pool of aligned bounce buffers. */
export class AlignedPool {
  readonly #free = new Map<number, Uint8Array[]>();

  /** An array of at least `bytes` bytes (a power of two pages), to be given back. */
  take(bytes: number): Uint8Array {
    let size = PAGE;
    while (size < bytes) size *= 2;
    return this.#free.get(size)?.pop() ?? allocateAligned(size);
  }

  give(buffer: Uint8Array): void {
    const list = this.#free.get(buffer.byteLength);
    if (list === undefined) this.#free.set(buffer.byteLength, [buffer]);
    else if (list.length < KEPT_PER_CLASS) list.push(buffer);
  }
}
