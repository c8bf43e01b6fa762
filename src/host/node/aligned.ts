/** Page-aligned memory for O_DIRECT: where it comes from, and a pool of it. */

const PAGE = 4096;
const WASM_PAGE = 65536;
/** Smaller buffers are cut from chunks of this size (two huge pages). */
const CHUNK_BYTES = 4 * 1024 * 1024;

/**
 * A page-aligned array of `bytes` bytes without native code: a WebAssembly.Memory
 * starts at a page of the host. Each reserves gigabytes of address space, so they
 * are made sparingly.
 */
function wasmMemory(bytes: number): ArrayBuffer {
  const pages = Math.max(1, Math.ceil(bytes / WASM_PAGE));
  return new WebAssembly.Memory({ initial: pages, maximum: pages }).buffer;
}

/**
 * Page-aligned buffers: fresh ones that live as long as their user holds them, and
 * bounce buffers that come back.
 */
export class AlignedPool {
  /** The longest bounce buffer; longer transfers go in parts. */
  readonly mostBytes = CHUNK_BYTES;
  /** Bounce buffers kept for later, in bytes, all classes together. */
  static readonly #KEPT_BYTES = 16 * 1024 * 1024;

  readonly #allocate: (bytes: number) => ArrayBuffer;
  readonly #free = new Map<number, Uint8Array[]>();
  readonly #known = new WeakSet<ArrayBufferLike>();
  #kept = 0;
  #chunk: ArrayBuffer | undefined;
  #chunkUsed = 0;

  constructor(allocate: (bytes: number) => ArrayBuffer = wasmMemory) {
    this.#allocate = allocate;
  }

  /** Zeroed, page-aligned memory of `bytes` bytes. */
  allocate(bytes: number): Uint8Array {
    const whole = Math.max(PAGE, Math.ceil(bytes / PAGE) * PAGE);
    if (whole > CHUNK_BYTES / 4) {
      const own = this.#allocate(whole);
      this.#known.add(own);
      return new Uint8Array(own, 0, bytes);
    }
    if (this.#chunk === undefined || this.#chunkUsed + whole > CHUNK_BYTES) {
      this.#chunk = this.#allocate(CHUNK_BYTES);
      this.#known.add(this.#chunk);
      this.#chunkUsed = 0;
    }
    const at = this.#chunkUsed;
    this.#chunkUsed += whole;
    return new Uint8Array(this.#chunk, at, bytes);
  }

  /** Whether `b` is from here and starts at a multiple of `alignment` (at most a page). */
  isAligned(b: Uint8Array, alignment: number): boolean {
    return this.#known.has(b.buffer) && b.byteOffset % alignment === 0;
  }

  /** A buffer of at least `bytes` (at most {@link mostBytes}) bytes, to be given back. */
  take(bytes: number): Uint8Array {
    let size = PAGE;
    while (size < bytes) size *= 2;
    const kept = this.#free.get(size)?.pop();
    if (kept === undefined) return this.allocate(size);
    this.#kept -= size;
    return kept;
  }

  give(buffer: Uint8Array): void {
    const size = buffer.byteLength;
    if (this.#kept + size > AlignedPool.#KEPT_BYTES) return;
    this.#kept += size;
    const list = this.#free.get(size);
    if (list === undefined) this.#free.set(size, [buffer]);
    else list.push(buffer);
  }
}
