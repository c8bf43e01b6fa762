/** A simple sequential benchmark of requests, as qemu-img's. */
import type { Backend } from '../block/backend.js';
import { Iov } from '../lib/iov.js';

export interface BenchOptions {
  readonly count: number;
  /** Requests in flight. */
  readonly depth: number;
  readonly bytes: number;
  readonly step: number;
  readonly offset: number;
  readonly write: boolean;
  /** Byte that is written. */
  readonly pattern: number;
  /** Flush after this many requests; 0: never. Not smaller than `depth`. */
  readonly flushInterval: number;
  /** Go on with requests while a flush is in flight. */
  readonly noDrain: boolean;
  readonly signal?: AbortSignal;
}

/** A request of the benchmark failed: `flush` says which kind. */
export class BenchError extends Error {
  override readonly name = 'BenchError';
  readonly flush: boolean;
  constructor(flush: boolean, cause: unknown) {
    super('Failed request', { cause });
    this.flush = flush;
  }
}

/**
 * Sends the requests and resolves when the last has completed. Offsets start again at the
 * beginning when a request would pass the end of the image. Throws {@link BenchError}.
 */
export async function bench(image: Backend, options: BenchOptions): Promise<void> {
  await new Bench(image, options).run();
}

class Bench {
  readonly #image: Backend;
  readonly #options: BenchOptions;
  readonly #buffers: Iov[] = [];
  #left: number;
  #offset: number;
  #inFlight = 0;
  /** A flush waits for the requests in flight, or is in flight itself. */
  #draining = false;
  #resolve: () => void = () => undefined;
  #reject: (e: unknown) => void = () => undefined;

  constructor(image: Backend, options: BenchOptions) {
    this.#image = image;
    this.#options = options;
    this.#left = options.count;
    this.#offset = options.offset;
  }

  async run(): Promise<void> {
    const { depth, bytes, pattern, count, write } = this.#options;
    const length = Math.min(depth, count) * bytes;
    const { files } = this.#image.graph.host;
    const all = files?.alignedBuffer?.(length) ?? new Uint8Array(length);
    if (write && pattern !== 0) all.fill(pattern);
    for (let at = 0; at < all.byteLength; at += bytes) {
      this.#buffers.push(Iov.of(all.subarray(at, at + bytes)));
    }
    const ended = new Promise<void>((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#fill();
    await ended;
  }

  /** Starts what may be in flight now. */
  #fill(): void {
    while (this.#left > 0 && !this.#draining && this.#buffers.length > 0) this.#send();
    if (this.#left === 0 && this.#inFlight === 0) this.#resolve();
  }

  // hot: bench/requests
  #send(): void {
    const { step, write, flushInterval, noDrain, signal } = this.#options;
    const iov = this.#buffers.pop()!;
    const offset = this.#offset;
    this.#offset = offset + step;
    if (this.#image.size <= this.#offset) this.#offset %= this.#image.size;
    this.#left--;
    this.#inFlight++;
    const image = this.#image;
    const request = write ? image.write(offset, iov) : image.read(offset, iov);
    request.then(
      () => {
        this.#inFlight--;
        this.#buffers.push(iov);
        this.#completed();
      },
      (e: unknown) => {
        this.#reject(new BenchError(false, e));
      },
    );
    if (signal?.aborted === true) this.#left = 0;
    if (flushInterval > 0 && this.#left > 0 && this.#left % flushInterval === 0) {
      if (noDrain) this.#flush();
      else this.#draining = true;
    }
  }

  #completed(): void {
    if (this.#draining) {
      if (this.#inFlight > 0) return;
      this.#flush();
      return;
    }
    this.#fill();
  }

  #flush(): void {
    this.#inFlight++;
    this.#image.flush().then(
      () => {
        this.#inFlight--;
        this.#draining = false;
        this.#fill();
      },
      (e: unknown) => {
        this.#reject(new BenchError(true, e));
      },
    );
  }
}
