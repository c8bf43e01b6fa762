/**
 * Lets work that takes memory begin in order, no more at once than a number of bytes; work that
 * takes more than that runs alone.
 */
export class ByteGate {
  readonly #limit: number;
  #inside = 0;
  readonly #waiting: { readonly bytes: number; readonly start: () => void }[] = [];

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Runs `fn` when `bytes` more are free; fails as `fn` does. */
  run<T>(bytes: number, fn: () => Promise<T>): Promise<T> {
    if (this.#waiting.length === 0 && this.#fits(bytes)) return this.#enter(bytes, fn);
    return new Promise<void>((start) => {
      this.#waiting.push({ bytes, start });
    }).then(() => this.#leaveAfter(bytes, fn));
  }

  #fits(bytes: number): boolean {
    return this.#inside === 0 || this.#inside + bytes <= this.#limit;
  }

  #enter<T>(bytes: number, fn: () => Promise<T>): Promise<T> {
    this.#inside += bytes;
    return this.#leaveAfter(bytes, fn);
  }

  async #leaveAfter<T>(bytes: number, fn: () => Promise<T>): Promise<T> {
    try {
      return await fn();
    } finally {
      this.#inside -= bytes;
      for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
        if (!this.#fits(next.bytes)) break;
        this.#waiting.shift();
        this.#inside += next.bytes;
        next.start();
      }
    }
  }
}
